"""HTML pages where replies, streams and sockets should be, as portals, proxies and error pages give them; and broken
server-sent events. All with status 200, through our own server with something strange in front of it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from nonsense import BOUND, pipe_in_use, troubles
from support import open_pipe, serving, with_handlers

import devpipe

pytestmark = pytest.mark.anyio

Event = MutableMapping[str, Any]
Send = Callable[[Event], Awaitable[None]]
Receive = Callable[[], Awaitable[Event]]

PAGE = b"<!DOCTYPE html><html><title>Welcome</title><p>Please log in to use this network.</html>"
POST, STREAM, SOCKET = "/devpipe/message", "/devpipe/stream", "/devpipe/ws"


class Portal(devpipe.Server):
    """Answers what goes to ``instead`` with a page, ``times`` times; before it has reached the server, or ``after`` it ran."""

    def __init__(self, *instead: str, times: float = float("inf"), after: bool = False) -> None:
        super().__init__()
        self.instead = instead
        self.times = times
        self.after = after

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope.get("path") not in self.instead or self.times < 1:
            await super().__call__(scope, receive, send)
            return
        self.times -= 1
        if self.after:

            async def drop(message: Event) -> None:
                """The server's own answer, which nobody gets."""

            await super().__call__(scope, receive, drop)
        prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        if scope["type"] == "websocket":
            await receive()
        head = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(PAGE))]
        # a portal lets no handshake through: 200 is no 101
        await send({"type": f"{prefix}.start", "status": 200, "headers": head})
        await send({"type": f"{prefix}.body", "body": PAGE})


@pytest.mark.parametrize("after", [False, True], ids=["before it ran", "after it ran"])
async def test_an_html_page_instead_of_a_reply_is_no_reply_and_nothing_runs_twice(after: bool) -> None:
    server = with_handlers(Portal(times=0, after=after))
    async with pipe_in_use("http", server) as (_, pipe):
        server.instead, server.times = (POST,), 1
        # how often each message has run is looked at by whoever has the pipe in use
        assert (await pipe.send("sync", "asked", timeout=BOUND)).payload == "asked"
        assert server.times == 0 and pipe.metrics()["resent"] == 1


async def test_an_html_page_for_ever_is_an_error_that_says_so_and_not_that_nothing_ran() -> None:
    server = with_handlers(Portal(times=0))
    async with serving(server) as world, open_pipe(world, "http") as pipe:
        server.instead, server.times = (POST,), float("inf")
        with anyio.fail_after(BOUND), pytest.raises(devpipe.DevPipeError) as failed:
            await pipe.send("sync", 1, timeout=3)
        assert failed.value.outcome is devpipe.Outcome.MAYBE_EXECUTED
        server.times = 0
        with anyio.fail_after(BOUND):
            assert (await pipe.send("echo", 2, timeout=BOUND)).payload == 2


async def test_an_html_page_instead_of_the_stream_is_polled_around() -> None:
    server = with_handlers(Portal(STREAM))
    async with serving(server) as world, open_pipe(world, "http") as pipe:
        pushes = pipe.receive()
        with anyio.fail_after(BOUND):
            await pipe.send("echo", 1)
            for n in range(5):
                await server.push("news", n)
            assert [(await pushes.__anext__()).payload for _ in range(5)] == list(range(5))
        assert any("polled" in transport.note for transport in pipe.explain().transports)


async def test_an_html_page_instead_of_a_handshake_is_said_and_http_carries_on() -> None:
    server = with_handlers(Portal(SOCKET))
    async with serving(server) as world, open_pipe(world, "websocket", "http") as pipe:
        with anyio.fail_after(BOUND):
            assert (await pipe.send("echo", 1)).transport == "http"
            while pipe.transports[0].lifecycle.last_failure is None:
                await anyio.lowlevel.checkpoint()
        assert "HTML page" in pipe.transports[0].lifecycle.last_failure.reason


