"""The WebSocket link: what goes and comes, in which order, and in how many writes."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import anyio
import pytest
from websocket_peer import (
    MIB,
    Host,
    Peer,
    echo,
    frame,
    make_call,
    running,
    serving,
    turns,
)

from devpipe.adapters.transports.link import Terms
from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.adapters.wire import ProtocolWire, StreamWire
from devpipe.machines.config import WebSocketConfig
from devpipe.machines.errors import QueueFull

pytestmark = pytest.mark.anyio


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
