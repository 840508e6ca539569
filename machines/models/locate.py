"""In which line a key stands: text that a decoder has already accepted, read once more for its positions.

Decoders of JSON and TOML give values without lines. These two readers know just enough of the grammars to follow keys and
list items; they judge nothing, and what they are given must have been decoded without an error before.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Key", "Located", "locate_json", "locate_toml"]

#: Where a value stands: the keys and indices that lead to it.
Key: TypeAlias = tuple[str | int, ...]

_JSON = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_STRING = re.compile(
    "|".join(
        (
            r'"{3}(?:[^\\]|\\.)*?"{3}"{0,2}',  # up to two more quotes belong to the text
            r"'{3}.*?'{3}'{0,2}",
            r'"(?:[^"\\]|\\.)*"',
            r"'[^']*'",
        )
    ),
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[^\s=.\[\]\"'#]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]*")
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """``lines``: the line of each key and list item, from 1. ``repeated``: keys that stand there twice, in JSON."""

    lines: Mapping[Key, int]
    repeated: tuple[tuple[Key, int], ...] = ()

    def line_of(self, key: Key) -> int | None:
        """Its line, or that of the nearest thing around it; None where nothing is known."""
        for length in range(len(key), 0, -1):
            line = self.lines.get(key[:length])
            if line is not None:
                return line
        return None


@dataclass(slots=True)
class _Open:
    """A JSON object or list that has begun and not ended."""

    path: Key
    is_object: bool
    here: str | int = 0  #: the key or index of the value that comes
    key_next: bool = True


def locate_json(text: str) -> Located:
    """The lines of a JSON document."""
    lines: dict[Key, int] = {}
    repeated: list[tuple[Key, int]] = []
    opened: list[_Open] = []
    line, at = 1, 0
    for match in _JSON.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        token = match.group()
        inside = opened[-1] if opened else None
        if token in "}]":
            opened.pop()
            continue
        if token == ":":
            continue
        if inside is not None and token == ",":
            inside.key_next = True
            if isinstance(inside.here, int):
                inside.here += 1
            continue
        path: Key = ()
        if inside is not None:
            if inside.is_object and inside.key_next:
                inside.here, inside.key_next = json.loads(token), False
                path = (*inside.path, inside.here)
                if path in lines:
                    repeated.append((path, line))
                lines[path] = line
                continue
            path = (*inside.path, inside.here)
            lines.setdefault(path, line)
        if token in "{[":
            opened.append(_Open(path, token == "{"))
    return Located(lines=lines, repeated=tuple(repeated))


def locate_toml(text: str) -> Located:
    """The lines of a TOML document."""
    reader = _Toml(text)
    reader.read()
    return Located(lines=reader.lines)


class _Toml:
    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._tables: dict[Key, int] = {}  #: how many tables each [[array]] has so far

    def read(self) -> None:
        base: Key = ()
        while self._skip():
            if self._here("[["):
                base = self._header(2)
            elif self._here("["):
                base = self._header(1)
            else:
                self._pair(base)

    def _header(self, brackets: int) -> Key:
        line = self._line
        self._move(brackets)
        path: Key = ()
        *above, last = self._keys()
        for part in above:
            path = (*path, part)
            self.lines.setdefault(path, line)
            path = self._newest(path)
        path = (*path, last)
        self.lines.setdefault(path, line)
        if brackets == 2:
            self._tables[path] = self._tables.get(path, 0) + 1
        path = self._newest(path)
        self.lines.setdefault(path, line)
        self._skip()
        self._move(brackets)
        return path

    def _newest(self, path: Key) -> Key:
        """Where an array of tables is named, its last table is meant."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _pair(self, base: Key) -> None:
        line, path = self._line, base
        for part in self._keys():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._move(1)  # the equals sign
        self._value(path)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip()
            key = _STRING.match(self._text, self._at) or _BARE_KEY.match(self._text, self._at)
            assert key is not None  # a decoder has found one here
            name = key.group()
            keys.append(tomllib.loads(f"key = {name}")["key"] if name[0] in "\"'" else name)
            self._move(len(name))
            self._skip()
            if not self._here("."):
                return keys
            self._move(1)

    def _value(self, path: Key) -> None:
        self._skip()
        string = _STRING.match(self._text, self._at)
        if string is not None:
            self._move(len(string.group()))
        elif self._here("["):
            self._move(1)
            index = 0
            while self._item("]"):
                self.lines.setdefault((*path, index), self._line)
                self._value((*path, index))
                index += 1
        elif self._here("{"):
            self._move(1)
            while self._item("}"):
                self._pair(path)
        else:
            bare = _BARE_VALUE.match(self._text, self._at)
            assert bare is not None  # it matches nothing, too
            self._move(len(bare.group()))

    def _item(self, end: str) -> bool:
        """Go to the next item of a list or an inline table, or behind its end."""
        more = self._skip()
        if self._here(","):
            self._move(1)
            more = self._skip()
        if self._here(end):
            self._move(1)
            return False
        return more

    def _skip(self) -> bool:
        """Behind white space, line ends and comments; False at the end of the text."""
        blank = _BLANK.match(self._text, self._at)
        assert blank is not None  # it matches nothing, too
        self._move(len(blank.group()))
        return self._at < len(self._text)

    def _here(self, token: str) -> bool:
        return self._text.startswith(token, self._at)

    def _move(self, chars: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + chars)
        self._at += chars
