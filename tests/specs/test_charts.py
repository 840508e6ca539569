"""The charts are clean, the committed pictures are fresh, and the lint finds what it is there for."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from statemachine import HistoryState, State

from devpipe.machines.breaker import BreakerState
from devpipe.machines.charts.base import Cell, IllegalTransition, PureChart
from devpipe.machines.failover import FailoverState
from devpipe.machines.lifecycle import LifecycleState
from devpipe.specs.charts import CHARTS, edges, leaves, nodes
from devpipe.specs.lint import FLAGS, lint
from devpipe.specs.render import documents, dot_documents, mermaid_documents

DIAGRAMS = Path(__file__).parents[2] / "diagrams"
STATES: dict[str, type[Enum]] = {
    "breaker": BreakerState,
    "lifecycle": LifecycleState,
    "failover": FailoverState,
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_passes_the_lint(name: str) -> None:
    assert lint(CHARTS[name]) == []


@pytest.mark.parametrize("name", CHARTS)
def test_our_enum_names_exactly_the_states_of_the_chart(name: str) -> None:
    assert {state.value for state in STATES[name]} == set(leaves(CHARTS[name]))


def test_the_committed_diagrams_are_drawn_from_the_classes_as_they_are_now() -> None:
    stale = [
        name
        for name, text in documents().items()
        if not (DIAGRAMS / name).exists() or (DIAGRAMS / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"stale: {stale}; write them with: python -m devpipe.specs.render diagrams"
    assert {path.name for path in DIAGRAMS.iterdir()} == set(documents())


def test_pages_that_embed_a_diagram_embed_the_one_that_is_drawn() -> None:
    root = DIAGRAMS.parent
    pages = [root / "README.md", *sorted((root / "specs").glob("*.md"))]
    embedded = 0
    for page in pages:
        blocks = page.read_text(encoding="utf-8").split("```mermaid\n")[1:]
        for block in blocks:
            embedded += 1
            assert block.split("```")[0] in mermaid_documents().values(), f"a stale picture in {page.name}"
    assert embedded >= 4


@pytest.mark.parametrize("name", CHARTS)
def test_a_picture_names_every_state_before_it_says_anything_of_it(name: str) -> None:
    """Mermaid draws nothing at all where a note stands beside a state that is named nowhere else."""
    declared: set[str] = set()
    for line in mermaid_documents()[name].splitlines():
        words = line.split()
        if len(words) == 1:
            declared.add(words[0])
        elif words[0] == "state":
            declared.add(words[1])
        elif words[0] == "note":
            assert words[3] in declared, line
        elif "-->" in words:
            declared |= {words[0], words[2]}
    assert {node.name for node in nodes(CHARTS[name])} <= declared


@pytest.mark.parametrize("name", CHARTS)
def test_a_picture_shows_every_transition_that_leads_to_a_state(name: str) -> None:
    shown: dict[tuple[str, str], str] = {}
    said: dict[tuple[str, str], str] = {}
    for line in mermaid_documents()[name].splitlines():
        arrow, _, label = line.strip().partition(" : ")
        words = arrow.split()
        if "-->" in words:
            shown[words[0], words[2]] = label
        elif words[0] == "note":
            event, _, sources = label.partition(" comes here<br/>from ")
            said[event, words[3]] = sources
    for edge in edges(CHARTS[name]):
        if edge.target is None:
            continue
        if edge.event in CHARTS[name].OVERRIDES:
            assert edge.source in said[edge.event, edge.target].split(", "), edge
        else:
            label = shown[edge.source, edge.target]
            assert edge.event in label and all(word in label for word in (*edge.guards, *edge.actions)), edge


def test_graphviz_gets_every_picture() -> None:
    assert set(dot_documents()) == set(mermaid_documents())


def test_the_strict_flags_are_pinned() -> None:
    for flag, wanted in FLAGS.items():
        assert getattr(PureChart, flag) is wanted


class Small(PureChart[int]):
    a = State(initial=True)
    b = State()
    go = a.to(b, on="note") | b.to(None, on="explode")
    back = b.to(a, on="note_then_explode")
    IGNORED = {("b", "never"): "nothing"}

    def note(self, ev: object) -> None:
        self.model.out.append(ev)
        self.model.ctx += 1

    def explode(self, ev: object) -> None:
        raise ZeroDivisionError

    def note_then_explode(self, ev: object) -> None:
        self.note(ev)
        raise ZeroDivisionError


def test_a_step_returns_its_outputs_and_an_illegal_one_changes_nothing() -> None:
    chart = Small(Cell(0))
    with pytest.raises(IllegalTransition) as caught:
        chart.step("back", 1)
    assert (caught.value.machine, caught.value.state, caught.value.event) == ("Small", "a", "back")
    with pytest.raises(IllegalTransition):
        chart.step("misspelt", 1)
    assert chart.model.leaf == "a" and chart.model.ctx == 0
    assert chart.step("go", 7) == (7,) and chart.model.leaf == "b"
    assert chart.step("never", 1) == ()


def test_whatever_an_action_raises_state_context_and_outputs_are_as_before() -> None:
    chart = Small(Cell(0))
    chart.step("go", 1)
    for event in ("go", "back"):
        with pytest.raises(ZeroDivisionError):
            chart.step(event, 2)
        assert chart.model.leaf == "b" and chart.model.ctx == 1 and chart.model.out == []


def planted() -> list[tuple[str, type[PureChart[Any]]]]:
    class Flags(PureChart[int]):
        catch_errors_as_events = True
        a = State(initial=True)
        b = State()
        go = a.to(b) | b.to(a)

    class Final(PureChart[int]):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b)

    class Internal(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b) | b.to(a)
        stay = a.to.itself(internal=True)

    class Validator(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b, validators="check") | b.to(a)

        def check(self) -> None: ...

    class Async(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b, on="act") | b.to(a)

        async def act(self) -> None: ...

    class Misspelt(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b) | b.to(a)

        def on_entre_b(self) -> None: ...

    class Shadowed(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b) | a.to(a) | b.to(a)

    class Reasonless(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b)
        back = b.to(a)
        IGNORED = {("b", "go"): ""}

    class Contradiction(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b)
        back = b.to(a)
        IGNORED = {("a", "go"): "why"}

    class Nowhere(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b) | b.to(a)
        IGNORED = {("z", "go"): "why"}

    class Overridden(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b) | b.to(a)
        OVERRIDES = frozenset({"stop"})

    class Missing(PureChart[int]):
        a = State(initial=True)
        b = State()
        go = a.to(b, cond="not_there") | b.to(a)

    class Parallel(PureChart[int]):
        class both(State.Parallel):
            class left(State.Compound):
                a = State(initial=True)
                b = State()
                go = a.to(b) | b.to(a)

            class right(State.Compound):
                c = State(initial=True)
                d = State()
                turn = c.to(d) | d.to(c)

    class History(PureChart[int]):
        class inside(State.Compound):
            a = State(initial=True)
            b = State()
            h = HistoryState()
            go = a.to(b) | b.to(a)

        out = State()
        leave = inside.to(out)  # type: ignore[attr-defined]
        back = out.to(inside.h)  # type: ignore[attr-defined]

    return [
        ("catch_errors_as_events", Flags), ("final", Final), ("internal", Internal), ("validator", Validator),
        ("async", Async), ("misspelt", Misspelt), ("never tried", Shadowed), ("no reason", Reasonless),
        ("ignored and taken", Contradiction), ("no state and event", Nowhere), ("no event", Overridden), ("does not exist", Missing),
        ("parallel", Parallel), ("history", History),
    ]  # fmt: skip


@pytest.mark.parametrize(("word", "chart"), planted(), ids=[word for word, _ in planted()])
def test_a_planted_fault_is_found(word: str, chart: type[PureChart[Any]]) -> None:
    assert any(word in fault for fault in lint(chart)), lint(chart)
