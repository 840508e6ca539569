"""The WebSocket link: messages that go in pieces, and what passes between the pieces."""

from __future__ import annotations

import json

import anyio
import pytest
from websocket_peer import (
    MIB,
    Host,
    Peer,
    frame,
    make_call,
    running,
    serving,
)

from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.machines.config import WebSocketConfig
from devpipe.machines.errors import QueueFull
from devpipe.machines.protocols.calls import Call

pytestmark = pytest.mark.anyio


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
