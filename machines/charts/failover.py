"""The failover of a pipe, declared: which transport is the default route, and what happens when it is lost.

The facts of each transport are data in the context; after each change of a fact the chart takes ``look``, again and
again until it stands still. The guards below are all the rules there are.

The laws:
- ``active`` is a proven transport that its breaker admits, or there is none;
- one switch at a time, and several failures at once are one failover;
- a better transport takes over only when it is proven (make before break), never before ``min_stay``, and not while it
  is ejected for a loss;
- outside ``idle``, ``closing`` and ``closed`` either a transport is up, or somebody will dial, or every one has failed.
"""

# The chart library types compound states and its own verbs only in part; the lint and the table tests hold the charts.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportOperatorIssue=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from statemachine import State

from devpipe.machines.charts.base import PureChart
from devpipe.machines.config import FailoverConfig
from devpipe.machines.decisions.backoff import growing
from devpipe.machines.decisions.chain import Candidate, better_than, first_in_chain, highest
from devpipe.machines.effects import Activate, Dial, HangUp, HoldDials, Retire
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import (
    Exhausted,
    SwitchReason,
    TransportFailed,
    TransportRecovered,
    TransportSwitched,
)
from devpipe.machines.inputs import Failure

__all__ = ["FailoverChart", "FailoverContext", "FailoverEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverContext:
    """What the rules look at. ``candidates`` stand in the order of the chain."""

    config: FailoverConfig
    candidates: tuple[Candidate, ...]
    active: str | None = None
    last_active: str | None = None  #: the one that was lost, until messages flow again
    since: float = 0.0  #: when the active one took over
    reconsider_at: float | None = None  #: the end of its minimum stay
    pinned: str | None = None
    server: str | None = None  #: the process that knows our session
    upgrade_to: str | None = None
    deadline: float | None = None
    holds: int = 0  #: shared backoffs since the last proof
    hold_until: float | None = None

    def of(self, name: str | None) -> Candidate | None:
        """The facts of one transport."""
        return next((c for c in self.candidates if c.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverEvent:
    """What comes with an event."""

    now: float
    jitter: float = 0.5


class FailoverChart(PureChart[FailoverContext]):
    """Events: ``open``, ``look``, ``select``, ``close``."""

    validate_trap_states = False

    idle = State(initial=True)
    connecting = State()
    selecting = State()
    active = State()
    upgrading = State()
    failing_over = State()
    exhausted = State()
    closing = State()
    closed = State()

    open = idle.to(connecting, on="dial_first")

    look = (
        connecting.to(selecting, cond="some_usable", on="wait_for_better")
        | connecting.to(exhausted, cond="all_down", on="announce")
        | connecting.to(None)
        | selecting.to(
            active, cond="first_choice_usable or waited_long_enough and some_usable", on="take_first"
        )
        | selecting.to(connecting, unless="some_usable", on="stop_waiting")
        | selecting.to(None)
        | active.to(failing_over, cond="active_lost", on="lose")
        | active.to(upgrading, cond="better_one", on="begin_upgrade")
        | active.to(None)
        | upgrading.to(failing_over, cond="active_lost", on="lose")
        | upgrading.to(active, cond="upgrade_proven", on="upgrade")
        | upgrading.to(active, unless="better_one", on="roll_back")
        | upgrading.to(None)
        | failing_over.to(active, cond="some_usable", on="take_over")
        | failing_over.to(exhausted, cond="all_down", on="announce")
        | failing_over.to(None)
        | exhausted.to(active, cond="some_usable", on="take_over")
        | exhausted.to(None, cond="hold_over", on="hold_dials")
        | exhausted.to(None)
        | closing.to(closed, cond="nothing_up")
        | closing.to(None)
        | idle.to(None)
        | closed.to(None)
    )

    select = (
        active.to(None, cond="another_leads", on="switch_by_score")
        | active.to(None)
        | upgrading.to(active, cond="another_leads", on="switch_by_score")
        | upgrading.to(None)
        | connecting.to(None)
        | selecting.to(None)
        | failing_over.to(None)
        | exhausted.to(None)
    )

    close = closing.from_(
        idle, connecting, selecting, active, upgrading, failing_over, exhausted, on="hang_up_all"
    )

    IGNORED = {
        ("closing", "close"): "it is being closed",
        ("closed", "close"): "closing twice is fine",
        ("closing", "select"): "there is nothing to choose any more",
        ("closed", "select"): "there is nothing to choose any more",
        ("idle", "select"): "nothing is open yet",
    }

    # --- guards -------------------------------------------------------------------------------------

    def some_usable(self, ev: FailoverEvent) -> bool:
        """A transport is proven, admitted, ours, and allowed by the operator."""
        return bool(usable(self.model.ctx))

    def first_choice_usable(self, ev: FailoverEvent) -> bool:
        """The best of all that may still come is there: no use in waiting."""
        ctx = self.model.ctx
        ready = usable(ctx)
        hoped_for = [c for c in allowed(ctx) if c in ready or c.retry_at is not None]
        return bool(ready) and hoped_for[0] is ready[0]

    def waited_long_enough(self, ev: FailoverEvent) -> bool:
        """The better one did not come in time."""
        deadline = self.model.ctx.deadline
        return deadline is not None and deadline <= ev.now

    def active_lost(self, ev: FailoverEvent) -> bool:
        """The active transport is down, not admitted by its breaker, or not what the operator wants."""
        ctx = self.model.ctx
        return ctx.of(ctx.active) not in usable(ctx)

    def better_one(self, ev: FailoverEvent) -> bool:
        """Another transport should take over, and the present one has had its time."""
        return next_upgrade(self.model.ctx, ev.now) is not None

    def upgrade_proven(self, ev: FailoverEvent) -> bool:
        """The better one is usable at this moment."""
        ctx = self.model.ctx
        return ctx.of(ctx.upgrade_to) in usable(ctx)

    def all_down(self, ev: FailoverEvent) -> bool:
        """Each allowed transport has been tried and is down."""
        return all((not c.up and c.failure is not None) or not c.admitted for c in allowed(self.model.ctx))

    def hold_over(self, ev: FailoverEvent) -> bool:
        """The server is down, and no shared backoff holds the dials now."""
        ctx = self.model.ctx
        return server_down(ctx) and (ctx.hold_until is None or ctx.hold_until <= ev.now)

    def another_leads(self, ev: FailoverEvent) -> bool:
        """By score alone, another one is better."""
        ctx = self.model.ctx
        best = highest(usable(ctx), lead=ctx.config.lead)
        return best is not None and best.name != ctx.active

    def nothing_up(self, ev: FailoverEvent) -> bool:
        """Every transport has been taken down."""
        return not any(c.up for c in self.model.ctx.candidates)

    # --- actions ------------------------------------------------------------------------------------

    def dial_first(self, ev: FailoverEvent) -> None:
        """All of them where standbys are wanted, else the first."""
        ctx = self.model.ctx
        wanted = allowed(ctx) if ctx.config.standby else allowed(ctx)[:1]
        self._dial([c.name for c in wanted], ev, immediately=False)

    def wait_for_better(self, ev: FailoverEvent) -> None:
        """Give a better one in the chain a moment."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, deadline=ev.now + ctx.config.preference_delay)

    def stop_waiting(self, ev: FailoverEvent) -> None:
        """What was there has gone again."""
        self.model.ctx = replace(self.model.ctx, deadline=None)

    def take_first(self, ev: FailoverEvent) -> None:
        """The first transport of this pipe."""
        self._switch(usable(self.model.ctx)[0].name, SwitchReason.INITIAL, ev)

    def lose(self, ev: FailoverEvent) -> None:
        """The active transport is no route any more; a lost one is ejected for a while, growing."""
        ctx = self.model.ctx
        lost = ctx.of(ctx.active)
        assert lost is not None  # only entered from states that have an active one
        wanted_away = ctx.pinned is not None and ctx.pinned != lost.name
        if not wanted_away:
            failure = lost.failure or Failure(
                kind=FailureKind.UNAVAILABLE, reason="its circuit breaker is open"
            )
            self.model.out.append(TransportFailed(transport=lost.name, timestamp=ev.now, failure=failure))
            forgiven = lost.lost_at is not None and ev.now - lost.lost_at > ctx.config.forgiven_after
            losses = 1 if forgiven else lost.losses + 1
            pause = growing(
                count=losses - 1,
                initial=ctx.config.ejection_initial,
                factor=2.0,
                most=ctx.config.ejection_max,
            )
            self._change(lost.name, losses=losses, lost_at=ev.now, ejected_until=ev.now + pause)
        self.model.ctx = replace(
            self.model.ctx, active=None, last_active=lost.name, upgrade_to=None, deadline=None
        )
        needed = [c.name for c in allowed(self.model.ctx) if not c.up]
        self._dial(needed, ev, immediately=True)

    def take_over(self, ev: FailoverEvent) -> None:
        """Messages flow again."""
        ctx = self.model.ctx
        chosen = first_in_chain(usable(ctx), now=ev.now)
        assert chosen is not None  # the guard has seen one
        pinned = ctx.pinned is not None
        self._switch(chosen.name, SwitchReason.MANUAL if pinned else SwitchReason.FAILOVER, ev)

    def announce(self, ev: FailoverEvent) -> None:
        """Nothing is usable: say so, and if it is the server, let one backoff govern all dials."""
        ctx = self.model.ctx
        times = [c.retry_at for c in ctx.candidates if c.retry_at is not None]
        self.model.out.append(Exhausted(retry_at=min(times, default=None)))
        if server_down(ctx):
            self.hold_dials(ev)

    def hold_dials(self, ev: FailoverEvent) -> None:
        """One jittered, growing wait for all."""
        ctx = self.model.ctx
        bound = growing(
            count=ctx.holds,
            initial=ctx.config.hold_initial,
            factor=ctx.config.hold_factor,
            most=ctx.config.hold_max,
        )
        until = ev.now + bound * ev.jitter
        self.model.ctx = replace(ctx, holds=ctx.holds + 1, hold_until=until)
        self.model.out.append(HoldDials(until=until))

    def begin_upgrade(self, ev: FailoverEvent) -> None:
        """The present one still carries everything."""
        ctx = self.model.ctx
        found = next_upgrade(ctx, ev.now)
        assert found is not None  # the guard has seen it
        self.model.ctx = replace(ctx, upgrade_to=found[0].name, deadline=ev.now + ctx.config.upgrade_timeout)

    def upgrade(self, ev: FailoverEvent) -> None:
        """Make before break: new messages first, then the old one may go."""
        ctx = self.model.ctx
        found = next_upgrade(ctx, ev.now)
        by_score = found is not None and found[1]
        assert ctx.upgrade_to is not None  # the guard has seen it
        reason = SwitchReason.OPTIMIZATION if by_score else SwitchReason.UPGRADE
        self._switch(ctx.upgrade_to, reason, ev)

    def roll_back(self, ev: FailoverEvent) -> None:
        """It is not better any more: nothing has changed."""
        self.model.ctx = replace(self.model.ctx, upgrade_to=None, deadline=None)

    def switch_by_score(self, ev: FailoverEvent) -> None:
        """The operator asked for a new choice."""
        ctx = self.model.ctx
        best = highest(usable(ctx), lead=ctx.config.lead)
        assert best is not None  # the guard has seen it
        self._switch(best.name, SwitchReason.OPTIMIZATION, ev)

    def hang_up_all(self, ev: FailoverEvent) -> None:
        """The pipe is left."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, active=None, upgrade_to=None, deadline=None)
        self.model.out.extend(HangUp(transport=c.name) for c in ctx.candidates)

    # --- helpers ------------------------------------------------------------------------------------

    def _switch(self, name: str, reason: SwitchReason, ev: FailoverEvent) -> None:
        ctx = self.model.ctx
        before = ctx.active or ctx.last_active
        recovered = ctx.active is None and ctx.last_active is not None
        self.model.ctx = replace(
            ctx,
            active=name,
            last_active=None,
            since=ev.now,
            reconsider_at=ev.now + ctx.config.min_stay,
            upgrade_to=None,
            deadline=None,
        )
        self.model.out.append(Activate(transport=name))
        if ctx.active is not None:
            self.model.out.append(Retire(transport=ctx.active))
        if before != name:
            self.model.out.append(TransportSwitched(from_=before, to=name, reason=reason))
        if recovered and before is not None:
            self.model.out.append(TransportRecovered(from_=before, to=name))

    def _dial(self, names: list[str], ev: FailoverEvent, *, immediately: bool) -> None:
        for name in names:
            candidate = self.model.ctx.of(name)
            if candidate is not None and candidate.retry_at is None and candidate.failure is None:
                self._change(name, retry_at=ev.now)
            self.model.out.append(Dial(transport=name, immediately=immediately))

    def _change(self, name: str, **facts: object) -> None:
        change_of = _changer(facts)
        self.model.ctx = replace(
            self.model.ctx,
            candidates=tuple(change_of(c) if c.name == name else c for c in self.model.ctx.candidates),
        )


def _changer(facts: dict[str, object]) -> Callable[[Candidate], Candidate]:
    return lambda candidate: replace(candidate, **facts)  # type: ignore[arg-type]  # facts of a candidate


def allowed(ctx: FailoverContext) -> list[Candidate]:
    """The transports that the operator's word leaves, in the order of the chain."""
    if ctx.pinned is not None:
        return [c for c in ctx.candidates if c.name == ctx.pinned]
    if not ctx.config.auto_failover and ctx.last_active is not None:
        return [c for c in ctx.candidates if c.name == ctx.last_active]
    return list(ctx.candidates)


def usable(ctx: FailoverContext) -> list[Candidate]:
    """The transports that messages may go over: proven, admitted, reaching the server that knows us, allowed."""
    return [
        c
        for c in allowed(ctx)
        if c.up and c.admitted and (not c.server or ctx.server is None or c.server == ctx.server)
    ]


def next_upgrade(ctx: FailoverContext, now: float) -> tuple[Candidate, bool] | None:
    """The transport that should take over from the active one, if it may now."""
    active = ctx.of(ctx.active)
    if active is None or not ctx.config.auto_upgrade or now < ctx.since + ctx.config.min_stay:
        return None
    if ctx.pinned is not None or not ctx.config.auto_failover:
        return None
    chain = tuple(c.name for c in ctx.candidates)
    return better_than(active, usable(ctx), chain=chain, lead=ctx.config.lead, now=now)


def server_down(ctx: FailoverContext) -> bool:
    """Nothing is up and every transport was refused: it is the server, not one path."""
    return all(not c.up and c.failure is not None and c.failure.refused for c in allowed(ctx))
