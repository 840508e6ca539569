"""The circuit breaker against its model: calls that succeed, fail, are cancelled, come late or never."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devpipe.machines.breaker import CircuitBreaker, Permit
from devpipe.specs.models.breaker import BreakerModel

__all__ = ["BreakerMachine"]

delays = st.sampled_from([0.0, 0.001, 1.0, 2.5, 9.999, 10.0, 29.999, 30.0, 31.0])

#: Where an operator's word leads.
OVERRIDES = {"force_open": "forced_open", "disable": "disabled", "observe": "observing", "reset": "closed"}


class BreakerMachine(RuleBasedStateMachine):
    """Permits are kept with the epoch of the model in which they were given."""

    #: what is tested; a planted bug takes its place
    core: ClassVar[type[CircuitBreaker]] = CircuitBreaker

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = self.core(name="b")
        self.model = BreakerModel()
        self.permits: list[tuple[Permit, int]] = []

    @rule()
    def a_call_asks(self) -> None:
        permit = self.breaker.acquire(now=self.now)
        assert (permit is not None) == self.model.acquire(self.now)
        if permit is not None:
            self.permits.append((permit, self.model.epoch))

    @precondition(lambda self: bool(self.permits))
    @rule(which=st.integers(0, 100))
    def a_call_fails(self, which: int) -> None:
        permit, epoch = self.permits.pop(which % len(self.permits))
        self.breaker.failure(permit, now=self.now)
        if epoch == self.model.epoch:
            self.model.failed(self.now)

    @rule(count=st.integers(4, 6), one_goes_on=st.booleans())
    def calls_fail_in_a_row(self, count: int, one_goes_on: bool) -> None:
        # one by one they would seldom be enough
        if one_goes_on:
            self.a_call_asks()
        for _ in range(count):
            out = len(self.permits)
            self.a_call_asks()
            if len(self.permits) > out:  # those that were out before may be late
                self.a_call_fails(which=out)

    @precondition(lambda self: bool(self.permits))
    @rule(which=st.integers(0, 100))
    def a_call_succeeds(self, which: int) -> None:
        permit, epoch = self.permits.pop(which % len(self.permits))
        self.breaker.success(permit, now=self.now, duration=0.1)
        if epoch == self.model.epoch:
            self.model.succeeded()

    @precondition(lambda self: bool(self.permits))
    @rule(which=st.integers(0, 100))
    def a_call_is_cancelled(self, which: int) -> None:
        permit, epoch = self.permits.pop(which % len(self.permits))
        self.breaker.release(permit)
        if epoch == self.model.epoch and self.model.state == "half_open":
            self.model.out = None

    @rule(word=st.sampled_from(["force_open", "disable", "observe", "reset", "reset", "reset"]))
    def the_operator_overrides(self, word: str) -> None:
        getattr(self.breaker, word)(now=self.now)
        self.model.overridden(OVERRIDES[word])

    @rule(delay=delays)
    def time_passes(self, delay: float) -> None:
        self.now += delay
        self.breaker.handle_deadline(now=self.now)
        self.model.tick(self.now)

    @precondition(lambda self: self.model.state == "open")
    @rule(short=st.sampled_from([0.0, 0.0, 0.001]))
    def it_cools_down(self, short: float) -> None:
        retry_at = self.breaker.retry_at
        assert retry_at is not None
        self.time_passes(delay=max(0.0, retry_at - short - self.now))
        self.a_call_asks()

    @precondition(lambda self: self.model.out is not None)
    @rule(short=st.sampled_from([0.0, 0.0, 0.001]))
    def its_permit_is_overdue(self, short: float) -> None:
        assert self.model.out is not None
        self.time_passes(delay=max(0.0, self.model.out - short - self.now))

    @precondition(lambda self: any(epoch != self.model.epoch for _, epoch in self.permits))
    @rule()
    def an_old_call_succeeds(self) -> None:
        old = next(n for n, (_, epoch) in enumerate(self.permits) if epoch != self.model.epoch)
        self.a_call_succeeds(which=old)

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        assert self.breaker.state.value == self.model.state

    @invariant()
    def a_snapshot_brings_everything_back(self) -> None:
        kept = self.breaker.snapshot()
        other = self.core(name="b")
        other.restore(kept)
        assert other.snapshot() == kept
