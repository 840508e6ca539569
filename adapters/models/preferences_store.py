"""Users' preferences in an SQLite file, or in memory. Everything it does runs in worker threads, one reads and one writes.

What ``update`` has returned is on the disk. Several processes may share a file. Users are few and their preferences small;
both are bounded, and a user more than that is refused, since nobody's preferences may make room for a stranger's.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

import anyio
import msgspec
from anyio import to_thread

from devpipe.machines.errors import ConfigurationError, ModelSelectionError
from devpipe.machines.models.preferring import change_preferences
from devpipe.machines.models.types import Preferences

__all__ = ["PreferencesStore"]

log = logging.getLogger("devpipe.models.preferences")

T = TypeVar("T")
MAX_USERS = 10_000
#: Another process may hold the file for so long (seconds).
BUSY_TIMEOUT = 1.0
#: Stands in the head of the file: "dvpp". A file of another program is left alone.
APPLICATION = 0x64767070
SCHEMA = 1


class PreferencesStore:
    """``async with store:`` opens and closes it. ``path``: None keeps everything in memory, until it is closed.

    Entering raises ``ConfigurationError`` if the file cannot be opened or is no store of preferences. ``get`` and ``update``
    raise ``ModelSelectionError`` (``SERVICE_UNAVAILABLE``) if the file cannot be used now.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, max_users: int = MAX_USERS) -> None:
        self._name = ":memory:" if path is None else os.fspath(path)
        self._max_users = max_users
        self._writer: _Connection | None = None
        self._reader: _Connection | None = None

    async def __aenter__(self) -> PreferencesStore:
        if self._writer is not None:
            raise ConfigurationError("this store is open already")
        writer = _Connection(self._name)
        # whoever writes may have to wait for another program; whoever reads has not, but in memory there is only one
        reader = writer if self._name == ":memory:" else _Connection(self._name)
        try:
            await writer.run(_nothing)
            await reader.run(_nothing)
        except BaseException:
            await writer.close()
            await reader.close()
            raise
        self._writer, self._reader = writer, reader
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        for connection in (reader, writer):
            if connection is not None:
                await connection.close()

    async def get(self, user: str) -> Preferences:
        """The preferences of ``user``: the defaults if nothing was ever said."""
        return await self._work(False, lambda database: self._read(database, user) or Preferences())

    async def update(self, user: str, change: object) -> Preferences:
        """Change what ``change`` names and nothing else; returns all of them.

        Raises ``ModelSelectionError`` (``INVALID_REQUEST``) that names what is out of range; then nothing has changed.
        """
        return await self._work(True, lambda database: self._write(database, user, change))

    async def _work(self, writing: bool, work: Callable[[sqlite3.Connection], T]) -> T:
        writer, reader = self._writer, self._reader
        if writer is None or reader is None:
            raise _unavailable("the preferences are closed")
        connection = writer if writing else reader
        try:
            try:
                return await connection.run(work)
            except _Moved:
                # else what is answered would be in a file that nobody finds again
                log.warning("the preferences in %s were removed or replaced: opened anew", self._name)
                async with (
                    writer.turn,
                    reader.turn,
                ):  # none may hold the old journal when the new file is opened
                    await to_thread.run_sync(_close_all, (reader, writer))
                return await connection.run(work)
        except (sqlite3.Error, ConfigurationError, _Moved) as error:
            # ConfigurationError: what is in its place now cannot be opened
            log.warning("the preferences in %s cannot be used now: %s", self._name, error)
            raise _unavailable("the preferences cannot be read or written now") from error

    # --- in the worker thread -------------------------------------------------------------------------

    def _read(self, database: sqlite3.Connection, user: str) -> Preferences | None:
        row = database.execute("SELECT document FROM preferences WHERE user = ?", (user,)).fetchone()
        if row is None:
            return None
        try:
            return msgspec.json.decode(row[0], type=Preferences)
        except (msgspec.DecodeError, TypeError) as error:  # somebody else has written there
            log.warning(
                "the preferences of %r in %s are damaged, defaults count: %s", user, self._name, error
            )
            return Preferences()

    def _write(self, database: sqlite3.Connection, user: str, change: object) -> Preferences:
        database.execute("BEGIN IMMEDIATE")
        try:
            stored = self._read(database, user)
            changed = change_preferences(stored or Preferences(), change)
            if stored is None:
                [users] = database.execute("SELECT count(*) FROM preferences").fetchone()
                if users >= self._max_users:
                    raise _unavailable(f"the preferences of {self._max_users:,} users are kept, and no more")
            document = msgspec.json.encode(changed).decode()
            database.execute("INSERT OR REPLACE INTO preferences VALUES (?, ?)", (user, document))
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # a full disk may have ended it already
                database.execute("ROLLBACK")
            raise
        return changed


