"""``specs/original.md``: each name of the original has a Python name that is there, or a reason why it has none."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "specs" / "original.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" |"))
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
#: What the sketches of the original name: types with their members, options, events, words on the wire, errors.
#: Left out are local variables and what belongs to its libraries.
SKETCHES = """
TransportType HTTP WEBSOCKET FILESYSTEM

DevPipeTransport type id initialize connect disconnect destroy send receive isAvailable isConnected getCapabilities
getHealthStatus performHealthCheck on off emit TransportEvent EventListener DevPipeMessage DevPipeResponse

TransportCapabilities supportsRealtime supportsBidirectional supportsFileSystem supportsStreaming maxMessageSize averageLatency
maxConcurrentConnections reliability supportedEnvironments EnvironmentType browser node obsidian

TransportConfig serverUrl devPipePath timeout retryAttempts debug http websocket filesystem HTTPTransportConfig
WebSocketTransportConfig FileSystemTransportConfig enableSSE persistMessages

BaseTransport EventEmitter config healthStatus circuitBreaker metrics logger Logger TransportHealthStatus status lastCheck latency
errorRate consecutiveFailures uptime healthy failing disconnected CircuitBreaker failureThreshold resetTimeout monitoringPeriod
TransportMetrics recordSuccess recordFailure HealthCheckResult success timestamp error executeWithCircuitBreaker execute
operationName doHealthCheck calculateReliability

HTTPTransport httpClient sseConnection connectionPool requestQueue ConnectionPool PriorityQueue PendingRequest maxConnections
keepAlive retries retryDelay exponentialDelay setupInterceptors getMessagePriority priority enqueue dequeue isEmpty processQueue
setupSSE EventSource http_send /devpipe/message /devpipe/stream /health connected message

WebSocketTransport ReconnectingWebSocket messageQueue MessageQueue maxSize persistToDisk heartbeatInterval responseHandlers
ResponseHandler connectionTimeout maxRetries maxReconnectionDelay minReconnectionDelay reconnectionDecay startHeartbeat
stopHeartbeat handleMessage generateMessageId replyTo payload ping health_ping websocket_send /devpipe/ws

FileSystemTransport TransportManager transports activeTransport fallbackChain healthMonitor selector TransportHealthMonitor
TransportSelector TransportManagerConfig selectionCriteria initializeTransports setupHealthMonitoring transportConfigs
setupTransportEventHandlers selectOptimalTransport calculateScore switchTransport handleTransportFailure transport_switched
transport_failed transport_recovered from to reason optimization EnvironmentDetector supportsWebSockets

ModelSelectionService transportManager ModelSelectionConfig latencyWeight reliabilityWeight capabilityWeight costWeight
setupTransportEventListeners transport_changed connection_error transport_error context selectModel staticModelSelection
ModelSelectionRequest ModelSelectionResponse DevPipeMessageType MODEL_SELECTION TransportError DevPipeClient devpipe_path server_url
transport
"""
ERRORS = [
    "All transports failed",
    "No available transports",
    "WebSocket not connected",
    "WebSocket message timeout",
    "Health check timeout",
]
DECLARED = [*SKETCHES.split(), *ERRORS]


def resolve(path: str) -> Any:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if hasattr(found, name):
                found = getattr(found, name)
            elif inspect.isclass(found) and re.search(rf"self\.{name}\b.* = ", inspect.getsource(found)):
                return found  # an attribute of its objects
            else:
                raise AttributeError(f"{found!r} has no {name!r}")
        return found
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_name_has_a_python_name_that_is_there_or_a_reason(row: tuple[str, ...]) -> None:
    _, python, reason = row
    if python == "*not built*":
        assert len(reason) > 20
    else:
        resolve(python.strip("`"))


@pytest.mark.parametrize("name", DECLARED)
def test_everything_that_the_original_declares_stands_on_the_page(name: str) -> None:
    assert any(re.search(rf"[`.]{name}[`.]", original) for original, _, _ in ROWS), name


def test_a_name_that_is_not_there_would_be_noticed() -> None:
    for wrong in ("devpipe.Pype", "devpipe.Pipe.sendd", "devpipe.Transport.idd", "nowhere"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(wrong)
