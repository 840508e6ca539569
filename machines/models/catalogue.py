"""A catalogue of models: decoded TOML or JSON in, typed models out, or all that is wrong with it, at once.

    dated = "2025-07-01"            # when the prices were true
    [[models]]
    id = "..."                      # and name, provider, cost_per_token, ... as in ``specs/models.md``
    capabilities = [{ type = "chat", score = 0.9 }]

A catalogue is written by hand, so it is read strictly: a key that is not known is a mistake, and so is a price that can
only be one per million tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from devpipe.machines.errors import ConfigurationError
from devpipe.machines.models.locate import Key, Located
from devpipe.machines.models.rules import Rule, number, one_of, show, similar, text, texts, whole
from devpipe.machines.models.types import TASK_TYPES, Capability, Model

__all__ = ["MAX_MODELS", "Catalogue", "CatalogueError", "Mistake", "parse_catalogue"]

#: Every model is scored for every request: this many cost a few milliseconds.
MAX_MODELS = 1000
#: So many mistakes are told; of more, only how many.
MAX_TOLD = 100

_SHARE = number(0, 1)
_MODEL: dict[str, Rule] = {
    "id": text(),
    "name": text(),
    "provider": text(),
    "cost_per_token": number(0, 1, unit="US dollars for one token, not for a million"),
    "max_tokens": whole(1, 1_000_000_000, unit="tokens of context"),
    "response_time_avg_ms": number(0, 3_600_000, unit="milliseconds"),
    "availability_score": _SHARE,
    "quality_score": _SHARE,
}
_CAPABILITY: dict[str, Rule] = {
    "type": one_of(TASK_TYPES),
    "score": _SHARE,
    "specializations": texts(100),
}
_TOP: dict[str, Rule] = {"dated": text()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The models, in the order of the file. ``dated`` says when its prices were true, in its author's words."""

    models: tuple[Model, ...]
    dated: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The names by which requests ask for models."""
        return tuple(model.id for model in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One mistake. ``line`` counts from 1, None if it is not known; ``key`` is like ``models[3].max_tokens``."""

    source: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.text}"


class CatalogueError(ConfigurationError):
    """A catalogue is wrong; ``mistakes`` has each one, in the order of the file."""

    def __init__(self, source: str, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake.line or 0))
        count = len(self.mistakes)
        told = "".join(f"\n  {mistake}" for mistake in self.mistakes[:MAX_TOLD])
        more = f"\n  and {count - MAX_TOLD} more" if count > MAX_TOLD else ""
        counted = "one mistake" if count == 1 else f"{count} mistakes"
        super().__init__(f"the catalogue {source} has {counted}:{told}{more}")


def parse_catalogue(data: object, *, source: str, located: Located | None = None) -> Catalogue:
    """``data`` is what a decoder gave, ``source`` the file's name, ``located`` the lines of its keys.

    Raises ``CatalogueError`` that names every mistake: file, line, key, value, and what is allowed.
    """
    reader = _Reader(source, located or Located(lines={}))
    catalogue = reader.catalogue(data)
    if reader.mistakes:
        raise CatalogueError(source, reader.mistakes)
    return catalogue


