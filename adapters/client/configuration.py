"""Where settings come from, strongest first: arguments, ``DEVPIPE_*`` variables, a file, the profile, defaults.

The names are those of the configuration tree: ``http.max_connections`` is the table ``[http]`` with the key
``max_connections`` in a file, and ``DEVPIPE_HTTP_MAX_CONNECTIONS`` in the environment. ``config_file.py`` says which
file. All that is wrong, wherever it stands, is said at once.

A variable with our prefix that is no setting is left alone, because others make such names too, unless it is nearly
one of ours or begins with one of our tables (``DEVPIPE_HTTP_...``): then it is a slip of the pen, and refused.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec

from devpipe.adapters.client.config_file import ConfigFile, Unusable, find_file, read_file
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError, Problem
from devpipe.machines.protocols.profiles import DEFAULT, PROFILES

__all__ = [
    "ENVIRONMENT_FILE",
    "ENVIRONMENT_TOKEN",
    "Origin",
    "Setting",
    "Settings",
    "address_problem",
    "load_config",
    "load_settings",
]

T = TypeVar("T")
PREFIX = "DEVPIPE_"
#: Names the configuration file, where no argument does; empty: no file.
ENVIRONMENT_FILE = "DEVPIPE_CONFIG"
ENVIRONMENT_TOKEN = "DEVPIPE_TOKEN"
#: Variables with our prefix that are no settings of the tree.
_NOT_SETTINGS = (ENVIRONMENT_FILE, ENVIRONMENT_TOKEN)
#: What Kubernetes tells of a service that is called ``devpipe-http``.
_OF_KUBERNETES = re.compile(r"\w+_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
#: So much alike are a name and its misspelling, from 0 to 1.
ALIKE = 0.85
#: The address that stands for a server of this program; ``connect`` gives it, nobody else.
MEMORY = "memory://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value came from. ``name``: the variable, the file's path or the profile; ``line`` counts from 1."""

    kind: Literal["argument", "environment", "file", "profile", "default"]
    name: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        match self.kind:
            case "environment":
                return f"environment variable {self.name}"
            case "file":
                return f"file {self.name}" + ("" if self.line is None else f", line {self.line}")
            case "profile":
                return f"profile {self.name}"
            case _:
                return self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value of the configuration, by its dotted key."""

    key: str
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting with where it came from, in the order of the tree.

    ``file``: the configuration file in use, None without one. ``token``: whether a token is in the environment; the
    token itself is nowhere here. ``left_alone``: variables with our prefix that are no settings. ``problems``: all that
    is wrong; a wrong value is not among ``settings``, which then has the default.
    """

    settings: tuple[Setting, ...]
    problems: tuple[Problem, ...]
    file: Path | None
    token: bool
    left_alone: tuple[str, ...]

    def __getitem__(self, key: str) -> Setting:
        """The setting with this dotted key. Raises ``KeyError``."""
        for setting in self.settings:
            if setting.key == key:
                return setting
        raise KeyError(key)

    def config(self) -> PipeConfig:
        """The configuration of a pipe. Raises ``ConfigurationError`` with all problems."""
        builder = _Builder({s.key: s for s in self.settings if s.origin.kind != "default"})
        config = builder.build(PipeConfig, "")
        problems = list(self.problems)
        if not {problem.key for problem in problems} & {"server_url", "folder", "config_file"}:
            problems += builder.problems  # that neither is given; true only if none was given wrongly
        if config is None or problems:
            raise ConfigurationError.of(problems)
        return config


