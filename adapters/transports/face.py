"""What a transport shows of itself: its type, its health, and where it runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import Enum

from devpipe.machines.decisions.health import HealthStatus

__all__ = ["HealthCheckResult", "HealthReport", "TransportType", "environment"]


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


def environment() -> str:
    """Where this program runs, in the words of ``supported_environments``."""
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return "container"
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
