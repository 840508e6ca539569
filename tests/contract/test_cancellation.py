"""Cancelled at every moment: nothing is left behind, nobody else is harmed, and the next message gets through.

The moments are counted (``tests/checkpoints.py``): every time that a task of the pipe is suspended while it is opened,
used and left, and every turn of the event loop while a caller waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from checkpoints import BOUND, cancel_at_every_step, cancel_at_every_turn
from leftovers import Leftovers
from support import TRANSPORTS, World, open_pipe, serving

import devpipe
from devpipe.adapters.client.pipe import Pipe
from devpipe.machines.breaker import BreakerState

pytestmark = pytest.mark.anyio

each_transport = pytest.mark.parametrize("name", TRANSPORTS)


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    """What is dropped unclosed warns when it is collected, and warnings are errors here."""
    caplog.set_level(logging.ERROR)
    yield
    gc.collect()
    assert not caplog.records


@contextlib.asynccontextmanager
async def witnessed(name: str) -> AsyncIterator[tuple[World, Pipe]]:
    """A server, and a pipe to it that nobody cancels; whatever is made once has been made."""
    async with serving() as world, open_pipe(world, *name.split("+")) as witness:
        async with open_pipe(world, *name.split("+")) as first:
            await first.send("echo", 0)
        yield world, witness


async def is_empty(pipe: Pipe) -> None:
    """No call is held anywhere, and no breaker waits for a permit."""
    metrics = pipe.metrics()
    assert (metrics["in_flight"], metrics["waiting"]) == (0, 0)
    for transport in pipe.transports:
        assert transport.in_flight == 0
        assert transport.breaker.next_deadline() is None
        while transport.queued:  # the word to the server that nobody waits any more
            await anyio.lowlevel.checkpoint()


# --- from connect to close --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TRANSPORTS, "websocket+http+folder"])
async def test_a_pipe_may_be_cancelled_at_every_step_from_connect_to_close(name: str) -> None:
    async with witnessed(name) as (world, witness):
        left = Leftovers(world, name)
        pipes: list[Pipe] = []

        async def work() -> None:
            pipe = open_pipe(world, *name.split("+"))
            async with pipe:
                pipes.append(pipe)
                assert (await pipe.send("echo", 1)).payload == 1

        async def check() -> None:
            for pipe in pipes:
                await is_empty(pipe)
                assert not any(transport.connected or not transport.gone for transport in pipe.transports)
            pipes.clear()
            assert (await witness.send("echo", 2)).payload == 2
            await left.are_gone()

        await cancel_at_every_step(work, check, least=8)


@each_transport
async def test_whoever_waits_is_told_at_whatever_step_the_leaving_is_cancelled(name: str) -> None:
    async with witnessed(name) as (world, witness), anyio.create_task_group() as others:
        asked, told = 0, list[devpipe.DevPipeError]()

        async def ask(pipe: Pipe) -> None:
            try:
                await pipe.send("wait", timeout=60)
            except devpipe.DevPipeError as error:
                told.append(error)

        async def work() -> None:
            nonlocal asked
            async with open_pipe(world, name) as pipe:
                asked += 3
                for _ in range(3):
                    others.start_soon(ask, pipe)
                await pipe.send("echo")

        async def check() -> None:
            while len(told) < asked:
                await anyio.lowlevel.checkpoint()
            assert all(isinstance(error, devpipe.PipeClosed) for error in told)
            assert (await witness.send("echo", 2)).payload == 2

        await cancel_at_every_step(work, check, least=8)
        assert asked > 0


@each_transport
async def test_a_transport_alone_may_be_cancelled_at_every_step(name: str) -> None:
    async with witnessed(name) as (world, witness):
        left = Leftovers(world, name)
        opened: list[devpipe.SingleTransport] = []

        async def work() -> None:
            url = world.server if name == "memory" else world.url if name != "folder" else None
            folder = world.folder if name == "folder" else None
            async with devpipe.connect_single(name, url, folder=folder) as single:
                opened.append(single)
                await single.connect()
                assert (await single.send("echo", 1)).payload == 1
                await single.disconnect()

        async def check() -> None:
            for single in opened:
                assert len(single.traffic.calls) == 0 and single.transport.gone
            opened.clear()
            assert (await witness.send("echo", 2)).payload == 2
            await left.are_gone()

        await cancel_at_every_step(work, check, least=8)


async def test_a_pipe_that_changes_its_way_may_be_cancelled_at_every_step() -> None:
    name = "websocket+http"
    async with witnessed(name) as (world, witness):
        left = Leftovers(world, name)
        pipes: list[Pipe] = []

        async def work() -> None:
            async with open_pipe(world, "websocket", "http") as pipe:
                pipes.append(pipe)
                for way in ("http", "websocket"):
                    pipe.use(way)
                    assert (await pipe.send("echo", way)).transport == way

        async def check() -> None:
            for pipe in pipes:
                await is_empty(pipe)
            pipes.clear()
            assert (await witness.send("echo", 2)).payload == 2
            await left.are_gone()

        await cancel_at_every_step(work, check, least=20)


@pytest.mark.parametrize("name", ["websocket", "http", "folder"])
async def test_a_pipe_to_nobody_may_be_cancelled_at_every_step(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # nobody accepts there: a dial is silent or in vain
        url = None if name == "folder" else f"http://127.0.0.1:{taken.getsockname()[1]}"
        folder = tmp_path / "nobody" if name == "folder" else None

        async def work() -> None:
            pipe = devpipe.connect(url, folder=folder, transports=[name], connect_timeout=0.05)
            with pytest.raises(devpipe.AllTransportsFailed):
                async with pipe:
                    raise AssertionError("it was entered")

        async def check() -> None:
            assert open_files() <= before

        def open_files() -> int:
            return len(os.listdir("/dev/fd"))

        before = open_files()
        await cancel_at_every_step(work, check, least=2)


# --- while a caller waits ---------------------------------------------------------------------------------


@each_transport
async def test_a_send_may_be_cancelled_at_every_turn_and_harms_nobody_else(name: str) -> None:
    async with witnessed(name) as (world, pipe):
        transport = pipe.transports[0]
        link = transport.driver.link

        async def work() -> None:
            assert (await pipe.send("echo", 1)).payload == 1

        async def check() -> None:
            await is_empty(pipe)
            assert (await pipe.send("echo", 2)).payload == 2
            assert transport.driver.link is link, "the path of all was given up for one caller"

        await cancel_at_every_turn(work, check, least=3)
        assert transport.breaker.error_rate(now=1e9) == 0.0
        with anyio.fail_after(BOUND):
            while world.server._service.running:  # whatever was started for a caller who has gone ends
                await anyio.lowlevel.checkpoint()


@each_transport
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio has no cancellation of one task
async def test_a_send_may_be_cancelled_at_every_turn_in_the_way_of_asyncio(name: str) -> None:
    async with witnessed(name) as (_, pipe):

        async def work() -> None:
            task = asyncio.ensure_future(pipe.send("echo", 1))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                    await task
                raise

        async def check() -> None:
            await is_empty(pipe)
            assert (await pipe.send("echo", 2)).payload == 2

        await cancel_at_every_turn(work, check, least=3)


@each_transport
async def test_a_leased_permit_comes_back_whenever_its_caller_is_cancelled(name: str) -> None:
    settings = {
        "breaker.failure_threshold": 1,
        "breaker.reset_timeout": 1e-6,
        "breaker.half_open_max_calls": 2,
        "breaker.half_open_successes": 1_000_000,  # it stays half open: each message takes a permit
    }
    async with serving() as world, open_pipe(world, name, settings=settings) as pipe:
        breaker = pipe.transports[0].breaker
        permit = breaker.acquire(now=0.0)
        assert permit is not None
        breaker.failure(permit, now=0.0)
        leased = 0

        async def work() -> None:
            nonlocal leased
            sending = pipe.send("echo", 1)
            assert (await sending).payload == 1

        async def check() -> None:
            nonlocal leased
            await is_empty(pipe)
            assert (await pipe.send("echo", 2)).payload == 2
            assert breaker.state is BreakerState.HALF_OPEN
            leased += 1

        await cancel_at_every_turn(work, check, least=3)
        assert (
            breaker.snapshot().numbers > leased
        )  # each of these calls had a permit of its own, and others had


@each_transport
async def test_no_push_is_lost_by_whoever_is_cancelled_while_he_waits_for_it(name: str) -> None:
    async with witnessed(name) as (world, pipe):
        pushes = pipe.receive()
        got: list[object] = []
        pushed = 0

        async def push() -> None:
            nonlocal pushed
            pushed += 1
            await world.server.push("news", pushed)

        async def take() -> None:
            item = await pushes.__anext__()
            assert isinstance(item, devpipe.Message), item
            got.append(item.payload)

        await push()
        await cancel_at_every_turn(take, push)
        with anyio.fail_after(BOUND):
            while len(got) < pushed:
                await take()
        assert got == list(range(1, pushed + 1))
