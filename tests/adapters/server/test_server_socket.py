"""The server's WebSockets, as a raw peer sees them on the wire."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong

import devpipe
from devpipe.machines.protocols.websocket import MAX_PINGS

pytestmark = pytest.mark.anyio

BOUND = 10.0
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
Serving = Callable[..., AbstractAsyncContextManager[Any]]
Make = Callable[..., devpipe.Server]


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused peer is let go soon."""
    monkeypatch.setattr("devpipe.adapters.server.strict.LINGER", 0.1)


def frame(opcode: int, data: bytes, *, fin: bool = True, announced: int | None = None) -> bytes:
    """One masked frame; the mask is zero, which is allowed and keeps the data as it is."""
    size = len(data) if announced is None else announced
    first = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        return first + bytes([0x80 | size]) + bytes(4) + data
    if size < 65536:
        return first + b"\xfe" + struct.pack("!H", size) + bytes(4) + data
    return first + b"\xff" + struct.pack("!Q", size) + bytes(4) + data


async def test_messages_go_both_ways_by_id(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        hello = await socket.hello()
        assert hello["payload"]["server"] == served.server.identity
        assert hello["payload"]["limits"] == {"maxMessageBytes": 1024 * 1024}
        await socket.send("wait", id="x-1")
        await socket.send("echo", "quick", id="x-2")
        assert (await socket.message())["replyTo"] == "x-2"
        served.server.gate.set()
        assert (await socket.message())["replyTo"] == "x-1"


async def test_a_long_call_is_announced(serving: Serving, make_server: Make) -> None:
    async with serving(make_server(config={"accept_after": 0.05})) as served, served.connected() as socket:
        await socket.hello()
        await socket.send("wait", id="x-1")
        assert (await socket.message())["type"] == "accepted"
        served.server.gate.set()
        assert (await socket.message())["payload"] == "waited"


async def test_pushes_come_over_the_attached_socket(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        await socket.hello()
        await socket.call("attach", {"number": 1})
        await served.server.push("news", {"n": 1})
        push = await socket.message()
        assert push["type"] == "news" and push["offset"] == 1 and "replyTo" not in push


async def test_a_foreign_client_without_hello_is_served(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        assert (await socket.call("echo", 5))["payload"] == 5
        assert (await socket.call("ping", {"nonce": "n"}))["type"] == "pong"


async def test_a_message_that_cannot_be_read_is_refused_and_the_socket_stays(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        for text in ("{", "[]", "[" * 50_000, '{"type":5}', '{"type":"hello","payload":[]}'):
            await socket.say(text)
            assert (await socket.message())["error"]["code"] == "bad_message"
        assert (await socket.call("echo", "still here"))["payload"] == "still here"


async def test_pings_are_answered(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        await socket.stream.send(socket.protocol.send(Ping(payload=b"here?")))
        event = await socket.event()
        assert isinstance(event, Pong) and event.payload == b"here?"


async def test_many_pings_have_one_answer_and_too_many_end_the_connection(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        await socket.stream.send(b"".join(frame(PING, b"%d" % number) for number in range(MAX_PINGS)))
        pongs: list[bytes] = []
        while pongs[-1:] != [b"%d" % (MAX_PINGS - 1)]:
            event = await socket.event()
            assert isinstance(event, Pong)
            pongs.append(bytes(event.payload))
        assert len(pongs) < 10, "the latest answers for those before it"
        assert (await socket.call("echo", 1))["payload"] == 1
        await socket.stream.send(frame(PING, b"") * 20_000)
        assert await socket.closed() == 1008


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CLOSE, struct.pack("!H", 1000)), 1000),
        (frame(3, b"x"), 1002),
        (frame(0, b"continues nothing"), 1002),
        (frame(BINARY, b"{}"), 1003),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"x" * 2000), 1009),
        (frame(TEXT, "ü".encode() * 600), 1009),
        (frame(TEXT, b"x" * 600, fin=False) + frame(0, b"x" * 600), 1009),
        (frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 1100, 1008),
        (frame(TEXT, b"{") * 100, 1008),
    ],
    ids=[
        "normal",
        "opcode",
        "continuation",
        "binary",
        "utf-8",
        "large",
        "large-in-bytes",
        "large-in-pieces",
        "too-many-pieces",
        "nonsense",
    ],
)
async def test_every_close_has_its_code_on_the_wire(
    serving: Serving, make_server: Make, data: bytes, code: int
) -> None:
    config = {"websocket_max_message_bytes": 1000}
    async with serving(make_server(config=config)) as served:
        async with served.connected() as socket:
            await socket.stream.send(data)
            assert await socket.closed() == code
            with anyio.fail_after(BOUND), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await socket.stream.receive()
        async with served.connected() as socket:
            assert (await socket.call("echo", 1))["payload"] == 1


