"""The circuit breaker against its model: calls that succeed, fail, are cancelled, come late or never."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devpipe.machines.breaker import CircuitBreaker, Permit
from devpipe.specs.models.breaker import BreakerModel

__all__ = ["BreakerMachine"]

delays = st.sampled_from([0.0, 0.001, 1.0, 2.5, 9.999, 10.0, 29.999, 30.0, 31.0])


class BreakerMachine(RuleBasedStateMachine):
    """Permits are kept with the epoch of the model in which they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = self.make()
        self.model = BreakerModel()
        self.permits: list[tuple[Permit, int]] = []

    def make(self) -> CircuitBreaker:
        """The breaker under test; a mutant overrides it."""
        return CircuitBreaker(name="b")

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

    @rule(delay=delays)
    def time_passes(self, delay: float) -> None:
        self.now += delay
        self.breaker.handle_deadline(now=self.now)
        self.model.tick(self.now)

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        assert self.breaker.state.value == self.model.state

    @invariant()
    def a_snapshot_brings_everything_back(self) -> None:
        kept = self.breaker.snapshot()
        other = self.make()
        other.restore(kept)
        assert other.snapshot() == kept
