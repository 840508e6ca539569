"""The flat folder of deployed clients: requests appear in place and half written, responses are put beside them.

Such clients remove nothing, and neither do we what is theirs. ``claims`` is the memory of what was taken, by this
process, an earlier one or another: what stands there is never run again, and its response is removed with it when both
are surely old. A request that is too old when it is first seen is left alone: nobody waits for it.
"""

from __future__ import annotations

import logging
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from devpipe.adapters.ports.folder import FILE_BYTES, TURN_BYTES, Directory, draft_name, why
from devpipe.adapters.ports.watcher import Watcher
from devpipe.adapters.server.folder_clients import Unsent
from devpipe.adapters.server.folder_life import Trouble, live, open_root, was_damaged
from devpipe.machines.config import FolderConfig
from devpipe.machines.message import Position
from devpipe.machines.protocols.dialect import file_response, is_whole
from devpipe.machines.protocols.folder import (
    is_flat_draft,
    is_orphan,
    request_id,
    response_name,
    scan_requests,
)
from devpipe.machines.protocols.folder_steps import NotAFile

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["FlatFolderServer"]

log = logging.getLogger("devpipe.server.folder")

ENVELOPE_ROOM = 4096
#: Seconds after which a request that is no JSON is not being written any more, and is refused.
PATIENCE = 10.0
#: Old claims are looked for this often (seconds).
SWEEP_EVERY = 60.0


