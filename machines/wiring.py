"""How the three machines, and the monitor between them, feed each other: the tables that transport and manager run, and
that the picture is drawn from.

Each row: what one puts out, and what another is told because of it. A table gathers what one target hears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from devpipe.machines.decisions.readings import Reading, assessment, standing
from devpipe.machines.effects import Dial, Doubt, HangUp, HoldDials
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import BreakerChanged, Connected, Disconnected, Doubted, HealthChecked
from devpipe.machines.inputs import (
    Alive,
    Assess,
    BreakerInput,
    Connect,
    Disconnect,
    FailoverInput,
    Failure,
    Hold,
    LifecycleInput,
    PathFailed,
    PathProven,
    Standing,
    Suspect,
    TransportDown,
    TransportUp,
)

__all__ = ["BREAKER", "FAILOVER", "LIFECYCLE", "MONITOR", "OTHERS", "Wire", "news"]

_DISCONNECTED = Failure(kind=FailureKind.UNAVAILABLE, reason="disconnected by the operator")


@dataclass(frozen=True, slots=True)
class Wire:
    """One row. ``make`` turns the output into the input, or into None where it is no news for the target.

    ``jitter`` is drawn by the adapter that runs the row.
    """

    source: str
    output: type
    target: str
    makes: type
    make: Callable[[Any, float], Any]
    reason: str


def news(table: Iterable[Wire], output: object, *, jitter: float) -> Iterator[Any]:
    """What the target of a table is told because of one output, in the order of its rows."""
    for wire in table:
        if isinstance(output, wire.output):
            item = wire.make(output, jitter)
            if item is not None:
                yield item


def _up(event: Connected, jitter: float) -> FailoverInput:
    return TransportUp(transport=event.transport, server=event.server)


def _down(event: Disconnected, jitter: float) -> FailoverInput:
    failure = event.failure or _DISCONNECTED
    return TransportDown(transport=event.transport, failure=failure, retry_at=event.retry_at)


def _alive(event: HealthChecked, jitter: float) -> FailoverInput | None:
    return Alive(transport=event.transport) if event.success else None


def _standing(reading: Reading, jitter: float) -> FailoverInput:
    return standing(reading)


def _assess(reading: Reading, jitter: float) -> LifecycleInput | None:
    return assessment(reading)


def _breaker_holds(event: BreakerChanged, jitter: float) -> LifecycleInput:
    return Hold(until=event.retry_at)


def _dial(effect: Dial, jitter: float) -> LifecycleInput:
    return Connect(jitter=jitter, immediately=effect.immediately)


def _hang_up(effect: HangUp, jitter: float) -> LifecycleInput:
    return Disconnect()


def _hold(effect: HoldDials, jitter: float) -> LifecycleInput:
    return Hold(until=effect.until)


def _doubt(effect: Doubt, jitter: float) -> LifecycleInput:
    return Suspect()


def _path_proven(event: Connected, jitter: float) -> BreakerInput:
    return PathProven()


def _path_failed(event: Disconnected, jitter: float) -> BreakerInput | None:
    """A dial that fails is the lifecycle's own business, and a refused token says nothing about the path."""
    if not event.proven or event.failure is None or event.failure.kind is FailureKind.AUTH:
        return None
    return PathFailed()


def _suspect(event: Doubted, jitter: float) -> LifecycleInput:
    return Suspect(answer_within=event.answer_within)


def _which(event: Connected | BreakerChanged, jitter: float) -> str:
    return event.transport


#: What a transport's breaker is told by its lifecycle.
BREAKER = (
    Wire("lifecycle", Connected, "breaker", PathProven, _path_proven, "a proven dial is a probe that worked"),
    Wire(
        "lifecycle", Disconnected, "breaker", PathFailed, _path_failed, "one lost connection is one failure"
    ),
)
#: What a transport's lifecycle is told by its breaker, by the monitor and by the failover.
LIFECYCLE = (
    Wire("breaker", BreakerChanged, "lifecycle", Hold, _breaker_holds, "an open breaker sets the next dial"),
    Wire("monitor", Reading, "lifecycle", Assess, _assess, "its calls fail or crawl, or do so no more"),
    Wire("failover", Dial, "lifecycle", Connect, _dial, "somebody wants it up"),
    Wire("failover", HangUp, "lifecycle", Disconnect, _hang_up, "nobody wants it up"),
    Wire(
        "failover", Doubt, "lifecycle", Suspect, _doubt, "the server refuses elsewhere: does this path live?"
    ),
    Wire("failover", HoldDials, "lifecycle", Hold, _hold, "the server is down: one backoff for all"),
)
#: What the lifecycles of all other transports are told by one: a host that falls silent is known as soon as one path is.
OTHERS = (
    Wire("lifecycle", Doubted, "lifecycle", Suspect, _suspect, "calls wait on one path: do the others live?"),
)
#: After what the monitor reads anew, beside its rounds: the choice that follows is made with what is true then.
MONITOR = (
    Wire("lifecycle", Connected, "monitor", Reading, _which, "what may it carry?"),
    Wire("breaker", BreakerChanged, "monitor", Reading, _which, "does it admit?"),
)
#: What the failover of a pipe is told by its transports.
FAILOVER = (
    Wire("lifecycle", Connected, "failover", TransportUp, _up, "a proven transport may carry messages"),
    Wire("lifecycle", Disconnected, "failover", TransportDown, _down, "a lost one may not"),
    Wire("lifecycle", HealthChecked, "failover", Alive, _alive, "a probe has come back"),
    Wire(
        "monitor", Reading, "failover", Standing, _standing, "how good it is, and whether its breaker admits"
    ),
)
