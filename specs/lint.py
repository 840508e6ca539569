"""Refuses on a chart what the state machine library gets wrong, or what a pure chart must not have."""

from __future__ import annotations

import inspect
from typing import Any

from statemachine.callbacks import CallbackGroup
from statemachine.state import HistoryState

from devpipe.machines.charts.base import PureChart
from devpipe.specs.charts import edges, events, leaves, nodes, raw_transitions

__all__ = ["FLAGS", "lint"]

#: The flags of the strict base, and what they must be.
FLAGS = {
    "allow_event_without_transition": False,
    "catch_errors_as_events": False,
    "enable_self_transition_entries": False,
    "atomic_configuration_update": True,
}
_CONVENTIONS = ("on_", "before_", "after_")


def lint(chart: type[PureChart[Any]]) -> list[str]:
    """Every fault as a sentence; an empty list is a clean chart."""
    faults = [
        f"{flag} is not {wanted}" for flag, wanted in FLAGS.items() if getattr(chart, flag) is not wanted
    ]
    faults += _states(chart) + _transitions(chart) + _callbacks(chart)
    known = {(leaf, event) for leaf in leaves(chart) for event in events(chart)}
    faults += [
        f"IGNORED names {pair}, which is no state and event" for pair in chart.IGNORED if pair not in known
    ]
    faults += [f"IGNORED gives no reason for {pair}" for pair, why in chart.IGNORED.items() if not why]
    faults += [f"OVERRIDES names {word!r}, which is no event" for word in chart.OVERRIDES - {*events(chart)}]
    parents = {node.name: node.parent for node in nodes(chart)}
    taken = {(edge.source, edge.event) for edge in edges(chart)}
    for leaf, event in chart.IGNORED:
        if {(leaf, event), (parents.get(leaf), event)} & taken:
            faults.append(f"{(leaf, event)} is ignored and taken: one of them never happens")
    return faults


def _states(chart: type[PureChart[Any]]) -> list[str]:
    faults: list[str] = []
    todo = list(chart.states)
    while todo:
        state = todo.pop()
        if isinstance(state, HistoryState):
            faults.append(f"{state.id} is a history state: it breaks snapshots")
            continue
        if getattr(state, "parallel", False):
            faults.append(f"{state.id} is parallel: the order of its actions depends on the past")
        if state.final and state.parent is None:
            faults.append(
                f"{state.id} is final at the top: the engine stops, and a snapshot cannot bring it back"
            )
        todo += [*state.states, *getattr(state, "history", ())]
    return faults


def _transitions(chart: type[PureChart[Any]]) -> list[str]:
    faults: list[str] = []
    for transition in raw_transitions(chart):
        where = f"{transition.source.id} on {transition.event!r}"
        if transition.internal:
            faults.append(f"{where} is internal: write a targetless transition")
        if not str(transition.event):
            faults.append(f"{where or 'a transition'} has no event: it would run by itself")
        if any(True for spec in transition._specs if spec.group is CallbackGroup.VALIDATOR):
            faults.append(f"{where} has a validator: write a guard")
    unguarded: set[tuple[str, str]] = set()
    for edge in edges(chart):
        if (edge.source, edge.event) in unguarded:
            faults.append(
                f"{edge.source} on {edge.event!r}: an alternative after one without a guard is never tried"
            )
        if not edge.guards:
            unguarded.add((edge.source, edge.event))
    return faults


def _callbacks(chart: type[PureChart[Any]]) -> list[str]:
    faults: list[str] = []
    named = {name for edge in edges(chart) for name in (*edge.actions, *edge.guards)}
    bound = {f"{prefix}{name}" for prefix in _CONVENTIONS for name in events(chart)}
    bound |= {f"on_{verb}_{node.name}" for verb in ("enter", "exit") for node in nodes(chart)}
    for name, member in vars(chart).items():
        if inspect.iscoroutinefunction(member):
            faults.append(f"{name} is async: the engine would start an event loop of its own")
        if name.startswith(_CONVENTIONS) and callable(member) and name not in bound | named:
            faults.append(f"{name} is never called: is its name misspelt?")
    for name, event in vars(chart).items():
        if getattr(event, "delay", 0) and hasattr(event, "transitions"):
            faults.append(f"the event {name} is delayed: the engine would sleep")
    for name in sorted(named):
        for word in name.replace("not ", "").replace(" or ", " ").replace(" and ", " ").split():
            if not callable(getattr(chart, word, None)):
                faults.append(f"{word} is named and does not exist")
    return faults
