"""The WebSocket link over real sockets on loopback, against a raw peer that sees every byte, and cancelled everywhere.

``fast`` is the direct way under asyncio and the fast frames; without it everything is anyio's and wsproto's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from devpipe.adapters.transports.link import LinkLost, Terms
from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.adapters.wire import ProtocolWire, StreamWire
from devpipe.machines.config import WebSocketConfig
from devpipe.machines.errors import ConfigurationError, FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call

pytestmark = pytest.mark.anyio

BOUND = 10.0  #: seconds that no wait of these tests may take
MIB = 1024 * 1024


@pytest.fixture(params=[True, False], ids=["fast", "reference"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# --- the peer ---------------------------------------------------------------------------------------------


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


# --- traffic ----------------------------------------------------------------------------------------------


async def test_messages_go_both_ways_and_the_goodbye_is_1000(fast: bool) -> None:
    codes: list[int] = []

    async def peer(peer: Peer) -> None:
        await peer.accept(behind=frame(1, b'"behind the handshake"'))
        for _ in range(2):
            opcode, _, payload = await peer.frame()
            await peer.stream.send(frame(opcode, payload))
        codes.append(await peer.close_code())
        await peer.stream.send(frame(8, struct.pack("!H", 1000)))

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, fast=fast)
        async with running(link, host):
            assert await host.until(1) == [b'"behind the handshake"']
            calls = [make_call(b'{"n":1}'), make_call('{"n":"zwölf"}'.encode())]
            for call in calls:
                link.submit(call)
            assert link.queued == 2
            assert not any(call.handed_over for call in calls)
            assert (await host.until(3))[1:] == [b'{"n":1}', '{"n":"zwölf"}'.encode()]
            assert all(call.handed_over for call in calls)
            assert link.queued == 0
            assert host.sign_of_life >= 1
            link.established(Terms())
            assert link.explain() == ""
        assert codes == [1000]
        await link.aclose("twice is fine")


def test_what_it_can_do_is_what_the_configuration_says() -> None:
    capabilities = WebSocketLink("http://127.0.0.1:1").capabilities
    assert capabilities.supports_realtime
    assert capabilities.supports_bidirectional
    assert capabilities.supports_streaming
    assert not capabilities.supports_filesystem
    assert capabilities.max_message_bytes == MIB
    assert capabilities.max_concurrent_connections == 1
    assert capabilities.cost == 0.1


async def test_calls_that_were_submitted_before_it_runs_are_not_forgotten(fast: bool) -> None:
    async with serving(echo) as url:
        host, link = Host(), WebSocketLink(url, fast=fast)
        await link.open(host)
        link.submit(make_call())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            assert await host.until(1) == [b'{"id":"p-1"}']
            tasks.cancel_scope.cancel()
        await link.aclose("done")


async def test_a_hundred_calls_of_one_turn_are_one_write() -> None:
    class Counting:
        """A stream that counts its writes."""

        def __init__(self, stream: anyio.abc.ByteStream) -> None:
            self._stream = stream
            self.receive = stream.receive
            self.aclose = stream.aclose
            self.writes = 0

        async def send(self, data: bytes) -> None:
            self.writes += 1
            await self._stream.send(data)

    streams: list[Counting] = []

    async def dial(host: str, port: int, **_: object) -> Any:
        streams.append(Counting(await anyio.connect_tcp(host, port)))
        return streams[0]

    async with serving(echo) as url:
        host, link = Host(), WebSocketLink(url, dialer=dial)
        async with running(link, host):
            before = streams[0].writes
            for n in range(100):
                link.submit(make_call(b'{"n":%d}' % n))
            await host.until(100)
            assert streams[0].writes - before == 1
            assert host.messages == [b'{"n":%d}' % n for n in range(100)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the protocol is asyncio's: trio has none
async def test_under_asyncio_a_hundred_wakes_of_one_turn_are_one_write() -> None:
    writes: list[bytes] = []

    class Transport(asyncio.Transport):
        def write(self, data: Any) -> None:
            writes.append(bytes(data))

        def abort(self) -> None:
            pass

    class User:
        pending = 0
        asked = 0

        def received(self, data: bytes) -> None:
            pass

        def take(self) -> bytes:
            self.asked += 1
            taken, self.pending = self.pending, 0
            return b"x" * taken

        def progressed(self) -> None:
            pass

    wire, user = ProtocolWire(asyncio.get_running_loop()), User()
    wire.connection_made(Transport())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wire.run, user)
        await turns()
        user.asked = 0
        for _ in range(100):
            user.pending += 1
            wire.wake()
        await turns()
        assert writes == [b"x" * 100]
        assert user.asked == 2, "once for the bytes, once to hear that there are no more"
        wire.pause_writing()
        user.pending = 1
        wire.wake()
        await turns()
        assert len(writes) == 1
        wire.resume_writing()
        assert writes[1:] == [b"x"]
        wire.stop()


async def test_a_call_that_is_withdrawn_while_it_waits_is_never_sent(fast: bool) -> None:
    async with serving(echo) as url:
        host, link = Host(), WebSocketLink(url, fast=fast)
        async with running(link, host):
            gone, kept = make_call(b'{"gone":1}'), make_call(b'{"kept":1}')
            link.submit(gone)
            link.submit(kept)
            link.withdraw(gone)
            link.withdraw(gone)
            assert await host.until(1) == [b'{"kept":1}']
            assert not gone.handed_over
            link.withdraw(kept)  # too late, and harmless


async def test_bytes_that_wait_are_bounded_and_withdrawing_makes_room(fast: bool) -> None:
    link = WebSocketLink("http://127.0.0.1:1", config=WebSocketConfig(max_queue_bytes=100), fast=fast)
    first = make_call(b"x" * 60)
    link.submit(first)
    with pytest.raises(QueueFull) as caught:
        link.submit(make_call(b"x" * 41))
    assert caught.value.limit == 100
    assert link.queued == 1
    link.submit(make_call(b"x" * 40))
    link.withdraw(first)
    link.submit(make_call(b"x" * 60))


async def test_what_was_written_makes_room_again(fast: bool) -> None:
    async with serving(echo) as url:
        config = WebSocketConfig(max_queue_bytes=100)
        host, link = Host(), WebSocketLink(url, config=config, fast=fast)
        async with running(link, host):
            for n in range(5):
                link.submit(make_call(b"x" * 60))
                await host.until(n + 1)


async def test_a_ping_is_answered_when_there_is_nothing_else_to_say(fast: bool) -> None:
    async def peer(peer: Peer) -> None:
        await peer.accept()
        await peer.stream.send(frame(9, b"there?"))
        assert await peer.frame() == (10, True, b"there?")
        await peer.stream.send(frame(1, b"thanks"))
        await peer.frame()

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, fast=fast)
        async with running(link, host):
            assert await host.until(1) == [b"thanks"]


async def test_nothing_is_said_after_a_write_that_was_broken_off() -> None:
    class Stuck:
        """A stream whose first write never ends."""

        def __init__(self) -> None:
            self.sent: list[bytes] = []

        async def send(self, data: bytes) -> None:
            self.sent.append(data)
            await anyio.sleep_forever()

        async def receive(self, _: int) -> bytes:
            await anyio.sleep_forever()
            return b""

        async def aclose(self) -> None:
            pass

    class User:
        def received(self, data: bytes) -> None:
            raise AssertionError(data)

        def take(self) -> bytes:
            return b"half a frame"

        def progressed(self) -> None:
            raise AssertionError

    stream: Any = Stuck()
    wire = StreamWire(stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wire.run, User())
        await turns()
        tasks.cancel_scope.cancel()
    await wire.aclose(b"goodbye", linger=0.01)
    assert stream.sent == [b"half a frame"]


# --- large messages ---------------------------------------------------------------------------------------

LARGE = WebSocketConfig(max_message_bytes=64 * MIB, max_queue_bytes=64 * MIB)


def large_call() -> Call:
    """More than the kernels' buffers on both sides take."""
    return make_call(b'{"x":"' + b"y" * (32 * MIB) + b'"}')


