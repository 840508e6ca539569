"""Do the tests look at every transition? Each one is removed in turn, and some test must go red.

A chart's states are shared by all its instances, so a mutant is a class of its own: the chart's module is run anew and
one transition is taken out of the fresh class.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from devpipe.machines.charts.base import PureChart
from devpipe.specs.charts import raw_transitions

__all__ = ["Mutant", "fresh", "mutants", "survives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A chart without one of its transitions."""

    missing: str
    chart: type[PureChart[Any]]


def mutants(chart: type[PureChart[Any]]) -> Iterator[Mutant]:
    """One for each transition."""
    for index, transition in enumerate(raw_transitions(chart)):
        mutant = fresh(chart)
        doomed = raw_transitions(mutant)[index]
        doomed.source.transitions.transitions.remove(doomed)
        target = transition.targets[0].id if transition.targets else "stays"
        missing = f"{index}: {transition.source.id} --{transition.event}--> {target}"
        yield Mutant(missing=missing, chart=mutant)


def survives(install: Callable[[], None], tests: Iterable[Callable[[], None]]) -> bool:
    """True if every test still passes with the mutant installed: then nothing looks at that transition."""
    install()
    for test in tests:
        try:
            test()
        except Exception:  # any failure at all is what is hoped for here
            return False
    return True


def fresh(chart: type[PureChart[Any]]) -> type[PureChart[Any]]:
    """The same chart, as a class of its own with states of its own."""
    original = sys.modules[chart.__module__]
    spec = importlib.util.spec_from_file_location(original.__name__, original.__file__)
    assert spec is not None and spec.loader is not None  # the module was found once
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while they are made
    sys.modules[original.__name__] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules[original.__name__] = original
    copy: type[PureChart[Any]] = getattr(module, chart.__name__)
    return copy