class FlatFolderServer:
    """Serves the flat folder ``root`` for ``server``; ``run`` is its life."""

    def __init__(self, server: Server, root: FilePath, *, config: FolderConfig) -> None:
        self._server = server
        self._path = root
        self._config = config
        self._wake = anyio.Event()
        self._known: set[str] = set()  #: names of the last listing that need no further look
        self._half: dict[str, float] = {}  #: of the others, since when they are there and are not whole
        self._failing: set[str] = set()  #: of these, those that cannot be taken now
        self._unsent = Unsent()
        self._looking = Trouble("the folder cannot be looked at")
        self._listing = Trouble("the requests cannot be listed")
        self._sweeping = Trouble("not everything in the folder can be swept")
        self._sweep_at = 0.0
        self.refused = 0  #: entries that were no requests, or came too late, and were left alone

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled. Raises ``ConfigurationError`` if the folder cannot be served at first."""
        await live(self._path, begin=self._begin, serve=self._serve_while_it_is_ours, task_status=task_status)

    async def _begin(self, opened: list[Directory], anew: bool) -> None:
        if not anew:
            self._path = self._path.absolute()  # a program may change its directory
        self._root = open_root(self._path, anew=anew, allow_shared=self._config.allow_shared)
        opened.append(self._root)
        self._tmp = self._root.sub(self._config.tmp, make=True)
        opened.append(self._tmp)
        self._claims = self._root.sub(self._config.claims, make=True)
        opened.append(self._claims)
        self._opened = opened
        await anyio.lowlevel.checkpoint()

    async def _serve_while_it_is_ours(self) -> str:
        watcher = Watcher(self._root.path, self._stir)
        if not self._config.polling:
            watcher.start()
        try:
            return await self._serve()
        finally:
            watcher.stop()

    def _stir(self) -> None:
        self._wake.set()

    async def _serve(self) -> str:
        """Until the folder is not ours any more; returns why."""
        while True:
            now = self._server.clock.now()
            try:
                damage = was_damaged(self._opened)
                if damage:
                    return damage
                self._looking.is_now("")
            except OSError as error:
                self._looking.is_now(why(error))
            if now >= self._sweep_at:
                self._sweep_at = now + SWEEP_EVERY
                self._sweep()
            self._unsent.try_again()
            self._wake = anyio.Event()  # before the look: what comes during it is news
            await self._take_all(now)
            with anyio.move_on_after(self._config.rescan_interval):
                await self._wake.wait()

    async def _take_all(self, now: float) -> None:
        try:
            names = set(self._root.names())
            claimed = set(self._claims.names())
        except OSError as error:
            self._listing.is_now(why(error))
            return
        self._listing.is_now("")
        self._known &= names
        self._failing &= names
        self._half = {name: since for name, since in self._half.items() if name in names}
        # the old ones are left out before the scan counts: they never make room by themselves
        new = [name for name in names - self._known - claimed if name.startswith("request_")]
        old = taken = 0
        for name in scan_requests(new).names:
            taken += FILE_BYTES
            if taken > TURN_BYTES:
                taken = 0
                await anyio.lowlevel.checkpoint()
            if response_name(name[len("request_") : -len(".json")]) in names:
                self._known.add(name)  # answered before our time
            elif self._is_old(name):
                self._known.add(name)
                old += 1
            else:
                taken += self._look(name, now)
        if old:  # one line: they may be years of requests that nobody removes
            self.refused += old
            log.warning("%d requests in the folder are too old: nobody waits for them", old)
        for name in new:
            if request_id(name) is None:
                self._leave(name, "its name holds no id")

    def _is_old(self, name: str) -> bool:
        try:
            modified = self._root.modified(name)
        except OSError:
            return False  # reading it says what is wrong with it
        return modified is not None and self._server.clock.wall() - modified > self._config.request_max_age

    def _look(self, name: str, now: float) -> int:
        """Returns how many bytes it read."""
        id = name[len("request_") : -len(".json")]
        try:
            data = self._root.read(name, self._server.config.max_message_bytes + ENVELOPE_ROOM)
            if not is_whole(data) and now - self._half.setdefault(name, now) < PATIENCE:
                return len(data)  # its writer is at it: the next look will tell
            self._claims.write(name, b"", durability=self._config.durability)
        except FileNotFoundError:
            return 0  # taken back while we looked
        except FileExistsError:
            self._known.add(name)  # another process has it
            return 0
        except NotAFile as error:
            self._leave(name, error.strerror or str(error))
            return 0
        except OSError as error:  # a full disk, one that fails, or no more files: it may pass
            if name not in self._failing:
                self._failing.add(name)
                log.warning("%r in the folder cannot be taken now: %s", name[:80], why(error))
            return 0
        self._known.add(name)
        self._server.receive(data, _Exchange(self, id, self._config.max_message_bytes))
        return len(data)

    def _leave(self, name: str, why: str) -> None:
        self._known.add(name)
        self.refused += 1
        log.warning("%r in the folder was left alone: %s", name[:80], why)

    def _sweep(self) -> None:
        """Remove our own responses that are surely old, with the claims that say that they are ours, and our drafts."""
        wall, age = self._server.clock.wall(), max(self._config.orphan_age, self._config.request_max_age)

        def old(directory: Directory, name: str) -> bool:
            modified = directory.modified(name)
            return modified is not None and is_orphan(modified=modified, now=wall, age=age)

        stuck = ""
        try:
            drafts = [(self._tmp, name) for name in self._tmp.names()]
            # those of a client of ours that was killed while it wrote
            drafts += [(self._root, name) for name in self._root.names() if is_flat_draft(name)]
            claims = [name for name in self._claims.names() if request_id(name) is not None]
        except OSError as error:
            self._sweeping.is_now(why(error))
            return
        for directory, name in drafts:
            try:
                if old(directory, name):
                    directory.remove(name)
            except OSError as error:  # it keeps no other in its place
                stuck = why(error)
        for name in claims:
            try:
                if old(self._claims, name):
                    self._remove_response(response_name(name[len("request_") : -len(".json")]))
                    self._claims.remove(name)
            except OSError as error:  # the same
                stuck = why(error)
        self._sweeping.is_now(stuck)

    def _remove_response(self, name: str) -> None:
        """What cannot be removed, one that is no file, keeps no other in its place."""
        try:
            self._root.remove(name)
        except OSError as error:
            log.warning("%r cannot be removed: %s", name[:80], error.strerror or error)

    def answer(self, exchange: _Exchange, id: str, data: bytes) -> None:
        """Put a response where its client looks for it."""
        self._unsent.put(exchange, response_name(id), file_response(data, id=id))

    def write(self, name: str, data: bytes) -> None:
        """Whole when its name appears. Raises ``OSError``."""
        draft = draft_name()
        durability = self._config.durability
        self._tmp.write(draft, data, durability=durability)
        try:
            self._tmp.move_to(draft, self._root, name)
        except OSError:
            if self._tmp.remove(draft):
                raise
            # it has gone where it should: the answer was lost
        if durability == "full":
            self._root.sync()

    def forget(self, exchange: _Exchange) -> None:
        """This request is answered, or never will be."""
        self._server.drop(exchange)


class _Exchange:
    """One request and its response."""

    transport = "folder"

    def __init__(self, folder: FlatFolderServer, id: str, limit: int) -> None:
        self.max_message_bytes = limit
        self._folder = folder
        self._id = id
        self.client = id

    def write(self, name: str, data: bytes) -> None:
        self._folder.write(name, data)

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        if not accepted and position is None:
            self._folder.answer(self, self._id, data)
            self._folder.forget(self)

    def close(self, code: int, error: str) -> None:
        self._folder.forget(self)
