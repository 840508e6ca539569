"""Preferences change in part, and what is out of range is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.preferring import change_preferences, overlay, read_update, read_user
from devpipe.machines.models.types import Preferences, decode, encode


def test_only_what_is_named_changes() -> None:
    current = Preferences(quality_threshold=0.9, preferred_providers=("a",))
    changed = change_preferences(current, {"priority": "cost", "max_cost_per_request": 1})
    assert changed == Preferences(
        quality_threshold=0.9, preferred_providers=("a",), priority="cost", max_cost_per_request=1
    )
    assert change_preferences(current, {}) == current
    assert change_preferences(current, {"preferred_providers": ["b", "c"]}).preferred_providers == ("b", "c")


def test_a_request_lays_what_it_names_over_what_is_stored() -> None:
    stored = Preferences(priority="cost", quality_threshold=0.9)
    said = Preferences(quality_threshold=0.2)
    assert overlay(stored, said, named={"quality_threshold": 0.2, "x": 1}) == Preferences(
        priority="cost", quality_threshold=0.2
    )
    assert overlay(stored, said, named=()) == stored


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("priority", "costs", "one of performance, cost, balanced; did you mean 'cost'?"),
        ("priority", 1, "one of performance, cost, balanced"),
        ("max_cost_per_request", -0.5, "a number from 0 to 1,000,000 (US dollars)"),
        ("max_cost_per_request", float("nan"), "a number from 0 to 1,000,000 (US dollars)"),
        ("preferred_providers", "acme", "a list of at most 20 texts, each of 1 to 200 printable characters"),
        ("preferred_providers", [""], "a list of at most 20 texts, each of 1 to 200 printable characters"),
        ("fallback_enabled", 1, "true or false"),
        ("quality_threshold", 1.5, "a number from 0 to 1"),
        ("quality_threshold", None, "a number from 0 to 1"),
        ("timeout_preference", 0, "a number above 0, at most 86,400,000 (milliseconds)"),
        ("timeout_preference", 10**400, "a number above 0, at most 86,400,000 (milliseconds)"),
    ],
)
def test_a_preference_out_of_range_is_refused_by_name(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        change_preferences(Preferences(), {"newer": 1, field: value})
    error = caught.value
    assert error.code == "INVALID_REQUEST" and f"{field} = " in str(error)
    assert str(error).endswith(f"give {allowed}")
    assert isinstance(error.details, dict) and list(error.details["wrong"]) == [field]
    assert error.suggestions[0].startswith(f"{field}: give ")


def test_all_that_is_wrong_is_named_together() -> None:
    with pytest.raises(ModelSelectionError) as caught:
        change_preferences(Preferences(), {"priority": 1, "quality_threshold": -1, "later": 0})
    assert isinstance(caught.value.details, dict)
    assert set(caught.value.details["wrong"]) == {"priority", "quality_threshold"}


def test_unknown_preferences_are_ignored_unless_nothing_else_is_there() -> None:
    assert change_preferences(Preferences(), {"newer": 1, "priority": "cost"}).priority == "cost"
    with pytest.raises(ModelSelectionError, match="'prioritty' is no preference; did you mean 'priority'"):
        change_preferences(Preferences(), {"prioritty": "cost"})
    for change in (None, [], "cost"):
        with pytest.raises(ModelSelectionError, match="is no object"):
            change_preferences(Preferences(), change)


def test_whose_preferences_they_are_and_what_of_them() -> None:
    assert read_update({"user": "ann", "preferences": {"a": 1}}) == ("ann", {"a": 1})
    assert read_update({"preferences": {"a": 1}}) == ("default", {"a": 1})
    assert read_update({"priority": "cost"}) == ("default", {"priority": "cost"})
    assert read_update([1]) == ("default", [1])
    assert read_user(None) == "default" and read_user({"user": "ann"}) == "ann"
    for user in ("", "a" * 201, 3, "a\nb"):
        with pytest.raises(ModelSelectionError, match="user = "):
            read_user({"user": user})


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["user", "preferences", *Preferences.__struct_fields__]), inner)
    ),
)


@given(JUNK)
def test_whatever_comes_the_result_is_valid_on_the_wire_or_a_clear_error(payload: Any) -> None:
    try:
        user, change = read_update(payload)
        changed = change_preferences(Preferences(), change)
    except ModelSelectionError as error:
        refusal = error
    else:
        assert user and decode(encode(changed), Preferences, what="preferences") == changed
        return
    assert refusal.code == "INVALID_REQUEST" and refusal.suggestions
