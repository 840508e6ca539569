"""The WebSocket link, cancelled at every await."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import anyio
import pytest
from websocket_peer import (
    Host,
    Peer,
    after_handshake,
    echo,
    make_call,
    running,
    serving,
    turns,
)

from devpipe.adapters.transports.websocket import WebSocketLink

pytestmark = pytest.mark.anyio


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