class _Moved(Exception):
    """The file that is open is not the one of that name any more."""


class _Connection:
    """One connection to the file, for whoever has the ``turn``; opened when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.turn = anyio.CapacityLimiter(1)
        self._database: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it in a worker thread.

        Raises ``_Moved`` before anything is done, ``sqlite3.Error``, ``ConfigurationError`` if it cannot be opened, and
        what ``work`` raises.
        """
        return await to_thread.run_sync(self._run, work, limiter=self.turn)

    async def close(self) -> None:
        """A second time changes nothing."""
        with anyio.CancelScope(shield=True):  # the journal is folded into the file: milliseconds
            await to_thread.run_sync(self.close_now, limiter=self.turn)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = self._database
        if database is not None and self._look() != self._identity:
            raise _Moved("they were removed or replaced")
        if database is None:
            database = self._database = self._open()
            self._identity = self._look()
        return work(database)

    def _look(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._name)
        except (OSError, ValueError):  # gone; or in memory, or no name for a file, as opening has said
            return None
        return status.st_dev, status.st_ino

    def close_now(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _open(self) -> sqlite3.Connection:
        database: sqlite3.Connection | None = None
        try:
            database = sqlite3.connect(
                self._name,
                timeout=BUSY_TIMEOUT,
                isolation_level=None,
                # one thread at a time uses it, but not always the same
                check_same_thread=False,
            )
            self._prepare(database)
        except (sqlite3.Error, ValueError) as error:  # ValueError: a name with a null byte
            if database is not None:
                database.close()
            raise ConfigurationError(f"the preferences {self._name!r} cannot be opened: {error}") from error
        except BaseException:
            assert database is not None  # only what is inside of it was refused
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        if not self._is_ours(database):
            database.execute("BEGIN IMMEDIATE")
            if not self._is_ours(database):  # another process may just have made it
                database.execute("CREATE TABLE preferences (user TEXT PRIMARY KEY, document TEXT NOT NULL)")
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {SCHEMA}")
            database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")

    def _is_ours(self, database: sqlite3.Connection) -> bool:
        """False if it is empty. Raises ``ConfigurationError`` if it is another program's."""
        [application] = database.execute("PRAGMA application_id").fetchone()
        [schema] = database.execute("PRAGMA user_version").fetchone()
        if (application, schema) == (APPLICATION, SCHEMA):
            return True
        [tables] = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or schema or tables:
            raise ConfigurationError(
                f"the preferences {self._name!r}: this is a database of another program, or of a later version; "
                "name another file"
            )
        return False


def _close_all(connections: Iterable[_Connection]) -> None:
    for connection in connections:
        connection.close_now()


def _nothing(database: sqlite3.Connection) -> None:
    """To open it is enough."""


def _unavailable(text: str) -> ModelSelectionError:
    return ModelSelectionError(
        text,
        code="SERVICE_UNAVAILABLE",
        suggestions=("try again later", "or send user_preferences with the request itself"),
    )
