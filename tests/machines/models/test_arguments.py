"""What a program says of a selection is refused by the names that it has used."""

from __future__ import annotations

from typing import Any

import pytest

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.arguments import check_age, report_of, request_of
from devpipe.machines.models.types import ModelReport, ModelSelectionRequest


def test_arguments_become_the_fields_of_the_wire() -> None:
    request = request_of(
        task_type="chat", quality="low", max_cost_usd=1, context_length=5, providers=["a"], timeout=2
    )
    assert request == ModelSelectionRequest(
        task_type="chat",
        quality_requirement="low",
        max_cost=1,
        context_length=5,
        preferred_providers=("a",),
        timeout_ms=2000,
    )
    report = report_of(
        model_id="m", task_type="chat", success=True, response_time=0.5, cost_usd=0.1, satisfaction=None
    )
    assert report == ModelReport(model_id="m", task_type="chat", success=True, response_time_ms=500, cost=0.1)


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("task_type", "poetry", "give one of text-generation, code-generation, "),
        ("task_type", None, "give one of text-generation, "),
        ("quality", "hihg", "give one of low, medium, high; did you mean 'high'?"),
        ("max_cost_usd", -1, "give a finite number, 0 or more (US dollars"),
        ("max_cost_usd", float("nan"), "give a finite number"),
        ("context_length", 1.5, "give an integer from 0 to "),
        ("providers", "openai", "give a list of texts"),
        ("providers", [1], "give a list of texts"),
        ("timeout", 0, "give a finite number above 0 (seconds)"),
        ("timeout", "5", "give a finite number above 0 (seconds)"),
        ("timeout", True, "give a finite number above 0 (seconds)"),
    ],
)
def test_an_argument_is_refused_by_its_own_name_with_what_is_allowed(
    argument: str, value: Any, words: str
) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        request_of(**{"task_type": "chat", argument: value})
    assert caught.value.code == "INVALID_REQUEST"
    assert f"{argument} = " in str(caught.value) and words in str(caught.value)
    assert len(caught.value.suggestions) == 1 and caught.value.suggestions[0].startswith(f"{argument}: give ")


def test_all_wrong_arguments_of_a_report_are_said_at_once() -> None:
    with pytest.raises(ModelSelectionError) as caught:
        report_of(model_id="", task_type="chat", success=1, response_time=-1, cost_usd=0, satisfaction=2)
    assert list(caught.value.details["wrong"]) == ["model_id", "success", "response_time", "satisfaction"]


@pytest.mark.parametrize("age", [-1, float("inf"), float("nan"), "1", True])
def test_an_age_that_is_none_is_refused_in_the_same_way(age: Any) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        check_age(age)
    assert caught.value.code == "INVALID_REQUEST" and "max_age = " in str(caught.value)
    assert list(caught.value.details["wrong"]) == ["max_age"]
    assert caught.value.suggestions == ("max_age: give a finite number, 0 or more (seconds)",)


@pytest.mark.parametrize("age", [None, 0, 0.5, 3600])
def test_an_age_passes(age: float | None) -> None:
    check_age(age)
