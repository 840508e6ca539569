"""``on``: a mailbox and a task for each listener, so that one that raises or is slow harms nobody."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

import devpipe
from devpipe.adapters.listeners import MAILBOX, Listeners
from devpipe.machines.events import GapSeen, ResumedFromSleep, TransportSwitched

pytestmark = pytest.mark.anyio

log = logging.getLogger("devpipe.test")


@asynccontextmanager
async def listening() -> AsyncIterator[Listeners]:
    listeners = Listeners(frozenset({"gap", "resumed"}), logger=log)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            listeners.start(tasks)
            yield listeners
            tasks.cancel_scope.cancel()


class Heard:
    def __init__(self) -> None:
        self.events: list[object] = []
        self._more = anyio.Event()

    def __call__(self, event: object) -> None:
        self.events.append(event)
        self._more.set()

    async def wait(self, count: int) -> None:
        while len(self.events) < count:
            self._more = anyio.Event()
            await self._more.wait()


async def test_everybody_who_listens_hears_in_order_and_nobody_else() -> None:
    async with listening() as listeners:
        one, other, strange = Heard(), Heard(), Heard()
        listeners.on("gap", one)
        listeners.on("gap", other)
        listeners.on("resumed", strange)
        told = [GapSeen(reason=str(n)) for n in range(3)]
        for event in told:
            listeners.tell(event)
        await one.wait(3)
        await other.wait(3)
        assert one.events == other.events == told
        assert strange.events == []


async def test_what_is_told_before_the_start_is_heard_after_it() -> None:
    listeners = Listeners(frozenset({"gap"}), logger=log)
    heard = Heard()
    listeners.on("gap", heard)
    listeners.tell(GapSeen(reason="early"))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            listeners.start(tasks)
            await heard.wait(1)
            tasks.cancel_scope.cancel()


async def test_one_that_raises_is_logged_and_hears_the_next_event(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as listeners:
        heard, well = Heard(), Heard()

        def broken(event: object) -> None:
            heard(event)
            raise ZeroDivisionError("a bug of the program")

        listeners.on("gap", broken)
        listeners.on("gap", well)
        listeners.tell(GapSeen(reason="1"))
        listeners.tell(GapSeen(reason="2"))
        await heard.wait(2)
        await well.wait(2)
    assert len(caplog.records) == 2


async def test_one_that_waits_keeps_nobody_waiting() -> None:
    async with listening() as listeners:
        begun, heard = anyio.Event(), Heard()

        async def slow(event: object) -> None:
            begun.set()
            await anyio.sleep_forever()

        listeners.on("gap", slow)
        listeners.on("gap", heard)
        for n in range(3):
            listeners.tell(GapSeen(reason=str(n)))
        await begun.wait()
        await heard.wait(3)


async def test_one_that_is_too_slow_loses_its_oldest_events_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening() as listeners:
        begun, go, heard = anyio.Event(), anyio.Event(), Heard()

        async def slow(event: object) -> None:
            begun.set()
            await go.wait()
            heard(event)

        listeners.on("gap", slow)
        listeners.tell(GapSeen(reason="first"))
        await begun.wait()
        for n in range(MAILBOX + 5):
            listeners.tell(GapSeen(reason=str(n)))
        go.set()
        await heard.wait(MAILBOX + 1)
        assert [e.reason for e in heard.events if isinstance(e, GapSeen)][:2] == ["first", "5"]
    assert caplog.text.count("too slow") == 1


async def test_who_is_removed_hears_no_more() -> None:
    async with listening() as listeners:
        first, second, last = Heard(), Heard(), Heard()
        remove = listeners.on("gap", first)
        listeners.on("gap", second)
        listeners.on("gap", last)
        remove()
        remove()  # a second time changes nothing
        listeners.off("gap", second)
        listeners.off("gap", print)  # who was never there
        listeners.tell(GapSeen(reason="x"))
        await last.wait(1)
        assert first.events == second.events == []
        listeners.clear()
        listeners.tell(GapSeen(reason="y"))
        await anyio.lowlevel.checkpoint()
        assert len(last.events) == 1


async def test_an_event_that_is_none_is_refused_with_those_that_there_are() -> None:
    async with listening() as listeners:
        with pytest.raises(devpipe.ConfigurationError, match="'gab': there are gap, resumed"):
            listeners.on("gab", print)
        listeners.tell(ResumedFromSleep(slept=1.0))  # nobody listens, and nothing happens


async def test_who_listens_before_a_pipe_is_entered_hears_of_its_first_transport() -> None:
    server = devpipe.Server()
    pipe = devpipe.connect(server)
    switched = Heard()
    pipe.on("transport_switched", switched)
    with anyio.fail_after(10):
        async with server, pipe:
            await switched.wait(1)
    first = switched.events[0]
    assert isinstance(first, TransportSwitched)
    assert (first.from_, first.to, first.reason.value) == (None, "memory", "initial")
