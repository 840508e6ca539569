"""Where settings come from, strongest first: arguments, ``DEVPIPE_*`` variables, a TOML file, the profile, defaults.

The names are those of the configuration tree: ``http.max_connections`` is the table ``[http]`` with the key
``max_connections`` in a file, and ``DEVPIPE_HTTP_MAX_CONNECTIONS`` in the environment.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import msgspec

from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.protocols.profiles import DEFAULT, PROFILES

__all__ = ["ENVIRONMENT_FILE", "load_config"]

T = TypeVar("T")
#: Names the configuration file, where no argument does.
ENVIRONMENT_FILE = "DEVPIPE_CONFIG"
#: Variables with our prefix that are no settings of the tree.
_NOT_OURS = frozenset({ENVIRONMENT_FILE, "DEVPIPE_TOKEN"})


def load_config(
    arguments: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> PipeConfig:
    """Build the configuration of a pipe.

    ``arguments``: by dotted key (``http.max_connections``), None for what was not given. Raises
    ``ConfigurationError`` that names the key, the value, where it came from, and what is allowed.
    """
    environ = os.environ if environ is None else environ
    named = file if file is not None else environ.get(ENVIRONMENT_FILE)
    types = dict(_leaves(PipeConfig, ""))
    values: dict[str, tuple[Any, str]] = {}
    if named is not None:
        values.update(_from_file(Path(named), types))
    values.update(_from_environment(environ, types))
    for key, value in arguments.items():
        if value is not None:
            if key not in types:
                raise ConfigurationError(f"argument {key!r} is not a setting: {_nearest(key, types)}")
            values[key] = (value, "argument")
    # a profile is a set of defaults: whatever was said above is stronger
    name, source = values.get("profile", ("default", "defaults"))
    profile = PROFILES.get(
        _convert("profile", name, str, source), DEFAULT
    )  # a strange one is refused by the tree
    for key, value in profile.pipe.items():
        values.setdefault(key, (value, f"profile {name}"))
    return _build(PipeConfig, "", values)


def _leaves(tree: type, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted key, type)."""
    hints = get_type_hints(tree)
    for field in dataclasses.fields(tree):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)  # a class, not an object of one: the tree is made of classes
            yield from _leaves(kind, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", kind


def _from_file(path: Path, types: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, str]]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {str(path)!r} cannot be read: {error.strerror or error}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration file {str(path)!r} is no TOML: {error}") from error
    yield from _flatten(document, "", types, f"file {path}")


def _flatten(
    table: Mapping[str, Any], prefix: str, types: Mapping[str, Any], source: str
) -> Iterator[tuple[str, tuple[Any, str]]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in types:
            yield key, (value, source)
        elif isinstance(value, dict) and any(known.startswith(f"{key}.") for known in types):
            yield from _flatten(cast("dict[str, Any]", value), f"{key}.", types, source)
        else:
            raise ConfigurationError(f"{key} in {source} is not a setting: {_nearest(key, types)}")


def _from_environment(
    environ: Mapping[str, str], types: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Any, str]]]:
    names = {"DEVPIPE_" + key.upper().replace(".", "_"): key for key in types}
    for name, value in environ.items():
        if not name.startswith("DEVPIPE_") or name in _NOT_OURS:
            continue
        if name in names:
            yield names[name], (value, f"environment variable {name}")


def _nearest(key: str, types: Mapping[str, Any]) -> str:
    import difflib

    near = difflib.get_close_matches(key, types, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(types))}"


def _build(tree: type[T], prefix: str, values: Mapping[str, tuple[Any, str]]) -> T:
    hints = get_type_hints(tree)
    arguments: dict[str, Any] = {}
    sources: list[str] = []
    for field in dataclasses.fields(tree):  # type: ignore[arg-type]  # only dataclasses are in the tree
        key = f"{prefix}{field.name}"
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)  # as above
            arguments[field.name] = _build(kind, f"{key}.", values)
        elif key in values:
            value, source = values[key]
            arguments[field.name] = _convert(key, value, kind, source)
            sources.append(f"{key} from {source}")
    try:
        return tree(**arguments)
    except ConfigurationError as error:
        name = str(error).split(" ", 1)[0]
        came_from = next((s.split(" from ", 1)[1] for s in sources if s.startswith(f"{name} ")), None)
        if came_from is None:
            came_from = next(
                (s.split(" from ", 1)[1] for s in sources if s.split(" ")[0].endswith(name)), None
            )
        raise ConfigurationError(
            f"{error} (it came from: {came_from})" if came_from else str(error)
        ) from error


def _convert(key: str, value: Any, kind: Any, source: str) -> Any:
    if kind == tuple[str, ...] and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{key} = {value!r} from {source} is not allowed: {error}") from error
