"""The stateful machines of ``devpipe.specs``, and that they find planted bugs."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from devpipe.specs.stateful.breaker import BreakerMachine
from devpipe.specs.stateful.calls import CallsMachine
from devpipe.specs.stateful.failover import FailoverMachine
from devpipe.specs.stateful.lifecycle import LifecycleMachine

#: Examples for each machine; more by the variable that the parsers listen to as well.
RUNS = max(40, int(os.environ.get("DEVPIPE_EXAMPLES", "0")))
MACHINES = [BreakerMachine, CallsMachine, FailoverMachine, LifecycleMachine]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.__name__)
def test_the_core_does_what_its_model_says(machine: type[RuleBasedStateMachine]) -> None:
    # a step of a declared chart costs a tenth of a millisecond, and a rule takes several: fewer, longer runs
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=30, max_examples=RUNS))
