"""A wrong catalogue is refused with everything that is wrong with it: file, line, key, value, and what is allowed."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import ConfigurationError
from devpipe.machines.models.catalogue import MAX_MODELS, MAX_TOLD, CatalogueError, parse_catalogue
from devpipe.machines.models.locate import locate_json, locate_toml
from devpipe.machines.models.types import Model, decode, encode

MODEL = """\
[[models]]
id = "small"
name = "Small"
provider = "acme"
cost_per_token = 0.000001
max_tokens = 8000
response_time_avg_ms = 400
availability_score = 1
quality_score = 0.6
capabilities = [
  { type = "chat", score = 0.8 },
  { type = "translation", score = 1, specializations = ["de", "fr"] },
]
"""


def parse_toml(text: str) -> Any:
    return parse_catalogue(tomllib.loads(text), source="c.toml", located=locate_toml(text))


def refused(text: str) -> list[str]:
    """The mistakes, one a line, as a person reads them."""
    with pytest.raises(CatalogueError) as caught:
        parse_toml(text)
    assert isinstance(caught.value, ConfigurationError)
    head, *lines = str(caught.value).split("\n  ")
    assert head.startswith("the catalogue c.toml has ")
    assert [str(problem) for problem in caught.value.mistakes] == lines
    return lines


def without(field: str) -> str:
    return "".join(line for line in MODEL.splitlines(keepends=True) if not line.startswith(field))


def changed(field: str, value: str) -> str:
    assert f"\n{field} = " in MODEL
    return "".join(
        f"{field} = {value}\n" if line.startswith(f"{field} = ") else line
        for line in MODEL.splitlines(keepends=True)
    )


def test_a_catalogue_becomes_typed_models_with_numbers_as_they_are_on_the_wire() -> None:
    catalogue = parse_toml('dated = "2025-07-01"\n' + MODEL)
    [model] = catalogue.models
    assert catalogue.dated == "2025-07-01" and catalogue.ids == ("small",)
    assert isinstance(model, Model) and isinstance(model.availability_score, float)
    assert model.score_for("translation") == 1.0 and model.capabilities[1].specializations == ("de", "fr")
    assert decode(encode(model), Model, what="model") == model


@pytest.mark.parametrize(
    ("field", "value", "shown", "allowed"),
    [
        ("id", "7", "7", "a text of 1 to 200 printable characters"),
        ("name", '""', "''", "a text of 1 to 200 printable characters"),
        ("name", '" "', "' '", "a text of 1 to 200 printable characters"),
        ("provider", '"a\\nb"', r"'a\nb'", "a text of 1 to 200 printable characters"),
        ("cost_per_token", '"1"', "'1'", "a number from 0 to 1 (US dollars for one token, not for a million)"),
        ("cost_per_token", "true", "true", "a number from 0 to 1 (US dollars for one token, not for a million)"),
        ("cost_per_token", "nan", "nan", "a number from 0 to 1 (US dollars for one token, not for a million)"),
        ("max_tokens", "8000.0", "8000.0", "an integer from 1 to 1,000,000,000 (tokens of context)"),
        ("max_tokens", "true", "true", "an integer from 1 to 1,000,000,000 (tokens of context)"),
        ("max_tokens", "0x" + "f" * 5000, "an integer of more than 30 digits", "an integer from 1 to 1,000,000,000 (tokens of context)"),
        ("response_time_avg_ms", "{}", "a table", "a number from 0 to 3,600,000 (milliseconds)"),
        ("availability_score", "[1]", "a list of 1", "a number from 0 to 1"),
        ("quality_score", "inf", "inf", "a number from 0 to 1"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_with_line_key_value_and_what_is_allowed(
    field: str, value: str, shown: str, allowed: str
) -> None:
    text = changed(field, value)
    line = text[: text.index(f"\n{field} = ")].count("\n") + 2
    assert refused(text) == [f"c.toml:{line}: models[0].{field} = {shown} is not allowed: give {allowed}"]


@pytest.mark.parametrize("price", ["-0.25", "-1", "2.5"])
def test_a_negative_price_or_one_for_a_million_tokens_is_refused(price: str) -> None:
    assert refused(changed("cost_per_token", price)) == [
        f"c.toml:5: models[0].cost_per_token = {price} is not allowed: "
        "give a number from 0 to 1 (US dollars for one token, not for a million)"
    ]


def test_an_unknown_key_is_refused_with_the_one_that_was_meant() -> None:
    text = MODEL.replace("max_tokens", "max_token").replace('"fr"] }', '"fr"], special = 1 }')
    assert refused("model = 1\nzzz = 2\n" + text) == [
        "c.toml:1: model is no key of a catalogue here: give dated, models; did you mean 'models'?",
        "c.toml:2: zzz is no key of a catalogue here: give dated, models",
        "c.toml:3: models[0].max_tokens is missing: give an integer from 1 to 1,000,000,000 (tokens of context)",
        "c.toml:8: models[0].max_token is no key of a catalogue here: give id, name, provider, cost_per_token, max_tokens, "
        "response_time_avg_ms, availability_score, quality_score, capabilities; did you mean 'max_tokens'?",
        "c.toml:14: models[0].capabilities[1].special is no key of a catalogue here: give type, score, specializations; "
        "did you mean 'specializations'?",
    ]


def test_a_model_that_stands_there_twice_is_refused_with_both_lines() -> None:
    assert refused(MODEL + MODEL) == [
        "c.toml:15: models[1].id = 'small' is the id of models[0], line 2, too: give each its own"
    ]


def test_duplicates_are_told_also_where_the_model_is_wrong_otherwise() -> None:
    text = MODEL + changed("quality_score", "2").replace(
        "  { type", '  { type = "chat", score = 1 },\n  { type', 1
    )
    assert refused(text) == [
        "c.toml:15: models[1].id = 'small' is the id of models[0], line 2, too: give each its own",
        "c.toml:22: models[1].quality_score = 2 is not allowed: give a number from 0 to 1",
        "c.toml:25: models[1].capabilities[1].type = 'chat' stands here twice: keep one of the two",
    ]


def test_an_empty_catalogue_is_refused() -> None:
    missing = f"models is missing: give a list of at least one, at most {MAX_MODELS}"
    assert refused("") == [f"c.toml: {missing}"]
    assert refused("models = []") == [
        f"c.toml:1: models = a list of 0 is not allowed: give a list of at least one, at most {MAX_MODELS}"
    ]
    assert refused("models = 3")[0].startswith("c.toml:1: models = 3 is not allowed")
    assert refused(without("capabilities").split("  {")[0])[0].startswith(
        "c.toml:1: models[0].capabilities is missing"
    )


def test_a_catalogue_that_is_no_table_at_all_is_refused() -> None:
    for data, shown in (
        (None, "null"),
        ([], "a list of 0"),
        ("x" * 100, repr("x" * 80) + "..."),
        (True, "true"),
    ):
        with pytest.raises(CatalogueError) as caught:
            parse_catalogue(data, source="c.json")
        [problem] = caught.value.mistakes
        assert problem.text == f"the catalogue = {shown} is no table: give dated, models"
    assert refused("models = [1]") == [
        "c.toml:1: models[0] = 1 is no table: give id, name, provider, cost_per_token, max_tokens, "
        "response_time_avg_ms, availability_score, quality_score, capabilities"
    ]
    assert refused(MODEL.replace('{ type = "chat", score = 0.8 }', "7")) == [
        "c.toml:11: models[0].capabilities[0] = 7 is no table: give type, score, specializations"
    ]


def test_a_task_that_nobody_knows_is_refused_with_the_nearest() -> None:
    [problem] = refused(MODEL.replace('"chat"', '"chatt"'))
    assert problem.startswith(
        "c.toml:11: models[0].capabilities[0].type = 'chatt' is not allowed: give one of text-generation"
    )
    assert problem.endswith("workflow-execution; did you mean 'chat'?")
    [problem] = refused(MODEL.replace('["de", "fr"]', '["de", 1]'))
    assert "specializations = a list of 2 is not allowed: give a list of at most 100 texts" in problem
    [problem] = refused(MODEL.replace('["de", "fr"]', '"de"'))
    assert "specializations = 'de' is not allowed" in problem


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = changed("cost_per_token", "-1").replace("0.8", "8") + changed("id", "1").replace("name =", "nam =")
    lines = [int(line.split(":")[1]) for line in refused(text)]
    assert lines == sorted(lines) and len(lines) == 5


def test_of_very_many_mistakes_the_rest_is_counted() -> None:
    data = {"models": [{"id": f"m{n}"} for n in range(100)]}
    with pytest.raises(CatalogueError) as caught:
        parse_catalogue(data, source="c.json")
    assert len(caught.value.mistakes) == 800
    assert str(caught.value).endswith(f"\n  and {800 - MAX_TOLD} more")
    with pytest.raises(CatalogueError, match="is not allowed: give a list of at least one, at most 1000"):
        parse_catalogue({"models": data["models"] * 11}, source="c.json")


def test_a_key_that_stands_twice_in_json_is_refused() -> None:
    text = '{"models": [\n{"id": "a",\n"id": "b", "a b": 1}]}'
    with pytest.raises(CatalogueError) as caught:
        parse_catalogue(json.loads(text), source="c.json", located=locate_json(text))
    told = [str(problem) for problem in caught.value.mistakes]
    assert "c.json:3: models[0].id stands here a second time: keep one of the two" in told
    assert any(line.startswith("c.json:3: models[0].'a b' is no key") for line in told)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["models", "id", "capabilities", "type", "score", "dated", "x"]), inner
        )
    ),
    max_leaves=25,
)


@given(JUNK)
def test_whatever_was_decoded_is_a_catalogue_or_a_clear_error(data: Any) -> None:
    with pytest.raises(CatalogueError) as caught:
        parse_catalogue(data, source="c")
    assert caught.value.mistakes and all("give" in p.text or "keep" in p.text for p in caught.value.problems)
