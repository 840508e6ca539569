"""The HTTP link: many calls at once, calls that are withdrawn, links that are cancelled."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from http_peer import (
    PLAIN,
    STREAM,
    TERMS,
    Ear,
    Exchange,
    Steady,
    echo,
    linked,
    make,
    serving,
)

from devpipe.adapters.ports.clock import SystemClock
from devpipe.adapters.transports.http import HttpLink
from devpipe.machines.config import HttpConfig
from devpipe.machines.errors import QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call

pytestmark = pytest.mark.anyio


async def test_ten_calls_are_really_under_way_at_once_and_probes_have_their_own_connection() -> None:
    release = anyio.Event()

    async def hold(exchange: Exchange) -> None:
        if exchange.message["type"] == "echo":
            await release.wait()
        await exchange.reply()

    async with serving(hold) as peer, linked(peer.url) as (link, ear):
        for number in range(12):
            link.submit(make(f"p-{number}"))
        await peer.until(lambda: len(peer.asked) == 10)
        link.submit(make("probe", "health_ping"))
        await ear.until(lambda: ear.replies == ["probe"])
        assert len(peer.asked) == 11 and peer.connections == 11
        assert link.queued == 2
        release.set()
        await ear.until(lambda: len(ear.replies) == 13)
        assert peer.most_connections == 11


async def test_the_urgent_go_first_and_equals_in_their_order() -> None:
    release = anyio.Event()

    async def hold(exchange: Exchange) -> None:
        await release.wait()
        await exchange.reply()

    config = HttpConfig(enable_sse=False, max_connections=1)
    async with serving(hold) as peer, linked(peer.url, config=config) as (link, ear):
        link.submit(make("first"))
        await peer.until(lambda: len(peer.asked) == 1)
        link.submit(make("low", priority=Priority.LOW))
        link.submit(make("normal-1"))
        link.submit(make("normal-2"))
        link.submit(make("urgent", priority=Priority.CRITICAL))
        release.set()
        await ear.until(lambda: len(ear.replies) == 5)
    assert ear.replies == ["first", "urgent", "normal-1", "normal-2", "low"]


async def test_a_full_queue_refuses() -> None:
    config = HttpConfig(enable_sse=False, max_connections=1, queue_size=1)

    async def hold(exchange: Exchange) -> None:
        await exchange.until_gone()

    async with serving(hold) as peer, linked(peer.url, config=config) as (link, _):
        link.submit(make("under way"))
        await peer.until(lambda: len(peer.asked) == 1)
        link.submit(make("waits"))
        with pytest.raises(QueueFull):
            link.submit(make("too many"))


async def test_calls_submitted_between_open_and_run_go_out() -> None:
    async with serving(echo) as peer:
        link = HttpLink(
            peer.url, config=PLAIN, clock=SystemClock(), dice=Steady(), control_id=lambda: "control"
        )
        ear = Ear()
        await link.open(ear)
        link.submit(make("p-1", "hello"))
        link.submit(make("p-2"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            await ear.until(lambda: sorted(ear.replies) == ["p-1", "p-2"])
            tasks.cancel_scope.cancel()
        await link.aclose("done")
        await link.aclose("twice")


async def test_a_call_may_be_submitted_again_while_its_failure_is_told() -> None:
    tries = 0

    async def second(exchange: Exchange) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await exchange.answer(503, b"", content_type="text/html")
        else:
            await exchange.reply()

    config = HttpConfig(enable_sse=False, max_connections=1)
    async with serving(second) as peer, linked(peer.url, config=config) as (link, ear):
        told = ear.undelivered

        def again(call: Call, failure: Failure) -> None:
            told(call, failure)
            link.submit(call)

        ear.undelivered = again  # type: ignore[method-assign]
        link.submit(make("p-1"))
        await ear.until(lambda: ear.replies == ["p-1"])


async def test_a_withdrawn_call_that_waits_never_leaves() -> None:
    release = anyio.Event()

    async def hold(exchange: Exchange) -> None:
        await release.wait()
        await exchange.reply()

    config = HttpConfig(enable_sse=False, max_connections=1)
    async with serving(hold) as peer, linked(peer.url, config=config) as (link, ear):
        waits = make("waits")
        link.submit(make("first"))
        await peer.until(lambda: len(peer.asked) == 1)
        link.submit(waits)
        link.withdraw(waits)
        link.withdraw(make("unknown"))
        assert link.queued == 0
        link.submit(make("last"))
        release.set()
        await ear.until(lambda: ear.replies == ["first", "last"])
    assert not waits.handed_over


async def test_a_withdrawn_call_under_way_frees_its_connection_and_its_place() -> None:
    async def hold(exchange: Exchange) -> None:
        if exchange.message["id"] == "p-1":
            await exchange.until_gone()
        await exchange.reply()

    config = HttpConfig(enable_sse=False, max_connections=1)
    async with serving(hold) as peer, linked(peer.url, config=config) as (link, ear):
        call = make("p-1")
        link.submit(call)
        await peer.until(lambda: len(peer.asked) == 1)
        link.submit(make("p-2"))
        link.withdraw(call)
        await ear.until(lambda: ear.replies == ["p-2"])
        await peer.until(lambda: peer.connections == 1)
    assert not ear.back and ear.lost is None


async def test_a_withdrawal_in_the_moment_of_the_reply_takes_nothing_else_down() -> None:
    config = HttpConfig(enable_sse=False, max_connections=1)
    async with serving(echo) as peer, linked(peer.url, config=config) as (link, ear):
        call = make("p-1")
        ear.heard = lambda: link.withdraw(call)  # type: ignore[method-assign]
        link.submit(call)
        link.submit(make("p-2"))
        await ear.until(lambda: ear.replies == ["p-2"])
    assert not ear.back and ear.lost is None


async def test_a_withdrawal_at_any_moment_leaves_the_place_free_and_tells_nothing() -> None:
    config = HttpConfig(enable_sse=False, max_connections=1)
    async with serving(echo) as peer, linked(peer.url, config=config) as (link, ear):
        finished_first = 0
        for steps in range(200):
            call, after = make(f"p-{steps}"), make(f"after-{steps}")
            ear.delivered.clear()
            link.submit(call)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            known = len(ear.delivered)
            link.withdraw(call)
            link.submit(after)
            await ear.until(lambda after=after: after.id in ear.replies)  # type: ignore[misc]
            assert len(ear.delivered) == known + 1
            assert not ear.back and ear.lost is None
            assert link.queued == 0
            finished_first += known
            if finished_first == 3:
                break
        assert finished_first == 3, "no withdrawal ever came too late: more steps are needed"


async def test_a_cancellation_at_any_moment_leaves_no_connection_behind() -> None:
    async with serving(echo) as peer:
        finished_first = 0
        for steps in range(400):
            async with linked(peer.url, config=STREAM, terms=TERMS) as (link, ear):
                link.submit(make("p-1"))
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                finished_first += bool(ear.delivered and peer.of("/devpipe/stream"))
            await peer.until(lambda: peer.connections == 0)
            peer.asked.clear()
            if finished_first == 3:
                break
        assert finished_first == 3, "no cancellation ever came too late: more steps are needed"
