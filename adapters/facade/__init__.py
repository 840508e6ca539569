"""devpipe: one message pipe over several transports, that keeps its word when transports break.

``connect`` gives a pipe to a server, ``Server`` is the other end. The machines behind it (``CircuitBreaker``,
``Lifecycle``, ``Failover``) can be driven by hand, with no loop, socket or clock.
"""

from __future__ import annotations

from devpipe.adapters.client.connect import connect, connect_single
from devpipe.adapters.client.explain import Explanation
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.client.single import SingleTransport
from devpipe.adapters.client.subscriptions import Subscription
from devpipe.adapters.environment import supports_filesystem, supports_websockets
from devpipe.adapters.guard import Breaker
from devpipe.adapters.server.server import Server
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.face import HealthCheckResult, HealthReport, TransportType
from devpipe.machines.breaker import BreakerState, CircuitBreaker
from devpipe.machines.config import (
    BreakerConfig,
    FailoverConfig,
    FolderConfig,
    HttpConfig,
    LifecycleConfig,
    PeerConfig,
    PipeConfig,
    SelectionWeights,
    ServerConfig,
    WebSocketConfig,
)
from devpipe.machines.decisions.health import HealthStatus
from devpipe.machines.errors import (
    AllTransportsFailed,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    DevPipeError,
    FailureKind,
    HandlerError,
    InvalidMessage,
    MessageTooLarge,
    ModelSelectionError,
    Outcome,
    PipeClosed,
    QueueFull,
    RequestRefused,
    TransportError,
)
from devpipe.machines.failover import Failover, FailoverState
from devpipe.machines.lifecycle import Lifecycle, LifecycleState
from devpipe.machines.message import Gap, Message, Position, Priority

__version__ = "0.1.0"

__all__ = [
    "AllTransportsFailed",
    "Breaker",
    "BreakerConfig",
    "BreakerState",
    "CircuitBreaker",
    "CircuitOpen",
    "ConfigurationError",
    "DeadlineExceeded",
    "DevPipeError",
    "Explanation",
    "FailoverConfig",
    "Failover",
    "FailoverState",
    "FailureKind",
    "FolderConfig",
    "Gap",
    "HandlerError",
    "HealthCheckResult",
    "HealthReport",
    "HealthStatus",
    "HttpConfig",
    "InvalidMessage",
    "Lifecycle",
    "LifecycleConfig",
    "LifecycleState",
    "Message",
    "MessageTooLarge",
    "ModelSelectionError",
    "Outcome",
    "PeerConfig",
    "Pipe",
    "PipeClosed",
    "PipeConfig",
    "Position",
    "Priority",
    "QueueFull",
    "RequestRefused",
    "SelectionWeights",
    "Server",
    "ServerConfig",
    "SingleTransport",
    "Subscription",
    "Transport",
    "TransportError",
    "TransportType",
    "WebSocketConfig",
    "__version__",
    "connect",
    "connect_single",
    "supports_filesystem",
    "supports_websockets",
]
