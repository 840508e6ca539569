"""The server's side of the shared folder: a request is claimed, recorded, executed, answered, and only then removed.

One server serves a folder: while the beat of another moves, ``run`` refuses, since a client would be sent from one to
the other. Should there be two for a moment all the same, each request is claimed by one of them. What a killed server had
claimed is never run again: its clients learn from the changed identity that it may have run.
"""

from __future__ import annotations

import logging
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from devpipe.adapters.ports.folder import Directory, Folder, NotAFile, draft_name, open_directory
from devpipe.adapters.ports.watcher import Watcher
from devpipe.machines.config import FolderConfig
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.message import Position
from devpipe.machines.protocols.envelope import valid_id
from devpipe.machines.protocols.folder import (
    BEAT,
    MAX_BEAT,
    Beat,
    beat_data,
    client_of,
    is_fresh,
    is_orphan,
    push_name,
    read_beat,
    request_id,
    request_name,
    response_name,
    scan_requests,
)
from devpipe.machines.protocols.folder_steps import Place, give, sweep, take

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["FolderServer"]

log = logging.getLogger("devpipe.server.folder")

ENVELOPE_ROOM = 4096
#: Clients that are kept in mind; the one that was silent longest makes room.
MAX_CLIENTS = 10_000
#: A beat of another server that has not moved for so long (seconds) is that of a dead one ...
LOOKS_FOR = 1.5 * BEAT
#: ... and so often it is looked at.
LOOK_EVERY = 0.1


