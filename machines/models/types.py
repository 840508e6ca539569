"""Model selection as deployed programs write it: every field has the name that it has on the wire.

The tables are in ``specs/models.md``. Money is in US dollars, context in tokens; times are in milliseconds where the
name ends in ``_ms`` or the wire has always had them so (``response_time``, ``timeout_preference``). Unknown fields are
ignored: a newer peer may write more. Missing and wrong ones are refused by name.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from devpipe.machines.errors import ModelSelectionError

__all__ = [
    "ASSUMED_TOKENS",
    "QUALITIES",
    "TASK_TYPES",
    "Capability",
    "HealthAnswer",
    "MetricsAnswer",
    "Model",
    "ModelHealth",
    "ModelReport",
    "ModelSelectionRequest",
    "ModelSelectionResponse",
    "PerformanceMetrics",
    "Preferences",
    "PreferencesAnswer",
    "Quality",
    "SelectionMetadata",
    "TaskType",
    "decode",
    "encode",
]

T = TypeVar("T", bound=Struct)

TaskType = Literal[
    "text-generation",
    "code-generation",
    "chat",
    "summarization",
    "translation",
    "embedding",
    "editing",
    "analysis",
    "planning",
    "workflow-execution",
]
Quality = Literal["low", "medium", "high"]
HealthWord = Literal["healthy", "degraded", "offline"]
TASK_TYPES: tuple[TaskType, ...] = TaskType.__args__  # type: ignore[attr-defined]  # a Literal has them
QUALITIES: tuple[Quality, ...] = Quality.__args__  # type: ignore[attr-defined]  # the same

#: How long a request is taken to be when it does not say.
ASSUMED_TOKENS = 1000

Share = Annotated[float, Meta(ge=0, le=1)]
#: Finite: JSON has no infinity, and what arrives instead, null, would be no limit at all.
Amount = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
#: What every JSON reader has exactly.
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: A moment: milliseconds since 1970, or an ISO 8601 text as Phase 1 wrote it.
Moment = float | str


class Capability(Struct, frozen=True, kw_only=True):
    """How well a model does one task, from 0 to 1."""

    type: TaskType
    score: Share
    specializations: tuple[str, ...] = ()


class Model(Struct, frozen=True, kw_only=True):
    """One model. ``cost_per_token`` in US dollars, ``max_tokens`` is its context, ``response_time_avg_ms`` per answer."""

    id: Name
    name: Name
    provider: Name
    capabilities: tuple[Capability, ...] = ()
    cost_per_token: Amount
    max_tokens: Count
    response_time_avg_ms: Amount
    availability_score: Share
    quality_score: Share

    def estimated_cost(self, tokens: int | None) -> float:
        """What one request costs, in US dollars: every token at the model's price, ``ASSUMED_TOKENS`` of them if nobody says."""
        return self.cost_per_token * (tokens or ASSUMED_TOKENS)

    def score_for(self, task: str) -> float:
        """How well it does this task, from 0 (not at all) to 1."""
        return max((c.score for c in self.capabilities if c.type == task), default=0.0)


class Preferences(Struct, frozen=True, kw_only=True):
    """What a user prefers where a request says nothing. ``timeout_preference`` in milliseconds."""

    priority: Literal["performance", "cost", "balanced"] = "balanced"
    max_cost_per_request: Amount = 0.50
    preferred_providers: tuple[str, ...] = ()
    fallback_enabled: bool = True
    quality_threshold: Share = 0.7
    timeout_preference: Annotated[float, Meta(gt=0)] = 30000


class ModelSelectionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked for. ``max_cost`` is for the whole request, ``context_length`` in tokens."""

    task_type: TaskType
    quality_requirement: Quality | None = None
    max_cost: Amount | None = None
    context_length: Count | None = None
    preferred_providers: tuple[str, ...] = ()
    timeout_ms: Annotated[float, Meta(gt=0)] | None = None
    user_preferences: Preferences | None = None


class SelectionMetadata(Struct, frozen=True, kw_only=True):
    """How the choice came about."""

    selection_time_ms: Amount = 0.0
    factors_considered: tuple[str, ...] = ()
    confidence_score: Share = 0.0


class ModelSelectionResponse(Struct, frozen=True, kw_only=True):
    """What is answered: the model, why, and which ones would be next."""

    selected_model: Model
    reasoning: str
    fallback_models: tuple[Model, ...] = ()
    estimated_cost: Amount = 0.0
    estimated_time_ms: Amount = 0.0
    selection_metadata: SelectionMetadata = SelectionMetadata()


class ModelHealth(Struct, frozen=True, kw_only=True):
    """How one model does. ``response_time`` in milliseconds, ``availability_percentage`` from 0 to 100."""

    model_id: Name
    status: HealthWord
    response_time: Amount = 0.0
    error_rate: Share = 0.0
    last_check: Moment = 0.0
    availability_percentage: Annotated[float, Meta(ge=0, le=100)] = 100.0


class PerformanceMetrics(Struct, frozen=True, kw_only=True):
    """What has been measured of one model at one task. ``average_response_time`` in milliseconds."""

    model_id: Name
    task_type: TaskType
    success_rate: Share
    average_response_time: Amount
    average_cost: Amount = 0.0
    user_satisfaction_score: Share | None = None
    last_updated: Moment = 0.0


class ModelReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client says of one use of a model (``status-update``); health and metrics are measured from these."""

    model_id: Name
    task_type: TaskType
    success: bool
    response_time_ms: Amount
    cost: Amount = 0.0
    satisfaction: Share | None = None


class HealthAnswer(Struct, frozen=True, kw_only=True):
    """The reply to ``health-check-request``."""

    models: tuple[ModelHealth, ...]


class MetricsAnswer(Struct, frozen=True, kw_only=True):
    """The reply to ``performance-metrics-request``."""

    metrics: tuple[PerformanceMetrics, ...]


class PreferencesAnswer(Struct, frozen=True, kw_only=True):
    """The reply to ``preferences-update`` and ``preferences-request``."""

    preferences: Preferences


def decode(payload: Any, kind: type[T], *, what: str, code: str = "INVALID_REQUEST") -> T:
    """The payload of a message as one of the types above.

    Raises ``ModelSelectionError`` with this ``code`` that names what is wrong and where.
    """
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise ModelSelectionError(f"{what} is not valid: {error}", code=code) from error


def encode(value: Struct) -> dict[str, Any]:
    """As plain data for a message."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
