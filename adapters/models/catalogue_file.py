"""A catalogue in a file, TOML or JSON, that is read again when somebody has changed it.

Notifications are a hint, a look every few seconds is the rule: a file behind a symbolic link, or on a network, is found too.
A new version that is wrong changes nothing: the log says what is wrong with it, ``refused`` keeps it, and the models of before
go on being chosen from.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import anyio
from anyio.to_thread import run_sync

from devpipe.adapters.ports.watcher import Watcher
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.models.catalogue import Catalogue, parse_catalogue
from devpipe.machines.models.locate import Located, locate_json, locate_toml

__all__ = ["EXAMPLE", "CatalogueFile", "load_catalogue"]

log = logging.getLogger("devpipe.models.catalogue")

#: What is served where nobody gives a catalogue. Its head says how old its prices are.
EXAMPLE = Path(__file__).parent / "data" / "catalogue.toml"
#: A catalogue of the largest number of models needs less (bytes).
MAX_BYTES = 4 * 1024 * 1024
#: A file that is still being written to is waited for, but not for ever.
MAX_SETTLING = 50

#: What changes when a file does.
_Signature: TypeAlias = tuple[int, int, int, int] | None


def load_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """Read a catalogue; the ending of its name, ``.toml`` or ``.json``, says how.

    Raises ``ConfigurationError`` if it cannot be read or decoded, and ``CatalogueError`` that names all that is wrong in it.
    """
    file, source = Path(path), str(path)
    text = _read(file, source)
    kind = file.suffix.lower()
    if kind not in (".toml", ".json"):
        raise ConfigurationError(f"the catalogue {source!r}: give a file whose name ends in .toml or .json")
    data: Any
    located: Located
    try:
        if kind == ".json":
            data, located = json.loads(text), locate_json(text)
        else:
            data, located = tomllib.loads(text), locate_toml(text)
    except RecursionError as error:  # lists in lists without an end
        raise ConfigurationError(f"the catalogue {source} is nested too deeply") from error
    except (
        ValueError
    ) as error:  # both decoders' errors, which name line and column, and integers without an end
        raise ConfigurationError(f"the catalogue {source} is no {kind[1:].upper()}: {error}") from error
    return parse_catalogue(_plain(data), source=source, located=located)


def _plain(data: object) -> object:
    """TOML has dates, JSON has not: both become text."""
    if not isinstance(data, dict):
        return data
    table = cast("dict[str, object]", data)
    return {key: str(value) if isinstance(value, dt.date) else value for key, value in table.items()}


def _read(file: Path, source: str) -> str:
    try:
        plain = stat.S_ISREG(file.stat().st_mode)
        data = b""
        if plain:  # a pipe would be waited for
            with file.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise ConfigurationError(
            f"the catalogue {source!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not plain:
        raise ConfigurationError(f"the catalogue {source!r} is no plain file")
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"the catalogue {source!r} is larger than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"the catalogue {source} is no UTF-8 in line {line}") from error


class CatalogueFile:
    """The catalogue of one file: loaded when made, ``watch`` keeps it fresh.

    ``path``: None is the example. ``rescan``: seconds between two looks that no notification asked for. ``settle``: so many
    seconds a changed file must stay as it is before it is read. Raises what ``load_catalogue`` raises.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, rescan: float = 5.0, settle: float = 0.1
    ) -> None:
        self.path = EXAMPLE if path is None else Path(path)
        self.refused: ConfigurationError | None = None  #: what is wrong with the file as it is now
        self._rescan = rescan
        self._settle = settle
        self._wake = anyio.Event()
        self._signature = self._look()
        self.catalogue = load_catalogue(self.path)  #: the last one that was good

    async def watch(self, changed: Callable[[Catalogue], None]) -> None:
        """Tell ``changed`` each new catalogue, until cancelled."""
        watcher = Watcher(self.path.parent, self._stir, changes=True)
        watcher.start()
        try:
            while True:
                self._wake = anyio.Event()
                if self._look() != self._signature:
                    await self._settled()
                    if await run_sync(self._reload):
                        changed(self.catalogue)
                    continue
                with anyio.move_on_after(self._rescan):
                    await self._wake.wait()
        finally:
            watcher.stop()

    def _stir(self) -> None:
        self._wake.set()

    async def _settled(self) -> None:
        """Wait until the file stays as it is: whoever writes it in place may not be done."""
        seen = self._look()
        for _ in range(MAX_SETTLING):
            await anyio.sleep(self._settle)
            now = self._look()
            if now == seen:
                return
            seen = now

    def _look(self) -> _Signature:
        try:
            status = self.path.stat()
        except (OSError, ValueError):  # not there, or not for us: reading it says so
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def _reload(self) -> bool:
        self._signature = self._look()  # before it is read: what is written meanwhile is seen the next time
        kept = len(self.catalogue.models)
        try:
            self.catalogue = load_catalogue(self.path)
        except ConfigurationError as error:
            self.refused = error
            log.error(
                "the catalogue has changed and is refused; models kept from before: %d. %s", kept, error
            )
            return False
        self.refused = None
        log.info("the catalogue has changed: %d models from %s", len(self.catalogue.models), self.path)
        return True
