"""What is on the wire becomes a class, or an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.types import ModelReport, ModelSelectionRequest, Preferences, decode, encode


def test_unknown_fields_are_ignored_and_defaults_are_filled_in() -> None:
    request = decode({"task_type": "chat", "newer": [1]}, ModelSelectionRequest, what="the request")
    assert request == ModelSelectionRequest(task_type="chat")
    assert encode(request) == {"task_type": "chat"}
    assert decode({}, Preferences, what="the preferences").timeout_preference == 30000


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"task_type": "chat", "success": True, "response_time_ms": 1}, "missing required field `model_id`"),
        ({"model_id": "a", "task_type": "chat", "success": 1, "response_time_ms": 1}, "`$.success`"),
        ({"model_id": "a", "task_type": "x", "success": True, "response_time_ms": 1}, "`$.task_type`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_missing_and_wrong_fields_are_refused_by_name(payload: Any, words: str) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        decode(payload, ModelReport, what="the report")
    assert caught.value.code == "INVALID_REQUEST"
    assert str(caught.value).startswith("the report is not valid: ") and words in str(caught.value)
