"""Model selection as deployed programs write it: every field has the name that it has on the wire.

The tables are in ``specs/models.md``. Money is in US dollars, context in tokens; times are in milliseconds where the
name ends in ``_ms`` or the wire has always had them so (``response_time``, ``timeout_preference``). Unknown fields are
ignored: a newer peer may write more. Missing and wrong ones are refused by name, with what is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.rules import Rule, amount, flag, names, number, one_of, text, texts, whole

__all__ = [
    "ASSUMED_TOKENS",
    "PREFERENCES",
    "QUALITIES",
    "REPORT",
    "REQUEST",
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
    "Said",
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


Rules = Mapping[str, Rule]


def _rules(**rules: Rule) -> Rules:
    return MappingProxyType(rules)


#: The same in words, for those who write one: what each field may be.
PREFERENCES: Rules = _rules(
    priority=one_of(("performance", "cost", "balanced")),
    max_cost_per_request=number(0, 1_000_000, unit="US dollars"),
    preferred_providers=texts(20),
    fallback_enabled=flag(),
    quality_threshold=number(0, 1),
    timeout_preference=number(0, 86_400_000, unit="milliseconds", above=True),
)
REQUEST: Rules = _rules(
    task_type=one_of(TASK_TYPES),
    quality_requirement=one_of(QUALITIES),
    max_cost=amount("US dollars for the whole request"),
    context_length=whole(0, 2**53 - 1, unit="tokens"),
    preferred_providers=names(),
    timeout_ms=amount("milliseconds", above=True),
)
REPORT: Rules = _rules(
    model_id=text(),
    task_type=one_of(TASK_TYPES),
    success=flag(),
    response_time_ms=amount("milliseconds"),
    cost=amount("US dollars"),
    satisfaction=number(0, 1),
)
_RULES: Mapping[type[Struct], Rules] = {
    Preferences: PREFERENCES,
    ModelSelectionRequest: REQUEST,
    ModelReport: REPORT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The values by the names that the caller gave them, and what each may be; a None was not given."""

    values: Mapping[str, object]
    rules: Rules
    needed: tuple[str, ...] = ()


def decode(
    payload: Any, kind: type[T], *, what: str, code: str = "INVALID_REQUEST", said: Said | None = None
) -> T:
    """The payload of a message as one of the types above.

    ``said``: what the payload was made of, so that an error speaks of that. Raises ``ModelSelectionError`` with this
    ``code`` that names all that is wrong, each with its value and with what is allowed (in ``suggestions``, too).
    """
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        rules = said.rules if said is not None else _RULES.get(kind, {})
        wrong = _wrong(payload, kind) if said is None else _refused(said)
        text = "; ".join(wrong.values()) or str(error)
        raise ModelSelectionError(
            f"{what} is not valid: {text}",
            code=code,
            details={"wrong": wrong} if wrong else None,
            suggestions=_allowed(rules, wrong),
        ) from error


def _wrong(payload: object, kind: type[Struct]) -> dict[str, str]:
    """Each wrong field with its refusal, as far as there are words for it."""
    if not isinstance(payload, Mapping):
        return {}
    values = cast("Mapping[str, object]", payload)
    needed = tuple(field.name for field in fields(kind) if field.required)
    wrong = _refused(Said(values=values, rules=_RULES.get(kind, {}), needed=needed))
    inner = values.get("user_preferences") if kind is ModelSelectionRequest else None
    if inner is not None:
        found = _wrong(inner, Preferences)
        wrong |= {f"user_preferences.{name}": f"user_preferences.{words}" for name, words in found.items()}
    return wrong


def _refused(said: Said) -> dict[str, str]:
    wrong: dict[str, str] = {}
    for name, rule in said.rules.items():
        value = said.values.get(name)
        if value is None and name not in said.needed:
            continue
        if name not in said.values:
            wrong[name] = f"{name} is missing: give {rule.allowed}"
        elif not rule.accepts(value):
            wrong[name] = rule.refusal(name, value)
    return wrong


def _allowed(rules: Rules, wrong: Mapping[str, str]) -> tuple[str, ...]:
    """For each wrong name what it may be; for all of them, if it is not known which one is wrong."""
    every = dict(rules) | {f"user_preferences.{name}": rule for name, rule in PREFERENCES.items()}
    return tuple(f"{name}: give {every[name].allowed}" for name in (wrong or rules))


def encode(value: Struct) -> dict[str, Any]:
    """As plain data for a message."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
