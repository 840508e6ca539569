"""What a call whose time is up says about the path that it was on."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from lines import Line, pipe_over
from support import make_server

import devpipe
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.ports.clock import SystemClock
from devpipe.machines.breaker import BreakerState

pytestmark = pytest.mark.anyio


class SkippingClock(SystemClock):
    """A clock that can be made to jump, as if the program had not run for a while."""

    def __init__(self) -> None:
        super().__init__()
        real = self.now
        self.skipped = 0.0
        self.now: Callable[[], float] = lambda: real() + self.skipped


async def time_out(pipe: Pipe, type: str, *, times: int, timeout: float = 0.1) -> None:
    async def ask() -> None:
        with pytest.raises(devpipe.DevPipeError):
            await pipe.send(type, timeout=timeout)

    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(ask)


async def test_a_path_that_is_silent_is_charged() -> None:
    with anyio.fail_after(20):
        async with make_server() as server:
            line = Line("a", server)
            async with pipe_over(line) as pipe:
                line.swallowed = {"echo", "health_ping", "cancel"}
                await time_out(pipe, "echo", times=5)
                assert pipe.transports[0].breaker.state is BreakerState.OPEN


async def test_a_path_on_which_others_are_answered_meanwhile_is_not() -> None:
    with anyio.fail_after(20):
        async with make_server() as server:
            line = Line("a", server)
            async with pipe_over(line) as pipe, anyio.create_task_group() as tasks:

                async def talk() -> None:
                    while True:
                        await pipe.send("echo")
                        await anyio.lowlevel.checkpoint()

                tasks.start_soon(talk)
                line.swallowed = {"sync"}
                await time_out(pipe, "sync", times=10)
                assert pipe.transports[0].breaker.state is BreakerState.CLOSED
                assert pipe.metrics()["transports"]["a"]["failures"] == {"timeout": 10}
                tasks.cancel_scope.cancel()


async def test_calls_that_never_left_say_nothing_about_it() -> None:
    with anyio.fail_after(20):
        async with make_server() as server:
            line = Line("a", server)
            async with pipe_over(line) as pipe:
                line.kept = {"echo"}
                await time_out(pipe, "echo", times=10)
                assert pipe.transports[0].breaker.state is BreakerState.CLOSED


async def test_nor_do_calls_whose_end_the_program_notices_late() -> None:
    clocks: list[SkippingClock] = []

    def make_clock() -> SkippingClock:
        clocks.append(SkippingClock())
        return clocks[-1]

    with anyio.fail_after(20):
        async with make_server() as server:
            line = Line("a", server)
            async with pipe_over(line, clock=make_clock) as pipe, anyio.create_task_group() as tasks:
                line.swallowed = {"echo", "health_ping", "cancel"}

                async def skip() -> None:
                    while line.sent["echo"] < 10:
                        await anyio.lowlevel.checkpoint()
                    clocks[-1].skipped += 20.0

                tasks.start_soon(skip)
                await time_out(pipe, "echo", times=10, timeout=10)
                assert pipe.transports[0].breaker.state is BreakerState.CLOSED
