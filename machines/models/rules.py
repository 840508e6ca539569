"""What a field may be, as a test and in words: one rule serves a catalogue's fields and a user's preferences.

Values have been decoded from JSON or TOML, and may be anything that those can say.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nlargest
from typing import cast

__all__ = ["Rule", "amount", "flag", "names", "number", "one_of", "similar", "show", "text", "texts", "whole"]

MAX_TEXT = 200
#: Integers above this are shown by name: Python refuses to write very long ones.
MAX_SHOWN = 10**30
SHOWN_CHARS = 80
#: A word is compared in full with so many: with a thousand, whoever asks for models that are not there would stop the server.
MAX_COMPARED = 30
MAX_ENDS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``accepts`` is the test; ``allowed`` ends the sentence "give ..."."""

    accepts: Callable[[object], bool]
    allowed: str
    words: tuple[str, ...] = ()  #: where only these are allowed: for a guess at what was meant

    def refusal(self, key: str, value: object) -> str:
        """Why ``value`` is refused: the key, the value and what is allowed."""
        guess = similar(value, self.words) if isinstance(value, str) else ""
        return f"{key} = {show(value)} is not allowed: give {self.allowed}{guess}"


def number(least: float, most: float, *, unit: str = "", above: bool = False) -> Rule:
    """A number from ``least`` to ``most``, both finite; with ``above``, ``least`` itself is too small."""

    def accepts(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return (least < value if above else least <= value) and value <= most

    words = f"a number above {least:,}, at most {most:,}" if above else f"a number from {least:,} to {most:,}"
    return Rule(accepts=accepts, allowed=words + (f" ({unit})" if unit else ""))


def amount(unit: str, *, above: bool = False) -> Rule:
    """Any finite number that is not negative; with ``above``, 0 itself is too small."""
    inner = number(0, sys.float_info.max, above=above)
    words = "a finite number above 0" if above else "a finite number, 0 or more"
    return Rule(accepts=inner.accepts, allowed=f"{words} ({unit})")


def whole(least: int, most: int, *, unit: str) -> Rule:
    """An integer from ``least`` to ``most``."""

    def accepts(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return Rule(accepts=accepts, allowed=f"an integer from {least:,} to {most:,} ({unit})")


def text() -> Rule:
    """A name that a person can read."""
    return Rule(accepts=_is_text, allowed=f"a text of 1 to {MAX_TEXT} printable characters")


def texts(most: int) -> Rule:
    """A list of names."""

    def accepts(value: object) -> bool:
        if not isinstance(value, (list, tuple)):
            return False
        items = cast("list[object]", value)
        return len(items) <= most and all(_is_text(item) for item in items)

    return Rule(
        accepts=accepts,
        allowed=f"a list of at most {most} texts, each of 1 to {MAX_TEXT} printable characters",
    )


def names() -> Rule:
    """A list of texts, however many."""

    def accepts(value: object) -> bool:
        return isinstance(value, (list, tuple)) and all(
            isinstance(item, str) for item in cast("list[object]", value)
        )

    return Rule(accepts=accepts, allowed="a list of texts")


def one_of(words: tuple[str, ...]) -> Rule:
    """One of these words."""
    return Rule(
        accepts=lambda value: isinstance(value, str) and value in words,
        allowed=f"one of {', '.join(words)}",
        words=words,
    )


def flag() -> Rule:
    """A boolean."""
    return Rule(accepts=lambda value: isinstance(value, bool), allowed="true or false")


def similar(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing if no known word is near."""
    word = word[:MAX_TEXT]
    likely = nlargest(MAX_COMPARED, known, key=lambda there: _same_ends(word, there))
    near = get_close_matches(word, likely, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _same_ends(word: str, there: str) -> int:
    """How many characters both begin and end with: all but one or two of them, where a pen has slipped."""
    return _same_start(word, there) + _same_start(word[::-1], there[::-1])


def _same_start(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one[:MAX_ENDS], other[:MAX_ENDS], strict=False):  # one of them may be shorter
        if a != b:
            break
        count += 1
    return count


def show(value: object) -> str:
    """A decoded value for an error, short whatever it is."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list() | tuple():
            return f"a list of {len(cast('list[object]', value))}"
        case None:
            return "null"
        case int() if abs(value) > MAX_SHOWN:
            return "an integer of more than 30 digits"
        case str() if len(value) > SHOWN_CHARS:
            return repr(value[:SHOWN_CHARS]) + "..."
        case _:
            return repr(value)


def _is_text(value: object) -> bool:
    return (
        isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() and not value.isspace()
    )
