"""The declared charts as plain data: what renderer, lint and mutation look at. Read from the classes that run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from statemachine.callbacks import CallbackGroup

from devpipe.machines.charts.base import PureChart
from devpipe.machines.charts.breaker import BreakerChart
from devpipe.machines.charts.failover import FailoverChart
from devpipe.machines.charts.lifecycle import LifecycleChart

__all__ = ["CHARTS", "Edge", "Node", "edges", "events", "leaves", "nodes", "raw_transitions"]

#: Every declared machine, by the name of its diagram.
CHARTS: dict[str, type[PureChart[Any]]] = {
    "breaker": BreakerChart,
    "lifecycle": LifecycleChart,
    "failover": FailoverChart,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One state. ``parent``: the compound it stands in."""

    name: str
    parent: str | None
    compound: bool
    initial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One transition. ``target`` is None where nothing is left or entered; guards as they are written."""

    event: str
    source: str
    target: str | None
    guards: tuple[str, ...]
    actions: tuple[str, ...]


def nodes(chart: type[PureChart[Any]]) -> list[Node]:
    """All states, compounds before what is in them."""
    return [
        Node(
            name=state.id,
            parent=None if state.parent is None else state.parent.id,
            compound=bool(state.states),
            initial=bool(state.initial),
        )
        for state in _states(chart.states)
    ]


def leaves(chart: type[PureChart[Any]]) -> list[str]:
    """The states that have none inside."""
    return [node.name for node in nodes(chart) if not node.compound]


def edges(chart: type[PureChart[Any]]) -> list[Edge]:
    """All transitions, in the order in which they are tried."""
    return [
        Edge(
            event=event,
            source=transition.source.id,
            target=transition.targets[0].id if transition.targets else None,
            guards=tuple(_guards(transition)),
            actions=tuple(_actions(transition)),
        )
        for transition in raw_transitions(chart)
        for event in str(transition.event).split()
    ]


def events(chart: type[PureChart[Any]]) -> list[str]:
    """The names of all events, in the order of their first transition."""
    return list(dict.fromkeys(edge.event for edge in edges(chart)))


def raw_transitions(chart: type[PureChart[Any]]) -> list[Any]:
    """The library's own transition objects, without those that only enter a compound."""
    return [
        transition
        for state in _states(chart.states)
        for transition in state.transitions
        if not transition.initial
    ]


def _states(states: Any) -> Iterator[Any]:
    for state in states:
        yield state
        yield from _states(state.states)


def _inline(transition: Any, group: CallbackGroup) -> Iterator[Any]:
    for spec in transition._specs:
        if spec.group is group and not spec.is_convention:
            yield spec


def _guards(transition: Any) -> Iterator[str]:
    for spec in _inline(transition, CallbackGroup.COND):
        yield str(spec.func) if spec.expected_value else f"not {spec.func}"


def _actions(transition: Any) -> Iterator[str]:
    for group in (CallbackGroup.BEFORE, CallbackGroup.ON, CallbackGroup.AFTER):
        for spec in _inline(transition, group):
            yield str(spec.func)
