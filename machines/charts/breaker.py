"""The circuit breaker, declared: may a message take this path?

``closed`` lets everything through and counts. Too many failures inside the period ``trip`` it: ``open`` lets nothing
through until it has cooled down. Then ``half_open`` leases a few permits; what comes back on them decides. An operator
overrides all that with ``forced_open``, ``disabled`` (lets through, counts nothing) and ``observing`` (lets through,
counts, never opens), and gives it back with ``reset``.

The laws:
- only a permit of the present generation may move the chart; the generation grows whenever calls are judged anew;
- every leased permit comes back: as success, failure, or neutral;
- nothing but the guards below decides whether the circuit opens or closes.
"""

# The chart library types compound states and its own verbs only in part; the lint and the table tests hold the charts.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportOperatorIssue=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, replace

from statemachine import State

from devpipe.machines.charts.base import PureChart
from devpipe.machines.config import BreakerConfig

__all__ = ["BreakerChart", "BreakerContext", "BreakerEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerContext:
    """What the rules look at. ``leased``: (number, deadline) of the permits that are out in ``half_open``."""

    config: BreakerConfig
    generation: int = 0
    opened_at: float = 0.0
    leased: tuple[tuple[int, float], ...] = ()
    successes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerEvent:
    """What comes with an event: the time, the counts of the window at that time, and the permit it is about."""

    now: float
    calls: int = 0
    failures: int = 0
    slow: int = 0
    permit: int = 0


class BreakerChart(PureChart[BreakerContext]):
    """Events: ``acquire``, ``failure``, ``success``, ``release``, ``expire``; the operator's ``force_open``,
    ``disable``, ``observe``, ``reset``."""

    validate_trap_states = False
    OVERRIDES = frozenset({"force_open", "disable", "observe", "reset"})

    class automatic(State.Compound):
        """What runs by itself."""

        closed = State(initial=True)
        open = State()
        half_open = State()

        acquire = open.to(half_open, cond="cooled_down", on="probe") | half_open.to(
            None, cond="permit_free", on="lease"
        )
        failure = (
            closed.to(open, cond="too_many_failures", on="trip")
            | closed.to(None)
            | half_open.to(open, on="trip")
        )
        slow = closed.to(open, cond="too_many_slow", on="trip") | closed.to(None)
        success = half_open.to(closed, cond="enough_successes", on="heal") | half_open.to(
            None, on="count_success"
        )
        release = half_open.to(None, on="give_back")
        expire = half_open.to(open, cond="permit_overdue", on="trip") | half_open.to(None)

    forced_open = State()
    disabled = State()
    observing = State()

    force_open = forced_open.from_(automatic, disabled, observing, on="judge_anew") | forced_open.to(None)
    disable = disabled.from_(automatic, forced_open, observing, on="judge_anew") | disabled.to(None)
    observe = observing.from_(automatic, forced_open, disabled, on="judge_anew") | observing.to(None)
    reset = automatic.from_(automatic, forced_open, disabled, observing, on="judge_anew")

    # --- guards -------------------------------------------------------------------------------------

    def too_many_failures(self, ev: BreakerEvent) -> bool:
        """The original's count, or the failure rate where one is configured."""
        config = self.model.ctx.config
        return ev.failures >= config.failure_threshold or _rate_reached(
            ev.failures, ev.calls, config.failure_rate, config.minimum_calls
        )

    def too_many_slow(self, ev: BreakerEvent) -> bool:
        """The slow-call rate, where one is configured."""
        config = self.model.ctx.config
        return _rate_reached(ev.slow, ev.calls, config.slow_call_rate, config.minimum_calls)

    def cooled_down(self, ev: BreakerEvent) -> bool:
        """It has been open for ``reset_timeout``."""
        ctx = self.model.ctx
        return ev.now >= ctx.opened_at + ctx.config.reset_timeout

    def permit_free(self, ev: BreakerEvent) -> bool:
        """Fewer permits are out, or have succeeded, than may be."""
        ctx = self.model.ctx
        return len(ctx.leased) < ctx.config.half_open_max_calls

    def enough_successes(self, ev: BreakerEvent) -> bool:
        """This success is the last one that was wanted."""
        ctx = self.model.ctx
        return ctx.successes + 1 >= ctx.config.half_open_successes

    def permit_overdue(self, ev: BreakerEvent) -> bool:
        """A leased permit has not come back in time: whoever has it hangs on this path."""
        return any(deadline <= ev.now for _, deadline in self.model.ctx.leased)

    # --- actions ------------------------------------------------------------------------------------

    def trip(self, ev: BreakerEvent) -> None:
        """Open now, and judge what comes later anew."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, generation=ctx.generation + 1, opened_at=ev.now, leased=(), successes=0)

    def probe(self, ev: BreakerEvent) -> None:
        """The first permit of a new trial."""
        ctx = self.model.ctx
        self.model.ctx = replace(
            ctx,
            generation=ctx.generation + 1,
            leased=((ev.permit, ev.now + ctx.config.permit_timeout),),
            successes=0,
        )

    def lease(self, ev: BreakerEvent) -> None:
        """One more permit is out."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, leased=(*ctx.leased, (ev.permit, ev.now + ctx.config.permit_timeout)))

    def give_back(self, ev: BreakerEvent) -> None:
        """A permit came back without a verdict."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, leased=tuple(p for p in ctx.leased if p[0] != ev.permit))

    def count_success(self, ev: BreakerEvent) -> None:
        """A permit came back well, and more are wanted."""
        self.give_back(ev)
        self.model.ctx = replace(self.model.ctx, successes=self.model.ctx.successes + 1)

    def heal(self, ev: BreakerEvent) -> None:
        """The path works again."""
        self.judge_anew(ev)

    def judge_anew(self, ev: BreakerEvent) -> None:
        """What is still out from before says nothing any more."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, generation=ctx.generation + 1, opened_at=ev.now, leased=(), successes=0)


def _rate_reached(part: int, calls: int, rate: float | None, minimum: int) -> bool:
    return rate is not None and calls >= minimum and part >= rate * calls
