"""The static table: which model to use when no server says so.

It is a table in a file that a user can replace. It knows nothing of today's prices or outages, so its answers carry a
low confidence and say what they stand in for. Limits are kept: a budget or a context that nothing in the table fits is
the error that the server would give. Wishes (quality, providers) are kept where something fits them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from devpipe.machines.errors import ConfigurationError, ModelSelectionError
from devpipe.machines.models.choice import ModelChoice
from devpipe.machines.models.scoring import (
    QUALITY_LEVELS,
    affordable_for,
    budget_of,
    estimate_cost,
    long_enough_for,
    plain,
)
from devpipe.machines.models.types import (
    Model,
    ModelSelectionRequest,
    Preferences,
    SelectionMetadata,
    TaskType,
)

__all__ = ["StaticTable", "choose_static", "read_table"]

#: How much a choice from the table may be trusted: the model asked for by the table's order, or a wish was given up.
_CONFIDENT, _DOUBTFUL = 0.5, 0.3


class StaticTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``models``, and for each task the ids of those to use, best first. ``dated``: when its numbers were true."""

    dated: str = ""
    models: tuple[Model, ...]
    tasks: dict[TaskType, tuple[str, ...]]

    def candidates(self, task: str) -> tuple[Model, ...]:
        """The models for a task, best first; every model of the table, if it names none for the task."""
        by_id = {model.id: model for model in self.models}
        named = self.tasks.get(task)  # type: ignore[call-overload]  # a task that the table does not know is fine
        return tuple(by_id[id] for id in named) if named else self.models


def read_table(data: Any, *, source: str) -> StaticTable:
    """The table from decoded TOML or JSON. Raises ``ConfigurationError`` that names the source, the key and what is allowed."""
    try:
        table = msgspec.convert(data, StaticTable)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"the static table {source} is not valid: {error}") from error
    ids = [model.id for model in table.models]
    twice = sorted({id for id in ids if ids.count(id) > 1})
    if twice:
        raise ConfigurationError(
            f"the static table {source} is not valid: {', '.join(twice)} stands there twice"
        )
    if not ids:
        raise ConfigurationError(f"the static table {source} is not valid: it names no model")
    for task, named in table.tasks.items():
        unknown = sorted(set(named) - set(ids))
        if unknown:
            raise ConfigurationError(
                f"the static table {source} is not valid: tasks.{task} names {', '.join(unknown)}, "
                f"which is none of its models ({', '.join(ids)})"
            )
    return table


def choose_static(
    table: StaticTable, request: ModelSelectionRequest, preferences: Preferences, *, stand_in_for: str
) -> ModelChoice:
    """The first model of the task that keeps the limits and, where one does, the wishes.

    Raises ``ModelSelectionError`` as the server does: ``BUDGET_EXCEEDED``, or ``INVALID_REQUEST`` if no context is long enough.
    """
    try:
        fitting = long_enough_for(request, table.candidates(request.task_type))
        payable = affordable_for(request, fitting, budget_of(request, preferences))
    except ModelSelectionError as error:
        # nobody must take it for the server's word
        raise ModelSelectionError(
            f"the static table: {error} ({stand_in_for})",
            code=error.code,
            details=error.details,
            suggestions=error.suggestions,
        ) from error
    chosen, given_up = _by_wishes(payable, request, preferences)
    others = tuple(model for model in payable if model is not chosen)
    said = f"; no model of the table fits {' and '.join(given_up)}" if given_up else ""
    dated = f" of {table.dated}" if table.dated else ""
    return ModelChoice(
        selected_model=chosen,
        reasoning=f"{chosen.id} stands in the static table{dated} for {request.task_type}{said}. "
        f"The server has not chosen: {stand_in_for}",
        source="static",
        age=None,
        stand_in_for=stand_in_for,
        fallback_models=others,
        estimated_cost=plain(estimate_cost(chosen, request)),
        estimated_time_ms=chosen.response_time_avg_ms,
        selection_metadata=SelectionMetadata(
            factors_considered=("fallback",), confidence_score=_DOUBTFUL if given_up else _CONFIDENT
        ),
    )


def _by_wishes(
    models: Sequence[Model], request: ModelSelectionRequest, preferences: Preferences
) -> tuple[Model, list[str]]:
    """The first model that fits every wish that can be fitted, and the wishes that cannot."""
    left, given_up = list(models), list[str]()
    for words, fits in _wishes(request, preferences):
        kept = [model for model in left if fits(model)]
        if kept:
            left = kept
        else:
            given_up.append(words)
    return left[0], given_up


def _wishes(
    request: ModelSelectionRequest, preferences: Preferences
) -> list[tuple[str, Callable[[Model], bool]]]:
    wishes: list[tuple[str, Callable[[Model], bool]]] = []
    quality = request.quality_requirement
    if quality is not None:
        least = QUALITY_LEVELS[quality]
        wishes.append((f"the quality {quality!r}", lambda model: model.quality_score >= least))
    providers = request.preferred_providers or preferences.preferred_providers
    if providers:
        named = frozenset(provider.casefold() for provider in providers)
        words = f"the providers {', '.join(providers)}"
        wishes.append((words, lambda model: model.provider.casefold() in named))
    return wishes