async def test_a_large_message_is_handed_over_with_its_last_fragment_and_answers_pings_between(
    fast: bool,
) -> None:
    go, seen = anyio.Event(), list[tuple[int, bool]]()
    size = 0

    async def peer(peer: Peer) -> None:
        nonlocal size
        await peer.accept()
        await peer.stream.send(frame(9, b"still there?"))
        await peer.stop_reading()
        await go.wait()
        while True:
            opcode, fin, payload = await peer.frame()
            seen.append((opcode, fin))
            if opcode < 2:
                assert len(payload) <= 64 * 1024
                size += len(payload)
            if opcode == 1 and len(seen) < 5:
                await peer.stream.send(frame(9, b"and now?"))
            if fin and opcode < 2:
                await peer.stream.send(frame(1, b"got it"))

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, config=LARGE, fast=fast)
        async with running(link, host):
            call, behind = large_call(), make_call()
            link.submit(call)
            link.submit(behind)
            with anyio.move_on_after(0.1):  # nothing tells that nothing more will happen
                await host.until(1)
            assert not call.handed_over
            assert not behind.handed_over
            assert link.queued == 2
            alive = host.sign_of_life
            go.set()
            await host.until(2)
            assert call.handed_over
            assert behind.handed_over
            assert link.queued == 0
            assert host.sign_of_life > alive + 5
    assert size == len(call.data) + len(behind.data)
    message = seen[: seen.index((0, True)) + 1]
    assert (10, True) in message[1:-1], "a pong passed between the fragments"