def load_config(
    arguments: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> PipeConfig:
    """Build the configuration of a pipe: ``load_settings``, and what is raised when something is wrong."""
    return load_settings(arguments, environ=environ, file=file).config()


def load_settings(
    arguments: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Settings:
    """Find out every setting, where it came from, and all that is wrong; nothing is raised for the latter.

    ``arguments``: by dotted key (``http.max_connections``), None for what was not given. ``environ``: default, the
    process's. ``file``: the configuration file; without it ``DEVPIPE_CONFIG`` names one, and without that it is searched
    for from ``directory`` (default: the working directory) upwards. An empty name, in either place, means no file.
    A relative ``folder`` in a file is relative to that file.
    """
    environ = os.environ if environ is None else environ
    collector = _Collector()
    found = collector.choose_file(environ, file, None if directory is None else Path(directory))
    if found is not None:
        collector.take_file(found)
    left_alone = collector.take_environment(environ)
    collector.take_arguments(arguments or {})
    collector.take_profile()
    settings = collector.checked()
    return Settings(
        settings=settings,
        problems=tuple(collector.problems),
        file=None if found is None else found.path,
        token=bool(environ.get(ENVIRONMENT_TOKEN)),
        left_alone=left_alone,
    )


def address_problem(url: str, source: str | None = None) -> Problem | None:
    """What is wrong with the address of a server, None if nothing is."""
    allowed = "an address like http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:  # a port that is no number, brackets that do not close
        parts, port_is_fine = urlsplit(""), False
    if "@" in url or parts.query or parts.fragment:  # it may hold a secret: it is not shown
        origin = "" if source is None else f" from {source}"
        text = f"server_url{origin} must hold no user, password, query or fragment: give a token with token= instead"
        return Problem(key="server_url", value=None, allowed=allowed, source=source, text=text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        return Problem(key="server_url", value=url, allowed=allowed, source=source)
    return None


class _Collector:
    """Takes values from the weakest source to the strongest, a later one replaces an earlier one; the profile comes last."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._given: dict[str, Setting] = {}

    def choose_file(
        self, environ: Mapping[str, str], file: str | os.PathLike[str] | None, directory: Path | None
    ) -> ConfigFile | None:
        named = environ.get(ENVIRONMENT_FILE) if file is None else os.fspath(file)
        try:
            if named is None:
                return find_file(directory)
            return read_file(Path(named)) if named else None
        except Unusable as unusable:
            problem = unusable.problem
            if file is None and named is not None:
                text = f"{problem.text} ({ENVIRONMENT_FILE} names it)"
                problem = dataclasses.replace(
                    problem, text=text, source=f"environment variable {ENVIRONMENT_FILE}"
                )
            self.problems.append(problem)
            return None

    def take_file(self, file: ConfigFile) -> None:
        self._take_table(file, file.table, "")

    def _take_table(self, file: ConfigFile, table: Mapping[str, Any], prefix: str) -> None:
        known = _types()
        for name, value in table.items():
            key = f"{prefix}{name}"
            origin = Origin(kind="file", name=str(file.path), line=file.line(key))
            if key in known:
                if key == "folder" and isinstance(value, str):
                    value = str(file.path.absolute().parent / value)
                self._take(key, value, origin)
            elif any(there.startswith(f"{key}.") for there in known):
                if isinstance(value, dict):
                    self._take_table(file, cast("dict[str, Any]", value), f"{key}.")
                else:
                    self.problems.append(Problem(key=key, value=value, allowed="a table", source=str(origin)))
            elif key == "token":
                text = f"token in {origin} is not allowed: give it with token= or in {ENVIRONMENT_TOKEN}"
                self.problems.append(
                    Problem(key=key, value=None, allowed="no token", source=str(origin), text=text)
                )
            else:
                self.problems.append(_unknown(f"{key} in {origin}", key, str(origin)))

    def take_environment(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        names = variables()
        left_alone: list[str] = []
        for name, value in environ.items():
            if not name.startswith(PREFIX) or name in _NOT_SETTINGS:
                continue
            if name in names:
                self._take(names[name], value, Origin(kind="environment", name=name))
            elif near := _near(name, (*names, *_NOT_SETTINGS), cut=len(PREFIX)):
                text = f"environment variable {name} is not a setting: did you mean {near}?"
                source = f"environment variable {name}"
                self.problems.append(
                    Problem(key=name, value=None, allowed=near, source=source, meant=near, text=text)
                )
            elif (table := _table_of(name)) and not _OF_KUBERNETES.fullmatch(name):
                beside = ", ".join(there for there, key in names.items() if key.rpartition(".")[0] == table)
                source = f"environment variable {name}"
                text = f"{source} is not a setting: there are {beside}"
                self.problems.append(Problem(key=name, value=None, allowed=beside, source=source, text=text))
            else:
                left_alone.append(name)
        return tuple(sorted(left_alone))

    def take_arguments(self, arguments: Mapping[str, Any]) -> None:
        known = _types()
        for key, value in arguments.items():
            if value is None:
                continue
            if key in known:
                self._take(key, value, Origin(kind="argument"))
            else:
                self.problems.append(_unknown(f"argument {key!r}", key, "argument"))

    def take_profile(self) -> None:
        """A profile is a set of defaults: whatever was given, from anywhere, is stronger. A strange one is refused later."""
        given = self._given.get("profile")
        profile = DEFAULT if given is None else PROFILES.get(given.value, DEFAULT)
        for key, value in profile.pipe.items():
            if key not in self._given:
                self._take(key, value, Origin(kind="profile", name=profile.name))

    def checked(self) -> tuple[Setting, ...]:
        """All settings, those that nobody gave with their defaults; a wrong one is a problem and has its default."""
        right: dict[str, Setting] = {}
        for setting in self._given.values():
            converted = self._convert(setting)
            if converted is not None:
                right[setting.key] = converted
        builder = _Builder(right)
        builder.build(PipeConfig, "")
        for problem in builder.problems:
            # that neither address nor folder is there matters to a pipe, not to one who looks at the settings
            if right.pop(problem.key, None) is not None:
                self.problems.append(problem)
        return tuple(
            right.get(key) or Setting(key=key, value=value, origin=Origin(kind="default"))
            for key, value in _defaults(PipeConfig, "")
        )

    def _take(self, key: str, value: Any, origin: Origin) -> None:
        self._given[key] = Setting(key=key, value=value, origin=origin)

    def _convert(self, setting: Setting) -> Setting | None:
        """With a value of the right type; None if it cannot be one, and then that is a problem."""
        key, value = setting.key, setting.value
        kind = _types()[key]
        if isinstance(value, os.PathLike):
            value = os.fspath(cast("os.PathLike[str]", value))
        if kind == tuple[str, ...] and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        source = str(setting.origin)
        problem = None
        try:
            value = msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:  # its words are about types; ours say what to give
            problem = Problem(key=key, value=setting.value, allowed=_in_words(kind), source=source)
        else:
            if key == "server_url" and value not in (None, MEMORY):
                problem = address_problem(value, source)
        if problem is not None:
            self.problems.append(problem)
            return None
        return dataclasses.replace(setting, value=value)


class _Builder:
    """Builds the tree, each class by itself, so that one wrong value hides no other."""

    def __init__(self, values: Mapping[str, Setting]) -> None:
        self._values = values
        self.problems: list[Problem] = []

    def build(self, tree: type[T], prefix: str) -> T | None:
        """None if something is wrong in it, or under it."""
        hints = get_type_hints(tree)
        arguments: dict[str, Any] = {}
        whole = True
        for field in dataclasses.fields(tree):  # type: ignore[arg-type]  # only dataclasses are in the tree
            key = f"{prefix}{field.name}"
            kind = hints[field.name]
            if dataclasses.is_dataclass(kind):
                assert isinstance(kind, type)  # a class, not an object of one: the tree is made of classes
                inner = self.build(kind, f"{key}.")
                if inner is None:
                    whole = False
                else:
                    arguments[field.name] = inner
            elif key in self._values:
                arguments[field.name] = self._values[key].value
        try:
            made = tree(**arguments)
        except ConfigurationError as error:
            self.problems += [self._with_source(problem) for problem in error.problems]
            return None
        return made if whole else None

    def _with_source(self, problem: Problem) -> Problem:
        setting = self._values.get(problem.key)
        return problem if setting is None else dataclasses.replace(problem, source=str(setting.origin))


def variables() -> dict[str, str]:
    """Every variable that is a setting, with its dotted key."""
    return {_variable(key): key for key in _types()}


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "_")


def _table_of(name: str) -> str | None:
    """The innermost table that a variable would be in, None for none."""
    tables = {key.rpartition(".")[0] for key in _types()} - {""}
    return max((table for table in tables if name.startswith(f"{_variable(table)}_")), key=len, default=None)


@cache
def _types() -> dict[str, Any]:
    """Every setting with its type."""
    return dict(_leaves(PipeConfig, ""))


def _leaves(tree: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(tree)
    for field in dataclasses.fields(tree):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)  # as above
            yield from _leaves(kind, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", kind


def _defaults(tree: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(tree):
        if field.default is not dataclasses.MISSING:
            yield f"{prefix}{field.name}", field.default
        else:
            assert isinstance(field.default_factory, type)  # a table's default is the table's own class
            yield from _defaults(field.default_factory, f"{prefix}{field.name}.")


def _unknown(what: str, key: str, source: str) -> Problem:
    from difflib import get_close_matches

    known = list(_types())
    tables = sorted({name.rpartition(".")[0] for name in known} - {""})
    table, _, name = key.rpartition(".")
    beside = {full.rpartition(".")[2]: full for full in (*known, *tables) if full.rpartition(".")[0] == table}
    near = (
        [beside[match] for match in get_close_matches(name, beside, n=1, cutoff=0.7)]
        or [full for full in known if full.rpartition(".")[2] == name]  # in the wrong table
        or get_close_matches(key, known, n=1, cutoff=0.8)
    )
    rest = f"did you mean {near[0]}?" if near else f"there are {', '.join(beside.values() or tables)}"
    return Problem(
        key=key,
        value=None,
        allowed=near[0] if near else "a setting that there is",
        source=source,
        meant=near[0] if near else None,
        text=f"{what} is not a setting: {rest}",
    )


def _near(name: str, names: tuple[str, ...], *, cut: int) -> str | None:
    """The name that is meant; what all of them begin with does not make them alike."""
    from difflib import get_close_matches

    near = get_close_matches(name[cut:], [there[cut:] for there in names], n=1, cutoff=ALIKE)
    return name[:cut] + near[0] if near else None


def _in_words(kind: Any) -> str:
    choices = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if tuple[str, ...] in choices:
        return "a list of texts, or one text with commas"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return words[next(choice for choice in choices if choice in words)]
