"""The server's end of each client's folder: answers and pushes are put there; what cannot be written now is tried again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from devpipe.adapters.ports.folder import draft_name, why
from devpipe.machines.message import Position
from devpipe.machines.protocols.folder import (
    client_of,
    push_name,
    request_name,
    response_id,
    response_name,
)
from devpipe.machines.protocols.folder_steps import Place, give

if TYPE_CHECKING:
    from devpipe.adapters.server.folder import FolderServer

__all__ = ["ClientPath", "Unsent"]

log = logging.getLogger("devpipe.server.folder")

#: So much is kept while a disk is full; the oldest makes room, and a client sees by the next push that one is missing.
MAX_UNSENT = 1000
MAX_UNSENT_BYTES = 64 * 1024 * 1024


class Home(Protocol):
    """Where an answer goes."""

    client: str  #: for the log

    def write(self, name: str, data: bytes) -> None:
        """Put it there. Raises ``OSError``."""
        ...


class ClientPath:
    """The server's end of one client's folder."""

    transport = "folder"

    def __init__(self, folder: FolderServer, client: str) -> None:
        self.client = client
        self.max_message_bytes = folder.config.max_message_bytes
        self._folder = folder

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
        elif reply_to is not None and client_of(reply_to) == self.client:
            self._put(response_name(reply_to), data)

    def close(self, code: int, error: str) -> None:
        # nothing needs to be said: the beat ends with the server; who is not heard any more may begin again
        self._folder.forget(self.client)

    def _put(self, name: str, data: bytes) -> None:
        self._folder.unsent.put(self, name, data)

    def write(self, name: str, data: bytes) -> None:
        """Put it into the client's folder, and let go of the request that it answers. Raises ``OSError``."""
        folder = self._folder
        try:
            home = folder.clients.sub(self.client, make=False)
        except FileNotFoundError:
            folder.forget(self.client)  # the client has removed its folder: it wants nothing more
            return
        with home:
            folder.at_home(home).run(give(draft_name(), data, Place.HOME, name))
            if folder.config.durability == "full":
                home.sync()
        id = response_id(name)
        if id is not None:
            folder.release(request_name(id))


class Unsent:
    """What could not be written: a push that is missing without a later one would be missed by nobody."""

    def __init__(self) -> None:
        self._data: dict[tuple[Home, str], bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._data)

    def put(self, path: Home, name: str, data: bytes) -> None:
        """Write it, or keep it until it can be written, or is the oldest of too many."""
        try:
            path.write(name, data)
            return
        except OSError as error:  # a full disk, one that fails, or no more files: it may pass
            log.warning("%s for %s cannot be written, and is tried again: %s", name, path.client, why(error))
        self._drop((path, name))
        self._data[path, name] = data
        self._bytes += len(data)
        while len(self._data) > MAX_UNSENT or self._bytes > MAX_UNSENT_BYTES:
            oldest, given_up = next(iter(self._data))
            self._drop((oldest, given_up))
            log.warning("%s for %s is given up: too much cannot be written", given_up, oldest.client)

    def try_again(self) -> None:
        """Write what can be written now."""
        for path, name in list(self._data):
            data = self._data.get((path, name))
            if data is None:
                continue  # its client has gone while others were tried
            try:
                path.write(name, data)
            except OSError:
                continue  # as before; the log has it
            self._drop((path, name))

    def forget(self, path: Home) -> None:
        """Nobody is there to read it."""
        for key in [key for key in self._data if key[0] is path]:
            self._drop(key)

    def clear(self) -> None:
        """Another server has the clients now."""
        self._data.clear()
        self._bytes = 0

    def _drop(self, key: tuple[Home, str]) -> None:
        self._bytes -= len(self._data.pop(key, b""))