async def test_a_large_call_that_is_withdrawn_half_way_ends_as_no_message(fast: bool) -> None:
    go, got = anyio.Event(), list[bytes]()

    async def peer(peer: Peer) -> None:
        await peer.accept()
        await peer.stop_reading()
        await go.wait()
        parts: list[bytes] = []
        while True:
            opcode, fin, payload = await peer.frame()
            if opcode == 8:
                return
            parts.append(payload)
            if fin:
                got.append(b"".join(parts))
                parts = []
                await peer.stream.send(frame(1, b"got it"))

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, config=LARGE, fast=fast)
        async with running(link, host):
            call = large_call()
            link.submit(call)
            with anyio.move_on_after(0.1):
                await host.until(1)
            link.withdraw(call)
            assert link.queued == 0
            behind = make_call()
            link.submit(behind)
            go.set()
            await host.until(2)
            assert not call.handed_over
            assert behind.handed_over
    assert len(got[0]) < len(call.data)
    with pytest.raises(json.JSONDecodeError):
        json.loads(got[0])
    assert got[1] == behind.data


async def test_a_queue_that_a_slow_peer_holds_up_is_bounded_and_was_never_sent(fast: bool) -> None:
    async def peer(peer: Peer) -> None:
        await peer.accept()
        await peer.stop_reading()
        await anyio.sleep_forever()

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, config=LARGE, fast=fast)
        calls: list[Call] = []
        async with running(link, host):
            with pytest.raises(QueueFull):
                while True:
                    call = make_call(b"x" * 60_000)
                    link.submit(call)
                    calls.append(call)
                    await anyio.lowlevel.checkpoint()
        assert not calls[-1].handed_over
        assert calls[0].handed_over


# --- faults -----------------------------------------------------------------------------------------------


