"""The WebSocket link: what breaks it, and why it says that it is lost."""

from __future__ import annotations

import contextlib
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.abc import SocketAttribute
from websocket_peer import (
    BOUND,
    MIB,
    Host,
    Peer,
    after_handshake,
    frame,
    lost,
    serving,
)

from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.machines.errors import FailureKind

pytestmark = pytest.mark.anyio


async def reset(peer: Peer) -> None:
    raw = peer.stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def cut(peer: Peer) -> None:
    await peer.stream.send(frame(1, b"x" * 100)[:50])


async def end(peer: Peer) -> None:
    pass


async def going_away(peer: Peer) -> None:
    await peer.stream.send(frame(8, struct.pack("!H", 1001) + b"deploy"))
    assert await peer.close_code() == 1001


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (reset, "the connection broke: "),
        (cut, "without a close frame (1006)"),
        (end, "without a close frame (1006)"),
        (going_away, "the server is going away (close code 1001): 'deploy'"),
    ],
)
async def test_a_connection_that_is_lost_says_how(
    fast: bool, script: Callable[[Peer], Awaitable[None]], words: str
) -> None:
    async with serving(after_handshake(script)) as url:
        failure = await lost(WebSocketLink(url, fast=fast), Host())
    assert failure.kind is FailureKind.NETWORK
    assert words in failure.reason
    assert not failure.refused


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (b"\x81\x7f" + struct.pack("!Q", 2**62) + b"x" * 1000, 1009),
        (b"\x81\x7f" + struct.pack("!Q", MIB + 1), 1009),
        (frame(1, b"", fin=False) + frame(0, b"", fin=False) * 200_000, 1009),
        (frame(1, b"y" * 60_000, fin=False) + frame(0, b"y" * 60_000, fin=False) * 20, 1009),
        (frame(9) * 200_000, 1008),
        (frame(2, b"binary"), 1003),
        (frame(1, b"\xff"), 1007),
        (frame(3), 1002),
    ],
    ids=["2^62", "a byte too many", "fragments", "total", "pings", "binary", "no utf-8", "opcode"],
)
async def test_an_attacker_is_told_the_close_code_on_the_wire(fast: bool, attack: bytes, code: int) -> None:
    told: list[int] = []

    async def peer(peer: Peer) -> None:
        await peer.accept()

        async def write() -> None:
            with contextlib.suppress(anyio.BrokenResourceError):
                await peer.stream.send(attack)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            while not told:
                opcode, _, payload = await peer.frame()
                if opcode == 8:
                    told.append(int.from_bytes(payload[:2], "big"))

    async with serving(peer) as url:
        host = Host()
        failure = await lost(WebSocketLink(url, fast=fast), host)
        assert told == [code]
    assert failure.kind is FailureKind.PROTOCOL
    assert str(code) in failure.reason
    assert host.messages == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", FailureKind.PROTOCOL, "HTML page"),
        (b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n", FailureKind.AUTH, "wants a token"),
        (b"HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", FailureKind.AUTH, "403"),
        (b"HTTP/1.1 302 x\r\nLocation: /\r\n\r\n", FailureKind.PROTOCOL, "redirect"),
        (b"HTTP/1.1 503 x\r\nRetry-After: 9\r\n\r\n", FailureKind.UNAVAILABLE, "503"),
        (b"220 mail.example ESMTP\r\n\r\n", FailureKind.PROTOCOL, "no WebSocket"),
        (b"HTTP/1.1 101 x\r\n", FailureKind.NETWORK, "during the handshake"),
        (b"", FailureKind.NETWORK, "during the handshake"),
    ],
)
async def test_a_handshake_that_fails_says_why(
    fast: bool, answer: bytes, kind: FailureKind, words: str
) -> None:
    connections = 0

    async def peer(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.request()
        if answer:
            await peer.stream.send(answer)

    async with serving(peer) as url:
        failure = await lost(WebSocketLink(url, fast=fast), Host())
    assert failure.kind is kind
    assert words in failure.reason
    assert failure.retry_after == (9.0 if b"503" in answer else None)
    assert connections == 1


async def test_a_reset_during_the_handshake_is_a_broken_connection(fast: bool) -> None:
    async def peer(peer: Peer) -> None:
        await peer.request()
        await reset(peer)

    async with serving(peer) as url:
        failure = await lost(WebSocketLink(url, fast=fast), Host())
    assert failure.kind is FailureKind.NETWORK
    assert "broke during the handshake" in failure.reason


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_port_where_nobody_listens_is_refused(fast: bool, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and does not listen: nobody else can get it
        with anyio.fail_after(BOUND):
            failure = await lost(WebSocketLink(f"ws://{name}:{taken.getsockname()[1]}", fast=fast), Host())
    assert failure.refused
    assert failure.kind is FailureKind.NETWORK
    assert "nobody listens" in failure.reason


async def test_a_name_that_is_none_is_no_refusal(fast: bool) -> None:
    with anyio.fail_after(BOUND):
        failure = await lost(WebSocketLink("ws://no-such-host.invalid:1", fast=fast), Host())
    assert failure.kind is FailureKind.NETWORK
    assert not failure.refused


async def test_a_bug_of_whoever_listens_is_loud(fast: bool) -> None:
    class Broken(Host):
        def deliver(self, data: bytes | bytearray) -> None:
            raise ZeroDivisionError

    async def peer(peer: Peer) -> None:
        await peer.accept()
        await peer.stream.send(frame(1, b"{}"))
        await anyio.sleep_forever()

    async with serving(peer) as url:
        link = WebSocketLink(url, fast=fast)
        await link.open(Broken())
        with pytest.raises((ZeroDivisionError, ExceptionGroup)) as caught:
            await link.run()
        assert "ZeroDivisionError" in "".join(traceback.format_exception(caught.value))
        await link.aclose("bug")


async def test_a_peer_that_never_closes_delays_the_goodbye_by_no_more_than_its_bound(fast: bool) -> None:
    async with serving(after_handshake(lambda _: anyio.sleep_forever())) as url:
        link = WebSocketLink(url, fast=fast)
        await link.open(Host())
        with anyio.fail_after(2):
            await link.aclose("done")