class _Reader:
    """Reads on after a mistake, so that all of them are told together."""

    def __init__(self, source: str, located: Located) -> None:
        self.mistakes: list[Mistake] = []
        self._source = source
        self._located = located
        for key, line in located.repeated:
            text = f"{_spelled(key)} stands here a second time: keep one of the two"
            self.mistakes.append(Mistake(source=source, line=line, key=_spelled(key), text=text))

    def catalogue(self, data: object) -> Catalogue:
        table = self._table(data, (), _TOP, optional=("dated",), beside=("models",))
        if table is None:
            return Catalogue(models=())
        models: list[Model] = []
        first: dict[str, Key] = {}
        for index, entry in enumerate(self._list(table, ("models",), MAX_MODELS)):
            at: Key = ("models", index)
            found = self._model(entry, at)
            if found is None:
                continue
            if found.id in first:
                line = self._located.line_of((*first[found.id], "id"))
                where = _spelled(first[found.id]) + (f", line {line}" if line else "")
                self._wrong((*at, "id"), f" = {show(found.id)} is the id of {where}, too: give each its own")
                continue
            first[found.id] = at
            models.append(found)
        return Catalogue(models=tuple(models), dated=cast("str", table.get("dated", "")))

    def _model(self, entry: object, at: Key) -> Model | None:
        before = len(self.mistakes)
        table = self._table(entry, at, _MODEL, beside=("capabilities",))
        if table is None:
            return None
        capabilities: list[Capability] = []
        seen: set[str] = set()
        for index, item in enumerate(self._list(table, (*at, "capabilities"), len(TASK_TYPES))):
            here: Key = (*at, "capabilities", index)
            values = self._table(item, here, _CAPABILITY, optional=("specializations",))
            task: object = None if values is None else values.get("type")
            if isinstance(task, str):
                if task in seen:
                    self._wrong((*here, "type"), f" = {show(task)} stands here twice: keep one of the two")
                seen.add(task)
            if values is not None and len(self.mistakes) == before:
                capabilities.append(
                    Capability(
                        type=values["type"],
                        score=float(values["score"]),
                        specializations=tuple(values.get("specializations", ())),
                    )
                )
        if len(self.mistakes) > before:
            return self._nameless(table)
        fields = {name: table[name] for name in _MODEL}
        for name in ("cost_per_token", "response_time_avg_ms", "availability_score", "quality_score"):
            fields[name] = float(fields[name])
        return Model(capabilities=tuple(capabilities), **fields)

    def _nameless(self, table: Mapping[str, Any]) -> Model | None:
        """What stands for a model with mistakes: its id is compared with those of the others all the same."""
        id: object = table.get("id")
        if not isinstance(id, str) or not _MODEL["id"].accepts(id):
            return None
        return Model(
            id=id, name=id, provider=id, cost_per_token=0, max_tokens=0,
            response_time_avg_ms=0, availability_score=0, quality_score=0,
        )  # fmt: skip

    def _table(
        self,
        value: object,
        at: Key,
        rules: Mapping[str, Rule],
        *,
        optional: tuple[str, ...] = (),
        beside: tuple[str, ...] = (),
    ) -> dict[str, Any] | None:
        """The table at ``at``, each of its fields held against its rule; ``beside`` names keys that are read elsewhere."""
        if not isinstance(value, dict):
            self._wrong(at, f" = {show(value)} is no table: give {', '.join((*rules, *beside))}")
            return None
        table = cast("dict[str, Any]", value)
        known = (*rules, *beside)
        for key in table:
            if key not in known:
                guess = similar(key, known)
                self._wrong((*at, key), f" is no key of a catalogue here: give {', '.join(known)}{guess}")
        for key, rule in rules.items():
            if key not in table:
                if key not in optional:
                    self._wrong((*at, key), f" is missing: give {rule.allowed}")
            elif not rule.accepts(table[key]):
                self._wrong((*at, key), rule.refusal("", table[key]))
        return table

    def _list(self, table: Mapping[str, object], at: Key, most: int) -> list[object]:
        name = str(at[-1])
        if name not in table:
            self._wrong(at, f" is missing: give a list of at least one, at most {most}")
            return []
        value: object = table[name]
        items: list[object] = [*cast("list[object]", value)] if isinstance(value, list) else []
        if not 0 < len(items) <= most:
            self._wrong(
                at, f" = {show(table[name])} is not allowed: give a list of at least one, at most {most}"
            )
        return items[:most]

    def _wrong(self, at: Key, text: str) -> None:
        key = _spelled(at)
        line = self._located.line_of(at)
        self.mistakes.append(Mistake(source=self._source, line=line, key=key, text=f"{key}{text}"))


def _spelled(key: Key) -> str:
    """``models[3].capabilities[0].type``; the whole document is ``the catalogue``."""
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part if part.isidentifier() else show(part)}"
        for part in key
    ]
    return "".join(parts).lstrip(".") or "the catalogue"
