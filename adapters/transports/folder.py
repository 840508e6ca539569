"""The shared folder as a transport: requests are files that appear whole, responses are read and removed.

The folder is a way, not a queue: nothing stays written for a server that has not answered, and whoever stops waiting
takes the request back by the same atomic claim that a server takes it with. If our claim wins, nobody has seen it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import anyio

from devpipe.adapters.ports.clock import Clock
from devpipe.adapters.ports.folder import (
    FILE_BYTES,
    TURN_BYTES,
    Directory,
    Folder,
    draft_name,
    open_directory,
)
from devpipe.adapters.ports.watcher import Watcher
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.flat_folder import FlatFolderLink
from devpipe.adapters.transports.folder_terms import (
    ENVELOPE_ROOM,
    capabilities,
    failure_of,
    nobody_serves,
)
from devpipe.adapters.transports.link import Link, LinkHost, LinkLost, Terms
from devpipe.adapters.transports.registry import TransportContext
from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.config import FolderConfig
from devpipe.machines.errors import ConfigurationError, FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.folder import (
    MAX_BEAT,
    Beat,
    BeatWatch,
    read_beat,
    request_name,
    scan_client,
)
from devpipe.machines.protocols.folder_steps import NotAFile, Place, collect, give, sweep, withdraw

__all__ = ["FolderLink", "factory"]

#: While something waits for an answer, the beat is looked at this often (seconds): a beat that was written just before
#: the server died would otherwise be news a whole beat later, and silence be known that much later.
CLOSE_LOOK = 0.25


def factory(context: TransportContext) -> Transport | None:
    """The transport of a pipe; None without a folder."""
    config = context.config
    if config.folder is None:
        return None
    folder, options = Path(config.folder), config.folder_options

    def make_link() -> Link:
        if options.flat:
            return FlatFolderLink(folder, client=context.prefix, config=options, clock=context.clock)
        return FolderLink(folder, client=context.prefix, config=options, clock=context.clock)

    return Transport(
        "folder",
        make_link=make_link,
        capabilities=capabilities(config.folder_options),
        owner=context.owner,
        clock=context.clock,
        dice=context.dice,
        lifecycle=context.lifecycle,
        breaker=config.breaker,
        profile=context.profile,
        peer=config.peer,
    )


class FolderLink:
    """A ``Link`` to whoever serves ``folder``. ``client``: the prefix of this pipe's ids."""

    def __init__(
        self, folder: Path, *, client: str, clock: Clock, config: FolderConfig | None = None
    ) -> None:
        self._folder = folder
        self._client = client
        self._clock = clock
        self._config = config or FolderConfig()
        self.capabilities = capabilities(self._config)
        self._host: LinkHost | None = None
        self._outbox: deque[Call] = deque()
        self._out: dict[str, Call] = {}  #: written, and not answered
        self._wake: Waiter | None = None
        self._stirred = False
        self._beats = BeatWatch()
        self._looked_at = float("-inf")
        self._watcher: Watcher | None = None
        self._open: list[Directory] = []
        self._strange: set[str] = set()  #: what was complained of once
        self._left: set[str] = set()  #: what was taken, and could not be removed

    # --- life -----------------------------------------------------------------------------------------

    async def open(self, host: LinkHost) -> None:
        await anyio.lowlevel.checkpoint()
        self._make_waiter: Callable[[], Waiter] = waiter_factory()
        self._host = host
        try:
            root = self._root = self._keep(
                open_directory(self._folder, make=False, allow_shared=self._config.allow_shared)
            )
            self._requests = self._keep(root.sub(self._config.requests, make=False))
            self._tmp = self._keep(root.sub(self._config.tmp, make=False))
            self._claims = self._keep(root.sub(self._config.claims, make=False))
            clients = self._keep(root.sub(self._config.clients, make=False))
            self._mine = self._keep(clients.sub(self._client, make=True))
            self._files = Folder(
                {
                    Place.REQUESTS: self._requests,
                    Place.TMP: self._tmp,
                    Place.CLAIMS: self._claims,
                    Place.HOME: self._mine,
                },
                now=self._files_now,
                durability=self._config.durability,
            )
            self._beats.look(self._read_beat(), now=self._clock.now())
        except FileNotFoundError as error:
            raise LinkLost(nobody_serves(self._folder)) from error
        except ConfigurationError as error:
            raise LinkLost(Failure(kind=FailureKind.AUTH, reason=str(error))) from error
        except OSError as error:
            raise LinkLost(failure_of("the folder cannot be used", error)) from error
        if not self._config.polling:
            self._watcher = Watcher(self._mine.path, self._stir)
            self._watcher.start()

    async def run(self) -> None:
        while True:
            self._write_some()
            more = self._take_some()
            self._look_at_beat()  # in between: the server lives, however much there is to write
            if self._outbox or more:
                await anyio.lowlevel.checkpoint()
                continue
            if not self._stirred:
                self._wake = self._make_waiter()
                interval = self._config.rescan_interval
                with anyio.move_on_after(min(interval, CLOSE_LOOK) if self._out else interval):
                    await self._wake
                self._wake = None
            self._stirred = False

    async def aclose(self, reason: str) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        self._take_back()
        for directory in self._open:
            directory.close()
        self._open.clear()
        await anyio.lowlevel.checkpoint()

    def established(self, terms: Terms) -> None:
        self._beats.known = terms.server
        self._sweep()

    def explain(self) -> str:
        if self._config.polling:
            return "polls the folder, as it is set to"
        return "" if self._watcher is None or self._watcher.blind is None else self._watcher.blind

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        if len(self._outbox) + len(self._out) >= self._config.queue_size:
            limit = self._config.queue_size
            raise QueueFull(f"{limit} requests wait in the folder already", limit=limit, message_id=call.id)
        self._outbox.append(call)
        self._stir()

    def withdraw(self, call: Call) -> None:
        if call in self._outbox:
            self._outbox.remove(call)
        elif self._out.pop(call.id, None) is not None:
            self._reclaim(call)

    @property
    def queued(self) -> int:
        return len(self._outbox)

    # --- inside ---------------------------------------------------------------------------------------

    def _keep(self, directory: Directory) -> Directory:
        self._open.append(directory)
        return directory

    def _stir(self) -> None:
        self._stirred = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _write_some(self) -> None:
        """Write what waits, but no more at once than leaves the program its turn."""
        assert self._host is not None  # the driver opens before it runs
        if self._outbox:
            self._check_home()
        written = 0
        while self._outbox and written <= TURN_BYTES:
            call = self._outbox.popleft()
            written += FILE_BYTES + len(call.data)
            call.handed_over = True
            self._out[call.id] = call
            try:
                self._files.run(give(draft_name(), call.data, Place.REQUESTS, request_name(call.id)))
            except OSError as error:
                call.handed_over = False
                del self._out[call.id]
                if isinstance(error, FileNotFoundError):
                    self._outbox.appendleft(call)
                    raise LinkLost(failure_of("the folder is gone", error)) from error
                self._host.undelivered(call, failure_of("the request cannot be written", error))
                continue
            if self._config.durability == "full":
                try:
                    self._requests.sync()
                except OSError as error:  # it is out, and may be answered all the same
                    self._trouble(f"the request {call.id} may not outlive a power cut: {error.strerror}")

    def _take_some(self) -> bool:
        """Take what is there, with the same measure; True if there may be more."""
        assert self._host is not None  # as above
        try:
            names = self._mine.names()
        except OSError as error:
            raise LinkLost(failure_of("the folder cannot be read", error)) from error
        scan = scan_client(names)
        limit = self._config.max_message_bytes + ENVELOPE_ROOM
        taken = 0
        for name in scan.names:
            if name in self._left:
                continue
            if taken > TURN_BYTES:
                return True
            try:
                collected = self._files.run(collect(name, limit=limit))
            except FileNotFoundError:
                continue  # taken by an earlier link of this pipe
            except OSError as error:  # planted, or not to be read now
                self._complain(name, f"was not read: {error.strerror or error}")
                continue
            if collected.left is not None:
                self._left.add(name)
                self._complain(name, f"cannot be removed: {collected.left.strerror or collected.left}")
            if name.startswith("response_"):
                self._out.pop(name[len("response_") : -len(".json")], None)
            taken += FILE_BYTES + len(collected.data)
            self._host.heard()
            self._host.deliver(collected.data)
        if scan.strange:
            for name in set(names).difference(scan.names):
                self._complain(name, "is no message of ours")
        self._strange.intersection_update(names)
        self._left.intersection_update(names)
        return False

    def _complain(self, name: str, words: str) -> None:
        """It is counted once, and left to its owner."""
        if name not in self._strange:
            self._strange.add(name)
            self._trouble(f"{name[:80]!r} {words}")

    def _trouble(self, words: str) -> None:
        assert self._host is not None  # as above
        self._host.trouble(Failure(kind=FailureKind.PROTOCOL, reason=words))

    def _check_home(self) -> None:
        try:
            removed = self._mine.removed
        except OSError as error:  # on a network file system it is stale then
            raise LinkLost(failure_of("our directory in the folder is lost", error)) from error
        if removed:
            # nobody could answer or push: a link that begins anew makes it anew
            raise LinkLost(
                Failure(kind=FailureKind.UNAVAILABLE, reason="our directory in the folder was removed")
            )

    def _look_at_beat(self) -> None:
        assert self._host is not None  # as above
        now = self._clock.now()
        if not self._beats.due(now=now) and (not self._out or now < self._looked_at + CLOSE_LOOK):
            return  # the file is not read for every message
        self._looked_at = now
        self._check_home()
        try:
            beat = self._read_beat()
        except FileNotFoundError as error:
            raise self._end(nobody_serves(self._folder)) from error
        except OSError as error:
            raise self._end(failure_of("the server's beat cannot be read", error)) from error
        if self._beats.look(beat, now=now):
            self._host.heard()
        if self._beats.replaced:
            reason = "another server serves the folder now"
            raise self._end(Failure(kind=FailureKind.NETWORK, reason=reason))
        if self._beats.gone:
            reason = "the folder's server gives no sign of life"
            raise self._end(Failure(kind=FailureKind.TIMEOUT, reason=reason))

    def _end(self, failure: Failure) -> LinkLost:
        """The server is gone: what it has answered to the last is taken, all else is taken back."""
        while self._take_some():
            pass  # the last ones, without a pause: nothing may come between them and the end
        self._take_back()
        return LinkLost(failure)

    def _read_beat(self) -> Beat | None:
        try:
            return read_beat(self._root.read("server.json", MAX_BEAT))
        except NotAFile:
            return None

    def _reclaim(self, call: Call) -> None:
        """Take a request back: if our claim wins, nobody has seen it."""
        try:
            if self._files.run(withdraw(request_name(call.id), draft_name())):
                call.handed_over = False
        except OSError as error:
            self._trouble(f"the request {call.id} cannot be withdrawn: {error.strerror or error}")

    def _take_back(self) -> None:
        """Nothing stays written for a server that does not answer."""
        calls, self._out = self._out, {}
        for call in calls.values():
            self._reclaim(call)

    def _sweep(self) -> None:
        """Remove what an earlier run of ours has left, when it is surely old. Others' files are theirs."""
        try:
            for name in self._mine.names():
                self._files.run(sweep(Place.HOME, name, age=self._config.orphan_age))
        except OSError as error:  # the server sweeps, too
            self._trouble(f"our directory in the folder cannot be swept: {error.strerror or error}")

    def _files_now(self) -> float:
        beat = self._root.modified("server.json")  # stamped by whoever keeps the files, a second ago
        return self._clock.wall() if beat is None else beat
