"""The stateful machines of ``devpipe.specs``, and that they find planted bugs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from devpipe.machines.breaker import BreakerSnapshot, BreakerState, CircuitBreaker, Permit
from devpipe.machines.config import BreakerConfig
from devpipe.machines.effects import CloseLink, LifecycleEffect
from devpipe.machines.events import Event, TransportSwitched
from devpipe.machines.failover import Failover
from devpipe.machines.inputs import (
    FailoverInput,
    LifecycleInput,
    Pin,
    Proved,
    Standing,
    TransportDown,
    TransportUp,
)
from devpipe.machines.lifecycle import Lifecycle, LifecycleSnapshot, LifecycleState
from devpipe.machines.protocols.calls import SWEEP, Call, Calls
from devpipe.specs.stateful.breaker import BreakerMachine
from devpipe.specs.stateful.calls import CallsMachine
from devpipe.specs.stateful.failover import FailoverMachine
from devpipe.specs.stateful.lifecycle import LifecycleMachine

MACHINES = [BreakerMachine, CallsMachine, FailoverMachine, LifecycleMachine]
#: a step of a declared chart costs a tenth of a millisecond, and a rule takes several: fewer, longer runs
SETTINGS = settings(stateful_step_count=30, max_examples=settings().max_examples // 10)
#: a bug is found or not: its smallest program is for people
HUNT = settings(SETTINGS, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.__name__)
def test_the_core_does_what_its_model_says(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


# --- bugs of a breaker --------------------------------------------------------------------------------


class KeepsThePermitOfTheCancelled(CircuitBreaker):
    def release(self, permit: Permit) -> None:
        pass


class BelievesLateResults(CircuitBreaker):
    """What an older generation says is taken for the word of the probe."""

    def success(self, permit: Permit, *, now: float, duration: float | None = None) -> None:
        super().success(Permit(self._cell.ctx.generation, self._numbers), now=now, duration=duration)


class WaitsForAPermitForEver(CircuitBreaker):
    def handle_deadline(self, *, now: float) -> None:
        pass


class ForgetsNoFailure(CircuitBreaker):
    """Its window is a day long."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name, config=BreakerConfig(monitoring_period=86_400.0))


class OpensAgainstTheOperator(CircuitBreaker):
    """What it observes is taken for its own."""

    def observe(self, *, now: float) -> None:
        super().reset(now=now)


class CoolsDownSooner(CircuitBreaker):
    def acquire(self, *, now: float) -> Permit | None:
        return super().acquire(now=now + 0.001 if self.state is BreakerState.OPEN else now)


class RestoresNoWindow(CircuitBreaker):
    def restore(self, snapshot: BreakerSnapshot) -> None:
        super().restore(replace(snapshot, window=()))


# --- bugs of the correlation --------------------------------------------------------------------------


class AnswersTwice(Calls):
    def take_reply(self, id: str) -> Call | None:
        return self.get(id)


class EndsTooSoon(Calls):
    def handle_deadline(self, *, now: float) -> list[Call]:
        return super().handle_deadline(now=now + SWEEP)


class EndsTooLate(Calls):
    def handle_deadline(self, *, now: float) -> list[Call]:
        return super().handle_deadline(now=now - SWEEP)


class ForgetsToWake(Calls):
    def next_deadline(self) -> float | None:
        return None


class ExpiresWhatHasEnded(Calls):
    """A call that was answered stays in its bucket."""

    def finish(self, id: str) -> Call | None:
        return self._open.pop(id, None)


# --- bugs of a failover -------------------------------------------------------------------------------


class AdmitsWhatABreakerHolds(Failover):
    def receive(self, item: FailoverInput, *, now: float, jitter: float = 0.5) -> None:
        super().receive(replace(item, admitted=True) if isinstance(item, Standing) else item, now=now)


class MinglesServers(Failover):
    """Whoever is reached is taken for ours."""

    def receive(self, item: FailoverInput, *, now: float, jitter: float = 0.5) -> None:
        super().receive(replace(item, server="") if isinstance(item, TransportUp) else item, now=now)


class HearsNoLoss(Failover):
    def receive(self, item: FailoverInput, *, now: float, jitter: float = 0.5) -> None:
        if not isinstance(item, TransportDown):
            super().receive(item, now=now)


class ObeysNoPin(Failover):
    def receive(self, item: FailoverInput, *, now: float, jitter: float = 0.5) -> None:
        if not isinstance(item, Pin):
            super().receive(item, now=now)


class SwitchesInSilence(Failover):
    def drain_events(self) -> list[Event]:
        return [event for event in super().drain_events() if not isinstance(event, TransportSwitched)]


class WaitsForEver(Failover):
    def handle_deadline(self, *, now: float, jitter: float = 0.5) -> None:
        pass


# --- bugs of a lifecycle ------------------------------------------------------------------------------


class LeavesLinksOpen(Lifecycle):
    def drain_effects(self) -> list[LifecycleEffect]:
        return [effect for effect in super().drain_effects() if not isinstance(effect, CloseLink)]


class TakesAnyNonce(Lifecycle):
    def receive(self, item: LifecycleInput, *, now: float) -> None:
        ping = self._cell.ctx.ping
        if isinstance(item, Proved) and ping is not None:
            item = replace(item, nonce=ping.nonce)
        super().receive(item, now=now)


class HearsOldLinks(Lifecycle):
    def _current(self, generation: int, *states: LifecycleState) -> bool:
        return self.state in states


class NeverDialsAgain(Lifecycle):
    def handle_deadline(self, *, now: float, jitter: float = 0.5) -> None:
        if self.state is not LifecycleState.BACKOFF:
            super().handle_deadline(now=now, jitter=jitter)


class DrainsForEver(Lifecycle):
    def next_deadline(self) -> float | None:
        return None if self.state is LifecycleState.DRAINING else super().next_deadline()


class RestoresNoSignOfLife(Lifecycle):
    def restore(self, snapshot: LifecycleSnapshot) -> None:
        super().restore(replace(snapshot, heard_at=0.0))


BUGS: dict[type[Any], list[type[Any]]] = {
    BreakerMachine: [
        KeepsThePermitOfTheCancelled, BelievesLateResults, WaitsForAPermitForEver, ForgetsNoFailure, CoolsDownSooner,
        RestoresNoWindow, OpensAgainstTheOperator,
    ],
    CallsMachine: [AnswersTwice, EndsTooSoon, EndsTooLate, ForgetsToWake, ExpiresWhatHasEnded],
    FailoverMachine: [
        AdmitsWhatABreakerHolds, MinglesServers, HearsNoLoss, ObeysNoPin, SwitchesInSilence, WaitsForEver,
    ],
    LifecycleMachine: [
        LeavesLinksOpen, TakesAnyNonce, HearsOldLinks, NeverDialsAgain, DrainsForEver, RestoresNoSignOfLife,
    ],
}  # fmt: skip
CASES = [(machine, bug) for machine, bugs in BUGS.items() for bug in bugs]


@pytest.mark.parametrize(("machine", "bug"), CASES, ids=[bug.__name__ for _, bug in CASES])
def test_a_planted_bug_is_found(machine: type[RuleBasedStateMachine], bug: type[object]) -> None:
    planted = type("Planted", (machine,), {"core": bug})
    # an assertion of the machine, or a call that its model does not know
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(planted, settings=HUNT)
