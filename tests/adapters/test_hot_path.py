"""What a message costs the client, counted: socket writes, and everything that is made, over a real WebSocket.

The server is a process of its own, so that all that is counted here is the client's. What is counted is traced back to
the line of ours that asked for it, and a failure names that line.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from support import server_process

import devpipe
from devpipe.adapters.alarm import Alarm
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.pump import Pump
from devpipe.adapters.waiter import in_trio
from devpipe.machines.charts.base import PureChart
from devpipe.machines.protocols.calls import SWEEP

pytestmark = pytest.mark.anyio

BOUND = 20.0  #: seconds that no wait of these tests may take
WARM_UP = 200
#: What goes on beside the messages, however many they are: a round of the monitor, a probe.
FEW = 6
#: The one task that keeps time for all calls: it wakes when a sweep is due, whatever has been sent.
ALARM = "devpipe.adapters.alarm"
#: What ``Tally`` knows besides writes.
MADE = ("task", "lock", "event", "cancel scope", "timer", "stream item")
MACHINE = ("chart step", "chart send", "machine input")


# --- counting ---------------------------------------------------------------------------------------------


class Tally:
    """How often what was done, and by which line of ours."""

    def __init__(self) -> None:
        self.writes = 0
        self.seconds = 0.0
        self._found: Counter[tuple[str, str, int]] = Counter()
        self._open = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        began, self._open = time.monotonic(), True
        try:
            yield
        finally:
            self.seconds, self._open = time.monotonic() - began, False

    def note(self, what: str) -> None:
        """It happens now. What no line of ours has asked for is none of our business."""
        frame: FrameType | None = sys._getframe(1) if self._open else None
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("devpipe."):
                self._found[what, module, frame.f_lineno] += 1
                return
            frame = frame.f_back

    def wrote(self, sock: Any) -> None:
        """A write to a socket; the pipe by which asyncio wakes itself is none of them."""
        if self._open and sock.family in (socket.AF_INET, socket.AF_INET6):
            self.writes += 1

    def of(self, *kinds: str) -> dict[tuple[str, str, int], int]:
        """What was found of these kinds, the keeper of time aside."""
        return {key: n for key, n in self._found.items() if key[0] in kinds and key[1] != ALARM}

    @property
    def ticks(self) -> int:
        """How often the keeper of time woke and looked at the deadlines."""
        return sum(n for (what, _, _), n in self._found.items() if what == "tick")


@pytest.fixture
async def tally(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tally]:
    """Counts in the event loop that runs now, between ``with tally.counting()``."""
    tally = Tally()

    def count(owner: type, method: str, what: str) -> None:
        plain: Callable[..., Any] = getattr(owner, method)

        def counted(*args: Any, **options: Any) -> Any:
            tally.note(what)
            return plain(*args, **options)

        monkeypatch.setattr(owner, method, counted)

    def count_writes(owner: type, method: str) -> None:
        plain: Callable[..., Any] = getattr(owner, method)

        def counted(sock: Any, *args: Any) -> Any:
            tally.wrote(sock)
            return plain(sock, *args)

        monkeypatch.setattr(owner, method, counted)

    events = {asyncio.Event, trio.Event}  # anyio's are made of these
    locks = {asyncio.Lock, asyncio.Condition, asyncio.Semaphore, asyncio.Queue, trio.Lock, trio.Condition}
    locks |= {trio.Semaphore, trio.CapacityLimiter, anyio.Condition}
    locks |= {type(anyio.Lock()), type(anyio.Semaphore(1)), type(anyio.CapacityLimiter(1))}
    scopes = {trio.CancelScope, asyncio.Timeout, type(anyio.CancelScope())}
    for what, kinds in (("event", events), ("lock", locks), ("cancel scope", scopes)):
        for kind in kinds:
            count(kind, "__init__", what)
    sending, receiving = anyio.create_memory_object_stream[None]()
    with sending, receiving:
        count(type(sending), "send_nowait", "stream item")
    count(PureChart, "step", "chart step")
    count(PureChart, "send", "chart send")
    count(Pump, "post", "machine input")
    count(Alarm, "next_deadline", "tick")
    if in_trio():
        with trio.socket.socket() as sock:
            count_writes(type(sock), "send")
            count_writes(type(sock), "sendmsg")

        class Spawned(trio.abc.Instrument):
            def task_spawned(self, task: trio.lowlevel.Task) -> None:
                tally.note("task")

        spawned = Spawned()
        trio.lowlevel.add_instrument(spawned)
        yield tally
        trio.lowlevel.remove_instrument(spawned)
    else:
        loop = asyncio.get_running_loop()
        count_writes(socket.socket, "send")
        count_writes(socket.socket, "sendmsg")
        count(type(loop), "call_at", "timer")
        count(type(loop), "create_task", "task")
        yield tally


# --- the calls --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a process of its own."""
    place = tmp_path_factory.mktemp("server")
    with server_process(place / "pipe", place / "executions.jsonl") as (_, port):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def warm_pipe(url: str, *, fast: bool = True) -> AsyncIterator[Pipe]:
    """A pipe that has sent so much that whatever is made once has been made."""
    options = {"websocket.fast_path": fast}
    with anyio.fail_after(BOUND):
        async with devpipe.connect(url, transports=["websocket"], settings=options) as pipe:
            await together(pipe, WARM_UP, Tally())
            await one_after_the_other(pipe, 10, Tally())
            yield pipe


