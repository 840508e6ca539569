"""What a program can hear, from a transport or from the pipe.

``name`` is the word for ``on(name, listener)``; ``as_dict()`` is what goes into logs and JSON, where
``from_`` is spelled ``from``. Points in time (``retry_at``, ``timestamp``) are seconds of the pipe's monotonic clock,
which is that of its event loop: ``anyio.current_time()`` there says how far off they are. Lengths of time are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar

from devpipe.machines.inputs import Failure

__all__ = [
    "BreakerChanged",
    "Connected",
    "Disconnected",
    "Doubted",
    "ErrorOccurred",
    "Event",
    "Exhausted",
    "GapSeen",
    "HealthChecked",
    "HealthUpdated",
    "Reconnecting",
    "ResumedFromSleep",
    "ServerChanged",
    "SwitchReason",
    "TransportFailed",
    "TransportRecovered",
    "TransportSwitched",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events."""

    name: ClassVar[str] = ""

    def as_dict(self) -> dict[str, Any]:
        """The event as plain data, with the names that the wire uses."""
        data: dict[str, Any] = {"event": self.name}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Enum):
                value = value.value
            elif isinstance(value, Failure):
                value = {"kind": value.kind.value, "reason": value.reason}
            data[field.name.rstrip("_")] = value
        return data


# --- of one transport ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """The transport was proven: a nonce went out and came back. ``latency`` in seconds."""

    name = "connected"
    transport: str
    server: str
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(Event):
    """The transport is not up any more. ``retry_at``: when it is dialled again (seconds of the pipe's monotonic
    clock), or None.

    ``proven``: it was up before; else it is a dial that has failed.
    """

    name = "disconnected"
    transport: str
    failure: Failure | None
    retry_at: float | None
    proven: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(Event):
    """The transport is being dialled; ``attempt`` counts from 1 since the last proof."""

    name = "reconnecting"
    transport: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted(Event):
    """Calls wait without a sign of life on the transport; it was asked for one, and has ``answer_within`` seconds."""

    name = "doubted"
    transport: str
    answer_within: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorOccurred(Event):
    """Something was wrong and was dealt with: a message that could not be read, a refused dial."""

    name = "error"
    transport: str
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChecked(Event):
    """A probe has ended. ``latency`` in seconds, 0 if it failed."""

    name = "health_check"
    transport: str
    success: bool
    latency: float
    error: str | None = None


# --- of the pipe ------------------------------------------------------------------------------------


class SwitchReason(str, Enum):
    """Why the active transport changed."""

    INITIAL = "initial"
    OPTIMIZATION = "optimization"
    FAILOVER = "failover"
    UPGRADE = "upgrade"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSwitched(Event):
    """New messages take another way from now on. ``from_`` is None at the first time."""

    name = "transport_switched"
    from_: str | None
    to: str
    reason: SwitchReason


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportFailed(Event):
    """The active transport was lost. ``timestamp``: when, in seconds of the pipe's monotonic clock."""

    name = "transport_failed"
    transport: str
    timestamp: float
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportRecovered(Event):
    """After a failure, messages flow again: over ``to``, which may be the same transport as before."""

    name = "transport_recovered"
    from_: str
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted(Event):
    """No transport is usable. ``retry_at``: the earliest next dial (seconds of the pipe's monotonic clock), None if
    nothing will try.
    """

    name = "exhausted"
    retry_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChanged(Event):
    """Another server process answers now: the one that knew our session is gone, and its memory with it."""

    name = "server_changed"
    from_: str
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthUpdated(Event):
    """The health status of a transport has changed (``healthy``, ``degraded``, ``failing``, ``disconnected``)."""

    name = "health_updated"
    transport: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged(Event):
    """A circuit breaker has moved. ``retry_at``: when an open one admits its next probe (seconds of the pipe's
    monotonic clock), or None.
    """

    name = "breaker_changed"
    transport: str
    from_: str
    to: str
    retry_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedFromSleep(Event):
    """The machine slept for ``slept`` seconds; every connection is being probed."""

    name = "resumed"
    slept: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSeen(Event):
    """Pushes may be missing; the same fact stands as a ``Gap`` in every ``receive()``."""

    name = "gap"
    reason: str
