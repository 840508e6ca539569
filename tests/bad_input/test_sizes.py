"""Messages that are larger than may be, in both directions, and replies too large for the way that they have to take.

Over memory nobody is a stranger: both ends refuse what is too large before it is sent.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from nonsense import BOUND, hear, pipe_in_use, say, troubles
from support import TRANSPORTS, open_pipe, serving

import devpipe
from devpipe.adapters.client.pipe import Pipe

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
#: What each transport takes at most.
LIMITS = {"memory": 10 * MIB, "websocket": MIB, "http": 10 * MIB, "folder": 10 * MIB}


def large(name: str) -> bytes:
    """A message that is whole and right, and a little too large for this transport."""
    return b'{"type":"echo","id":"strange-1","payload":"%s"}' % (b"x" * (LIMITS[name] + 100_000))


async def loss(pipe: Pipe) -> str:
    """Why the path of this pipe is lost: it is, or will be."""
    lifecycle = pipe.transports[0].lifecycle
    while lifecycle.last_failure is None:
        await anyio.lowlevel.checkpoint()
    return lifecycle.last_failure.reason


async def test_an_oversized_message_over_websocket_ends_its_connection_with_1009() -> None:
    async with pipe_in_use("websocket") as (_, pipe):
        say(pipe, large("websocket"))
        assert "close code 1009" in await loss(pipe)


async def test_an_oversized_message_over_http_is_answered_and_harms_no_connection() -> None:
    async with pipe_in_use("http") as (_, pipe):
        before = pipe.metrics()["unknown_replies"]
        say(pipe, large("http"))
        while pipe.metrics()["unknown_replies"] == before:  # the refusal answers what nobody has asked
            await anyio.lowlevel.checkpoint()
        assert pipe.transports[0].lifecycle.last_failure is None


async def test_an_oversized_message_in_the_folder_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with pipe_in_use("folder") as (_, pipe):
        say(pipe, large("folder"))
        while "left alone" not in caplog.text:
            await anyio.lowlevel.checkpoint()
    assert "the limit is" in caplog.text


async def test_an_oversized_message_of_the_server_over_websocket_ends_its_connection_with_1009() -> None:
    async with pipe_in_use("websocket") as (world, pipe):
        await hear(world, pipe, large("websocket"))
        assert "closed with 1009" in await loss(pipe)


@pytest.mark.parametrize("name", ["http", "folder"])
async def test_an_oversized_message_of_the_server_is_counted_and_dropped(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        told: list[str] = []
        pipe.on("error", lambda event: told.append(event.failure.reason))
        await hear(world, pipe, large(name))
        while not told:
            await anyio.lowlevel.checkpoint()
        assert "longer than" in told[0] or "the limit is" in told[0]
        assert troubles(pipe) == 1


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_an_oversized_message_of_ours_is_refused_before_it_is_sent(name: str) -> None:
    async with pipe_in_use(name) as (_, pipe):
        with pytest.raises(devpipe.MessageTooLarge, match=name) as refused:
            await pipe.send("echo", "x" * LIMITS[name])
        assert refused.value.outcome is devpipe.Outcome.NEVER_SENT


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_an_oversized_push_is_refused_where_it_is_made(name: str) -> None:
    async with pipe_in_use(name) as (world, _):
        with pytest.raises(devpipe.MessageTooLarge):
            await world.server.push("news", "x" * MIB)


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_reply_too_large_for_the_transport_is_an_error_that_says_it_ran(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(BOUND), pytest.raises(devpipe.DevPipeError) as failed:
            await pipe.send("large", LIMITS[name], timeout=BOUND)
        assert failed.value.outcome is devpipe.Outcome.EXECUTED
        with anyio.fail_after(BOUND):
            assert (await pipe.send("echo", 1)).payload == 1
        assert pipe.transports[0].lifecycle.last_failure is None
