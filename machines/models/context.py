"""How a selection travels: what its request says about the message that carries it."""

from __future__ import annotations

from dataclasses import dataclass

from devpipe.machines.message import Priority
from devpipe.machines.models.types import ModelSelectionRequest, Preferences

__all__ = ["SelectionContext", "context_of"]

#: Tasks where a person waits for each word.
_REALTIME = frozenset({"chat"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionContext:
    """``realtime``: over a transport that pushes, where there is one. ``timeout`` in seconds."""

    realtime: bool
    priority: Priority
    timeout: float


def context_of(request: ModelSelectionRequest, preferences: Preferences) -> SelectionContext:
    """A low quality is asked for where speed matters, so it goes first; the request's time limit wins over preferences."""
    limit = preferences.timeout_preference if request.timeout_ms is None else request.timeout_ms
    return SelectionContext(
        realtime=request.task_type in _REALTIME,
        priority=Priority.HIGH if request.quality_requirement == "low" else Priority.NORMAL,
        timeout=limit / 1000,
    )
