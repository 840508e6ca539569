"""The life of a transport as an adapter drives it: a typed shell around ``charts/lifecycle.py``.

Feed inputs with ``receive``, carry out what ``drain_effects`` gives, tell what ``drain_events`` gives, and call
``handle_deadline`` when ``next_deadline`` has come. ``heard`` and ``useful`` are told per message and cost nothing.

What it cannot know: whether silence is the path's or ours. So an adapter reads what has arrived before it lets a
deadline be judged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import assert_never

from devpipe.machines.charts.base import Cell
from devpipe.machines.charts.lifecycle import LifecycleChart, LifecycleContext, LifecycleEvent
from devpipe.machines.config import LifecycleConfig
from devpipe.machines.decisions.health import HealthStatus
from devpipe.machines.effects import CloseLink, DrainLink, LifecycleEffect, LoseCalls, OpenLink, SendProbe
from devpipe.machines.events import Event
from devpipe.machines.inputs import (
    Assess,
    CallsWaiting,
    Connect,
    Destroy,
    Disconnect,
    Drain,
    Drained,
    Failed,
    Failure,
    Hold,
    Initialize,
    LifecycleInput,
    LinkClosed,
    Opened,
    Proved,
    Suspect,
)

__all__ = ["Lifecycle", "LifecycleSnapshot", "LifecycleState"]


class LifecycleState(str, Enum):
    """Where a transport is."""

    NEW = "new"
    READY = "ready"
    OPENING = "opening"
    PROVING = "proving"
    PROBATION = "probation"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    BACKOFF = "backoff"
    BLOCKED = "blocked"
    DRAINING = "draining"
    CLOSING = "closing"
    FAILED = "failed"
    DESTROYED = "destroyed"


_ONLINE = frozenset({LifecycleState.PROBATION, LifecycleState.HEALTHY, LifecycleState.DEGRADED})
_PROVEN = _ONLINE | {LifecycleState.DRAINING}
_WITH_LINK = _PROVEN | {LifecycleState.OPENING, LifecycleState.PROVING}
_STATUS = {
    LifecycleState.NEW: HealthStatus.DISCONNECTED,
    LifecycleState.READY: HealthStatus.DISCONNECTED,
    LifecycleState.OPENING: HealthStatus.DISCONNECTED,
    LifecycleState.PROVING: HealthStatus.DISCONNECTED,
    LifecycleState.PROBATION: HealthStatus.HEALTHY,
    LifecycleState.HEALTHY: HealthStatus.HEALTHY,
    LifecycleState.DEGRADED: HealthStatus.DEGRADED,
    LifecycleState.BACKOFF: HealthStatus.FAILING,
    LifecycleState.BLOCKED: HealthStatus.FAILING,
    LifecycleState.DRAINING: HealthStatus.HEALTHY,
    LifecycleState.CLOSING: HealthStatus.DISCONNECTED,
    LifecycleState.FAILED: HealthStatus.FAILING,
    LifecycleState.DESTROYED: HealthStatus.DISCONNECTED,
}
#: An echo has at least this long to come, and so many times what the last one took, however little time a call has: one
#: packet that is sent again, or a busy server, is no loss of the path and of every call on it (seconds).
LEAST_ANSWER = 0.5
ECHOES = 4


@dataclass(frozen=True, slots=True)
class LifecycleSnapshot:
    """All of a lifecycle, as plain data."""

    state: str | tuple[str, ...]
    context: LifecycleContext
    heard_at: float
    waiting: tuple[float | None, float | None]
    late: int


class Lifecycle:
    """One per transport."""

    def __init__(self, *, name: str, config: LifecycleConfig | None = None, nonce_prefix: str = "n") -> None:
        self.name = name
        self.config = config or LifecycleConfig()
        self._cell = Cell(LifecycleContext(name=name, config=self.config, nonce_prefix=nonce_prefix))
        self._chart = LifecycleChart(self._cell)
        self._effects: list[LifecycleEffect] = []
        self._events: list[Event] = []
        self._heard_at = float("-inf")
        self._waiting_since: float | None = None
        self._waiting_span: float | None = None
        self.late = 0  #: inputs of older generations, dropped
        self.steps = 0  #: events that the chart has taken

    # --- state ----------------------------------------------------------------------------------------

    @property
    def state(self) -> LifecycleState:
        """Where the transport is."""
        return LifecycleState(self._cell.leaf)

    @property
    def generation(self) -> int:
        """The number of the present, or the last, link."""
        return self._cell.ctx.generation

    @property
    def attempt(self) -> int:
        """Dials since the last proof."""
        return self._cell.ctx.attempt

    @property
    def connected(self) -> bool:
        """Proven, and not given up."""
        return self.state in _PROVEN

    @property
    def retry_at(self) -> float | None:
        """When it is dialled again, None if no dial is planned."""
        waiting = self.state in (LifecycleState.BACKOFF, LifecycleState.BLOCKED)
        return self._cell.ctx.deadline if waiting else None

    @property
    def status(self) -> HealthStatus:
        """The health of this state."""
        return _STATUS[self.state]

    @property
    def proven_at(self) -> float | None:
        """When the present link was proven."""
        return self._cell.ctx.proven_at

    @property
    def heard_at(self) -> float:
        """When the last sign of life came, minus infinity if none has."""
        return self._heard_at

    @property
    def last_failure(self) -> Failure | None:
        """Why the last link was lost, or could not be had."""
        return self._cell.ctx.last_failure

    def explain(self) -> str:
        """One line for people."""
        ctx, state = self._cell.ctx, self.state
        why = "" if ctx.last_failure is None else f" after: {ctx.last_failure.reason}"
        match state:
            case LifecycleState.BLOCKED:
                return f"blocked, tried again at growing intervals{why}"
            case LifecycleState.BACKOFF:
                return f"waits before dial {ctx.attempt + 1}{why}"
            case LifecycleState.FAILED:
                return f"failed for good, until an operator connects it again{why}"
            case _:
                return str(state.value)

    # --- per message ----------------------------------------------------------------------------------

    def heard(self, *, now: float) -> None:
        """Bytes arrived, or a write made progress."""
        self._heard_at = now

    def useful(self, *, now: float) -> None:
        """A reply or a push arrived. Worth telling once per link."""
        self._heard_at = now
        if self.state in _ONLINE and not self._cell.ctx.useful:
            self._step("useful", LifecycleEvent(now=now))

    # --- the common verbs -----------------------------------------------------------------------------

    def receive(self, item: LifecycleInput, *, now: float) -> None:
        """Take one input. Raises ``IllegalTransition``, with nothing changed, for one that is our caller's bug."""
        match item:
            case Initialize():
                self._step("initialize", LifecycleEvent(now=now))
            case Connect():
                self._step(
                    "connect", LifecycleEvent(now=now, jitter=item.jitter, immediately=item.immediately)
                )
            case Opened():
                if self._current(item.generation, LifecycleState.OPENING):
                    self._heard_at = now
                    self._step("opened", LifecycleEvent(now=now))
            case Proved():
                if self._current(item.generation, *(_WITH_LINK - {LifecycleState.OPENING})):
                    self._heard_at = now
                    self._step(
                        "proved",
                        LifecycleEvent(now=now, nonce=item.nonce, server=item.server, latency=item.latency),
                    )
            case Failed():
                if self._current(item.generation, LifecycleState.CLOSING, *_WITH_LINK):
                    self._step("lost", LifecycleEvent(now=now, failure=item.failure, jitter=item.jitter))
            case LinkClosed():
                if self._current(item.generation, LifecycleState.CLOSING):
                    self._step("closed", LifecycleEvent(now=now))
            case Assess():
                if self.state in _ONLINE:
                    self._step("recover" if item.healthy else "degrade", LifecycleEvent(now=now))
            case CallsWaiting():
                self._waiting_since, self._waiting_span = item.since, item.span
            case Suspect():
                if self.connected:
                    self._step("suspect", LifecycleEvent(now=now, answer_within=item.answer_within))
            case Hold():
                self._cell.ctx = replace(self._cell.ctx, hold_until=item.until)
                if self.state is LifecycleState.BACKOFF:
                    self._step("hold", LifecycleEvent(now=now))
            case Drain():
                self._step("drain", LifecycleEvent(now=now))
            case Drained():
                if self.state is LifecycleState.DRAINING:
                    self._step("drained", LifecycleEvent(now=now))
            case Disconnect():
                self._step("disconnect", LifecycleEvent(now=now))
            case Destroy():
                self._step("destroy", LifecycleEvent(now=now))
            case _ as never:
                assert_never(never)

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` wants to be called, None if nothing is waited for."""
        deadlines = [self._cell.ctx.deadline, self._silence_deadline()]
        return min((at for at in deadlines if at is not None), default=None)

    def handle_deadline(self, *, now: float, jitter: float = 0.5) -> None:
        """The time has come, or not yet: then nothing happens."""
        at = self.next_deadline()
        if at is None or at > now:
            return
        quiet_from, answer_within = self._next_ping()
        event = LifecycleEvent(
            now=now,
            jitter=jitter,
            heard_at=self._heard_at,
            quiet_from=quiet_from,
            answer_within=answer_within,
            calls_wait=self._waiting_since is not None,
        )
        ping = self._cell.ctx.ping
        if ping is not None and ping.answer_by <= now and self._heard_at > ping.sent_at:
            # heard since: the ping has done its work, even if its echo is still on the way
            self._cell.ctx = replace(self._cell.ctx, ping=None)
            if (again := self.next_deadline()) is None or again > now:
                return
            quiet_from, answer_within = self._next_ping()
            event = replace(event, quiet_from=quiet_from, answer_within=answer_within)
        self._step("tick", event)

    def drain_effects(self) -> list[LifecycleEffect]:
        """What the adapter is to do now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def drain_events(self) -> list[Event]:
        """What a program may hear."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> LifecycleSnapshot:
        """All of it, as plain data; outputs must have been drained."""
        return LifecycleSnapshot(
            state=self._cell.state_data,
            context=self._cell.ctx,
            heard_at=self._heard_at,
            waiting=(self._waiting_since, self._waiting_span),
            late=self.late,
        )

    def restore(self, snapshot: LifecycleSnapshot) -> None:
        """Put a snapshot back."""
        self._cell.restore_state(snapshot.state)
        self._cell.ctx = snapshot.context
        self._heard_at = snapshot.heard_at
        self._waiting_since, self._waiting_span = snapshot.waiting
        self.late = snapshot.late
        self._effects.clear()
        self._events.clear()

    # --- inside ---------------------------------------------------------------------------------------

    def _current(self, generation: int, *states: LifecycleState) -> bool:
        """True for news of the present link in a state that waits for it; all else is counted and dropped."""
        if generation == self.generation and self.state in states:
            return True
        self.late += 1
        return False

    def _next_ping(self) -> tuple[float | None, float]:
        """When a ping is due and how long it may take to be answered; None while one is out, or nothing is up."""
        if not self.connected or self._cell.ctx.ping is not None:
            return None, 0.0
        config = self.config
        proven = self._cell.ctx.proven_at or 0.0
        due, within = max(self._heard_at, proven) + config.heartbeat_interval, config.heartbeat_answer
        if self._waiting_since is not None:
            span = float("inf") if self._waiting_span is None else self._waiting_span
            patience = min(config.silence_ping, span / 3)
            soon = max(self._waiting_since, self._heard_at) + patience
            if soon < due:
                least = max(LEAST_ANSWER, ECHOES * self._cell.ctx.latency)
                due, within = soon, min(config.silence_answer, max(least, span / 3))
        return due, within

    def _silence_deadline(self) -> float | None:
        if not self.connected:
            return None
        ping = self._cell.ctx.ping
        return self._next_ping()[0] if ping is None else ping.answer_by

    def _step(self, event: str, ev: LifecycleEvent) -> None:
        self.steps += 1
        for item in self._chart.step(event, ev):
            if isinstance(item, (OpenLink, SendProbe, LoseCalls, DrainLink, CloseLink)):
                self._effects.append(item)
            else:
                assert isinstance(item, Event)  # the chart puts out effects and events only
                self._events.append(item)
        if not self.connected:
            self._waiting_since = self._waiting_span = None

    def __repr__(self) -> str:
        return f"<Lifecycle {self.name} {self.state.value}>"
