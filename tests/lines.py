"""Lines between a pipe and servers of the same program, which a test can break, cross and listen to.

A line is no connection: like HTTP, each message finds whoever is at the other end when it is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import msgspec

from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.ports.clock import Clock, SystemClock
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.link import Capabilities, LinkHost, Terms
from devpipe.adapters.transports.owner import Household
from devpipe.machines.config import FailoverConfig, LifecycleConfig, PipeConfig
from devpipe.machines.errors import FailureKind
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Position
from devpipe.machines.protocols.calls import Call

__all__ = ["Line", "Peer", "pipe_over"]

CAPABILITIES = Capabilities(
    supports_realtime=True,
    supports_bidirectional=True,
    supports_filesystem=False,
    supports_streaming=True,
    max_message_bytes=1024 * 1024,
    max_concurrent_connections=1,
    names_session=True,
    cost=0.0,
)
BROKEN = Failure(kind=FailureKind.NETWORK, reason="the line is broken")


class Peer(Protocol):
    """What may be at the other end: a ``devpipe.Server``, or what a test makes of one."""

    def receive(self, data: bytes, path: Any, /) -> None: ...

    def drop(self, path: Any, /) -> None: ...


class Line:
    """``server``: who is at the other end, None if nobody.

    Types of messages: ``lost`` is known to be lost on its way, once each; ``swallowed`` goes and nothing ever comes back;
    ``kept`` does not even leave.
    """

    def __init__(self, name: str, server: Peer | None) -> None:
        self.name = name
        self.server = server
        self.lost: set[str] = set()
        self.swallowed: set[str] = set()
        self.kept: set[str] = set()
        self.sent: Counter[str] = Counter()  #: messages by type
        self.dials = 0
        self.link: _Link | None = None

    def transport(self, owner: Household) -> Transport:
        def make_link() -> _Link:
            self.link = _Link(self)
            return self.link

        return Transport(
            self.name,
            make_link=make_link,
            capabilities=CAPABILITIES,
            owner=owner,
            clock=owner.clock,
            dice=owner.dice,
            lifecycle=LifecycleConfig(backoff_initial=0.01, blocked_initial=0.05),
        )

    def say(self, **message: Any) -> None:
        """Let the pipe hear this, whoever may have said it."""
        assert self.link is not None  # it was dialled
        self.link.hear(msgspec.json.encode(message))


class _Link:
    capabilities = CAPABILITIES

    def __init__(self, line: Line) -> None:
        self._line = line
        self._host: LinkHost | None = None
        self._paths: list[tuple[Peer, _Path]] = []

    async def open(self, host: LinkHost) -> None:
        await anyio.lowlevel.checkpoint()
        self._line.dials += 1
        self._host = host

    async def run(self) -> None:
        await anyio.sleep_forever()

    def submit(self, call: Call) -> None:
        assert self._host is not None  # opened
        line = self._line
        if call.type in line.kept:
            return
        line.sent[call.type] += 1
        call.handed_over = True
        if call.type in line.swallowed:
            return
        if line.server is None or call.type in line.lost:
            line.lost.discard(call.type)
            self._host.undelivered(call, BROKEN)
            return
        path = _Path(self.hear)
        self._paths.append((line.server, path))
        line.server.receive(call.data, path)

    def hear(self, data: bytes) -> None:
        assert self._host is not None  # opened
        self._host.heard()
        self._host.deliver(data)

    def withdraw(self, call: Call) -> None:
        pass

    def established(self, terms: Terms) -> None:
        pass

    async def aclose(self, reason: str) -> None:
        for server, path in self._paths:
            server.drop(path)
        await anyio.lowlevel.checkpoint()

    @property
    def queued(self) -> int:
        return 0

    def explain(self) -> str:
        return ""


class _Path:
    """The server's end: one exchange."""

    transport = "http"
    max_message_bytes = CAPABILITIES.max_message_bytes

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        self._hear(data)

    def close(self, code: int, error: str) -> None:
        pass


def pipe_over(*lines: Line, clock: Callable[[], Clock] = SystemClock) -> Pipe:
    """A pipe over these lines, the first one first."""
    config = PipeConfig(
        server_url="http://nobody",
        failover=FailoverConfig(fallback_chain=tuple(line.name for line in lines), min_stay=0.1),
    )
    return Pipe(config, lambda owner: [line.transport(owner) for line in lines], clock=clock)
