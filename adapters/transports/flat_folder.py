"""The flat folder of deployed programs: ``request_<id>.json`` is written, ``response_<id>.json`` is looked for.

There is no beat, no claim and no push: such a server is known by what it answers. Whoever has read a request cannot be
known, so taking one back proves nothing; it only keeps a server that comes later from running what nobody waits for.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from pathlib import Path

import anyio

from devpipe.adapters.ports.clock import Clock
from devpipe.adapters.ports.folder import Directory, draft_name, open_directory
from devpipe.adapters.transports.folder_terms import (
    ENVELOPE_ROOM,
    capabilities,
    failure_of,
    nobody_serves,
)
from devpipe.adapters.transports.link import LinkHost, LinkLost, Terms
from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.config import FolderConfig
from devpipe.machines.errors import ConfigurationError, FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.dialect import peer_response
from devpipe.machines.protocols.folder import flat_draft, request_name, response_id

__all__ = ["FlatFolderLink"]

#: A response that is no JSON after so many looks is not being written any more.
PATIENCE = 10
#: Responses that may still come to requests that nobody waits for; of more, the oldest are left lying.
MAX_LATE = 1000


class FlatFolderLink:
    """A ``Link`` to whoever serves the flat ``folder``. ``client``: the prefix of this pipe's ids."""

    def __init__(self, folder: Path, *, client: str, clock: Clock, config: FolderConfig) -> None:
        self._folder = folder
        self._client = client
        self._clock = clock
        self._config = config
        self.capabilities = capabilities(config)
        self._host: LinkHost | None = None
        self._root: Directory | None = None
        self._outbox: deque[Call] = deque()
        self._out: dict[str, Call] = {}  #: written, and not answered
        self._looks: dict[str, int] = {}  #: of these, how often a response was there and was not whole
        self._late: dict[str, None] = {}  #: nobody waits for these any more, oldest first
        self._wake: Waiter | None = None
        self._stirred = False

    # --- life -----------------------------------------------------------------------------------------

    async def open(self, host: LinkHost) -> None:
        await anyio.lowlevel.checkpoint()
        self._make_waiter: Callable[[], Waiter] = waiter_factory()
        self._host = host
        try:
            self._root = open_directory(self._folder, make=False, allow_shared=self._config.allow_shared)
        except FileNotFoundError as error:
            raise LinkLost(nobody_serves(self._folder)) from error
        except ConfigurationError as error:
            raise LinkLost(Failure(kind=FailureKind.AUTH, reason=str(error))) from error
        except OSError as error:
            raise LinkLost(failure_of("the folder cannot be used", error)) from error

    async def run(self) -> None:
        host, root = self._host, self._root
        assert host is not None  # the driver opens before it runs
        assert root is not None  # opened with it
        while True:
            self._write_all(host, root)
            if self._out or self._late:
                self._take_all(host, root)
            if not self._stirred:
                self._wake = self._make_waiter()
                with anyio.move_on_after(self._config.rescan_interval):
                    await self._wake
                self._wake = None
            self._stirred = False

    async def aclose(self, reason: str) -> None:
        root, self._root = self._root, None
        if root is not None:
            for id in self._out:
                self._take_back(root, id)
            root.close()
        await anyio.lowlevel.checkpoint()

    def established(self, terms: Terms) -> None:
        pass  # nothing to set up

    def explain(self) -> str:
        return f"looks into the flat folder every {self._config.rescan_interval:g} s; it brings no pushes"

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        limit = self._config.queue_size
        if len(self._outbox) + len(self._out) >= limit:
            raise QueueFull(f"{limit} requests wait in the folder already", limit=limit, message_id=call.id)
        self._outbox.append(call)
        self._stirred = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def withdraw(self, call: Call) -> None:
        if call in self._outbox:
            self._outbox.remove(call)
        elif self._out.pop(call.id, None) is not None:
            self._looks.pop(call.id, None)
            if self._root is not None:
                self._take_back(self._root, call.id)
            self._late[call.id] = None
            if len(self._late) > MAX_LATE:
                del self._late[next(iter(self._late))]

    @property
    def queued(self) -> int:
        return len(self._outbox)

    # --- inside ---------------------------------------------------------------------------------------

    def _write_all(self, host: LinkHost, root: Directory) -> None:
        while self._outbox:
            call = self._outbox.popleft()
            draft = flat_draft(draft_name())
            try:
                root.write(draft, call.data, durability=self._config.durability)
                call.handed_over = True
                self._out[call.id] = call
                try:
                    root.move_to(draft, root, request_name(call.id))
                except OSError:
                    if root.remove(draft):  # else it is out: the answer was lost
                        call.handed_over = False
                        del self._out[call.id]
                        raise
                if self._config.durability == "full":
                    root.sync()
            except FileNotFoundError as error:
                self._outbox.appendleft(call)
                raise LinkLost(failure_of("the folder is gone", error)) from error
            except OSError as error:
                host.undelivered(call, failure_of("the request cannot be written", error))

    def _take_all(self, host: LinkHost, root: Directory) -> None:
        try:
            names = root.names()
        except OSError as error:
            raise LinkLost(failure_of("the folder cannot be read", error)) from error
        if not names and not self._there():
            gone = FileNotFoundError(errno.ENOENT, "the folder was removed")
            raise LinkLost(failure_of("the folder is gone", gone)) from gone
        for name in names:
            id = response_id(name)
            if id is None or not id.startswith(f"{self._client}-"):
                continue
            if id in self._out:
                self._take(host, root, name, id)
            elif id in self._late:
                del self._late[id]
                self._tidy(root, name)

    def _there(self) -> bool:
        """A directory that was removed while it is open is empty for ever."""
        return self._folder.exists()

    def _take(self, host: LinkHost, root: Directory, name: str, id: str) -> None:
        try:
            data = root.read(name, self._config.max_message_bytes + ENVELOPE_ROOM)
        except FileNotFoundError:
            return  # somebody tidies up: then there is no reply, and the deadline says so
        except OSError as error:
            what = error.strerror or str(error)
            self._unreadable(host, id, f"{name[:80]!r} was not read: {what}")
            return
        reply = peer_response(data, id=id)
        if reply is None:
            self._unreadable(host, id, f"{name[:80]!r} is no JSON, and nobody goes on writing it")
            return
        del self._out[id]
        self._looks.pop(id, None)
        # the request first: a server that sees one without a response runs it
        self._take_back(root, id)
        self._tidy(root, name)
        host.heard()
        host.deliver(reply)

    def _unreadable(self, host: LinkHost, id: str, words: str) -> None:
        """Perhaps its writer is still at it. It is looked at until the deadline, and complained of once."""
        looks = self._looks[id] = self._looks.get(id, 0) + 1
        if looks == PATIENCE:
            host.trouble(Failure(kind=FailureKind.PROTOCOL, reason=words))

    def _take_back(self, root: Directory, id: str) -> None:
        self._tidy(root, request_name(id))

    def _tidy(self, root: Directory, name: str) -> None:
        """Remove what nobody needs any more. What cannot be removed (another's, or no file) is left, and harms no call."""
        try:
            root.remove(name)
        except OSError as error:
            assert self._host is not None  # whatever is in the folder was found or written by run
            words = f"{name[:80]!r} cannot be removed: {error.strerror or error}"
            self._host.trouble(Failure(kind=FailureKind.PROTOCOL, reason=words))
