"""All that is wrong in a table that is read into a ``Struct``, in words: names that are none, values that are not allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from devpipe.machines.models.rules import show, similar

__all__ = ["mistakes", "unknown_name"]


def mistakes(table: Mapping[str, object], kind: type[Struct]) -> list[str]:
    """A sentence for each mistake. A type's ``Meta`` may say in its ``description`` what is allowed."""
    return list(_mistakes(table, kind, "", dict(_names(kind, ""))))


def unknown_name(name: str, known: Mapping[str, str], *, elsewhere: str | None = None) -> str:
    """The end of a sentence about a name that is none. ``known``: the names there are, and what others are called here."""
    meant = known.get(name) or elsewhere
    if meant is not None:
        return f"did you mean {meant!r}?"
    guess = similar(name, known.values()).removeprefix("; ")
    return guess or f"there are {', '.join(dict.fromkeys(known.values()))}"


def _mistakes(
    table: Mapping[str, object], kind: type[Struct], prefix: str, places: Mapping[str, str]
) -> Iterator[str]:
    known = {field.name: field.type for field in fields(kind)}
    for name, value in table.items():
        where = f"{prefix}{name}"
        if name not in known:
            elsewhere = places.get(name)
            end = unknown_name(name, {there: there for there in known}, elsewhere=elsewhere)
            yield f"{where} is not an option: {end}"
            continue
        inner = _struct(known[name])
        if inner is not None and isinstance(value, Mapping):
            yield from _mistakes(cast("Mapping[str, object]", value), inner, f"{where}.", places)
            continue
        try:
            msgspec.convert(value, known[name])
        except msgspec.ValidationError:  # its words are about types; ours say what to give
            yield f"{where} = {show(value)} is not allowed: give {_in_words(known[name])}"


def _names(kind: type[Struct], prefix: str) -> Iterator[tuple[str, str]]:
    """Every name in the tree with its whole place."""
    for field in fields(kind):
        yield field.name, f"{prefix}{field.name}"
        inner = _struct(field.type)
        if inner is not None:
            yield from _names(inner, f"{prefix}{field.name}.")


def _struct(kind: Any) -> type[Struct] | None:
    return next((k for k in _choices(kind) if isinstance(k, type) and issubclass(k, Struct)), None)


def _choices(kind: Any) -> tuple[Any, ...]:
    """``X | None`` is X."""
    found = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is not None else (kind,)
    return tuple(k for k in found if k is not NoneType)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        words = next((m.description for m in metas if isinstance(m, Meta) and m.description), None)
        return words or _in_words(inner)
    if get_origin(kind) is Literal:
        allowed = [show(value) for value in get_args(kind)]
        return f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
    if get_origin(kind) is tuple:
        return f"a list, each of it {_in_words(get_args(kind)[0])}"
    if kind in (bool, str):
        return "true or false" if kind is bool else "a text"
    if _struct(kind) is not None:
        return "a table"
    return " or ".join(_in_words(choice) for choice in _choices(kind))
