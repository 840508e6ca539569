"""The pure parts of model selection: choices, cache, static table, preferences, what an error means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from devpipe.machines.errors import (
    AllTransportsFailed,
    ConfigurationError,
    DeadlineExceeded,
    FailureKind,
    HandlerError,
    ModelSelectionError,
    Outcome,
    RequestRefused,
    TransportError,
)
from devpipe.machines.message import Priority
from devpipe.machines.models.cache import ChoiceCache
from devpipe.machines.models.choice import answered
from devpipe.machines.models.context import context_of
from devpipe.machines.models.preferring import change_by_name
from devpipe.machines.models.scoring import QUALITY_LEVELS
from devpipe.machines.models.scoring import choose as choose_as_the_server
from devpipe.machines.models.static import choose_static, read_table
from devpipe.machines.models.types import (
    Capability,
    Model,
    ModelSelectionRequest,
    ModelSelectionResponse,
    Preferences,
    decode,
    encode,
)
from devpipe.machines.models.verdicts import as_selection_error, is_answer, selects_none


def model(id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "name": id,
        "provider": "acme",
        "cost_per_token": 0.000001,
        "max_tokens": 8000,
        "response_time_avg_ms": 700,
        "availability_score": 0.99,
        "quality_score": 0.8,
        **fields,
    }


def response(id: str = "m-1") -> ModelSelectionResponse:
    return decode({"selected_model": model(id), "reasoning": "because"}, ModelSelectionResponse, what="it")


CHAT = ModelSelectionRequest(task_type="chat")
DEFAULTS = Preferences()


# --- types ----------------------------------------------------------------------------------------------


def test_unknown_fields_are_ignored_and_missing_ones_named() -> None:
    assert response().selected_model.id == "m-1"
    request = decode({"task_type": "chat", "mood": "good"}, ModelSelectionRequest, what="the request")
    assert encode(request) == {"task_type": "chat"}
    with pytest.raises(ModelSelectionError, match="the request is not valid.*task_type") as caught:
        decode({}, ModelSelectionRequest, what="the request")
    assert caught.value.code == "INVALID_REQUEST"


def test_a_model_has_a_score_for_a_task_it_can_do_and_none_for_others() -> None:
    able = decode(model("m", capabilities=[{"type": "chat", "score": 0.4}]), Model, what="it")
    assert (able.score_for("chat"), able.score_for("planning")) == (0.4, 0.0)


def test_a_request_of_unknown_length_is_taken_to_have_a_thousand_tokens() -> None:
    able = decode(model("m"), Model, what="it")
    assert able.estimated_cost(None) == pytest.approx(0.001)
    assert able.estimated_cost(0) == pytest.approx(0.001)


# --- cache -----------------------------------------------------------------------------------------------


def test_the_cache_gives_what_is_young_enough_with_its_age_and_marked() -> None:
    cache = ChoiceCache(duration=10)
    cache.put(CHAT, answered(response()), now=100)
    found = cache.get(CHAT, now=103, stand_in_for="the server is away")
    assert found is not None
    assert (found.source, found.age, found.live, found.stand_in_for) == (
        "cache",
        3,
        False,
        "the server is away",
    )
    assert cache.get(CHAT, now=103, max_age=2) is None
    assert cache.get(ModelSelectionRequest(task_type="planning"), now=103) is None


def test_the_time_that_somebody_waits_makes_it_no_other_request() -> None:
    cache = ChoiceCache(duration=10)
    cache.put(CHAT, answered(response()), now=0)
    hurried = ModelSelectionRequest(task_type="chat", timeout_ms=2000)
    assert cache.get(hurried, now=1) is not None
    dear = ModelSelectionRequest(task_type="chat", timeout_ms=2000, max_cost=0.1)
    assert cache.get(dear, now=1) is None


def test_nothing_older_than_the_duration_is_ever_given() -> None:
    cache = ChoiceCache(duration=10)
    cache.put(CHAT, answered(response()), now=100)
    assert cache.get(CHAT, now=110) is not None
    assert cache.get(CHAT, now=110.5, max_age=1000) is None
    assert len(cache) == 0


def test_the_cache_is_bounded_and_the_one_unused_for_longest_goes() -> None:
    cache = ChoiceCache(duration=10, limit=2)
    asked = [ModelSelectionRequest(task_type="chat", context_length=n) for n in range(3)]
    cache.put(asked[0], answered(response()), now=0)
    cache.put(asked[1], answered(response()), now=0)
    cache.get(asked[0], now=1)
    cache.put(asked[2], answered(response()), now=1)
    assert [cache.get(a, now=1) is not None for a in asked] == [True, False, True]


def test_a_model_that_went_offline_is_forgotten_and_so_is_everything_at_a_clear() -> None:
    cache = ChoiceCache(duration=10)
    other = ModelSelectionRequest(task_type="planning")
    cache.put(CHAT, answered(response("m-1")), now=0)
    cache.put(other, answered(response("m-2")), now=0)
    cache.forget_model("m-1")
    assert cache.get(CHAT, now=0) is None
    assert cache.get(other, now=0) is not None
    cache.clear()
    assert len(cache) == 0


# --- static table ----------------------------------------------------------------------------------------

TABLE = read_table(
    {
        "dated": "2026-01-01",
        "models": [
            model("cheap", quality_score=0.5),
            model("good", quality_score=0.8, cost_per_token=0.00002, provider="other", max_tokens=100_000),
        ],
        "tasks": {"chat": ["cheap", "good"], "analysis": ["good", "cheap"], "planning": ["cheap"]},
    },
    source="of the test",
)


def choose(preferences: Preferences = DEFAULTS, **request: Any) -> Any:
    asked = decode({"task_type": "chat", **request}, ModelSelectionRequest, what="it")
    return choose_static(TABLE, asked, preferences, stand_in_for="nobody answers")


def test_the_first_model_of_the_task_is_taken_and_marked_with_why() -> None:
    choice = choose()
    assert (choice.selected_model.id, choice.source, choice.age) == ("cheap", "static", None)
    assert "2026-01-01" in choice.reasoning
    assert "nobody answers" in choice.reasoning
    assert choice.selection_metadata.confidence_score == 0.5
    assert [m.id for m in choice.fallback_models] == ["good"]
    assert choose(task_type="analysis").selected_model.id == "good"


def test_a_task_that_the_table_does_not_name_may_use_every_model() -> None:
    assert choose(task_type="translation").selected_model.id == "cheap"


def test_wishes_are_kept_where_something_fits_them() -> None:
    for quality, least in QUALITY_LEVELS.items():  # what the server takes for it
        wanted = "cheap" if least <= 0.5 else "good"
        assert choose(quality_requirement=quality).selected_model.id == wanted
    assert choose(preferred_providers=["other"]).selected_model.id == "good"
    assert choose(Preferences(preferred_providers=("other",))).selected_model.id == "good"


def test_a_wish_that_nothing_fits_is_given_up_and_said() -> None:
    choice = choose(task_type="planning", quality_requirement="high", preferred_providers=["nobody"])
    assert choice.selected_model.id == "cheap"
    assert "the quality 'high' and the providers nobody" in choice.reasoning
    assert choice.selection_metadata.confidence_score == 0.3


def test_a_budget_is_kept_and_one_that_nothing_fits_names_the_cheapest() -> None:
    assert choose(task_type="analysis", max_cost=0.01).selected_model.id == "cheap"
    assert choose(Preferences(max_cost_per_request=0.01), task_type="analysis").selected_model.id == "cheap"
    with pytest.raises(ModelSelectionError, match="cheap") as caught:
        choose(max_cost=0.0001)
    assert_as_the_server_would(caught.value, "BUDGET_EXCEEDED", max_cost=0.0001)
    assert caught.value.suggestions[0] == "allow $0.001 or more: cheap is the cheapest for chat"


def assert_as_the_server_would(error: ModelSelectionError, code: str, **request: Any) -> None:
    """The same refusal, but that it says whose it is."""
    asked = decode({"task_type": "chat", **request}, ModelSelectionRequest, what="it")
    able = [structs.replace(m, capabilities=(Capability(type="chat", score=1.0),)) for m in TABLE.models]
    with pytest.raises(ModelSelectionError) as caught:
        choose_as_the_server(asked, models=able)
    assert (error.code, error.details, error.suggestions) == (
        code,
        caught.value.details,
        caught.value.suggestions,
    )
    assert str(error) == f"the static table: {caught.value} (nobody answers)"


@given(tokens=st.integers(1, 100_000))
def test_the_budget_that_is_suggested_is_enough(tokens: int) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        choose(max_cost=0.0, context_length=tokens)
    enough = float(caught.value.suggestions[0].split("$")[1].split(" ")[0])
    assert choose(max_cost=enough, context_length=tokens).source == "static"


def test_a_budget_that_differs_by_rounding_only_is_within() -> None:
    cost = TABLE.models[0].estimated_cost(3000)
    assert choose(max_cost=cost * (1 - 1e-12), context_length=3000).selected_model.id == "cheap"


def test_providers_are_known_in_capitals_too_as_the_server_knows_them() -> None:
    assert choose(preferred_providers=["OTHER"]).selected_model.id == "good"


def test_a_context_is_kept_and_one_that_nothing_takes_names_the_longest() -> None:
    assert choose(context_length=9000).selected_model.id == "good"
    with pytest.raises(ModelSelectionError, match="200,000") as caught:
        choose(context_length=200_000)
    assert_as_the_server_would(caught.value, "INVALID_REQUEST", context_length=200_000)


def test_a_table_without_a_date_says_none() -> None:
    table = read_table({"models": [model("m")], "tasks": {}}, source="of the test")
    choice = choose_static(table, CHAT, DEFAULTS, stand_in_for="x")
    assert "table for chat" in choice.reasoning


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"models": [], "tasks": {}}, "no model"),
        ({"models": [model("m"), model("m")], "tasks": {}}, "m stands there twice"),
        ({"models": [model("m")], "tasks": {"chat": ["n"]}}, r"tasks.chat names n.*\(m\)"),
        ({"models": [model("m")], "tasks": {"poetry": ["m"]}}, "tasks"),
        ({"models": [model("m", cost_per_token=-1)], "tasks": {}}, "cost_per_token"),
        ({"models": [model("m")], "tasks": {}, "colour": 1}, "colour"),
        ({"tasks": {}}, "models"),
        ([], "file.toml"),
    ],
)
def test_a_table_that_is_not_valid_is_refused_by_name(table: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read_table(table, source="file.toml")


# --- preferences and context ------------------------------------------------------------------------------


def test_preferences_are_changed_in_part() -> None:
    after = change_by_name(DEFAULTS, {"priority": "cost", "preferred_providers": ["a"]})
    assert (after.priority, after.preferred_providers, after.quality_threshold) == ("cost", ("a",), 0.7)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"quality_threshold": 2}, "quality_threshold"),
        ({"priorty": "cost"}, "did you mean 'priority'"),
        ({"zzz": 1}, "give one of priority"),
    ],
)
def test_preferences_out_of_range_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelSelectionError, match=named) as caught:
        change_by_name(DEFAULTS, wrong)
    assert caught.value.code == "INVALID_REQUEST"


def test_the_context_of_a_message_follows_from_its_request() -> None:
    chat = context_of(CHAT, DEFAULTS)
    assert (chat.realtime, chat.priority, chat.timeout) == (True, Priority.NORMAL, 30)
    quick = ModelSelectionRequest(task_type="editing", quality_requirement="low", timeout_ms=500)
    assert context_of(quick, DEFAULTS).priority is Priority.HIGH
    assert context_of(quick, DEFAULTS).timeout == 0.5
    assert not context_of(quick, DEFAULTS).realtime


# --- what an error means -----------------------------------------------------------------------------------


def test_a_refusal_with_a_known_code_is_an_answer() -> None:
    refused = HandlerError(
        "too poor", code="BUDGET_EXCEEDED", details={"suggestions": ["pay"]}, message_id="x-1"
    )
    error = as_selection_error(refused)
    assert (error.code, error.suggestions, error.message_id, error.outcome) == (
        "BUDGET_EXCEEDED",
        ("pay",),
        "x-1",
        Outcome.EXECUTED,
    )
    assert is_answer(error)
    assert as_selection_error(error) is error


@pytest.mark.parametrize("details", [None, [], {"suggestions": "pay"}, {"suggestions": [1]}])
def test_details_of_another_kind_are_kept_and_help_is_ours(details: object) -> None:
    error = as_selection_error(RequestRefused("who?", code="unknown_type", details=details))
    assert error.code == "SERVICE_UNAVAILABLE"
    assert error.details == {"code": "unknown_type", "details": details}
    assert error.suggestions
    assert not is_answer(error)


def test_a_server_that_selects_none_is_named_with_what_to_do_and_the_facts_stay() -> None:
    refused = RequestRefused("who?", code="unknown_type", details={"a": 1}, message_id="x-1")
    error = as_selection_error(refused)
    told = selects_none(error, server="http://s")
    assert str(told) == (
        "the server at http://s selects no models (who?): start it with devpipe serve --catalogue FILE"
    )
    assert told.suggestions == ("start it with devpipe serve --catalogue FILE",)
    assert (told.code, told.details, told.outcome, told.message_id) == (
        error.code,
        error.details,
        Outcome.REJECTED,
        "x-1",
    )


def test_silence_and_failure_are_no_answers() -> None:
    late = as_selection_error(DeadlineExceeded("late", outcome=Outcome.MAYBE_EXECUTED))
    assert (late.code, late.outcome) == ("TIMEOUT", Outcome.MAYBE_EXECUTED)
    cut = TransportError("cut", kind=FailureKind.NETWORK)
    assert as_selection_error(cut).code == "SERVICE_UNAVAILABLE"
    down = as_selection_error(AllTransportsFailed("down", errors={"http": cut}))
    assert (down.code, down.details) == ("SERVICE_UNAVAILABLE", {"transports": {"http": "cut"}})
    assert not is_answer(down)
