"""Clocks that are set while a pipe is open: no call suffers for it."""

from __future__ import annotations

import anyio
import pytest
from support import TRANSPORTS, make_server, open_pipe, serving

import devpipe
from devpipe.adapters.ports.clock import SystemClock

pytestmark = pytest.mark.anyio


class SetClock(SystemClock):
    """A wall clock that is ``ahead`` by so many seconds."""

    ahead = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_server_whose_clock_is_set_goes_on_answering(name: str) -> None:
    clocks: list[SetClock] = []

    def make_clock() -> SetClock:
        clocks.append(SetClock())
        return clocks[-1]

    async with serving(make_server(clock=make_clock)) as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(30):
            for ahead in (0.0, 3600.0, -3600.0, 86_400.0):
                clocks[-1].ahead = ahead
                for number in range(3):
                    assert (await pipe.send("echo", number, timeout=5)).payload == number, ahead
                async with anyio.create_task_group() as tasks:
                    for number in range(20):
                        tasks.start_soon(pipe.send, "echo", number)
        # each jump ahead costs what was under way once more, and then the clock is known
        assert pipe.metrics()["resent"] <= 2 * 2


async def test_a_call_whose_time_is_up_is_not_sent_again_for_what_the_server_says_of_its_clock() -> None:
    async with serving() as world, open_pipe(world, "memory") as pipe:
        with anyio.fail_after(30), pytest.raises(devpipe.DeadlineExceeded):
            await pipe.send("wait", timeout=0.2)
        assert pipe.metrics()["resent"] == 0
