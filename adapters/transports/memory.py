"""The transport without a network: a pipe to a ``Server`` in the same event loop, for tests and for embedding."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.link import Capabilities, LinkHost, LinkLost, Terms
from devpipe.machines.errors import FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Position
from devpipe.machines.protocols.calls import Call

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server
    from devpipe.adapters.transports.registry import TransportContext

__all__ = ["CAPABILITIES", "MemoryLink", "factory"]

CAPABILITIES = Capabilities(
    supports_realtime=True,
    supports_bidirectional=True,
    supports_filesystem=False,
    supports_streaming=True,
    max_message_bytes=10 * 1024 * 1024,
    max_concurrent_connections=1,
    cost=0.0,
)
#: Calls that wait for their turn to be handed over.
MAX_QUEUED = 10_000


def factory(context: TransportContext) -> Transport | None:
    """The transport ``memory``, where the pipe was given a server object."""
    server = context.server
    if server is None:
        return None
    return Transport(
        "memory",
        make_link=lambda: MemoryLink(server),
        capabilities=CAPABILITIES,
        owner=context.owner,
        clock=context.clock,
        dice=context.dice,
        lifecycle=context.lifecycle,
        breaker=context.config.breaker,
    )


class MemoryLink:
    """A ``Link`` to a server object. The server's side of it is a ``Path`` like every other."""

    capabilities = CAPABILITIES

    def __init__(self, server: Server) -> None:
        self._server = server
        self._outbox: deque[Call] = deque()
        self._wake = anyio.Event()
        self._host: LinkHost | None = None
        self._path: _MemoryPath | None = None
        self._lost: Failure | None = None

    async def open(self, host: LinkHost) -> None:
        await anyio.lowlevel.checkpoint()
        if not self._server.running:
            raise LinkLost(
                Failure(kind=FailureKind.NETWORK, reason="the server object is not running", refused=True)
            )
        self._host = host
        self._path = _MemoryPath(self)

    async def run(self) -> None:
        assert self._path is not None  # the driver opens before it runs
        while True:
            while self._outbox:
                call = self._outbox.popleft()
                call.handed_over = True
                self._server.receive(call.data, self._path)
            if self._lost is not None:
                raise LinkLost(self._lost)
            self._wake = anyio.Event()
            await self._wake.wait()

    def submit(self, call: Call) -> None:
        if len(self._outbox) >= MAX_QUEUED:
            raise QueueFull(f"{MAX_QUEUED} messages wait already", limit=MAX_QUEUED, message_id=call.id)
        self._outbox.append(call)
        self._wake.set()

    def withdraw(self, call: Call) -> None:
        if not call.handed_over and call in self._outbox:
            self._outbox.remove(call)

    def established(self, terms: Terms) -> None:
        pass  # nothing to set up: the path is this object

    async def aclose(self, reason: str) -> None:
        path, self._path = self._path, None
        if path is not None:
            self._server.drop(path)
        await anyio.lowlevel.checkpoint()  # last: a goodbye that is cancelled has been said

    @property
    def queued(self) -> int:
        return len(self._outbox)

    def explain(self) -> str:
        return ""

    def lose(self, reason: str) -> None:
        """The server has hung up."""
        self._lost = Failure(kind=FailureKind.NETWORK, reason=reason)
        self._wake.set()

    def deliver(self, data: bytes) -> None:
        """The server has sent something."""
        if self._host is not None:
            self._host.heard()
            self._host.deliver(data)


class _MemoryPath:
    """The server's end."""

    transport = "memory"
    max_message_bytes = CAPABILITIES.max_message_bytes

    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        self._link.deliver(data)

    def close(self, code: int, error: str) -> None:
        self._link.lose(f"the server closed the path: {error}")
