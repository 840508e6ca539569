"""The choice follows its rules, says its reasons with numbers, and names what would help where there is no choice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.scoring import (
    MAX_FALLBACKS,
    QUALITY_LEVELS,
    WEIGHTS,
    choose,
    dollars,
    estimate_cost,
)
from devpipe.machines.models.types import (
    QUALITIES,
    TASK_TYPES,
    Capability,
    Model,
    ModelHealth,
    ModelSelectionRequest,
    ModelSelectionResponse,
    PerformanceMetrics,
    Preferences,
    decode,
    encode,
)


def model(id: str, *, provider: str = "acme", chat: float = 0.8, **fields: Any) -> Model:
    values: dict[str, Any] = {
        "cost_per_token": 5e-6, "max_tokens": 8000, "response_time_avg_ms": 2000,
        "availability_score": 1.0, "quality_score": 0.8,
    } | fields  # fmt: skip
    return Model(
        id=id, name=id, provider=provider, capabilities=(Capability(type="chat", score=chat),), **values
    )


def health(id: str, status: Any = "healthy", **fields: Any) -> dict[str, ModelHealth]:
    return {id: ModelHealth(model_id=id, status=status, **fields)}


def measured(id: str, **fields: Any) -> dict[tuple[str, str], PerformanceMetrics]:
    values = {"success_rate": 1.0, "average_response_time": 0.0} | fields
    return {(id, "chat"): PerformanceMetrics(model_id=id, task_type="chat", **values)}


def chat(**fields: Any) -> ModelSelectionRequest:
    return ModelSelectionRequest(task_type="chat", **fields)


def refused(request: ModelSelectionRequest, *models: Model, **known: Any) -> ModelSelectionError:
    with pytest.raises(ModelSelectionError) as caught:
        choose(request, models=models, **known)
    assert caught.value.code in ModelSelectionError.CODES
    return caught.value


def selected(request: ModelSelectionRequest, *models: Model, **known: Any) -> str:
    return choose(request, models=models, **known).selected_model.id


# --- the numbers ------------------------------------------------------------------------------------


def test_each_factor_is_listed_with_its_number_and_its_weight() -> None:
    answer = choose(chat(), models=[model("a", availability_score=0.9)])
    assert answer.selection_metadata.factors_considered == (
        "task 0.800, weight 0.30",
        "quality 0.800, weight 0.25",
        "cost 0.500, weight 0.20",
        "latency 0.500, weight 0.10",
        "availability 0.900, weight 0.15",
        "score 0.725",
    )
    assert answer.selection_metadata.confidence_score == pytest.approx(0.725 * 0.9)
    assert decode(encode(answer), ModelSelectionResponse, what="response") == answer


def test_the_weights_of_every_priority_add_up_to_one() -> None:
    assert set(WEIGHTS) == {"balanced", "cost", "performance"}
    for weights in WEIGHTS.values():
        assert sum(getattr(weights, name) for name in weights.__struct_fields__) == pytest.approx(1)


def test_what_was_measured_counts_more_than_what_the_catalogue_says() -> None:
    answer = choose(
        chat(),
        models=[model("a")],
        health=health("a", "degraded", response_time=900.0, availability_percentage=80.0, error_rate=0.2),
        metrics=measured("a", success_rate=0.5, average_response_time=6000.0, user_satisfaction_score=0.4),
    )
    assert answer.selection_metadata.factors_considered == (
        "task 0.400, weight 0.30",
        "quality 0.600, weight 0.25",
        "cost 0.500, weight 0.20",
        "latency 0.250, weight 0.10",
        "availability 0.400, weight 0.15",
        "score 0.455",
    )
    assert (
        answer.estimated_time_ms == 6000 and "degraded now: 20% of its last uses failed" in answer.reasoning
    )
    assert answer.selection_metadata.confidence_score == pytest.approx(0.455 * 0.8), (
        "measured, but of low quality"
    )
    answer = choose(chat(), models=[model("a")], health=health("a", response_time=900.0))
    assert answer.estimated_time_ms == 900
    assert choose(chat(), models=[model("a")], metrics=measured("a")).estimated_time_ms == 2000
    assert choose(chat(), models=[model("a")], health=health("a")).estimated_time_ms == 2000


def test_the_estimated_cost_is_the_price_times_the_context_or_a_thousand_tokens() -> None:
    assert choose(chat(), models=[model("a")]).estimated_cost == pytest.approx(0.005)
    assert choose(chat(context_length=0), models=[model("a")]).estimated_cost == pytest.approx(0.005)
    assert choose(chat(context_length=4000), models=[model("a")]).estimated_cost == pytest.approx(0.02)


# --- who is first -----------------------------------------------------------------------------------


def test_the_priority_decides_between_the_cheap_and_the_strong() -> None:
    cheap = model("cheap", cost_per_token=1e-7, chat=0.6, quality_score=0.7, response_time_avg_ms=3000)
    strong = model("strong", cost_per_token=3e-5, chat=0.95, quality_score=0.95, response_time_avg_ms=1000)
    for priority, expected in (("cost", "cheap"), ("performance", "strong")):
        wishes = Preferences(priority=priority)  # type: ignore[arg-type]
        assert selected(chat(), cheap, strong, preferences=wishes) == expected
        assert selected(chat(user_preferences=wishes), cheap, strong) == expected, "the request's own win"


def test_a_preferred_provider_comes_first_whatever_its_case_and_it_is_said_if_there_is_none() -> None:
    first, second = model("a", chat=0.9), model("b", provider="Other", chat=0.5)
    assert selected(chat(), first, second) == "a"
    answer = choose(chat(preferred_providers=("OTHER",)), models=[first, second])
    assert answer.selected_model.id == "b" and "Its provider is preferred." in answer.reasoning
    assert "preferred provider" in answer.selection_metadata.factors_considered
    wishes = Preferences(preferred_providers=("other",))
    assert selected(chat(), first, second, preferences=wishes) == "b"
    assert selected(chat(preferred_providers=("acme",)), first, second, preferences=wishes) == "a"
    poor = model("poor", provider="other", quality_score=0.1)
    assert selected(chat(preferred_providers=("other",)), first, poor) == "poor", (
        "before the quality threshold"
    )
    answer = choose(chat(preferred_providers=("nobody",)), models=[first, second])
    assert answer.selected_model.id == "a" and "No model of a preferred provider" in answer.reasoning


def test_who_misses_the_quality_threshold_comes_last_but_is_better_than_nobody() -> None:
    low = model("low", cost_per_token=0, quality_score=0.69)
    assert selected(chat(), low, model("good", cost_per_token=1e-4)) == "good"
    answer = choose(chat(), models=[low])
    assert "quality 0.69 is under the threshold of 0.7" in answer.reasoning
    assert "there is no other" in answer.reasoning
    asked = choose(chat(quality_requirement="low"), models=[low])
    assert "threshold" not in asked.reasoning, "a request that names a quality has said what it wants"
    assert asked.selection_metadata.confidence_score > answer.selection_metadata.confidence_score


def test_who_is_expected_too_late_comes_last() -> None:
    slow = model("slow", chat=1.0, response_time_avg_ms=40_000)
    assert selected(chat(), slow, model("quick", chat=0.1)) == "quick"
    assert selected(chat(timeout_ms=50_000), slow, model("quick", chat=0.1)) == "slow"
    assert "longer than the time limit: 40,000 ms" in choose(chat(), models=[slow]).reasoning


def test_a_tie_goes_to_the_cheaper_and_then_by_name() -> None:
    assert selected(chat(), model("b"), model("a")) == "a"
    # a price so small that no factor shows it
    assert selected(chat(), model("b", cost_per_token=0), model("a", cost_per_token=1e-30)) == "b"


def test_fallbacks_are_the_next_ones_with_one_of_another_provider_among_them() -> None:
    models = [model(f"m{n}", chat=0.9 - n / 100) for n in range(6)]
    other = model("other", provider="other", chat=0.1)
    answer = choose(chat(), models=models)
    assert [m.id for m in answer.fallback_models] == ["m1", "m2", "m3"] and MAX_FALLBACKS == 3
    answer = choose(chat(), models=[*models, other])
    assert [m.id for m in answer.fallback_models] == ["m1", "m2", "other"]
    answer = choose(chat(), models=[*models, model("second", provider="other", chat=0.895)])
    assert [m.id for m in answer.fallback_models] == ["second", "m1", "m2"]
    answer = choose(chat(), models=[models[0], other])
    assert [m.id for m in answer.fallback_models] == ["other"]
    assert (
        choose(chat(), models=models, preferences=Preferences(fallback_enabled=False)).fallback_models == ()
    )
    assert choose(chat(), models=models[:1]).fallback_models == ()


def test_the_reasoning_counts_who_was_left_at_each_step() -> None:
    models = [model("a"), model("b", cost_per_token=1), model("c", chat=0.7), model("d", chat=0)]
    answer = choose(chat(max_cost=0.01), models=models, health=health("c", "offline"))
    assert answer.reasoning == (
        "a of acme for chat: 3 models can do it, 2 of them not offline, 1 within $0.01 for 1,000 tokens. "
        "By balanced weights it scores 0.740, most of it by task; there is no other."
    )


def test_a_rule_that_leaves_all_of_them_goes_without_saying() -> None:
    a, b, dear = model("a"), model("b"), model("dear", cost_per_token=1)
    offline = health("b", "offline")
    counted = [
        choose(chat(), models=[a, b]).reasoning,
        choose(chat(), models=[a]).reasoning,
        choose(chat(), models=[a, b], health=offline).reasoning,
        choose(chat(), models=[a, dear]).reasoning,
    ]
    assert [words.partition(": ")[2].partition(". ")[0] for words in counted] == [
        "2 models can do it within $0.50 for 1,000 tokens",
        "1 model can do it within $0.50 for 1,000 tokens",
        "2 models can do it, 1 of them not offline and within $0.50 for 1,000 tokens",
        "2 models can do it, 1 within $0.50 for 1,000 tokens",
    ]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0.5, "$0.50"), (0.0002, "$0.0002"), (3, "$3"), (12.25, "$12.25"), (1e-9, "$0.000000001"), (0, "$0")],
)
def test_dollars_are_written_as_people_write_them(amount: float, shown: str) -> None:
    assert dollars(amount) == shown


def test_costs_that_are_told_have_no_noise_of_binary_fractions() -> None:
    noisy = model("a", cost_per_token=2e-7)
    assert noisy.estimated_cost(None) != 0.0002, "else this tests nothing"
    assert choose(chat(), models=[noisy]).estimated_cost == 0.0002
    assert refused(chat(max_cost=0), noisy).details["cheapest_cost"] == 0.0002


# --- nobody -----------------------------------------------------------------------------------------


def test_offline_models_are_out_and_if_all_are_the_error_says_so() -> None:
    a, b = model("a", chat=0.9), model("b")
    assert selected(chat(), a, b, health=health("a", "offline")) == "b"
    assert selected(chat(), a, b, health=health("a", "degraded")) in ("a", "b")
    error = refused(chat(), a, b, health=health("a", "offline") | health("b", "offline"))
    assert error.code == "NO_HEALTHY_MODELS" and "a, b" in str(error)
    assert error.details == {"task_type": "chat", "offline": ["a", "b"]}
    assert error.suggestions == ("try again later: models come back when their failures are old",)
    poor = model("poor", quality_score=0.3)
    error = refused(chat(quality_requirement="high"), a, poor, health=health("a", "offline"))
    assert "poor has 0.3 and is not offline" in error.suggestions[1]
    request = chat(quality_requirement="high", context_length=8000)
    error = refused(
        request, a, model("short", quality_score=0.3, max_tokens=7999), health=health("a", "offline")
    )
    assert len(error.suggestions) == 1
    many = [model(f"m{n}") for n in range(7)]
    offline = {m.id: ModelHealth(model_id=m.id, status="offline") for m in many}
    assert "m4 and 2 more" in str(refused(chat(), *many, health=offline))


def test_a_budget_that_nothing_fits_names_the_cheapest_and_what_it_costs() -> None:
    cheap, dear = model("cheap", cost_per_token=1 / 3e6), model("dear", cost_per_token=1e-3)
    other = model("embedder", cost_per_token=1e-9, chat=0)
    request = chat(max_cost=0.0001, context_length=900)
    error = refused(request, dear, cheap, other)
    assert error.code == "BUDGET_EXCEEDED"
    assert error.details == {
        "task_type": "chat", "max_cost": 0.0001, "tokens": 900,
        "cheapest_model": "cheap", "cheapest_cost": pytest.approx(0.0003),
    }  # fmt: skip
    assert error.suggestions == (
        "allow $0.0003 or more: cheap is the cheapest for chat",
        "or send at most 300 tokens: so many cheap does for $0.0001",
    )
    assert refused(chat(max_cost=0), cheap).suggestions == (
        "allow $0.000333335 or more: cheap is the cheapest for chat",
    )
    assert refused(chat(), dear, preferences=Preferences(max_cost_per_request=0.9)).code == "BUDGET_EXCEEDED"
    assert selected(chat(max_cost=2), dear, preferences=Preferences(max_cost_per_request=0.9)) == "dear"


@given(st.floats(min_value=1e-12, max_value=1.0), st.integers(1, 8000))
def test_what_is_suggested_as_a_budget_is_enough(price: float, tokens: int) -> None:
    dear = model("dear", cost_per_token=price)
    words = refused(chat(max_cost=0, context_length=tokens), dear).suggestions[0]
    suggested = float(words.split("$")[1].split()[0])
    assert suggested <= estimate_cost(dear, chat(context_length=tokens)) * 1.0001
    assert selected(chat(max_cost=suggested, context_length=tokens), dear) == "dear"


def test_a_request_that_this_catalogue_can_never_answer_is_invalid_and_names_what_it_can() -> None:
    small, large = model("small"), model("large", max_tokens=9000, quality_score=0.7)
    error = refused(ModelSelectionRequest(task_type="planning"), small, model("none", chat=0))
    assert error.code == "INVALID_REQUEST" and error.suggestions == ("ask for one of: chat",)
    assert refused(chat()).suggestions == ()
    error = refused(chat(context_length=9001), small, large)
    assert error.code == "INVALID_REQUEST" and "9,001 tokens" in str(error)
    assert error.suggestions == ("send at most 9,000 tokens: large takes that many",)
    error = refused(chat(quality_requirement="high"), large)
    assert error.code == "INVALID_REQUEST" and error.suggestions == ("ask for quality medium: large has 0.7",)
    assert selected(chat(quality_requirement="high"), small, large) == "small"
    assert selected(chat(context_length=9000), small, large) == "large", "exactly as long as its context"


# --- for all ----------------------------------------------------------------------------------------

share = st.floats(0, 1)
models_of_any_kind = st.lists(
    st.builds(
        Model,
        id=st.sampled_from([f"m{n}" for n in range(30)]),
        name=st.just("m"),
        provider=st.sampled_from(["a", "b", "c"]),
        capabilities=st.lists(
            st.builds(Capability, type=st.sampled_from(TASK_TYPES[:3]), score=share), max_size=3
        ).map(tuple),
        cost_per_token=st.floats(0, 1),
        max_tokens=st.integers(1, 100_000),
        response_time_avg_ms=st.floats(0, 1e6),
        availability_score=share,
        quality_score=share,
    ),
    max_size=12,
    unique_by=lambda m: m.id,
)
requests = st.builds(
    ModelSelectionRequest,
    task_type=st.sampled_from(TASK_TYPES[:3]),
    quality_requirement=st.none() | st.sampled_from(QUALITIES),
    max_cost=st.none() | st.floats(0, 1000),
    context_length=st.none() | st.integers(0, 100_000),
    preferred_providers=st.lists(st.sampled_from(["a", "b", "z"]), max_size=2).map(tuple),
)


@given(
    models_of_any_kind,
    requests,
    st.dictionaries(st.sampled_from([f"m{n}" for n in range(30)]), st.booleans()),
)
def test_whatever_is_chosen_can_do_what_was_asked(
    models: list[Model], request: ModelSelectionRequest, offline: dict[str, bool]
) -> None:
    known = {
        id: ModelHealth(model_id=id, status="offline" if out else "degraded") for id, out in offline.items()
    }
    try:
        answer = choose(request, models=models, health=known)
    except ModelSelectionError as error:
        refusal = error
    else:
        _check_choice(answer, models, request, offline, known)
        return
    assert refusal.code in ("INVALID_REQUEST", "NO_HEALTHY_MODELS", "BUDGET_EXCEEDED")
    assert refusal.code == "INVALID_REQUEST" or refusal.suggestions


def _check_choice(
    answer: ModelSelectionResponse,
    models: list[Model],
    request: ModelSelectionRequest,
    offline: dict[str, bool],
    known: dict[str, ModelHealth],
) -> None:
    budget = 0.5 if request.max_cost is None else request.max_cost
    for chosen in (answer.selected_model, *answer.fallback_models):
        assert chosen.score_for(request.task_type) > 0 and not offline.get(chosen.id)
        assert chosen.max_tokens >= (request.context_length or 0)
        assert chosen.quality_score >= QUALITY_LEVELS.get(request.quality_requirement or "low", 0)
        assert estimate_cost(chosen, request) <= budget * (1 + 1e-6)
    assert answer.selected_model not in answer.fallback_models
    assert decode(encode(answer), ModelSelectionResponse, what="response") == answer
    assert choose(request, models=models[::-1], health=known) == answer, (
        "the order of a catalogue means nothing"
    )
    least = [
        m for m in models if m.id in (answer.selected_model.id, *(f.id for f in answer.fallback_models[:1]))
    ]
    assert choose(request, models=least, health=known).selected_model == answer.selected_model
