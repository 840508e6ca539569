"""The failover of a pipe, declared: which transport is the default route, and what happens when it is lost.

The facts of each transport are data in the context; after each change of a fact the chart takes ``look``, again and
again until it stands still. The guards below are all the rules there are.

The laws:
- ``active`` is a proven transport that its breaker admits, or there is none;
- where the server was reached and refuses now, no other path to it takes over before it has shown life;
- one switch at a time, and several failures at once are one failover;
- a better transport takes over only when it is proven (make before break), never before ``min_stay``, and not while it
  is ejected for a loss;
- outside ``idle``, ``closing`` and ``closed`` either a transport is up, or somebody will dial, or every one has failed
  or is held.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from statemachine import State

from devpipe.machines.charts.base import PureChart
from devpipe.machines.decisions.backoff import growing
from devpipe.machines.decisions.chain import Candidate, first_in_chain
from devpipe.machines.decisions.routes import (
    FailoverContext,
    allowed,
    best_by_score,
    elsewhere,
    failure_of,
    next_attempt,
    next_upgrade,
    server_down,
    trusted,
    usable,
    wanted,
)
from devpipe.machines.effects import Activate, Dial, HangUp, HoldDials, Retire
from devpipe.machines.events import (
    Exhausted,
    SwitchReason,
    TransportFailed,
    TransportRecovered,
    TransportSwitched,
)

__all__ = ["FailoverChart", "FailoverContext", "FailoverEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverEvent:
    """What comes with an event."""

    now: float
    jitter: float = 0.5


class FailoverChart(PureChart[FailoverContext]):
    """Events: ``open``, ``look``, ``select``, ``close``."""

    validate_trap_states = False
    OVERRIDES = frozenset({"close"})

    idle = State(initial=True)
    connecting = State()
    selecting = State()
    active = State()
    upgrading = State()
    failing_over = State()
    exhausted = State()
    closing = State()
    closed = State()

    open = idle.to(connecting)

    look = (
        connecting.to(selecting, cond="some_usable", on="wait_for_better")
        | connecting.to(None, cond="lines_wrong", on="set_lines")
        | connecting.to(exhausted, cond="all_down", on="announce")
        | connecting.to(None)
        | selecting.to(
            active, cond="first_choice_usable or waited_long_enough and some_usable", on="take_first"
        )
        | selecting.to(connecting, unless="some_usable", on="stop_waiting")
        | selecting.to(None)
        | active.to(None, cond="pin_elsewhere and some_usable", on="obey_pin")
        | active.to(failing_over, cond="active_lost", on="lose")
        | active.to(None, cond="lines_wrong", on="set_lines")
        | active.to(upgrading, cond="better_one", on="begin_upgrade")
        | active.to(None)
        | upgrading.to(failing_over, cond="active_lost", on="lose")
        | upgrading.to(active, cond="upgrade_proven", on="upgrade")
        | upgrading.to(active, on="roll_back")
        | failing_over.to(active, cond="some_trusted", on="take_over")
        | failing_over.to(None, cond="lines_wrong", on="set_lines")
        | failing_over.to(exhausted, cond="all_down", on="announce")
        | failing_over.to(None)
        | exhausted.to(active, cond="some_trusted", on="take_over")
        | exhausted.to(None, cond="lines_wrong", on="set_lines")
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
        ("upgrading", "select"): "it is choosing anew",
        ("idle", "select"): "nothing is open yet",
    }

    # --- guards -------------------------------------------------------------------------------------

    def some_usable(self, ev: FailoverEvent) -> bool:
        """A transport is proven, admitted, ours, and allowed by the operator."""
        return bool(usable(self.model.ctx))

    def some_trusted(self, ev: FailoverEvent) -> bool:
        """One of these has shown life since the server refused us elsewhere, or the server never did."""
        return bool(trusted(self.model.ctx))

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
        """The one that was chosen is usable, and still the one to take."""
        found = next_upgrade(self.model.ctx, ev.now)
        return found is not None and found[0].name == self.model.ctx.upgrade_to

    def pin_elsewhere(self, ev: FailoverEvent) -> bool:
        """The operator wants another one than the active one."""
        return self.model.ctx.pinned not in (None, self.model.ctx.active)

    def lines_wrong(self, ev: FailoverEvent) -> bool:
        """One that is wanted was not told to dial, or one that is not wanted is kept."""
        return bool(to_ask(self.model.ctx) or to_hang_up(self.model.ctx))

    def all_down(self, ev: FailoverEvent) -> bool:
        """Each allowed transport has been tried and is down, or is up and no route."""
        ctx = self.model.ctx
        return all(c.failure is not None or not c.admitted or elsewhere(ctx, c) for c in allowed(ctx))

    def hold_over(self, ev: FailoverEvent) -> bool:
        """The server is down, and has refused again since the shared backoff ended."""
        ctx = self.model.ctx
        until = ctx.hold_until
        return server_down(ctx) and (
            until is None or any(c.failed_at is not None and c.failed_at >= until for c in allowed(ctx))
        )

    def another_leads(self, ev: FailoverEvent) -> bool:
        """By score alone, another one that was not lost lately is better."""
        return best_by_score(self.model.ctx, ev.now) not in (None, self.model.ctx.active)

    def nothing_up(self, ev: FailoverEvent) -> bool:
        """Every transport has been taken down."""
        return not any(c.up for c in self.model.ctx.candidates)

    # --- actions ------------------------------------------------------------------------------------

    def set_lines(self, ev: FailoverEvent) -> None:
        """Dial what is wanted, at once if callers wait; hang up what is not."""
        ctx = self.model.ctx
        urgent = ctx.pinned is not None or ctx.last_active is not None
        for c in to_ask(ctx):
            ctx = ctx.changed(c.name, asked=True, failure=None, retry_at=ev.now)
            self.model.out.append(Dial(transport=c.name, immediately=urgent))
        for c in to_hang_up(ctx):
            ctx = ctx.changed(c.name, asked=False, up=False, failure=None, retry_at=None)
            self.model.out.append(HangUp(transport=c.name))
        self.model.ctx = ctx

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

    def obey_pin(self, ev: FailoverEvent) -> None:
        """The one that the operator wants can take over at once."""
        self._switch(usable(self.model.ctx)[0].name, SwitchReason.MANUAL, ev)

    def lose(self, ev: FailoverEvent) -> None:
        """The active transport is no route any more; a lost one is ejected for a while, growing."""
        ctx = self.model.ctx
        lost = ctx.of(ctx.active)
        assert lost is not None  # only entered from states that have an active one
        failed = not self.pin_elsewhere(ev)
        if failed:
            failure = failure_of(ctx, lost)
            self.model.out.append(TransportFailed(transport=lost.name, timestamp=ev.now, failure=failure))
            forgiven = lost.lost_at is not None and ev.now - lost.lost_at > ctx.config.forgiven_after
            losses = 1 if forgiven else lost.losses + 1
            pause = growing(
                count=losses - 1,
                initial=ctx.config.ejection_initial,
                factor=2.0,
                most=ctx.config.ejection_max,
            )
            ctx = ctx.changed(lost.name, losses=losses, lost_at=ev.now, ejected_until=ev.now + pause)
        self.model.ctx = ctx = replace(
            ctx, active=None, last_active=lost.name, failed=failed, upgrade_to=None, deadline=None
        )
        # callers wait: whoever will dial by itself may do it now; one that has failed for good is left alone
        hurried = [c.name for c in allowed(ctx) if c.asked and not c.up and c.retry_at is not None]
        self.model.out.extend(Dial(transport=name, immediately=True) for name in hurried)

    def take_over(self, ev: FailoverEvent) -> None:
        """Messages flow again."""
        ctx = self.model.ctx
        chosen = first_in_chain(trusted(ctx), now=ev.now)
        assert chosen is not None  # the guard has seen one
        reason = SwitchReason.FAILOVER
        if ctx.last_active is None:
            reason = SwitchReason.INITIAL
        elif ctx.pinned is not None:
            reason = SwitchReason.MANUAL
        self._switch(chosen.name, reason, ev)

    def announce(self, ev: FailoverEvent) -> None:
        """Nothing is usable: say so, and if it is the server, let one backoff govern all dials."""
        ctx = self.model.ctx
        self.model.out.append(Exhausted(retry_at=next_attempt(ctx)))
        if self.hold_over(ev):
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
        found = next_upgrade(self.model.ctx, ev.now)
        assert found is not None  # the guard has seen it
        self.model.ctx = replace(self.model.ctx, upgrade_to=found[0].name)

    def upgrade(self, ev: FailoverEvent) -> None:
        """Make before break: new messages first, then the old one may go."""
        found = next_upgrade(self.model.ctx, ev.now)
        assert found is not None  # the guard has seen it
        better, by_score = found
        self._switch(better.name, SwitchReason.OPTIMIZATION if by_score else SwitchReason.UPGRADE, ev)

    def roll_back(self, ev: FailoverEvent) -> None:
        """It is not better any more: nothing has changed."""
        self.model.ctx = replace(self.model.ctx, upgrade_to=None)

    def switch_by_score(self, ev: FailoverEvent) -> None:
        """The operator asked for a new choice."""
        best = best_by_score(self.model.ctx, ev.now)
        assert best is not None  # the guard has seen one
        self._switch(best, SwitchReason.OPTIMIZATION, ev)

    def hang_up_all(self, ev: FailoverEvent) -> None:
        """The pipe is left."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, active=None, upgrade_to=None, deadline=None)
        self.model.out.extend(HangUp(transport=c.name) for c in ctx.candidates)

    # --- helpers ------------------------------------------------------------------------------------

    def _switch(self, name: str, reason: SwitchReason, ev: FailoverEvent) -> None:
        ctx = self.model.ctx
        out = self.model.out
        config = ctx.config
        before = ctx.active or ctx.last_active
        out.append(Activate(transport=name))
        if ctx.active is not None:
            out.append(Retire(transport=ctx.active))
            if not config.standby:
                ctx = ctx.changed(ctx.active, drain_by=ev.now + config.drain_timeout)
        if before != name:
            out.append(TransportSwitched(from_=before, to=name, reason=reason))
        if ctx.failed and before is not None:
            out.append(TransportRecovered(from_=before, to=name))
        self.model.ctx = replace(
            ctx.changed(name, drain_by=None),
            active=name,
            last_active=None,
            failed=False,
            since=ev.now,
            reconsider_at=ev.now + config.min_stay,
            upgrade_to=None,
            deadline=None,
        )


def to_ask(ctx: FailoverContext) -> list[Candidate]:
    """Those that are wanted, and that nobody has told to dial."""
    names = wanted(ctx)
    return [c for c in ctx.candidates if c.name in names and not c.asked]


def to_hang_up(ctx: FailoverContext) -> list[Candidate]:
    """Those that are kept for nothing: no standbys are wanted, and no call is on them any more."""
    if ctx.config.standby:
        return []
    names = wanted(ctx)
    return [c for c in ctx.candidates if c.asked and c.name not in names and c.drain_by is None]