async def test_html_pages_for_everything_are_named_for_each_transport() -> None:
    server = with_handlers(Portal(POST, STREAM, SOCKET))
    async with serving(server) as world:
        with anyio.fail_after(BOUND), pytest.raises(devpipe.AllTransportsFailed) as failed:
            async with open_pipe(world, "websocket", "http", connect_timeout=1):
                pass
    assert set(failed.value.errors) == {"websocket", "http"}
    for error in failed.value.errors.values():
        assert "HTML page" in str(error) or "answered text/html" in str(error), error


# --- broken server-sent events ----------------------------------------------------------------------------


class BrokenStream(devpipe.Server):
    """Puts ``strange`` in front of each piece of its streams, and breaks off in the middle of some."""

    strange = b""
    cut_every = 0
    pieces = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        async def say(message: Event) -> None:
            if message.get("body") and self.strange:
                message = {**message, "body": self.strange + message["body"]}
            if message.get("body") and self.cut_every:
                self.pieces += 1
                if self.pieces % self.cut_every == 0:
                    await send({**message, "body": message["body"][: len(message["body"]) // 2]})
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    raise ConnectionResetError("cut")
            await send(message)

        try:
            await super().__call__(scope, receive, say if scope.get("path") == STREAM else send)
        except* ConnectionResetError:
            pass  # as it was told to


STRANGE = {
    "comments and fields of no standard": b": hello\n\nfoo: bar\nfoo\n:\n\n",
    "a retry of no number and an id with NUL": b"retry: soon\nid: a\0b\n\n",
    "bytes that are no UTF-8": b"\xff\xfe: \xff\n\n",
    "an event without data": b"event: news\n\n",
    "data that is no message": b"data: {\n\n",
    "half a message over several lines": b'data: {"type":\ndata: \ndata: 5\n\n',
    "an event of another name": b'event: alert\ndata: {"type":"news","payload":"forged"\n\n',
    "a proof that is none": b'event: proof\ndata: {"nonce":"x","server":"y"}\n\n',
    "a push out of its place": b'id: x:9\ndata: {"type":"news","epoch":"x","offset":9,"payload":"forged"}\n\n',
}


async def pushed_in_order(server: BrokenStream) -> int:
    """Push through it: each comes once and in its order. Returns the troubles that were heard of."""
    async with serving(server) as world, open_pipe(world, "http") as pipe:
        pushes = pipe.receive()
        with anyio.fail_after(BOUND):
            assert (await pipe.send("echo", 1)).payload == 1
            for n in range(20):
                await server.push("news", n)
                await anyio.lowlevel.checkpoint()
            assert [(await pushes.__anext__()).payload for _ in range(20)] == list(range(20))
            assert (await pipe.send("echo", 2)).payload == 2
        return troubles(pipe)


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE.keys())
async def test_broken_sse_between_the_pushes_loses_none_and_forges_none(strange: bytes) -> None:
    server = with_handlers(BrokenStream())
    server.strange = strange
    heard = await pushed_in_order(server)
    assert heard or b"data" not in strange or b'"payload"' in strange, "it was dropped without a word"


async def test_broken_sse_that_ends_in_the_middle_of_an_event_is_taken_up_behind_the_last_whole_one() -> None:
    server = with_handlers(BrokenStream())
    server.cut_every = 3
    await pushed_in_order(server)
    assert server.pieces > 3


async def test_broken_sse_without_an_end_is_left_and_asked_for_again() -> None:
    class Endless(BrokenStream):
        streams = 0

        async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
            if scope.get("path") != STREAM or self.streams:
                await super().__call__(scope, receive, send)
                return
            self.streams += 1
            nonce = dict(scope["headers"])[b"devpipe-nonce"].decode()
            proof = json.dumps({"nonce": nonce, "server": self.identity}).encode()
            head = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            body = b"event: proof\ndata: " + proof + b"\n\ndata: "
            for _ in range(400):  # 26 MB, more than anybody takes
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = b"x" * 65536

    server = with_handlers(Endless())
    assert await pushed_in_order(server) >= 1
