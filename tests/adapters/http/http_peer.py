"""A scripted HTTP peer on real sockets, and a link whose host writes down what it hears."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import h11
import httpx
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from anyio.streams.stapled import MultiListener

from devpipe.adapters.ports.clock import SystemClock
from devpipe.adapters.transports.http import HttpLink
from devpipe.adapters.transports.link import LinkLost, Terms
from devpipe.machines.config import HttpConfig
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import encode_reply, encode_request
from devpipe.machines.protocols.sse import encode_event

__all__ = [
    "BOUND",
    "TERMS",
    "SECRET",
    "PLAIN",
    "STREAM",
    "Hung",
    "Exchange",
    "Peer",
    "accepted",
    "serving",
    "echo",
    "Ear",
    "Steady",
    "make",
    "token",
    "linked",
    "exchange_one",
    "refusing",
]

BOUND = 10.0
TERMS = Terms(server="server-1", session="session-1")
SECRET = "s3cret-token"
PLAIN = HttpConfig(enable_sse=False)
STREAM = HttpConfig(stream_proof_timeout=5.0)


class Hung(Exception):
    """The script has hung up."""


@dataclass
class Exchange:
    """One request, read whole, and the ways to answer it."""

    peer: Peer
    stream: SocketStream
    protocol: h11.Connection
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message

    async def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        fields = {"content-type": "application/json", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        await self.send(h11.Response(status_code=status, headers=list(fields.items())))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def reply(self, payload: bytes = b'"done"') -> None:
        await self.answer(200, encode_reply(reply_to=self.message["id"], payload=payload, timestamp=1))

    async def accept(self) -> None:
        await self.answer(202, json.dumps({"type": "accepted", "replyTo": self.message["id"]}).encode())

    async def begin_stream(self, *, proof: bool = True, **headers: str) -> None:
        fields = {"content-type": "text/event-stream", "transfer-encoding": "chunked"} | headers
        await self.send(h11.Response(status_code=200, headers=list(fields.items())))
        if proof:
            data = json.dumps({"nonce": self.headers["devpipe-nonce"], "server": "server-1"})
            await self.data(encode_event(data, event="proof"))

    async def data(self, data: bytes) -> None:
        await self.send(h11.Data(data=data))

    async def send(self, event: Any) -> None:
        data = self.protocol.send(event)
        if data:
            await self.stream.send(data)

    async def raw(self, data: bytes) -> None:
        await self.stream.send(data)

    def reset(self) -> None:
        raw = self.stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Hung

    async def until_gone(self) -> None:
        """Wait until the client closes the connection."""
        try:
            while await self.stream.receive():
                pass
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise Hung from None


@dataclass
class Peer:
    """A server that does what its script says, and writes down what it was asked."""

    script: Callable[[Exchange], Awaitable[None]]
    port: int = 0
    connections: int = 0
    most_connections: int = 0
    asked: list[Exchange] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, path: str) -> list[Exchange]:
        return [exchange for exchange in self.asked if exchange.path == path]

    def change(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        with anyio.fail_after(BOUND):
            while not predicate():
                await self.changed.wait()

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        self.most_connections = max(self.connections, self.most_connections)
        try:
            async with stream:
                while await self._exchange(stream):
                    pass
        except (Hung, anyio.BrokenResourceError, anyio.ClosedResourceError, h11.ProtocolError):
            pass  # the client has hung up, or the script has: both are what tests are about
        finally:
            self.connections -= 1
            self.change()

    async def _exchange(self, stream: SocketStream) -> bool:
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                try:
                    protocol.receive_data(await stream.receive())
                except anyio.EndOfStream:
                    return False
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert request is not None
        exchange = Exchange(
            self,
            stream,
            protocol,
            request.method.decode(),
            request.target.decode(),
            {name.decode(): value.decode() for name, value in request.headers},
            bytes(body),
        )
        self.asked.append(exchange)
        self.change()
        await self.script(exchange)
        return protocol.our_state is h11.DONE and protocol.their_state is h11.DONE


async def accepted(listener: MultiListener[SocketStream]) -> SocketStream:
    """The first connection, and no second one."""
    (one,) = listener.listeners
    assert isinstance(one, SocketListener)
    return await one.accept()


@asynccontextmanager
async def serving(script: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[Peer]:
    peer = Peer(script)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        peer.port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, peer.serve)
            yield peer
            tasks.cancel_scope.cancel()


async def echo(exchange: Exchange) -> None:
    if exchange.path.endswith("/stream"):
        await exchange.begin_stream()
        await exchange.until_gone()
    else:
        await exchange.reply(json.dumps(exchange.message["payload"]).encode())


class Ear:
    """A host that writes down what the link tells it."""

    def __init__(self) -> None:
        self.delivered: list[dict[str, Any]] = []
        self.signs = 0
        self.back: list[tuple[Call, Failure, bool]] = []
        self.troubles: list[Failure] = []
        self.lost: Failure | None = None
        self.link: HttpLink
        self.changed = anyio.Event()
        self.on_deliver: Callable[[dict[str, Any]], None] = lambda message: None

    def deliver(self, data: bytes | bytearray) -> None:
        message = json.loads(data)
        self.delivered.append(message)
        self.on_deliver(message)
        self._change()

    def heard(self) -> None:
        self.signs += 1

    def undelivered(self, call: Call, failure: Failure) -> None:
        self.back.append((call, failure, call.handed_over))
        self._change()

    def trouble(self, failure: Failure) -> None:
        self.troubles.append(failure)
        self._change()

    def lose(self, failure: Failure) -> None:
        self.lost = failure
        self._change()

    def _change(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        with anyio.fail_after(BOUND):
            while not predicate():
                await self.changed.wait()

    @property
    def replies(self) -> list[str]:
        return [message["replyTo"] for message in self.delivered if message.get("type") == "response"]


class Steady:
    """Dice without chance: no wait is longer than it must be."""

    def __init__(self) -> None:
        self.tokens = 0

    def jitter(self) -> float:
        return 0.0

    def token(self, chars: int) -> str:
        self.tokens += 1
        return f"nonce-{self.tokens}".ljust(chars, "x")


def make(id: str, type: str = "echo", payload: bytes = b'"hi"', priority: Priority = Priority.NORMAL) -> Call:
    now = SystemClock().now()
    call = Call(id, type, payload, now=now, deadline=now + BOUND, priority=priority)
    call.begin_attempt("http", encode_request(id=id, type=type, payload=payload, timestamp=1), now=now)
    return call


async def token() -> str:
    return SECRET


@asynccontextmanager
async def linked(
    url: str,
    *,
    config: HttpConfig = PLAIN,
    terms: Terms | None = None,
    token: Callable[[], Awaitable[str]] | None = None,
    client: httpx.AsyncClient | None = None,
) -> AsyncIterator[tuple[HttpLink, Ear]]:
    ear = Ear()
    ids = iter(range(1_000_000))
    link = HttpLink(
        url,
        config=config,
        clock=SystemClock(),
        dice=Steady(),
        control_id=lambda: f"control-{next(ids)}",
        token=token,
        client=client,
    )
    ear.link = link

    async def run() -> None:
        try:
            await link.run()
        except LinkLost as lost:
            ear.lose(lost.failure)

    try:
        await link.open(ear)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.lowlevel.checkpoint()
            if terms is not None:
                link.established(terms)
            yield link, ear
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(BOUND):
            await link.aclose("test")


async def exchange_one(script: Callable[[Exchange], Awaitable[None]], call: Call | None = None) -> Ear:
    """One call to a peer with this script: the ear that heard how it went."""
    call = call or make("p-1")
    async with serving(script) as peer, linked(peer.url) as (link, ear):
        link.submit(call)
        await ear.until(lambda: bool(ear.delivered or ear.back or ear.lost))
        assert link.queued == 0
    return ear


def refusing(*good: str) -> Callable[[Exchange], Awaitable[None]]:
    async def script(exchange: Exchange) -> None:
        if exchange.headers.get("authorization", "").removeprefix("Bearer ") not in good:
            await exchange.answer(401, b"{}", www_authenticate="Bearer")
        else:
            await echo(exchange)

    return script