def after_handshake(script: Callable[[Peer], Awaitable[None]]) -> Handler:
    async def peer(peer: Peer) -> None:
        await peer.accept()
        await script(peer)

    return peer


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
        (b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n", FailureKind.AUTH, "401"),
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


# --- cancelled at every await -----------------------------------------------------------------------------


class CancelAt:
    """Awaits ``work`` and cancels ``scope`` when it is suspended for the ``n``-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], scope: anyio.CancelScope, n: int) -> None:
        self._work = work
        self._scope = scope
        self._n = n
        self.suspended = 0

    def __await__(self) -> Generator[Any, Any, None]:
        step: Callable[[], Any] = lambda: self._work.send(None)
        while True:
            try:
                wanted = step()
            except StopIteration:
                return
            self.suspended += 1
            if self.suspended == self._n:
                self._scope.cancel()
            try:
                sent = yield wanted
            except BaseException as error:
                step = lambda error=error: self._work.throw(error)  # type: ignore[misc]
            else:
                step = lambda sent=sent: self._work.send(sent)  # type: ignore[misc]


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


async def until_closed(count: int) -> None:
    """Both ends of a loopback connection are files of this process: wait until they are closed."""
    while open_files() > count:
        await anyio.lowlevel.checkpoint()


async def test_open_may_be_cancelled_at_every_await_and_leaves_nothing(fast: bool) -> None:
    async def token() -> str:
        await anyio.lowlevel.checkpoint()
        return "t"

    async with serving(echo) as url:
        async with running(WebSocketLink(url, fast=fast), Host()):
            pass  # whatever is made once is made now
        await turns(50)
        before, n, done = open_files(), 0, False
        while not done:
            n += 1
            link = WebSocketLink(url, token=token, fast=fast)
            with anyio.CancelScope() as scope:
                await CancelAt(link.open(Host()), scope, n)
                done = not scope.cancel_called
                await link.aclose("opened")
            await until_closed(before)
        assert n > 4


async def test_a_silent_accept_or_a_silent_server_is_left_by_cancelling(fast: bool) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.stream.receive()  # ends when the client has hung up

    async with serving(silent) as url:
        before = open_files()
        with anyio.move_on_after(0.05) as scope:
            await WebSocketLink(url, fast=fast).open(Host())
        assert scope.cancelled_caught
        await until_closed(before)

    async with serving(after_handshake(lambda _: anyio.sleep_forever())) as url:
        link = WebSocketLink(url, fast=fast)
        await link.open(Host())
        with anyio.move_on_after(0.05) as scope:
            await link.run()
        assert scope.cancelled_caught
        await link.aclose("silent")


async def test_run_may_be_cancelled_at_every_await_and_can_still_be_closed(fast: bool) -> None:
    async with serving(echo) as url:
        async with running(WebSocketLink(url, fast=fast), Host()):
            pass
        await turns(50)
        before = open_files()
        for n in range(1, 6):
            link, host = WebSocketLink(url, fast=fast), Host()
            await link.open(host)
            link.submit(make_call())
            with anyio.CancelScope() as scope, anyio.move_on_after(0.05):
                await CancelAt(link.run(), scope, n)
            await link.aclose("cancelled")
            await until_closed(before)


async def test_aclose_may_be_cancelled_at_every_await_and_closes_all_the_same(fast: bool) -> None:
    async with serving(echo) as url:
        async with running(WebSocketLink(url, fast=fast), Host()):
            pass
        await turns(50)
        before, n, done = open_files(), 0, False
        while not done:
            n += 1
            link = WebSocketLink(url, fast=fast)
            await link.open(Host())
            with anyio.CancelScope() as scope:
                await CancelAt(link.aclose("bye"), scope, n)
                done = not scope.cancel_called
            await until_closed(before)
        assert n > 1


# --- the token, and the address ---------------------------------------------------------------------------


async def test_the_token_goes_in_a_header_and_a_refused_one_is_asked_for_once_more(fast: bool) -> None:
    seen: list[bytes] = []
    tokens = ["old", "new"]

    async def token() -> str:
        return tokens.pop(0)

    async def peer(peer: Peer) -> None:
        await peer.request()
        (header,) = (line for line in peer.head.split(b"\r\n") if line.lower().startswith(b"authorization"))
        seen.append(header.split(b": ")[1])
        assert b"old" not in peer.head.split(b"\r\n")[0]
        if header.endswith(b"old"):
            await peer.stream.send(b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n")
        else:
            peer.data = peer.head + b"\r\n\r\n"
            await echo(peer)

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, token=token, fast=fast)
        async with running(link, host):
            link.submit(make_call())
            await host.until(1)
    assert seen == [b"Bearer old", b"Bearer new"]


async def test_a_token_that_stays_refused_is_sent_once_and_never_shown(fast: bool) -> None:
    dialled = 0

    async def token() -> str:
        return "s3cret"

    async def peer(peer: Peer) -> None:
        nonlocal dialled
        dialled += 1
        await peer.request()
        await peer.stream.send(b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n")

    async with serving(peer) as url:
        failure = await lost(WebSocketLink(url, token=token, fast=fast), Host())
    assert failure.kind is FailureKind.AUTH
    assert "s3cret" not in failure.reason
    assert dialled == 1


@pytest.mark.parametrize("bad", ["s3cret\r\nX: y", "s3cret\N{SNOWMAN}", ""])
async def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(bad: str) -> None:
    async def token() -> str:
        return bad

    failure = await lost(WebSocketLink("http://127.0.0.1:1", token=token), Host())
    assert failure.kind is FailureKind.AUTH
    assert "s3cret" not in failure.reason


async def test_a_token_function_that_raises_is_no_bug_of_the_link() -> None:
    async def token() -> str:
        raise RuntimeError("s3cret")

    failure = await lost(WebSocketLink("http://127.0.0.1:1", token=token), Host())
    assert failure.kind is FailureKind.UNAVAILABLE
    assert "RuntimeError" in failure.reason
    assert "s3cret" not in failure.reason


async def _token() -> str:
    return "t"


@pytest.mark.parametrize(
    "url", ["http://pipe.example", "ws://192.0.2.7:8000", "http://127.0.0.1.evil.example"]
)
def test_a_token_never_leaves_this_machine_in_clear_text(url: str) -> None:
    with pytest.raises(ConfigurationError, match="clear text"):
        WebSocketLink(url, token=_token)
    WebSocketLink(url)
    WebSocketLink(url.replace("http:", "https:").replace("ws:", "wss:"), token=_token)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.3.2.1:1", "ws://[::1]:1"])
def test_on_loopback_a_token_may_go_in_clear_text_but_not_to_a_proxy_elsewhere(url: str) -> None:
    WebSocketLink(url, token=_token)
    with pytest.raises(ConfigurationError, match=r"to proxy\.example in clear text"):
        WebSocketLink(url, token=_token, proxy="http://proxy.example:3128")


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:8000", "ftp://pipe.example", "http://", "http://pipe.example:99999", "http://[::1",
        "http://a b", "http://a..b", "/devpipe",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketLink(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@pipe.example", "http://pipe.example/?token=s3cret", "ftp://u:s3cret@x"]
)
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketLink(url)
    assert "s3cret" not in str(caught.value)


async def test_the_path_is_below_that_of_the_address_and_the_host_header_names_the_server() -> None:
    seen: list[bytes] = []

    async def peer(peer: Peer) -> None:
        seen.append(await peer.request())

    async with serving(peer) as url:
        await lost(WebSocketLink(f"{url}/über uns/"), Host())
    assert seen[0].startswith(b"GET /%C3%BCber%20uns/devpipe/ws HTTP/1.1\r\n")
    assert f"host: {url.removeprefix('http://')}".encode() in seen[0].lower()
