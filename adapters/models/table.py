"""Where the static table is read: the one in the package, or the user's own file, TOML or JSON."""

from __future__ import annotations

import os
import tomllib
from importlib import resources
from pathlib import Path

import msgspec

from devpipe.machines.errors import ConfigurationError
from devpipe.machines.models.static import StaticTable, read_table

__all__ = ["load_table"]

#: A table is no larger: a wrong name leads to a device or a dump (bytes).
MAX_BYTES = 1024 * 1024


def load_table(path: str | os.PathLike[str] | None = None) -> StaticTable:
    """The static table of this file, or the package's own.

    Raises ``ConfigurationError`` that names the file, the key and what is allowed.
    """
    if path is None:
        text = resources.files("devpipe.adapters.models").joinpath("data/static.toml").read_text("utf-8")
        return read_table(tomllib.loads(text), source="of the package")
    file = Path(path)
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"the static table {str(file)!r} cannot be read: {why}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigurationError(f"the static table {str(file)!r} is larger than {MAX_BYTES:,} bytes")
    try:
        data = msgspec.json.decode(raw) if file.suffix == ".json" else tomllib.loads(raw.decode("utf-8"))
    except (
        msgspec.DecodeError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: no TOML, no UTF-8, an endless integer
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ConfigurationError(f"the static table {str(file)!r} is no {kind}: {error}") from error
    return read_table(data, source=repr(str(file)))
