"""The stateful machines of ``devpipe.specs``, and that they find planted bugs."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from devpipe.specs.stateful.lifecycle import LifecycleMachine

MACHINES = [LifecycleMachine]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.__name__)
def test_the_core_does_what_its_model_says(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=40))
