"""For each transition of each chart some test goes red when it is removed."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from devpipe.machines import breaker, failover, lifecycle
from devpipe.specs.charts import CHARTS
from devpipe.specs.mutation import Mutant, fresh, mutants, survives

MACHINES = Path(__file__).parents[1] / "machines"
SHELLS: dict[str, tuple[ModuleType, str]] = {
    "breaker": (breaker, "BreakerChart"),
    "lifecycle": (lifecycle, "LifecycleChart"),
    "failover": (failover, "FailoverChart"),
}


def plain_tests(name: str) -> list[Callable[[], None]]:
    """The plain tests of a machine: functions that want nothing."""
    path = MACHINES / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(f"mutated_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [
        test
        for word, test in vars(module).items()
        if word.startswith("test_") and not inspect.signature(test).parameters
    ]


CASES = [(name, mutant) for name, chart in CHARTS.items() for mutant in mutants(chart)]
TESTS = {name: plain_tests(name) for name in CHARTS}


@pytest.mark.parametrize(("name", "mutant"), CASES, ids=[f"{n}-{m.missing}" for n, m in CASES])
def test_a_chart_without_this_transition_is_noticed(
    name: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, word = SHELLS[name]
    assert not survives(lambda: monkeypatch.setattr(module, word, mutant.chart), TESTS[name]), (
        f"no test of {name} misses {mutant.missing}"
    )


@pytest.mark.parametrize("name", CHARTS)
def test_a_copy_of_a_chart_from_which_nothing_was_taken_passes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests notice above is the missing transition, and not that the chart is a copy."""
    module, word = SHELLS[name]
    whole = fresh(CHARTS[name])
    assert survives(lambda: monkeypatch.setattr(module, word, whole), TESTS[name])
