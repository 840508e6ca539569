"""Every key and list item is found in the line where it stands."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.models.locate import Key, Located, locate_json, locate_toml

TOML = '''\
# a catalogue
dated = "2025"  # of [[models]]

[[models]]
id = "a"
"quoted.key" = 1
'literal' = 2
dotted . "k\\u00e9y" . last = { one = 1, two = [
    3, # three ]
    "four ] , }",
] }
text = """
  id = "no key"
  \\""" nor this = 1 """"
other = \'\'\'
[[models]]
'\'\'\'
capabilities = [
  { type = "chat", score = 1 },

  { type = "planning" }, ]

[[models]]
id = 2025-07-01 10:00:00

[[models.capabilities]]
type = "chat"

[models.extra.deep]
x = +1.5e3

[ plain . "tab le" ]
y = true
'''


def paths(value: Any, at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Each key and item of decoded data, with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key), inner
            yield from paths(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*at, index), inner
            yield from paths(inner, (*at, index))


def test_every_key_of_a_toml_document_with_all_of_its_grammar_is_found_in_its_line() -> None:
    located = locate_toml(TOML)
    assert set(located.lines) == {path for path, _ in paths(tomllib.loads(TOML))}
    expected: dict[Key, int] = {
        ("dated",): 2,
        ("models", 0): 4,
        ("models", 0, "quoted.key"): 6,
        ("models", 0, "literal"): 7,
        ("models", 0, "dotted", "kéy", "last", "two"): 8,
        ("models", 0, "dotted", "kéy", "last", "two", 1): 10,
        ("models", 0, "text"): 12,
        ("models", 0, "other"): 15,
        ("models", 0, "capabilities", 0, "score"): 19,
        ("models", 0, "capabilities", 1): 21,
        ("models", 1): 23,
        ("models", 1, "id"): 24,
        ("models", 1, "capabilities", 0, "type"): 27,
        ("models", 1, "extra", "deep", "x"): 30,
        ("plain", "tab le", "y"): 33,
    }
    assert {key: located.lines[key] for key in expected} == expected


def test_a_toml_document_that_is_cut_off_is_followed_wherever_it_is_one_still() -> None:
    documents = 0
    for end in range(len(TOML)):
        try:
            data = tomllib.loads(TOML[:end])
        except tomllib.TOMLDecodeError:
            continue  # no document: nobody asks for its lines
        documents += 1
        assert set(locate_toml(TOML[:end]).lines) == {path for path, _ in paths(data)}
    assert documents > 50


def test_a_list_without_an_end_ends_with_the_text() -> None:
    assert locate_toml("a = [1,").lines == {("a",): 1, ("a", 0): 1}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_every_key_of_a_json_document_is_found_in_the_line_where_it_is_written(data: Any) -> None:
    text = json.dumps(data, indent=1)
    located = locate_json(text)
    found = dict(paths(data))
    assert set(located.lines) == set(found) and located.repeated == ()
    lines = text.split("\n")
    for path, line in located.lines.items():
        written = lines[line - 1].strip()
        value = found[path]
        if isinstance(path[-1], str):
            assert written.startswith(json.dumps(path[-1]) + ":")
        elif not isinstance(value, (dict, list)):
            assert written.rstrip(",") == json.dumps(value)


def test_a_json_key_that_stands_twice_is_told_with_the_line_of_the_second() -> None:
    located = locate_json('{"a": 1,\n "b": {"a": 2},\n "a": [3]}')
    assert located.repeated == ((("a",), 3),)


def test_a_key_that_is_missing_has_the_line_of_what_it_is_missing_in() -> None:
    located = Located(lines={("models", 0): 7})
    assert located.line_of(("models", 0, "id")) == 7
    assert located.line_of(("other",)) is None and located.line_of(()) is None
