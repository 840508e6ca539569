"""What a pipe tells of itself: ``receive``, ``position``, ``metrics``, ``explain``."""

from __future__ import annotations

import re
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import make_server, open_pipe, serving

import devpipe

pytestmark = pytest.mark.anyio


async def push_until_heard(server: devpipe.Server, pushes: devpipe.Subscription) -> Any:
    """The path of pushes is laid a moment after the pipe is open: push until one arrives."""
    while True:
        await server.push("news", "hello")
        with anyio.move_on_after(0.05):
            return await anext(pushes)


async def test_every_subscription_gets_every_push_from_its_beginning_on() -> None:
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "websocket") as pipe:
            first = pipe.receive()
            await push_until_heard(world.server, first)
            second = pipe.receive()
            await world.server.push("news", 1)
            await world.server.push("news", 2)
            for subscription in (first, second):
                payloads: list[Any] = []
                while payloads[-2:] != [1, 2]:
                    item = await anext(subscription)
                    assert isinstance(item, devpipe.Message)
                    payloads.append(item.payload)
                if subscription is second:
                    assert payloads[-2:] == payloads
                assert pipe.position == item.position


async def test_a_break_ends_a_subscription_and_so_does_the_end_of_the_pipe() -> None:
    with anyio.fail_after(20):
        async with serving() as world:
            async with open_pipe(world, "memory") as pipe:
                kept = pipe.receive()
                with pipe.receive() as left:
                    pass
                with pytest.raises(StopAsyncIteration):
                    await anext(left)
            with pytest.raises(StopAsyncIteration):
                await anext(kept)


async def test_pushes_that_are_taken_too_slowly_become_a_gap() -> None:
    with anyio.fail_after(20):
        async with (
            serving() as world,
            open_pipe(world, "websocket", settings={"push_queue_size": 2}) as pipe,
        ):
            pushes = pipe.receive()
            await push_until_heard(world.server, pushes)
            watcher = pipe.receive()
            for n in range(10):
                await world.server.push("news", n)
                item = await anext(watcher)  # all have arrived here, one after the other
                while isinstance(item, devpipe.Gap) or item.payload != n:
                    item = await anext(watcher)
            items = [await anext(pushes) for _ in range(3)]
            gap = items[-1]
            assert isinstance(gap, devpipe.Gap) and "too slowly" in gap.reason


async def test_metrics_are_plain_data_of_what_was_sent() -> None:
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "websocket", "http") as pipe:
            for _ in range(5):
                await pipe.send("echo", "x" * 100)
            with pytest.raises(devpipe.HandlerError):
                await pipe.send("fail")
            metrics = pipe.metrics()
            assert (metrics["sent"], metrics["answered"], metrics["in_flight"]) == (6, 6, 0)
            socket = metrics["transports"]["websocket"]
            assert socket["operation"] == "websocket_send"
            assert socket["count"] == socket["succeeded"] == 6 and socket["bytes_sent"] > 500
            assert 0 < socket["latency_p50"] <= socket["latency_p99"]
            assert metrics["transports"]["http"]["count"] == 0


async def test_the_explanation_names_each_transport_with_its_score_and_what_would_change_the_choice() -> None:
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "websocket", "http") as pipe:
            await pipe.send("echo", 1)
            explained = pipe.explain()
            assert (explained.active, explained.session, explained.pinned) == ("websocket", True, None)
            assert explained.server == world.server.identity
            assert [t.name for t in explained.transports] == ["websocket", "http"]
            assert 0 < explained.transports[0].score <= 1
            words = str(explained)
            assert "active: websocket" in words and "reliability" in words and "would change it" in words
            assert explained.would_change == "the loss of websocket (no score can beat it)"
            pipe.use("http")
            assert "use(None) frees the choice" in str(pipe.explain())


async def test_a_score_that_would_change_the_choice_is_named_where_one_could() -> None:
    settings = {"failover.lead": 0.005}
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "websocket", "http", settings=settings) as pipe:
            words = pipe.explain().would_change
    assert words.startswith("the loss of websocket, or another transport with a score of 0.9")
    assert words.endswith(" or more")


async def test_the_explanation_of_a_transport_that_fails_says_why_and_when_it_is_tried_again() -> None:
    async with devpipe.connect("http://127.0.0.1:9", wait=False) as pipe:
        with anyio.fail_after(10):
            while any(t.last_failure is None for t in pipe.explain().transports):
                await anyio.lowlevel.checkpoint()
        first = pipe.explain().transports[0]
        assert "nobody listens" in (first.last_failure or "")
        with anyio.fail_after(10):
            while "    next attempt in " not in str(pipe.explain()):
                await anyio.lowlevel.checkpoint()
        assert pipe.active is None
        assert "active: none" in str(pipe.explain())


async def test_a_token_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = "s3cret-t0ken"
    with anyio.fail_after(20):
        async with serving(make_server(token=secret)) as world:
            async with open_pipe(world, "websocket", "http", token=secret) as pipe:
                await pipe.send("echo", 1)
                shown = f"{pipe!r} {pipe.explain()} {pipe.metrics()} {pipe.transports!r} {pipe.config!r} {world.server!r}"
            with pytest.raises(devpipe.AllTransportsFailed) as caught:
                async with open_pipe(world, "websocket", "http", token="wr0ng", connect_timeout=2):
                    pass
    assert secret not in shown + caplog.text
    assert "wr0ng" not in str(caught.value) + caplog.text


async def test_the_health_of_a_transport_is_told_when_it_changes_not_at_the_next_round() -> None:
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "memory") as pipe:
            statuses: list[str] = []
            changed = anyio.Event()

            def heard(event: Any) -> None:
                statuses.append(event.status)
                changed.set()

            pipe.on("health_updated", heard)
            with anyio.fail_after(2):  # the next round of an idle pipe is up to 5 s away
                pipe.transports[0].disconnect()
                await changed.wait()
            assert statuses == ["disconnected"]


async def test_a_score_that_another_transport_would_need_is_named_where_one_can_have_it() -> None:
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "folder") as pipe:
            explained = pipe.explain()
    # the score goes on while it is told: what must be had is a lead on it
    wanted = re.search(r"another transport with a score of ([\d.]+) or more", explained.would_change)
    assert wanted is not None
    assert float(wanted[1]) == pytest.approx(
        explained.transports[0].score + pipe.config.failover.lead, abs=0.02
    )


async def test_who_subscribes_while_a_pipe_closes_is_told_so_at_once() -> None:
    with anyio.fail_after(20):
        async with serving() as world, open_pipe(world, "memory") as pipe:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(pipe.receive())
