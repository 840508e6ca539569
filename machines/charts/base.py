"""The strict base of every declared machine.

A chart holds rules only: states, events, guards, actions. All its mutable data is one ``Cell``: a frozen context that
actions replace, the configuration that the library writes, and the outputs that actions append. So a snapshot is two
fields, and a refused event changes nothing.

The flags below undo the library's defaults, which ignore unknown events and swallow exceptions. What the lint of
``specs/lint.py`` refuses is refused for reasons that were measured: parallel regions order their actions by history,
internal transitions of compounds corrupt the configuration, delayed events sleep.
"""

# The chart library types compound states and its own verbs only in part; the lint and the table tests hold the charts.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportOperatorIssue=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from statemachine import StateChart
from statemachine.exceptions import TransitionNotAllowed
from statemachine.orderedset import OrderedSet

__all__ = ["Cell", "IllegalTransition", "PureChart"]

C = TypeVar("C")


class IllegalTransition(Exception):
    """An event that a machine does not take in its present state: somebody's bug, and nothing has changed."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine} takes no {event!r} in state {state!r}")
        self.machine = machine
        self.state = state
        self.event = event


@dataclass(slots=True)
class Cell(Generic[C]):
    """All mutable data of one machine."""

    ctx: C  #: frozen and hashable; actions replace it
    state: Any = None  #: written by the library: a name, or an ordered set of names inside a compound
    out: list[object] = field(
        default_factory=list[object]
    )  #: effects and events of the step that is being taken

    @property
    def leaf(self) -> str:
        """The innermost active state."""
        state = self.state
        return state if isinstance(state, str) else list(state)[-1]

    @property
    def state_data(self) -> str | tuple[str, ...]:
        """The configuration as plain data: a name, or the names from the outermost to the innermost."""
        state = self.state
        return state if isinstance(state, str) else tuple(state)

    def restore_state(self, data: str | tuple[str, ...]) -> None:
        """Put ``state_data`` back."""
        self.state = data if isinstance(data, str) else OrderedSet(data)


class PureChart(StateChart[Cell[C]]):
    """Subclass it once per machine; concrete charts are never subclassed (their states would be shared)."""

    allow_event_without_transition = False
    catch_errors_as_events = False
    enable_self_transition_entries = False
    atomic_configuration_update = True

    #: (state, event) pairs that are taken for nothing, with the reason; shown in the generated table.
    IGNORED: ClassVar[dict[tuple[str, str], str]] = {}
    #: Events of an operator, which come from nearly everywhere: a picture says them once, so that they do not drown the rule.
    OVERRIDES: ClassVar[frozenset[str]] = frozenset()

    def step(self, event: str, ev: object) -> tuple[object, ...]:
        """Take one event and return what its actions put out, in order.

        Raises ``IllegalTransition`` if the chart does not take it now. Whatever is raised, nothing has changed.
        """
        cell = self.model
        ctx, state = cell.ctx, cell.state
        if (cell.leaf, event) in self.IGNORED:
            return ()
        try:
            self.send(event, ev=ev)
        except BaseException as error:
            # the library leaves later events queued, and the writes of actions that ran, behind an error
            self._engine.clear()
            cell.ctx, cell.state = ctx, state
            cell.out.clear()
            if isinstance(error, TransitionNotAllowed):
                raise IllegalTransition(type(self).__name__, cell.leaf, event) from error
            raise
        out = tuple(cell.out)
        cell.out.clear()
        return out
