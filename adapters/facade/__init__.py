"""devpipe: one message pipe over several transports, that keeps its word when transports break.

``connect`` gives a pipe to a server, ``Server`` is the other end. The machines behind it (``CircuitBreaker``,
``Lifecycle``, ``Failover``) can be driven by hand, with no loop, socket or clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpipe.adapters.client.configuration import Origin, Setting, Settings, load_settings
from devpipe.adapters.client.connect import connect, connect_single
from devpipe.adapters.client.explain import Explanation
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.client.single import SingleTransport
from devpipe.adapters.client.subscriptions import Subscription
from devpipe.adapters.environment import supports_filesystem, supports_websockets
from devpipe.adapters.guard import Breaker
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
    Problem,
    QueueFull,
    RequestRefused,
    TransportError,
)
from devpipe.machines.failover import Failover, FailoverState
from devpipe.machines.lifecycle import Lifecycle, LifecycleState
from devpipe.machines.message import Gap, Message, Position, Priority
from devpipe.machines.models.choice import ModelChoice
from devpipe.machines.models.messages import MessageType
from devpipe.machines.models.phase1 import ModelSelectionConfig
from devpipe.machines.models.types import (
    ModelHealth,
    ModelSelectionRequest,
    ModelSelectionResponse,
    PerformanceMetrics,
    Preferences,
)

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
    "Finding",
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
    "MessageType",
    "ModelChoice",
    "ModelHealth",
    "ModelSelectionConfig",
    "ModelSelectionError",
    "ModelSelectionRequest",
    "ModelSelectionResponse",
    "ModelSelectionService",
    "ModelSelector",
    "ModelServer",
    "Origin",
    "Outcome",
    "PeerConfig",
    "PerformanceMetrics",
    "Pipe",
    "PipeClosed",
    "PipeConfig",
    "Position",
    "Preferences",
    "Priority",
    "Problem",
    "QueueFull",
    "Report",
    "RequestRefused",
    "SelectionWeights",
    "Server",
    "ServerConfig",
    "Setting",
    "Settings",
    "SingleTransport",
    "Status",
    "Subscription",
    "Transport",
    "TransportError",
    "TransportType",
    "Trial",
    "WebSocketConfig",
    "__version__",
    "blocking",
    "connect",
    "connect_single",
    "load_settings",
    "diagnose",
    "supports_filesystem",
    "supports_websockets",
]

if TYPE_CHECKING:
    from devpipe import blocking as blocking
    from devpipe.adapters.doctor.diagnose import diagnose
    from devpipe.adapters.doctor.report import Finding, Report, Status, Trial
    from devpipe.adapters.models.model_server import ModelServer
    from devpipe.adapters.models.phase1 import ModelSelectionService
    from devpipe.adapters.models.selector import ModelSelector
    from devpipe.adapters.server.server import Server
else:  # seen by type checkers, it would give a type to every misspelt name
    #: What not every program needs is imported when somebody asks for it.
    _ON_DEMAND = {
        "Finding": "devpipe.adapters.doctor.report",
        "ModelSelectionService": "devpipe.adapters.models.phase1",
        "ModelSelector": "devpipe.adapters.models.selector",
        "ModelServer": "devpipe.adapters.models.model_server",
        "Report": "devpipe.adapters.doctor.report",
        "Server": "devpipe.adapters.server.server",
        "Status": "devpipe.adapters.doctor.report",
        "Trial": "devpipe.adapters.doctor.report",
        "blocking": "devpipe.blocking",
        "diagnose": "devpipe.adapters.doctor.diagnose",
    }

    def __getattr__(name: str) -> object:
        if name not in _ON_DEMAND:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(_ON_DEMAND[name])
        found = module if name == "blocking" else getattr(module, name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
