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
#: What the original declares: its classes, interfaces, enums and helpers.
DECLARED = [
    "TransportType",
    "DevPipeTransport",
    "TransportCapabilities",
    "TransportConfig",
    "BaseTransport",
    "CircuitBreaker",
    "TransportMetrics",
    "TransportHealthStatus",
    "HealthCheckResult",
    "TransportEvent",
    "EnvironmentType",
    "HTTPTransport",
    "HTTPTransportConfig",
    "ConnectionPool",
    "PriorityQueue",
    "PendingRequest",
    "WebSocketTransport",
    "WebSocketTransportConfig",
    "ReconnectingWebSocket",
    "MessageQueue",
    "ResponseHandler",
    "FileSystemTransport",
    "FileSystemTransportConfig",
    "TransportManager",
    "TransportManagerConfig",
    "TransportHealthMonitor",
    "TransportSelector",
    "EnvironmentDetector",
    "ModelSelectionService",
    "ModelSelectionConfig",
    "ModelSelectionRequest",
    "ModelSelectionResponse",
    "DevPipeMessage",
    "DevPipeResponse",
    "DevPipeMessageType",
    "DevPipeClient",
    "TransportError",
    "Logger",
]


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
    assert any(re.search(rf"`{name}[`.]", original) for original, _, _ in ROWS), name


def test_a_name_that_is_not_there_would_be_noticed() -> None:
    for wrong in ("devpipe.Pype", "devpipe.Pipe.sendd", "devpipe.Transport.idd", "nowhere"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(wrong)
