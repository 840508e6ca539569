"""Which model answers a request: a pure choice, and the words that explain it.

Who may answer is decided by rules, one after the other: it does the task; its context is long enough; it reaches the quality
that the request asks for; it is not offline; it fits the budget. Each rule that leaves nobody has an error of its own.
Among those who are left, models of preferred providers come first, then those that reach the user's quality threshold and
are expected within the time limit, then the higher score:

    task          the model's score for the task, times its measured success rate at it
    quality       its quality score; the mean of that and the users' satisfaction, if measured
    cost          1 / (1 + price / HALF_PRICE): 1 for nothing, 0.5 at five dollars for a million tokens
    latency       1 / (1 + time / HALF_TIME): 0.5 at two seconds
    availability  measured, or the catalogue's; halved while the model is degraded

Each is from 0 to 1 and depends on that model alone, so a model more or less in a catalogue turns no other two around.

**Estimated cost** is price times tokens: ``context_length`` tokens, or ``ASSUMED_TOKENS`` where a request names none. A catalogue
has one price for what is read and what is written. The budget is the request's ``max_cost``, or the preferred
``max_cost_per_request``. **Estimated time** is the mean measured at this task, or over all tasks, or the catalogue's.
**Confidence** is the score, times 0.9 where nothing was measured, and times 0.8 where a preference is not met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from msgspec import Struct

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.types import (
    ASSUMED_TOKENS,
    Model,
    ModelHealth,
    ModelSelectionRequest,
    ModelSelectionResponse,
    PerformanceMetrics,
    Preferences,
    SelectionMetadata,
)

__all__ = [
    "MAX_FALLBACKS",
    "QUALITY_LEVELS",
    "WEIGHTS",
    "Weights",
    "affordable_for",
    "budget_of",
    "choose",
    "dollars",
    "estimate_cost",
    "long_enough_for",
    "plain",
]

MAX_FALLBACKS = 3
#: US dollars for one token, and milliseconds, at which a factor is 0.5.
HALF_PRICE = 5e-6
HALF_TIME = 2000.0
#: The quality score that a requested quality asks for at least.
QUALITY_LEVELS: Mapping[str, float] = {"low": 0.0, "medium": 0.6, "high": 0.8}
UNMEASURED, UNMET = 0.9, 0.8
#: A price that differs from the budget by rounding only is within it.
ROUNDING = 1 + 1e-9


class Weights(Struct, frozen=True, kw_only=True):
    """How much each factor counts; together 1."""

    task: float
    quality: float
    cost: float
    latency: float
    availability: float


WEIGHTS: Mapping[str, Weights] = {
    "balanced": Weights(task=0.30, quality=0.25, cost=0.20, latency=0.10, availability=0.15),
    "cost": Weights(task=0.20, quality=0.10, cost=0.50, latency=0.05, availability=0.15),
    "performance": Weights(task=0.35, quality=0.25, cost=0.05, latency=0.20, availability=0.15),
}


class _Candidate(Struct, frozen=True, kw_only=True):
    """A model that may answer, with its factors."""

    model: Model
    task: float
    quality: float
    cost: float
    latency: float
    availability: float
    score: float
    price: float  #: of the whole request, in US dollars
    time_ms: float
    preferred: bool
    good: bool  #: reaches the threshold
    quick: bool  #: is expected within the time limit
    health: ModelHealth | None
    measured: bool

    @property
    def rank(self) -> tuple[bool, bool, float, float, str]:
        """Best first."""
        unmet = not (self.good and self.quick)
        return (not self.preferred, unmet, -self.score, self.price, self.model.id)


def _within(cost: float, budget: float) -> bool:
    """True if what costs so much fits the budget (US dollars)."""
    return cost <= budget * ROUNDING


def estimate_cost(model: Model, request: ModelSelectionRequest) -> float:
    """What the request costs with this model (US dollars): its price times ``context_length`` or ``ASSUMED_TOKENS``."""
    return model.estimated_cost(request.context_length)


def choose(
    request: ModelSelectionRequest,
    *,
    models: Sequence[Model],
    preferences: Preferences | None = None,
    health: Mapping[str, ModelHealth] | None = None,
    metrics: Mapping[tuple[str, str], PerformanceMetrics] | None = None,
) -> ModelSelectionResponse:
    """The model for ``request``, why, and who comes next. ``preferences`` count where the request brings none.

    ``health`` by model id and ``metrics`` by model id and task type are what was measured; a model that is missing there
    counts as its catalogue says. ``selection_time_ms`` stays 0 here: whoever has a clock fills it in.

    Raises ``ModelSelectionError``: ``INVALID_REQUEST`` if no model does the task, has that context, or reaches that quality;
    ``NO_HEALTHY_MODELS`` if all that do are offline; ``BUDGET_EXCEEDED`` if all that are left cost more.
    """
    wishes = request.user_preferences or preferences or Preferences()
    known = health or {}
    able = _able(request, models)
    online = [model for model in able if not _offline(known.get(model.id))]
    if not online:
        raise _nobody_healthy(request, able, models, known)
    budget = budget_of(request, wishes)
    affordable = affordable_for(request, online, budget)
    weights = WEIGHTS[wishes.priority]
    preferred = frozenset(
        name.casefold() for name in request.preferred_providers or wishes.preferred_providers
    )
    candidates = sorted(
        (_weigh(model, request, wishes, weights, preferred, known, metrics or {}) for model in affordable),
        key=lambda candidate: candidate.rank,
    )
    best = candidates[0]
    confidence = (
        best.score * (1 if best.measured else UNMEASURED) * (1 if best.good and best.quick else UNMET)
    )
    return ModelSelectionResponse(
        selected_model=best.model,
        reasoning=_reasoning(request, wishes, candidates, able=len(able), online=len(online), budget=budget),
        fallback_models=_fallbacks(candidates) if wishes.fallback_enabled else (),
        estimated_cost=plain(best.price),
        estimated_time_ms=best.time_ms,
        selection_metadata=SelectionMetadata(
            factors_considered=_factors(best, weights), confidence_score=min(1.0, confidence)
        ),
    )


# --- who may answer -----------------------------------------------------------------------------------


def _able(request: ModelSelectionRequest, models: Sequence[Model]) -> list[Model]:
    task, quality = request.task_type, request.quality_requirement
    doing = [model for model in models if model.score_for(task) > 0]
    if not doing:
        tasks = sorted({c.type for model in models for c in model.capabilities if c.score > 0})
        raise _error(
            f"no model in the catalogue does {task}",
            code="INVALID_REQUEST",
            details={"task_type": task, "available_task_types": tasks},
            suggestions=(f"ask for one of: {', '.join(tasks)}",) if tasks else (),
        )
    fitting = long_enough_for(request, doing)
    least = QUALITY_LEVELS[quality] if quality is not None else 0.0
    able = [model for model in fitting if model.quality_score >= least]
    if not able:
        finest = max(fitting, key=lambda model: (model.quality_score, model.id))
        reached = [word for word, level in QUALITY_LEVELS.items() if finest.quality_score >= level][-1]
        raise _error(
            f"no model that does {task} reaches the quality {quality} ({least:g})",
            code="INVALID_REQUEST",
            details={"task_type": task, "quality_requirement": quality, "best_quality": finest.quality_score},
            suggestions=(f"ask for quality {reached}: {finest.id} has {finest.quality_score:g}",),
        )
    return able


def long_enough_for(request: ModelSelectionRequest, models: Sequence[Model]) -> list[Model]:
    """Those whose context is as long as the request. Raises ``INVALID_REQUEST`` with the longest if there are none."""
    task, tokens = request.task_type, request.context_length or 0
    fitting = [model for model in models if model.max_tokens >= tokens]
    if not fitting:
        longest = max(models, key=lambda model: (model.max_tokens, model.id))
        raise _error(
            f"no model that does {task} has a context of {tokens:,} tokens",
            code="INVALID_REQUEST",
            details={"task_type": task, "context_length": tokens, "longest_context": longest.max_tokens},
            suggestions=(f"send at most {longest.max_tokens:,} tokens: {longest.id} takes that many",),
        )
    return fitting


def budget_of(request: ModelSelectionRequest, wishes: Preferences) -> float:
    """What the whole request may cost (US dollars)."""
    return wishes.max_cost_per_request if request.max_cost is None else request.max_cost


def affordable_for(request: ModelSelectionRequest, models: Sequence[Model], budget: float) -> list[Model]:
    """Those within the budget. Raises ``BUDGET_EXCEEDED`` with the cheapest if there are none."""
    affordable = [model for model in models if _within(estimate_cost(model, request), budget)]
    if not affordable:
        raise _too_expensive(request, models, budget)
    return affordable


def _offline(health: ModelHealth | None) -> bool:
    return health is not None and health.status == "offline"


def _nobody_healthy(
    request: ModelSelectionRequest,
    able: Sequence[Model],
    models: Sequence[Model],
    health: Mapping[str, ModelHealth],
) -> ModelSelectionError:
    suggestions = ["try again later: models come back when their failures are old"]
    tokens = request.context_length or 0
    for model in sorted(models, key=lambda model: (-model.quality_score, model.id)):
        if (
            model.score_for(request.task_type) > 0
            and model.max_tokens >= tokens
            and not _offline(health.get(model.id))
        ):
            suggestions.append(
                f"ask for a lower quality: {model.id} has {model.quality_score:g} and is not offline"
            )
            break
    return _error(
        f"every model that can do this {request.task_type} is offline: {_names(able)}",
        code="NO_HEALTHY_MODELS",
        details={"task_type": request.task_type, "offline": [model.id for model in able]},
        suggestions=tuple(suggestions),
    )


def _too_expensive(
    request: ModelSelectionRequest, models: Sequence[Model], budget: float
) -> ModelSelectionError:
    cheapest = min(models, key=lambda model: (estimate_cost(model, request), model.id))
    cost = estimate_cost(cheapest, request)
    tokens = request.context_length or ASSUMED_TOKENS
    suggestions = [
        f"allow {dollars(cost, up=True)} or more: {cheapest.id} is the cheapest for {request.task_type}"
    ]
    affordable = int(budget / cheapest.cost_per_token)
    if affordable > 0:
        suggestions.append(
            f"or send at most {affordable:,} tokens: so many {cheapest.id} does for {dollars(budget)}"
        )
    return _error(
        f"no model does this {request.task_type} of {tokens:,} tokens for {dollars(budget)}: "
        f"the cheapest, {cheapest.id}, costs {dollars(cost)}",
        code="BUDGET_EXCEEDED",
        details={
            "task_type": request.task_type,
            "max_cost": budget,
            "tokens": tokens,
            "cheapest_model": cheapest.id,
            "cheapest_cost": plain(cost),
        },
        suggestions=tuple(suggestions),
    )


def _error(
    text: str, *, code: str, details: dict[str, Any], suggestions: tuple[str, ...]
) -> ModelSelectionError:
    return ModelSelectionError(text, code=code, details=details, suggestions=suggestions)


# --- who answers best ---------------------------------------------------------------------------------


def _weigh(
    model: Model,
    request: ModelSelectionRequest,
    wishes: Preferences,
    weights: Weights,
    preferred: frozenset[str],
    health: Mapping[str, ModelHealth],
    metrics: Mapping[tuple[str, str], PerformanceMetrics],
) -> _Candidate:
    state, measured = health.get(model.id), metrics.get((model.id, request.task_type))
    task, quality = model.score_for(request.task_type), model.quality_score
    availability, time_ms = model.availability_score, model.response_time_avg_ms
    if state is not None:
        availability = state.availability_percentage / 100 * (0.5 if state.status == "degraded" else 1)
        time_ms = state.response_time or time_ms
    if measured is not None:
        task *= measured.success_rate
        time_ms = measured.average_response_time or time_ms
        if measured.user_satisfaction_score is not None:
            quality = (quality + measured.user_satisfaction_score) / 2
    cost = 1 / (1 + model.cost_per_token / HALF_PRICE)
    latency = 1 / (1 + time_ms / HALF_TIME)
    limit = wishes.timeout_preference if request.timeout_ms is None else request.timeout_ms
    return _Candidate(
        model=model,
        task=task,
        quality=quality,
        cost=cost,
        latency=latency,
        availability=availability,
        score=weights.task * task
        + weights.quality * quality
        + weights.cost * cost
        + weights.latency * latency
        + weights.availability * availability,
        price=estimate_cost(model, request),
        time_ms=time_ms,
        preferred=model.provider.casefold() in preferred,
        # a request that names a quality has said what it wants: the threshold is for those that do not
        good=request.quality_requirement is not None or quality >= wishes.quality_threshold,
        quick=time_ms <= limit,
        health=state,
        measured=state is not None or measured is not None,
    )


def _fallbacks(candidates: Sequence[_Candidate]) -> tuple[Model, ...]:
    """The next ones; one of another provider among them if there is any, since providers fail as a whole."""
    provider = candidates[0].model.provider
    chosen = [candidate.model for candidate in candidates[1 : 1 + MAX_FALLBACKS]]
    others = [candidate.model for candidate in candidates[1:] if candidate.model.provider != provider]
    if others and others[0] not in chosen:
        chosen[-1] = others[0]
    return tuple(chosen)


# --- in words -----------------------------------------------------------------------------------------


def _factors(best: _Candidate, weights: Weights) -> tuple[str, ...]:
    factors = [
        f"{name} {getattr(best, name):.3f}, weight {getattr(weights, name):.2f}"
        for name in Weights.__struct_fields__
    ]
    if best.preferred:
        factors.append("preferred provider")
    return (*factors, f"score {best.score:.3f}")


def _reasoning(
    request: ModelSelectionRequest,
    wishes: Preferences,
    candidates: Sequence[_Candidate],
    *,
    able: int,
    online: int,
    budget: float,
) -> str:
    best, *rest = candidates
    tokens = request.context_length or ASSUMED_TOKENS
    weights = WEIGHTS[wishes.priority]
    strongest = max(
        Weights.__struct_fields__, key=lambda name: float(getattr(best, name)) * float(getattr(weights, name))
    )
    price = f"within {dollars(budget)} for {tokens:,} tokens"
    words = [
        f"{best.model.id} of {best.model.provider} for {request.task_type}: "
        f"{_counted(able, online, len(candidates), price)}.",
        f"By {wishes.priority} weights it scores {best.score:.3f}, most of it by {strongest}"
        + (f"; next is {rest[0].model.id} with {rest[0].score:.3f}." if rest else "; there is no other."),
    ]
    if best.preferred:
        words.append("Its provider is preferred.")
    elif request.preferred_providers or wishes.preferred_providers:
        words.append("No model of a preferred provider is among them.")
    if not best.good:
        words.append(
            f"Its quality {best.quality:.2f} is under the threshold of {wishes.quality_threshold:g}."
        )
    if not best.quick:
        words.append(f"It is expected to take longer than the time limit: {best.time_ms:,.0f} ms.")
    if best.health is not None and best.health.status == "degraded":
        words.append(f"It is degraded now: {best.health.error_rate:.0%} of its last uses failed.")
    return " ".join(words)


def _counted(able: int, online: int, affordable: int, price: str) -> str:
    """How many were left by each rule; a rule that left all of them goes without saying."""
    words = f"{able} model{'' if able == 1 else 's'} can do it"
    if online < able:
        words += f", {online} of them not offline"
    if affordable < online:
        return f"{words}, {affordable} {price}"
    return f"{words} and {price}" if online < able else f"{words} {price}"


def plain(amount: float) -> float:
    """The same amount without the noise of binary fractions, for people who look at it: twelve digits."""
    return float(f"{amount:.12g}")


def dollars(amount: float, *, up: bool = False) -> str:
    """Six digits, without an exponent, cents in full; with ``up`` never less than ``amount``: a limit that is enough."""
    text = f"{amount:.6g}"
    if up and float(text) * ROUNDING < amount:
        text = f"{amount * (1 + 6e-6):.6g}"  # a little more than rounding can take away
    whole, point, cents = f"{Decimal(text):f}".partition(".")
    return f"${whole}{point}{cents.ljust(2, '0') if point else ''}"


def _names(models: Sequence[Model]) -> str:
    names = [model.id for model in models[:5]]
    return ", ".join(names) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
