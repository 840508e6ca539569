"""How the three machines feed each other: the table that the manager runs, and that the picture is drawn from.

Each row: what one machine puts out, and what another is told because of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from devpipe.machines.effects import Dial, HangUp, HoldDials
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import BreakerChanged, Connected, Disconnected
from devpipe.machines.inputs import (
    Connect,
    Disconnect,
    FailoverInput,
    Failure,
    Hold,
    LifecycleInput,
    TransportDown,
    TransportUp,
)

__all__ = ["FAILOVER", "LIFECYCLE", "Wire"]

_DISCONNECTED = Failure(kind=FailureKind.UNAVAILABLE, reason="disconnected by the operator")


@dataclass(frozen=True, slots=True)
class Wire:
    """One row. ``make`` turns the output into the input; ``jitter`` is drawn by the manager."""

    source: str
    output: type
    target: str
    makes: type
    make: Callable[[Any, float], Any]
    reason: str


def _up(event: Connected, jitter: float) -> FailoverInput:
    return TransportUp(transport=event.transport, server=event.server)


def _down(event: Disconnected, jitter: float) -> FailoverInput:
    failure = event.failure or _DISCONNECTED
    return TransportDown(transport=event.transport, failure=failure, retry_at=event.retry_at)


def _breaker_holds(event: BreakerChanged, jitter: float) -> LifecycleInput:
    return Hold(until=event.retry_at)


def _dial(effect: Dial, jitter: float) -> LifecycleInput:
    return Connect(jitter=jitter, immediately=effect.immediately)


def _hang_up(effect: HangUp, jitter: float) -> LifecycleInput:
    return Disconnect()


def _hold(effect: HoldDials, jitter: float) -> LifecycleInput:
    return Hold(until=effect.until)


#: What a transport's machines tell the failover of its pipe.
FAILOVER = (
    Wire("lifecycle", Connected, "failover", TransportUp, _up, "a proven transport may carry messages"),
    Wire("lifecycle", Disconnected, "failover", TransportDown, _down, "a lost one may not"),
)
#: What a transport's lifecycle is told by its breaker and by the failover.
LIFECYCLE = (
    Wire("breaker", BreakerChanged, "lifecycle", Hold, _breaker_holds, "an open breaker sets the next dial"),
    Wire("failover", Dial, "lifecycle", Connect, _dial, "somebody wants it up"),
    Wire("failover", HangUp, "lifecycle", Disconnect, _hang_up, "nobody wants it up"),
    Wire("failover", HoldDials, "lifecycle", Hold, _hold, "the server is down: one backoff for all"),
)
