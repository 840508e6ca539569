"""What is on the wire becomes a class, or an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.types import (
    ModelHealth,
    ModelReport,
    ModelSelectionRequest,
    ModelSelectionResponse,
    Preferences,
    decode,
    encode,
)


def test_unknown_fields_are_ignored_and_defaults_are_filled_in() -> None:
    request = decode({"task_type": "chat", "newer": [1]}, ModelSelectionRequest, what="the request")
    assert request == ModelSelectionRequest(task_type="chat")
    assert encode(request) == {"task_type": "chat"}
    assert decode({}, Preferences, what="the preferences").timeout_preference == 30000


def test_what_an_answer_does_not_say_is_nothing_and_not_a_guess() -> None:
    model = {
        "id": "a", "name": "A", "provider": "p", "cost_per_token": 1, "max_tokens": 9, "response_time_avg_ms": 1,
        "availability_score": 1, "quality_score": 1,
    }  # fmt: skip
    said = {"selected_model": model, "reasoning": "because"}
    answer = decode(said, ModelSelectionResponse, what="the answer")
    assert (answer.estimated_cost, answer.estimated_time_ms, answer.fallback_models) == (0.0, 0.0, ())
    metadata = answer.selection_metadata
    assert (metadata.selection_time_ms, metadata.factors_considered, metadata.confidence_score) == (0, (), 0)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"task_type": "chat", "success": True, "response_time_ms": 1}, "model_id is missing: give a text"),
        (
            {"model_id": "a", "task_type": "chat", "success": 1, "response_time_ms": 1},
            "success = 1 is not allowed: give true or false",
        ),
        (
            {"model_id": "a", "task_type": "x", "success": True, "response_time_ms": 1},
            "task_type = 'x' is not allowed: give one of",
        ),
        ([], "Expected `object`, got `array`"),
        (
            {"model_id": "a", "task_type": "chat", "success": True, "response_time_ms": None},
            "response_time_ms = null",
        ),
    ],
)
def test_missing_and_wrong_fields_are_refused_by_name(payload: Any, words: str) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        decode(payload, ModelReport, what="the report")
    assert caught.value.code == "INVALID_REQUEST"
    assert str(caught.value).startswith("the report is not valid: ") and words in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once_with_what_is_allowed() -> None:
    payload = {"task_type": "chatt", "quality_requirement": "best", "preferred_providers": "openai"}
    with pytest.raises(ModelSelectionError) as caught:
        decode(payload, ModelSelectionRequest, what="the request")
    text = str(caught.value)
    assert "task_type = 'chatt' is not allowed: give one of text-generation, " in text
    assert "did you mean 'chat'?" in text
    assert "quality_requirement = 'best' is not allowed: give one of low, medium, high" in text
    assert "preferred_providers = 'openai' is not allowed: give a list of texts" in text
    assert caught.value.details["wrong"].keys() == payload.keys()
    assert [s.partition(":")[0] for s in caught.value.suggestions] == list(payload)


def test_a_wrong_preference_in_a_request_is_named_with_its_place() -> None:
    payload = {"task_type": "chat", "user_preferences": {"quality_threshold": 2, "priority": "cost"}}
    with pytest.raises(ModelSelectionError, match="user_preferences.quality_threshold = 2 is not") as caught:
        decode(payload, ModelSelectionRequest, what="the request")
    assert caught.value.suggestions == ("user_preferences.quality_threshold: give a number from 0 to 1",)


@pytest.mark.parametrize("field", ["max_cost", "context_length", "timeout_ms"])
@pytest.mark.parametrize("value", [float("nan"), -float("inf"), -1, "1", [], 10**400, True])
def test_whatever_is_no_amount_is_refused_in_our_words(field: str, value: object) -> None:
    with pytest.raises(ModelSelectionError, match=f"{field} = .* is not allowed: give "):
        decode({"task_type": "chat", field: value}, ModelSelectionRequest, what="the request")


def test_what_no_rule_has_words_for_is_refused_all_the_same() -> None:
    with pytest.raises(ModelSelectionError, match=r"user_preferences") as caught:
        decode({"task_type": "chat", "user_preferences": 7}, ModelSelectionRequest, what="the request")
    assert caught.value.suggestions[0].startswith("task_type: give one of ")
    with pytest.raises(ModelSelectionError) as caught:
        decode({}, ModelHealth, what="the push")
    assert caught.value.suggestions == ()