async def test_a_bottomless_message_is_refused_and_nothing_of_it_is_kept(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        before = resident_bytes()
        await socket.stream.send(frame(TEXT, b"", announced=2**62))
        with anyio.fail_after(BOUND), pytest.raises(anyio.BrokenResourceError):
            while True:
                await socket.stream.send(b"x" * 1_000_000)
        assert resident_bytes() - before < 16 * 1024 * 1024


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_no_compression_is_agreed_to(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        answer = await handshake(served, b"Sec-WebSocket-Extensions: permessage-deflate")
        assert answer.startswith(b"HTTP/1.1 101") and b"deflate" not in answer.lower()


@pytest.mark.parametrize("header", [b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Protocol", b"X"])
async def test_a_header_that_is_not_ascii_harms_nobody_else(
    serving: Serving, make_server: Make, header: bytes
) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        await handshake(served, header + b": \xff")
        assert (await socket.call("echo", 1))["payload"] == 1
        assert (await served.post("echo", 2)).json()["payload"] == 2


async def handshake(served: Any, header: bytes) -> bytes:
    lines = [
        b"GET /devpipe/ws HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        header,
    ]
    with anyio.fail_after(BOUND):
        async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
            await stream.send(b"\r\n".join(lines) + b"\r\n\r\n")
            try:
                return await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):  # closed without a word
                return b""


async def test_a_client_that_reads_too_slowly_is_let_go_and_finds_its_pushes_again(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.socket.MAX_WAITING", 1_000_000)
    async with serving(make_server()) as served, served.connected() as socket:
        await socket.hello()
        await socket.call("attach", {"number": 1})
        for _ in range(100):
            await served.server.push("news", "x" * 90_000)
        assert await socket.closed() == 1008
        async with served.connected() as again:
            await again.hello()
            answer = await again.call("attach", {"number": 2, "epoch": "other", "after": 0})
            assert answer["payload"]["gap"] is True and answer["payload"]["offset"] == 100


async def test_a_lost_socket_cancels_nothing(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        async with served.connected() as socket:
            await socket.hello()
            await socket.send("wait", id="x-1")
            await socket.call("ping")
        async with served.connected() as socket:
            await socket.hello()
            await socket.send("wait", id="x-1")
            await socket.call("ping")  # the repeated message is taken
            served.server.gate.set()
            assert (await socket.message())["payload"] == "waited"
        assert served.server.executed == ["x-1"]


async def test_what_still_comes_on_a_closed_socket_runs_nothing(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        await socket.hello()
        call = b'{"type":"echo","id":"x-1"}'
        await socket.stream.send(frame(TEXT, b"{") * 100 + frame(TEXT, call))
        assert await socket.closed() == 1008
        assert served.server.executed == []


async def test_a_binary_message_is_no_message(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        await socket.stream.send(socket.protocol.send(BytesMessage(data=b"{}")))
        event = await socket.event()
        assert isinstance(event, CloseConnection) and event.code == 1003
