"""What ``select`` returns: the model that was chosen, and who chose it, so that no stand-in is taken for a live answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from devpipe.machines.models.types import Model, ModelSelectionResponse, SelectionMetadata

__all__ = ["ModelChoice", "Source", "answered", "remembered"]

#: Who chose: the server just now, the server some time ago, or the static table of this program.
Source = Literal["server", "cache", "static"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """One choice of a model.

    ``source`` says who chose; ``age`` is in seconds, since the server chose (0 for ``server``, None for ``static``, which
    no server ever chose). ``stand_in_for`` is why it is no live answer, in words, None where the server was not asked
    at all or has answered. Costs are in US dollars, ``estimated_time_ms`` in milliseconds.
    """

    selected_model: Model
    reasoning: str
    source: Source
    age: float | None
    stand_in_for: str | None = None
    fallback_models: tuple[Model, ...] = ()
    estimated_cost: float = 0.0
    estimated_time_ms: float = 0.0
    selection_metadata: SelectionMetadata = field(default_factory=SelectionMetadata)

    @property
    def live(self) -> bool:
        """True if the server has chosen just now."""
        return self.source == "server"


def answered(response: ModelSelectionResponse) -> ModelChoice:
    """The server's answer as a choice."""
    return ModelChoice(
        selected_model=response.selected_model,
        reasoning=response.reasoning,
        source="server",
        age=0.0,
        fallback_models=response.fallback_models,
        estimated_cost=response.estimated_cost,
        estimated_time_ms=response.estimated_time_ms,
        selection_metadata=response.selection_metadata,
    )


def remembered(choice: ModelChoice, *, age: float, stand_in_for: str | None) -> ModelChoice:
    """An answer that the server gave ``age`` seconds ago; ``stand_in_for``: why it is given again, if not by wish."""
    return replace(choice, source="cache", age=age, stand_in_for=stand_in_for)
