"""What a transport shows of itself: its type, its health, and where it runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from devpipe.machines.decisions.health import HealthStatus

if TYPE_CHECKING:
    from devpipe.adapters.transports.base import Transport

__all__ = [
    "HealthCheckResult",
    "HealthReport",
    "TransportType",
    "capabilities_of",
    "environment",
    "health_of",
]


class TransportType(str, Enum):
    """The transports that come with devpipe. Others have names of their own: a type is just a string."""

    MEMORY = "memory"
    WEBSOCKET = "websocket"
    HTTP = "http"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheckResult:
    """How one probe went. ``latency`` in seconds, ``timestamp`` in seconds since 1970."""

    success: bool
    latency: float
    timestamp: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The health of a transport now; times in seconds, ``error_rate`` over the breaker's window."""

    status: HealthStatus
    last_check: float | None
    latency: float
    error_rate: float
    consecutive_failures: int
    uptime: float


def capabilities_of(transport: Transport) -> dict[str, Any]:
    """What a transport can do, with what was measured of it (latency in seconds)."""
    attempts, successes, _ = transport.metrics.window(now=transport.clock.now())
    static = transport.capabilities
    return {
        "supports_realtime": static.supports_realtime,
        "supports_bidirectional": static.supports_bidirectional,
        "supports_filesystem": static.supports_filesystem,
        "supports_streaming": static.supports_streaming,
        "max_message_bytes": transport.max_message_bytes,
        "average_latency": transport.metrics.average_latency,
        "max_concurrent_connections": static.max_concurrent_connections,
        "reliability": (successes + 4) / (attempts + 4),
        "supported_environments": static.supported_environments,
        "environment": environment(),
    }


def health_of(transport: Transport) -> HealthReport:
    """How a transport is now: computed from its machines, so that it cannot disagree with them."""
    now = transport.clock.now()
    since = transport.lifecycle.proven_at
    return HealthReport(
        status=transport.lifecycle.status,
        last_check=transport.last_check,
        latency=transport.metrics.average_latency,
        error_rate=transport.breaker.error_rate(now=now),
        consecutive_failures=transport.breaker.consecutive_failures,
        uptime=0.0 if since is None or not transport.connected else now - since,
    )


def environment() -> str:
    """Where this program runs, in the words of ``supported_environments``."""
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return "container"
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