async def together(pipe: Pipe, count: int, tally: Tally, *, turns: int = 1) -> None:
    """So many calls in each of ``turns`` turns of the loop that follow each other; all are in flight at once.

    The callers' tasks are theirs, and stand ready before anything is counted.
    """
    answers: list[int] = []
    ready = 0

    async def call(number: int, gate: anyio.Event) -> None:
        nonlocal ready
        ready += 1
        await gate.wait()
        answers.append((await pipe.send("echo", number)).payload)

    async with anyio.create_task_group() as tasks:
        gates = [anyio.Event() for _ in range(turns)]
        for turn, gate in enumerate(gates):
            for number in range(count):
                tasks.start_soon(call, turn * count + number, gate)
        while ready < turns * count:
            await anyio.lowlevel.checkpoint()
        with tally.counting():
            for gate in gates:
                gate.set()
                await anyio.lowlevel.checkpoint()
            while len(answers) < turns * count:
                await anyio.lowlevel.checkpoint()
    assert sorted(answers) == list(range(turns * count))


async def one_after_the_other(pipe: Pipe, count: int, tally: Tally) -> None:
    with tally.counting():
        for number in range(count):
            assert (await pipe.send("echo", number)).payload == number


# --- the laws ---------------------------------------------------------------------------------------------

WAYS = pytest.mark.parametrize("fast", [True, False], ids=["fast", "reference"])
ORDERS = pytest.mark.parametrize("order", [together, one_after_the_other])
COUNTS = pytest.mark.parametrize("count", [100, 200])


@WAYS
@COUNTS
async def test_all_calls_of_one_turn_of_the_loop_are_one_write(
    url: str, tally: Tally, count: int, fast: bool
) -> None:
    async with warm_pipe(url, fast=fast) as pipe:
        await together(pipe, count, tally)
    assert 1 <= tally.writes <= 3  # a probe may fall into this time


@WAYS
async def test_there_is_no_more_than_one_write_in_each_turn_of_the_loop(
    url: str, tally: Tally, fast: bool
) -> None:
    async with warm_pipe(url, fast=fast) as pipe:
        await together(pipe, 20, tally, turns=10)
    assert 1 <= tally.writes <= 10 + 3


@WAYS
async def test_calls_one_after_the_other_are_one_write_each(url: str, tally: Tally, fast: bool) -> None:
    async with warm_pipe(url, fast=fast) as pipe:
        await one_after_the_other(pipe, 100, tally)
    assert 100 <= tally.writes <= 100 + 3


@ORDERS
@COUNTS
async def test_a_message_makes_no_task_no_lock_no_event_no_cancel_scope_no_timer_and_no_stream_item(
    url: str, tally: Tally, order: Callable[[Pipe, int, Tally], Any], count: int
) -> None:
    # as it is shipped: on the reference, under asyncio, anyio makes a scope of its own for each write
    async with warm_pipe(url) as pipe:
        await order(pipe, count, tally)
    found = tally.of(*MADE)
    assert sum(found.values()) <= FEW, found


@ORDERS
@COUNTS
async def test_a_message_is_no_event_of_any_machine(
    url: str, tally: Tally, order: Callable[[Pipe, int, Tally], Any], count: int
) -> None:
    async with warm_pipe(url) as pipe:
        await order(pipe, count, tally)
    found = tally.of(*MACHINE)
    assert sum(found.values()) <= FEW, found


@ORDERS
@COUNTS
async def test_the_keeper_of_time_wakes_by_the_clock_and_not_by_the_message(
    url: str, tally: Tally, order: Callable[[Pipe, int, Tally], Any], count: int
) -> None:
    async with warm_pipe(url) as pipe:
        await order(pipe, count, tally)
    # a sweep ends, and the next call arms the next one
    assert tally.ticks <= 2 * FEW + 2 * tally.seconds / SWEEP, tally.ticks


async def test_what_is_counted_is_seen_while_a_pipe_is_opened(url: str, tally: Tally) -> None:
    with tally.counting():
        async with devpipe.connect(url, transports=["websocket"]) as pipe:
            await pipe.send("echo")
    kinds = {what for what, _, _ in tally.of(*MADE, *MACHINE)}
    assert kinds >= {"task", "event", "cancel scope", "chart step", "chart send", "machine input"}
    assert tally.writes >= 2 and tally.ticks >= 1
