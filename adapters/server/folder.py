"""The server's side of the shared folder: a request is claimed, recorded, executed, answered, and only then removed.

One server serves a folder: while the beat of another moves, ``run`` refuses, since a client would be sent from one to
the other. Should there be two for a moment all the same, each request is claimed by one of them, and whoever finds the
other's beat in the place of its own gives way, until that one is gone. A folder that is removed, or replaced, is served
anew. What a killed server had claimed is never run again: its clients learn from the changed identity that it may have run.
"""

from __future__ import annotations

import logging
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from devpipe.adapters.ports.folder import FILE_BYTES, TURN_BYTES, Directory, Folder, draft_name, why
from devpipe.adapters.ports.watcher import Watcher
from devpipe.adapters.server.folder_clients import ClientPath, Unsent
from devpipe.adapters.server.folder_life import Trouble, live, open_root, was_damaged
from devpipe.machines.config import FolderConfig
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.protocols.envelope import valid_id
from devpipe.machines.protocols.folder import (
    BEAT,
    MAX_BEAT,
    Beat,
    beat_data,
    client_of,
    is_fresh,
    is_orphan,
    read_beat,
    request_id,
    scan_requests,
)
from devpipe.machines.protocols.folder_steps import NotAFile, Place, claim, fetch, give, sweep

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
        self.config = config
        self.unsent = Unsent()
        self.refused = 0  #: entries that were no requests, and were left alone
        self._server = server
        self._path = root
        self._wake = anyio.Event()
        self._clients: dict[str, ClientPath] = {}
        self._claimed: set[str] = set()  #: ours, and not read yet
        self._later: dict[str, float] = {}  #: what could not be taken, and when it is tried again
        self._strange: set[str] = set()
        self._listing = Trouble("the requests cannot be listed")
        self._sweeping = Trouble("not everything in the folder can be swept")

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled.

        Raises ``ConfigurationError`` if the folder cannot be served at first, or if another server does. Later it is served
        again as soon as that can be.
        """
        await live(self._path, begin=self._begin, serve=self._serve_while_it_is_ours, task_status=task_status)

    async def _begin(self, opened: list[Directory], anew: bool) -> None:
        if not anew:
            self._path = self._path.absolute()  # a program may change its directory
        self._open(opened, anew=anew)
        await self._see_that_we_are_alone()
        self._beat(0)

    async def _serve_while_it_is_ours(self) -> str:
        watcher = Watcher(self._requests.path, self._stir)
        if not self.config.polling:
            watcher.start()
        lost = ""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._sweeps)
                tasks.start_soon(self._serve)
                lost = await self._beats()
                tasks.cancel_scope.cancel()
            return lost
        finally:
            watcher.stop()
            self._say_goodbye()

    def _open(self, opened: list[Directory], *, anew: bool) -> None:
        root = open_root(self._path, anew=anew, allow_shared=self.config.allow_shared)
        opened.append(root)
        self._root = root
        subs: list[Directory] = []
        config = self.config
        for name in (config.requests, config.clients, config.tmp, config.claims):
            subs.append(root.sub(name, make=True))
            opened.append(subs[-1])
        self._requests, self.clients, self.tmp, self.claims = subs
        self._opened = opened
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
            {**self._places, Place.HOME: home}, now=self.files_now, durability=self.config.durability
        )

    def _stir(self) -> None:
        self._wake.set()

    async def _serve(self) -> None:
        while True:
            self._wake = anyio.Event()  # before the look: what comes during it is news
            await self._take_all()
            with anyio.move_on_after(self.config.rescan_interval):
                await self._wake.wait()

    async def _beats(self) -> str:
        """Say that we are here, until it is not our folder any more; returns why."""
        beating = Trouble("the beat cannot be written")
        count = 0
        while True:
            count += 1
            try:
                lost = self._why_not_ours()
                if lost:
                    return lost
                self._beat(count)
                beating.is_now("")
            except OSError as error:  # a full disk passes: clients see no beat until then
                beating.is_now(error.strerror or str(error))
            self.unsent.try_again()
            await anyio.sleep(BEAT)

    def _why_not_ours(self) -> str:
        damage = was_damaged(self._opened)
        if damage:
            return damage
        beat = self._read_beat()
        if beat is not None and beat.server != self._server.identity:
            self.unsent.clear()  # it has the clients, too
            return f"another server, {beat.server}, serves {str(self._path)!r}"
        return ""

    def _beat(self, count: int) -> None:
        self._files.run(
            give(draft_name(), beat_data(self._server.identity, count), Place.ROOT, "server.json")
        )

    async def _take_all(self) -> None:
        try:
            names = self._requests.names()
        except OSError as error:
            self._listing.is_now(error.strerror or str(error))
            return
        self._listing.is_now("")
        scan = scan_requests(names)
        strange: set[str] = set(names).difference(scan.names) if scan.strange else set()
        for name in strange - self._strange:
            self._refuse(name, "it is no request")
        self._strange = self._strange.intersection(names) | strange
        there = self._claimed.union(names)
        self._later = {name: at for name, at in self._later.items() if name in there}
        taken = 0
        for name in (*self._claimed, *scan.names):
            if name not in self._strange:
                taken += FILE_BYTES + self._take(name)
            if taken > TURN_BYTES:
                taken = 0
                await anyio.lowlevel.checkpoint()

    def _take(self, name: str) -> int:
        """Returns the number of bytes taken."""
        now = self._server.clock.now()
        id = request_id(name)
        client = None if id is None else client_of(id)
        if client is None:
            self._strange.add(name)
            self._refuse(name, "its id names no client")
            return 0
        if self._later.get(name, now) > now:
            return 0
        try:
            if name not in self._claimed and not self._claim(name):
                return 0
            limit = self._server.config.max_message_bytes + ENVELOPE_ROOM
            taken = self._files.run(fetch(name, age=self.config.orphan_age, limit=limit))
        except (NotAFile, FileNotFoundError) as error:  # planted, and removed now; or it was swept
            self._claimed.discard(name)
            self._refuse(name, error.strerror or str(error))
            return 0
        except OSError as error:  # out of files, or a disk that fails: it may pass
            if name not in self._later:
                log.warning("%r in the folder cannot be taken now: %s", name[:80], why(error))
            self._later[name] = now + self.config.rescan_interval
            return 0
        self._claimed.discard(name)
        if taken.data is None:
            log.warning("%r in the folder was too old to be run, and is removed", name[:80])
            return 0
        path = self._clients.pop(client, None) or ClientPath(self, client)
        self._clients[client] = path  # newest last
        if len(self._clients) > MAX_CLIENTS:
            self.forget(next(iter(self._clients)))
        self._server.receive(taken.data, path)
        return len(taken.data)

    def _claim(self, name: str) -> bool:
        """True if it is ours now."""
        if self._requests.modified(name) is None:
            if self._requests.exists(name):
                self._strange.add(name)
                self._refuse(name, "it is no plain file")
            return False
        if self._files.run(claim(name, place=Place.CLAIMS, new=name)) is None:
            return False
        self._claimed.add(name)
        return True

    def _refuse(self, name: str, reason: str) -> None:
        self.refused += 1
        log.warning("%r in the folder was left alone: %s", name[:80], reason)

    async def _sweeps(self) -> None:
        """Remove what is surely old: whoever made it is gone, and nobody waits any more."""
        while True:
            stuck = await self._sweep(self._files, Place.CLAIMS, self.claims)
            stuck = await self._sweep(self._files, Place.TMP, self.tmp) or stuck
            try:
                clients = self.clients.names()
            except OSError as error:  # a disk that fails may come back; until then nothing is lost
                stuck, clients = why(error), []
            for client in clients:
                if valid_id(client):
                    stuck = await self._sweep_home(client) or stuck
            self._sweeping.is_now(stuck)
            await anyio.sleep(self.config.orphan_age)

    async def _sweep(self, files: Folder, place: Place, directory: Directory) -> str:
        """Returns what could not be swept, and why: it keeps nothing else in its place."""
        stuck = ""
        try:
            names = directory.names()
        except OSError as error:
            return why(error)
        for name in names:
            try:
                files.run(sweep(place, name, age=self.config.orphan_age))
            except OSError as error:
                stuck = why(error)
            await anyio.lowlevel.checkpoint()  # there may be very many
        return stuck

    async def _sweep_home(self, client: str) -> str:
        try:
            home = self.clients.sub(client, make=False)
        except OSError:
            return ""  # it has just gone, or is none of ours
        with home:
            try:
                written = home.status().st_mtime  # before we change it
                stuck = await self._sweep(self.at_home(home), Place.HOME, home)
                if is_orphan(modified=written, now=self.files_now(), age=self.config.orphan_age):
                    # a client that still lives notices, and makes it anew
                    self.clients.remove_sub(client)
            except OSError as error:
                stuck = why(error)
        await anyio.lowlevel.checkpoint()
        return stuck

    def release(self, name: str) -> None:
        """A request of ours is answered: nobody needs to be kept from it any more."""
        try:
            self.claims.remove(name)
        except OSError as error:  # it is swept when it is old
            log.warning("the claim %s cannot be removed: %s", name, error.strerror or error)

    def forget(self, client: str) -> None:
        """This client's folder is gone, or it was silent for longest."""
        path = self._clients.pop(client, None)
        if path is not None:
            self.unsent.forget(path)
            self._server.drop(path)
