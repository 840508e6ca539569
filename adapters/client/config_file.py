"""The file with settings: which one it is, what it holds, and on which line each setting stands.

It is ``devpipe.toml``, or the table ``[tool.devpipe]`` of ``pyproject.toml``, in the working directory or the nearest
one above it that has either; where both are, ``devpipe.toml``. The search ends at the first directory that holds
``.git``, at the home directory and at the root. A file that was found, not named, is taken from its reader or from root
alone: it may name the server that a token is sent to.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from devpipe.machines.errors import Problem

__all__ = ["ConfigFile", "Unusable", "find_file", "read_file"]

NAME = "devpipe.toml"
PROJECT = "pyproject.toml"
#: The table of ``pyproject.toml`` that is ours.
TABLE = ("tool", "devpipe")
#: A file of settings is no larger: a wrong name leads to a device or a dump (bytes).
MAX_BYTES = 1024 * 1024
#: A statement that goes on for longer is not followed; the lines after it are not told (lines).
MAX_STATEMENT = 200


class Unusable(Exception):
    """The file cannot be used; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """``table``: what it holds for us. ``lines``: on which line a key stands, by dotted key from the file's root."""

    path: Path
    table: dict[str, Any]
    lines: dict[str, int]
    prefix: str  #: what stands before our keys: ``tool.devpipe.`` in ``pyproject.toml``

    def line(self, key: str) -> int | None:
        """The line, from 1, where ``key`` of ours (or a table around it) stands; None if it was not found out."""
        name = self.prefix + key
        while name:
            if name in self.lines:
                return self.lines[name]
            name = name.rpartition(".")[0]
        return None


def find_file(directory: Path | None = None) -> ConfigFile | None:
    """The file for programs that run in ``directory`` (default: the working directory), None if there is none.

    Raises ``Unusable`` for one that is there and cannot be used.
    """
    try:
        start = Path.cwd() if directory is None else directory.absolute()
    except FileNotFoundError:  # the working directory was removed: there is nothing above it either
        return None
    home = Path(os.path.expanduser("~")).resolve()
    for place in (start, *start.parents):
        for name in (NAME, PROJECT):
            # isfile says no where it may not look: what we cannot see is not there for us
            # a link that leads nowhere was meant to lead somewhere
            if os.path.isfile(place / name) or (name == NAME and _leads_nowhere(place / name)):
                found = _read(place / name, must=False)
                if found is not None:
                    return found
        if place == home or os.path.exists(place / ".git"):
            return None
    return None


def read_file(path: Path) -> ConfigFile:
    """The file that somebody named. Raises ``Unusable``."""
    found = _read(path, must=True)
    assert found is not None  # must
    return found


def _read(path: Path, *, must: bool) -> ConfigFile | None:
    """``must``: a ``pyproject.toml`` without our table is wrong; else it is another program's."""
    named = repr(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
            owner = os.fstat(file.fileno()).st_uid
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        why = getattr(error, "strerror", None) or str(error)
        raise _unusable(path, f"the configuration file {named} cannot be read: {why}") from error
    if len(content) > MAX_BYTES:
        raise _unusable(path, f"the configuration file {named} is larger than {MAX_BYTES} bytes")
    is_project = path.name == PROJECT
    if is_project and not must and b"devpipe" not in content:
        return None  # another program's, and whether it is TOML is that one's business
    try:
        text = content.decode("utf-8-sig")
        table: Any = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # what is no TOML, no UTF-8, an integer without an end, a list in lists
        raise _unusable(path, f"the configuration file {named} is no TOML: {error}") from error
    for name in TABLE if is_project else ():
        table = cast("dict[str, Any]", table).get(name) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        if table is None and not must:
            return None
        raise _unusable(path, f"the configuration file {named} has no table [tool.devpipe]")
    if not must and not _is_trusted(owner):
        raise _unusable(
            path,
            f"the configuration file {named} belongs to another user (id {owner}): "
            f"to use it, name it in the variable DEVPIPE_CONFIG; to use none, set that to nothing",
        )
    prefix = "".join(f"{name}." for name in TABLE) if is_project else ""
    lines = dict(_lines(text))
    return ConfigFile(path=path, table=cast("dict[str, Any]", table), lines=lines, prefix=prefix)


def _leads_nowhere(path: Path) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _is_trusted(owner: int) -> bool:
    """Whoever may write above the working directory, as anybody may in /tmp, must not choose where a token goes."""
    return not hasattr(os, "getuid") or owner in (0, os.getuid())  # without it, files have no such owner


def _unusable(path: Path, text: str) -> Unusable:
    return Unusable(Problem(key="config_file", value=str(path), allowed="a file of TOML", text=text))


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Where keys stand. Each statement of a TOML document is a document by itself: take lines until they are one."""
    table, statement, first = "", "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            first = number
        statement += f"{line}\n"
        try:
            document = tomllib.loads(statement)
        except (ValueError, RecursionError):  # not all of it yet, or nothing to look into
            if number - first >= MAX_STATEMENT:
                return
            continue
        keys = list(_keys(document, ""))
        if statement.lstrip().startswith("["):
            table = f"{keys[-1]}." if keys else ""
            yield from ((key, first) for key in keys[-1:])
        else:
            yield from ((table + key, first) for key in keys)
        statement = ""


def _keys(table: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in table.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(cast("dict[str, Any]", value), f"{prefix}{name}.")
