"""A link of every kind, without a driver around it: whatever is cancelled, it keeps nothing open.

The driver shields the goodbye, and bounds its time; then a link is cancelled in the middle of it, too.
"""

from __future__ import annotations

import itertools

import anyio
import pytest
from checkpoints import cancel_at_every_step
from leftovers import Leftovers
from support import TRANSPORTS, World, serving

from devpipe.adapters.ports.clock import SystemClock, SystemDice
from devpipe.adapters.transports.folder import FolderLink
from devpipe.adapters.transports.http import HttpLink
from devpipe.adapters.transports.link import Link
from devpipe.adapters.transports.memory import MemoryLink
from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.machines.config import HttpConfig
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import encode_request

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("name", [*TRANSPORTS, "websocket, reference"])]

ids = itertools.count(1)
#: At once: HTTP takes a connection for each.
CALLS = 3


class Host:
    """Waits until all calls have their replies."""

    def __init__(self) -> None:
        self.left = CALLS
        self.replied = anyio.Event()

    def deliver(self, data: bytes | bytearray) -> None:
        self.left -= 1
        if self.left == 0:
            self.replied.set()

    def heard(self) -> None:
        pass

    def undelivered(self, call: Call, failure: Failure) -> None:
        raise AssertionError(failure)

    def trouble(self, failure: Failure) -> None:
        raise AssertionError(failure)


def make_link(world: World, name: str) -> Link:
    clock = SystemClock()
    match name:
        case "memory":
            return MemoryLink(world.server)
        case "folder":
            return FolderLink(world.folder, client="prefix", clock=clock)
        case "http":
            return HttpLink(
                world.url, config=HttpConfig(), clock=clock, dice=SystemDice(), control_id=lambda: "control"
            )
        case _:
            return WebSocketLink(world.url, fast=name == "websocket")


def make_call() -> Call:
    id = f"prefix-{next(ids)}"
    call = Call(id, "echo", b"1", now=0.0, deadline=10.0)
    data = encode_request(id=id, type="echo", payload=b"1", timestamp=1, priority=Priority.NORMAL)
    call.begin_attempt("link", data, now=0.0)
    return call


async def use(link: Link) -> None:
    """Open it, carry calls and their replies, and say goodbye, all of which may be cancelled."""
    host = Host()
    await link.open(host)  # cancelled here it is not closed: it has to leave nothing by itself
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            for _ in range(CALLS):
                link.submit(make_call())
            await host.replied.wait()
            tasks.cancel_scope.cancel()
    finally:
        await link.aclose("done")


async def test_a_link_may_be_cancelled_at_every_step_and_keeps_nothing_open(name: str) -> None:
    async with serving() as world:
        await use(make_link(world, name))
        left = Leftovers(world, name)
        await cancel_at_every_step(lambda: use(make_link(world, name)), left.are_gone, least=3)
