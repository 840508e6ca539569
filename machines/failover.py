"""The failover of a pipe as the manager drives it: a typed shell around ``charts/failover.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, assert_never, cast

from devpipe.machines.charts.base import Cell
from devpipe.machines.charts.failover import FailoverChart, FailoverEvent
from devpipe.machines.config import FailoverConfig
from devpipe.machines.decisions.chain import Candidate
from devpipe.machines.decisions.routes import FailoverContext, allowed, elsewhere, server_down, usable
from devpipe.machines.effects import Dial, Doubt, FailoverEffect, HoldDials
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.events import Event, ServerChanged
from devpipe.machines.inputs import (
    Alive,
    Close,
    Drained,
    FailoverInput,
    Open,
    Pin,
    Select,
    Standing,
    TransportDown,
    TransportUp,
)

__all__ = ["Failover", "FailoverSnapshot", "FailoverState"]

#: A score that has moved less than this is no news.
RESOLUTION = 0.01
#: A probe has been answered by then, or its transport is given up (seconds).
DOUBT = 2.5
#: Looks after one change of a fact: each takes the chart one state on, and no way through it is longer.
MAX_LOOKS = 12


class FailoverState(str, Enum):
    """Where the manager is."""

    IDLE = "idle"
    CONNECTING = "connecting"
    SELECTING = "selecting"
    ACTIVE = "active"
    UPGRADING = "upgrading"
    FAILING_OVER = "failing_over"
    EXHAUSTED = "exhausted"
    CLOSING = "closing"
    CLOSED = "closed"


_OVER = (FailoverState.CLOSING, FailoverState.CLOSED)


@dataclass(frozen=True, slots=True)
class FailoverSnapshot:
    """All of it, as plain data."""

    state: str | tuple[str, ...]
    context: FailoverContext


class Failover:
    """One per pipe. ``names``: the types of its transports, best first."""

    def __init__(self, *, names: tuple[str, ...], config: FailoverConfig | None = None) -> None:
        self.names = names
        self.config = config or FailoverConfig()
        candidates = tuple(Candidate(name=name) for name in names)
        self._cell = Cell(FailoverContext(config=self.config, candidates=candidates))
        self._chart = FailoverChart(self._cell)
        self._effects: list[FailoverEffect] = []
        self._events: list[Event] = []
        self.steps = 0  #: events that the chart has taken

    # --- state ----------------------------------------------------------------------------------------

    @property
    def state(self) -> FailoverState:
        """Where the manager is."""
        return FailoverState(self._cell.leaf)

    @property
    def active(self) -> str | None:
        """The default route."""
        return self._cell.ctx.active

    @property
    def pinned(self) -> str | None:
        """The only transport that the operator allows."""
        return self._cell.ctx.pinned

    @property
    def server(self) -> str | None:
        """The server process that knows our session."""
        return self._cell.ctx.server

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The facts, in the order of the chain."""
        return self._cell.ctx.candidates

    @property
    def server_down(self) -> bool:
        """Everything is refused: it is the server, not one path."""
        return server_down(self._cell.ctx)

    def usable(self) -> list[str]:
        """The transports that messages may go over now: the active one first, then as the chain has them."""
        names = [c.name for c in usable(self._cell.ctx)]
        return sorted(names, key=lambda name: name != self.active)

    def elsewhere(self, name: str) -> bool:
        """True if this transport reaches another server than the one that knows our session."""
        ctx = self._cell.ctx
        candidate = ctx.of(name)
        return candidate is not None and elsewhere(ctx, candidate)

    def will_try_before(self, deadline: float) -> bool:
        """Something is usable, or somebody will dial, or a breaker will admit, before ``deadline``."""
        ctx = self._cell.ctx
        if self.state in _OVER:
            return False
        if self.state is FailoverState.IDLE or usable(ctx):
            return True
        times = [c.admit_at if c.up else c.retry_at for c in allowed(ctx)]
        return any(at is not None and at <= deadline for at in times)

    def is_news(self, item: Standing) -> bool:
        """The monitor reads often: only what has changed a fact is worth an input."""
        known = self._cell.ctx.of(item.transport)
        if known is None:
            return False
        moved = abs(item.score - known.score) >= RESOLUTION
        return moved or (item.admitted, item.retry_at) != (known.admitted, known.admit_at)

    def why(self) -> str:
        """The choice in one sentence, for the log."""
        ctx = self._cell.ctx
        parts: list[str] = []
        for c in ctx.candidates:
            if self.elsewhere(c.name):
                parts.append(f"{c.name} reaches another server")
            elif not c.up:
                parts.append(f"{c.name} is down" + (f" ({c.failure.reason})" if c.failure else ""))
            elif not c.admitted:
                parts.append(f"{c.name} is held by its breaker")
            else:
                parts.append(f"{c.name} scores {c.score:.2f}")
        pin = f"; pinned to {ctx.pinned}" if ctx.pinned else ""
        return ", ".join(parts) + pin

    # --- the common verbs -----------------------------------------------------------------------------

    def receive(self, item: FailoverInput, *, now: float, jitter: float = 0.5) -> None:
        """Take one input; ``jitter`` in [0, 1) spreads a shared backoff.

        Raises ``IllegalTransition`` for an ``Open`` that is not the first, and ``ConfigurationError`` for a ``Pin`` to
        a transport that the pipe does not have; nothing has changed then.
        """
        ev = FailoverEvent(now=now, jitter=jitter)
        match item:
            case Open():
                self._step("open", ev)
            case Close():
                self._step("close", ev)
            case Select():
                self._step("select", ev)
            case Pin():
                self._pin(item.transport, ev)
            case TransportUp():
                self._up(item)
            case TransportDown():
                self._change(
                    item.transport,
                    up=False,
                    failure=item.failure,
                    failed_at=now,
                    retry_at=item.retry_at,
                    drain_by=None,
                    doubted_until=None,
                )
                self._reconsider_server()
                if item.failure.refused:
                    self._doubt_others(item.transport, now=now)
            case Alive():
                self._change(item.transport, doubted_until=None)
            case Standing():
                self._change(item.transport, score=item.score, admitted=item.admitted, admit_at=item.retry_at)
            case Drained():
                self._change(item.transport, drain_by=None)
            case _ as never:
                assert_never(never)
        self._look(ev)

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` wants to be called."""
        ctx = self._cell.ctx
        times = [ctx.deadline]
        for c in ctx.candidates:
            times += [c.drain_by, c.doubted_until]
        if self.state is FailoverState.ACTIVE:
            times.append(self._next_reconsideration())
        return min((at for at in times if at is not None), default=None)

    def handle_deadline(self, *, now: float, jitter: float = 0.5) -> None:
        """The time has come, or not yet: then nothing happens."""
        at = self.next_deadline()
        if at is None or at > now:
            return
        for c in self._cell.ctx.candidates:
            if c.ejected_until is not None and c.ejected_until <= now:
                self._change(c.name, ejected_until=None)
            if c.drain_by is not None and c.drain_by <= now:
                self._change(c.name, drain_by=None)
            if c.doubted_until is not None and c.doubted_until <= now:
                self._change(c.name, doubted_until=None)  # still up: it was heard, if not by its probe
        self._look(FailoverEvent(now=now, jitter=jitter))
        # handled: it does not come back
        ctx = self._cell.ctx
        if ctx.reconsider_at is not None and ctx.reconsider_at <= now:
            self._cell.ctx = replace(ctx, reconsider_at=None)

    def drain_effects(self) -> list[FailoverEffect]:
        """What the manager is to do now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def drain_events(self) -> list[Event]:
        """What a program may hear."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> FailoverSnapshot:
        """All of it, as plain data; outputs must have been drained."""
        return FailoverSnapshot(self._cell.state_data, self._cell.ctx)

    def restore(self, snapshot: FailoverSnapshot) -> None:
        """Put a snapshot back."""
        self._cell.restore_state(snapshot.state)
        self._cell.ctx = snapshot.context
        self._effects.clear()
        self._events.clear()

    # --- inside ---------------------------------------------------------------------------------------

    def _pin(self, name: str | None, ev: FailoverEvent) -> None:
        if name is not None and name not in self.names:
            raise ConfigurationError(
                f"pin = {name!r} is not allowed: the transports are {', '.join(self.names)}"
            )
        if self.state in _OVER:
            return
        freed = name is None and self.pinned is not None
        self._cell.ctx = replace(self._cell.ctx, pinned=name)
        self._reconsider_server()
        candidate = self._cell.ctx.of(name)
        if candidate is not None and not candidate.up:
            if candidate.retry_at is None:  # it has failed for good, but the operator's word begins anew
                self._change(candidate.name, asked=False)
            else:
                self._effects.append(Dial(transport=candidate.name, immediately=True))
        if freed:
            self._step("select", ev)

    def _up(self, item: TransportUp) -> None:
        self._change(
            item.transport,
            asked=True,
            up=True,
            server=item.server,
            failure=None,
            failed_at=None,
            retry_at=None,
            doubted_until=None,
        )
        ctx = self._cell.ctx
        if ctx.holds or ctx.hold_until is not None:
            self._effects.append(HoldDials(until=None))
            self._cell.ctx = replace(ctx, holds=0, hold_until=None)
        if item.server and (item.knows_us or ctx.server is None):
            self._cell.ctx = replace(self._cell.ctx, server=item.server)
        self._reconsider_server()

    def _doubt_others(self, refused: str, *, now: float) -> None:
        """Nobody listens any more where our server was reached: other ways to it may stand without it, and are probed."""
        server = self._server_of(refused)
        for c in self._cell.ctx.candidates:
            if server and c.up and c.server == server and c.doubted_until is None:
                self._change(c.name, doubted_until=now + DOUBT)
                self._effects.append(Doubt(transport=c.name))

    def _server_of(self, name: str) -> str:
        candidate = self._cell.ctx.of(name)
        return "" if candidate is None else candidate.server

    def _reconsider_server(self) -> None:
        """If no proven transport reaches the process that knows us, the one that is reached is our server now."""
        ctx = self._cell.ctx
        there = [c for c in allowed(ctx) if c.up and c.server]
        reached = [c.server for c in sorted(there, key=lambda c: c.name != ctx.active)]
        if ctx.server is not None and reached and ctx.server not in reached:
            self._events.append(ServerChanged(from_=ctx.server, to=reached[0]))
            self._cell.ctx = replace(ctx, server=reached[0])

    def _next_reconsideration(self) -> float | None:
        """When a better transport that is up may take over: after the minimum stay, or its ejection."""
        ctx = self._cell.ctx
        stay = ctx.since + ctx.config.min_stay
        ends = [max(stay, c.ejected_until) for c in ctx.candidates if c.up and c.ejected_until is not None]
        return min([*ends, *(at for at in [ctx.reconsider_at] if at is not None)], default=None)

    def _change(self, name: str, **facts: Any) -> None:
        self._cell.ctx = self._cell.ctx.changed(name, **facts)

    def _look(self, ev: FailoverEvent) -> None:
        for _ in range(MAX_LOOKS):
            leaf, ctx = self._cell.leaf, self._cell.ctx
            self._step("look", ev)
            if self._cell.leaf == leaf and self._cell.ctx is ctx:
                return
        raise AssertionError("the failover chart does not come to rest")  # our bug, and no input may cause it

    def _step(self, event: str, ev: FailoverEvent) -> None:
        self.steps += 1
        for item in self._chart.step(event, ev):
            if isinstance(item, Event):
                self._events.append(item)
            else:
                self._effects.append(cast(FailoverEffect, item))  # the chart puts out nothing else

    def __repr__(self) -> str:
        return f"<Failover of {', '.join(self.names)} {self.state.value}>"
