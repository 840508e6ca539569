"""A raw WebSocket peer on a real socket that sees every byte, and a host that hears what the link says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from devpipe.adapters.transports.link import LinkLost
from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call

__all__ = [
    "BOUND",
    "MIB",
    "frame",
    "Peer",
    "Handler",
    "serving",
    "echo",
    "Host",
    "make_call",
    "running",
    "lost",
    "turns",
    "after_handshake",
]

BOUND = 10.0  #: seconds that no wait of these tests may take
MIB = 1024 * 1024


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    return head + b"\x7e" + struct.pack("!H", len(payload)) + payload


class Peer:
    """A server's side of one connection."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.head = b""
        self.data = b""

    async def request(self) -> bytes:
        while b"\r\n\r\n" not in self.data:
            self.data += await self.stream.receive()
        self.head, _, self.data = self.data.partition(b"\r\n\r\n")
        return self.head

    async def accept(self, behind: bytes = b"") -> None:
        lines = (await self.request()).decode().lower().split("\r\n")
        assert any(line == "upgrade: websocket" for line in lines)
        (key,) = (
            line.split(b": ")[1]
            for line in self.head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-k")
        )
        digest = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await self.stream.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + digest + b"\r\n\r\n" + behind
        )

    async def stop_reading(self) -> None:
        """Take nothing from the kernel any more: under asyncio anyio does so only after a read that had to wait."""
        with anyio.move_on_after(0.01):
            self.data += await self.stream.receive()

    async def _exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            self.data += await self.stream.receive()
        data, self.data = self.data[:size], self.data[size:]
        return data

    async def frame(self) -> tuple[int, bool, bytes]:
        first, second = await self._exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self._exactly(2 if size == 126 else 8), "big")
        key, data = await self._exactly(4), await self._exactly(size)
        whole = (key * (size // 4 + 1))[:size]
        plain = (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")
        return first & 15, bool(first & 0x80), plain

    async def close_code(self) -> int:
        opcode, _, payload = await self.frame()
        assert opcode == 8
        return int.from_bytes(payload[:2], "big")


Handler = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[str, None]:
    """Serve connections with ``handler``; gives the address. All must be over within the bound."""
    with anyio.fail_after(BOUND):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

        async def serve(stream: SocketStream) -> None:
            async with stream:
                # a client that hangs up ends the script of its peer, as it should
                with contextlib.suppress(
                    anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
                ):
                    await handler(Peer(stream))

        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            tasks.cancel_scope.cancel()


async def echo(peer: Peer) -> None:
    """Accept, and give every message back until the goodbye."""
    await peer.accept()
    parts = b""
    while True:
        opcode, fin, payload = await peer.frame()
        if opcode == 8:
            await peer.stream.send(frame(8, payload))
            return
        parts += payload
        if opcode < 2 and fin:
            await peer.stream.send(frame(1, parts) if len(parts) < 65536 else frame(1, b"large"))
            parts = b""


class Host:
    """Hears what the link says."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.sign_of_life = 0
        self._changed = anyio.Event()

    def deliver(self, data: bytes | bytearray) -> None:
        self.messages.append(bytes(data))
        self._changed.set()

    def heard(self) -> None:
        self.sign_of_life += 1

    def undelivered(self, call: Call, failure: Failure) -> None:
        raise AssertionError("a WebSocket loses all calls or none")

    def trouble(self, failure: Failure) -> None:
        raise AssertionError(failure)

    async def until(self, count: int) -> list[bytes]:
        while len(self.messages) < count:
            self._changed = anyio.Event()
            await self._changed.wait()
        return self.messages


def make_call(data: bytes = b'{"id":"p-1"}') -> Call:
    call = Call("p-1", "echo", b"", now=0.0, deadline=1.0)
    call.begin_attempt("websocket", data, now=0.0)
    return call


@contextlib.asynccontextmanager
async def running(link: WebSocketLink, host: Host) -> AsyncGenerator[None, None]:
    await link.open(host)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        yield
        tasks.cancel_scope.cancel()
    await link.aclose("done")


async def lost(link: WebSocketLink, host: Host) -> Failure:
    """Why the link is lost."""
    with pytest.raises(LinkLost) as caught:
        await link.open(host)
        await link.run()
    await link.aclose("lost")
    return caught.value.failure


async def turns(count: int = 20) -> None:
    """Let everybody else run for a while."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def after_handshake(script: Callable[[Peer], Awaitable[None]]) -> Handler:
    async def peer(peer: Peer) -> None:
        await peer.accept()
        await script(peer)

    return peer