class FolderServer:
    """Serves ``root`` for ``server``; ``run`` is its life."""

    def __init__(self, server: Server, root: FilePath, *, config: FolderConfig) -> None:
        self._server = server
        self._path = root
        self._config = config
        self._wake = anyio.Event()
        self._clients: dict[str, _ClientPath] = {}
        self._strange: set[str] = set()
        self.refused = 0  #: entries that were no requests, and were left alone

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled.

        Raises ``ConfigurationError`` if the folder cannot be served, or if another server does.
        """
        opened: list[Directory] = []
        try:
            try:
                self._open(opened)
                await self._see_that_we_are_alone()
                self._beat(0)
            except OSError as error:
                raise ConfigurationError(
                    f"the folder {str(self._path)!r} cannot be served: {error.strerror or error}"
                ) from error
            watcher = Watcher(self._requests.path, self._stir)
            if not self._config.polling:
                watcher.start()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._beats)
                    tasks.start_soon(self._sweeps)
                    task_status.started()
                    await self._serve()
            finally:
                watcher.stop()
                self._say_goodbye()
        finally:
            for directory in opened:
                directory.close()

    def _open(self, opened: list[Directory]) -> None:
        root = open_directory(self._path, make=True, allow_shared=self._config.allow_shared)
        opened.append(root)
        self._root = root
        subs: list[Directory] = []
        config = self._config
        for name in (config.requests, config.clients, config.tmp, config.claims):
            subs.append(root.sub(name, make=True))
            opened.append(subs[-1])
        self._requests, self.clients, self.tmp, self.claims = subs
        self._places = {
            Place.ROOT: root,
            Place.REQUESTS: self._requests,
            Place.TMP: self.tmp,
            Place.CLAIMS: self.claims,
        }
        self._files = Folder(self._places, now=self.files_now)

    async def _see_that_we_are_alone(self) -> None:
        """Raises ``ConfigurationError`` if the beat of another server moves. After a kill that costs 1.5 s at most."""
        first = self._read_beat()
        modified = self._root.modified("server.json")
        if first is None or modified is None or not is_fresh(modified=modified, now=self._stamp()):
            return
        with anyio.move_on_after(LOOKS_FOR):
            while True:
                await anyio.sleep(LOOK_EVERY)
                beat = self._read_beat()
                if beat is not None and beat != first:
                    raise ConfigurationError(
                        f"another server, {beat.server}, serves the folder {str(self._path)!r}: its beat moved; "
                        "stop it, or give another folder"
                    )

    def _stamp(self) -> float:
        """What time it is for whoever keeps the files: a new one is stamped with it."""
        name = draft_name()
        self.tmp.write(name, b"")
        try:
            stamped = self.tmp.modified(name)
        finally:
            self.tmp.remove(name)
        return self._server.clock.wall() if stamped is None else stamped

    def _read_beat(self) -> Beat | None:
        try:
            return read_beat(self._root.read("server.json", MAX_BEAT))
        except (FileNotFoundError, NotAFile):
            return None  # nobody has served here, or something was planted: no sign of a server

    def _say_goodbye(self) -> None:
        """Take our beat away: nobody needs to wait for a server that has ended, neither a client nor the next server."""
        try:
            beat = self._read_beat()
            if beat is not None and beat.server == self._server.identity:
                self._root.remove("server.json")
        except OSError as error:  # it stays, and says by standing still that we are gone
            log.warning("the beat cannot be removed: %s", error.strerror or error)

    def files_now(self) -> float:
        """What time it is on the clock that stamps the files, which another machine may keep: by the last beat.

        Whoever swept looked at that beat or an earlier one, so we see what it saw even if we were frozen meanwhile.
        """
        beat = self._root.modified("server.json")
        return self._server.clock.wall() if beat is None else beat

    def at_home(self, home: Directory) -> Folder:
        """Carries out what concerns the folder of one client."""
        return Folder(
            {**self._places, Place.HOME: home}, now=self.files_now, durability=self._config.durability
        )

    def _stir(self) -> None:
        self._wake.set()

    async def _serve(self) -> None:
        while True:
            self._take_all()
            self._wake = anyio.Event()
            with anyio.move_on_after(self._config.rescan_interval):
                await self._wake.wait()

    async def _beats(self) -> None:
        count = 0
        while True:
            count += 1
            try:
                self._beat(count)
            except OSError as error:  # a full disk passes: clients see no beat until then
                log.warning("the beat cannot be written: %s", error.strerror or error)
            await anyio.sleep(BEAT)

    def _beat(self, count: int) -> None:
        self._files.run(
            give(draft_name(), beat_data(self._server.identity, count), Place.ROOT, "server.json")
        )

    def _take_all(self) -> None:
        try:
            names = self._requests.names()
        except OSError as error:
            log.warning("the requests cannot be listed: %s", error.strerror or error)
            return
        scan = scan_requests(names)
        strange: set[str] = set(names).difference(scan.names) if scan.strange else set()
        for name in strange - self._strange:
            self._refuse(name, "it is no request")
        self._strange = self._strange.intersection(names) | strange
        for name in scan.names:
            if name not in self._strange:
                self._take(name)

    def _take(self, name: str) -> None:
        id = request_id(name)
        client = None if id is None else client_of(id)
        if id is None or client is None:
            self._strange.add(name)
            self._refuse(name, "its id names no client")
            return
        try:
            status = self._requests.modified(name)
            if status is None:
                if name in self._requests.names():
                    self._strange.add(name)
                    self._refuse(name, "it is no plain file")
                return
            limit = self._server.config.max_message_bytes + ENVELOPE_ROOM
            taken = self._files.run(take(name, age=self._config.orphan_age, limit=limit))
        except OSError as error:
            self._strange.add(name)
            self._refuse(name, error.strerror or str(error))
            return
        if taken is None:
            return
        if taken.data is None:
            log.warning("%r in the folder was too old to be run, and is removed", name[:80])
            return
        path = self._clients.pop(client, None) or _ClientPath(self, client, self._config)
        self._clients[client] = path  # newest last
        if len(self._clients) > MAX_CLIENTS:
            self._server.drop(self._clients.pop(next(iter(self._clients))))
        self._server.receive(taken.data, path)

    def _refuse(self, name: str, why: str) -> None:
        self.refused += 1
        log.warning("%r in the folder was left alone: %s", name[:80], why)

    async def _sweeps(self) -> None:
        """Remove what is surely old: whoever made it is gone, and nobody waits any more."""
        while True:
            try:
                await self._sweep(self._files, Place.CLAIMS, self.claims)
                await self._sweep(self._files, Place.TMP, self.tmp)
                for client in self.clients.names():
                    if valid_id(client):
                        await self._sweep_home(client)
            except OSError as error:  # a disk that fails may come back; until then nothing is lost
                log.warning("the folder cannot be swept: %s", error.strerror or error)
            await anyio.sleep(self._config.orphan_age)

    async def _sweep(self, files: Folder, place: Place, directory: Directory) -> None:
        for name in directory.names():
            files.run(sweep(place, name, age=self._config.orphan_age))
            await anyio.lowlevel.checkpoint()  # there may be very many

    async def _sweep_home(self, client: str) -> None:
        try:
            home = self.clients.sub(client, make=False)
        except OSError:
            return  # it has just gone, or is none of ours
        with home:
            written = home.status().st_mtime  # before we change it
            await self._sweep(self.at_home(home), Place.HOME, home)
        if is_orphan(modified=written, now=self.files_now(), age=self._config.orphan_age):
            # a client that still lives notices, and makes it anew
            self.clients.remove_sub(client)
        await anyio.lowlevel.checkpoint()

    def release(self, name: str) -> None:
        """A request of ours is answered: nobody needs to be kept from it any more."""
        try:
            self.claims.remove(name)
        except OSError as error:  # it is swept when it is old
            log.warning("the claim %s cannot be removed: %s", name, error.strerror or error)

    def forget(self, client: str) -> None:
        """This client's folder is gone."""
        path = self._clients.pop(client, None)
        if path is not None:
            self._server.drop(path)


class _ClientPath:
    """The server's end of one client's folder."""

    transport = "folder"

    def __init__(self, folder: FolderServer, client: str, config: FolderConfig) -> None:
        self.max_message_bytes = config.max_message_bytes
        self._folder = folder
        self._client = client
        self._durability = config.durability

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        if accepted:
            return  # nobody counts seconds on files
        if position is not None:
            self._put(push_name(position.offset), data)
        elif reply_to is not None and client_of(reply_to) == self._client:
            self._put(response_name(reply_to), data)
            self._folder.release(request_name(reply_to))

    def close(self, code: int, error: str) -> None:
        # nothing needs to be said: the beat ends with the server; who is not heard any more may begin again
        self._folder.forget(self._client)

    def _put(self, name: str, data: bytes) -> None:
        try:
            with self._folder.clients.sub(self._client, make=False) as home:
                self._folder.at_home(home).run(give(draft_name(), data, Place.HOME, name))
                if self._durability == "full":
                    home.sync()
        except FileNotFoundError:
            self._folder.forget(self._client)  # the client has removed its folder: it wants nothing more
        except OSError as error:
            log.warning("%s for %s cannot be written: %s", name, self._client, error.strerror or error)
