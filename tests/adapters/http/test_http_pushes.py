"""The HTTP link: the stream that brings pushes and late replies, and the polls where there is none."""

from __future__ import annotations

import errno
import gzip
import json
import ssl

import anyio
import anyio.lowlevel
import h11
import httpx
import pytest
from anyio.abc import SocketAttribute
from http_peer import (
    BOUND,
    PLAIN,
    SECRET,
    STREAM,
    TERMS,
    Ear,
    Exchange,
    Hung,
    Peer,
    accepted,
    echo,
    linked,
    make,
    refusing,
    serving,
    token,
)

from devpipe.adapters.transports.http import capabilities_of
from devpipe.adapters.transports.http_client import failure_of
from devpipe.adapters.transports.link import Terms
from devpipe.machines.config import HttpConfig
from devpipe.machines.errors import FailureKind
from devpipe.machines.protocols.envelope import encode_reply
from devpipe.machines.protocols.sse import encode_comment, encode_event

pytestmark = pytest.mark.anyio


def push(offset: int, epoch: str = "e") -> bytes:
    data = json.dumps({"type": "news", "epoch": epoch, "offset": offset, "payload": offset})
    return encode_event(data, id=f"{epoch}:{offset}")


def offsets(ear: Ear) -> list[int]:
    return [message["offset"] for message in ear.delivered if message["type"] == "news"]


async def test_pushes_and_late_replies_come_on_a_stream_that_proves_itself() -> None:
    late = anyio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.path.endswith("/stream"):
            await exchange.begin_stream()
            await exchange.data(encode_comment("keep-alive") + push(1)[:10])
            await exchange.data(push(1)[10:] + push(2))
            await late.wait()
            await exchange.data(encode_event(encode_reply(reply_to="p-1", timestamp=1)))
            await exchange.until_gone()
        else:
            await exchange.accept()

    async with (
        serving(script) as peer,
        linked(peer.url, config=STREAM, terms=TERMS, token=token) as (link, ear),
    ):
        await ear.until(lambda: offsets(ear) == [1, 2])
        link.established(TERMS)  # a later proof changes nothing
        link.submit(make("p-1"))
        await ear.until(lambda: len(ear.delivered) == 3)
        late.set()
        await ear.until(lambda: ear.replies == ["p-1"])
        assert [message["type"] for message in ear.delivered[2:]] == ["accepted", "response"]
        assert link.explain() == "" and not ear.troubles and not ear.back
        (asked,) = peer.of("/devpipe/stream")
    assert asked.method == "GET"
    assert asked.headers["devpipe-session"] == "session-1" and asked.headers["devpipe-server"] == "server-1"
    assert asked.headers["devpipe-nonce"].startswith("nonce-")
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["accept"] == "text/event-stream" and "last-event-id" not in asked.headers


async def test_a_stream_that_ends_is_opened_again_alone_behind_the_last_push() -> None:
    streams = 0

    async def script(exchange: Exchange) -> None:
        nonlocal streams
        streams += 1
        await exchange.begin_stream()
        if streams == 1:
            await exchange.data(push(1) + push(2) + push(5))  # a hole: what is behind it does not count
            exchange.reset()
        elif streams == 2:
            await exchange.data(push(3))
            await exchange.send(h11.EndOfMessage())
        else:
            await exchange.until_gone()

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (_, ear):
        await peer.until(lambda: len(peer.asked) == 3)
        assert ear.lost is None and len(ear.troubles) == 2
        assert [asked.headers.get("last-event-id") for asked in peer.asked] == [None, "e:2", "e:3"]
        assert len({asked.headers["devpipe-nonce"] for asked in peer.asked}) == 3


async def test_an_attach_says_where_the_next_stream_begins() -> None:
    attached = anyio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.path.endswith("/message"):
            await exchange.reply()
            attached.set()
            return
        await exchange.begin_stream()
        if len(exchange.peer.of("/devpipe/stream")) == 1:
            await exchange.data(push(7))
            await attached.wait()
            exchange.reset()
        await exchange.until_gone()

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (link, ear):
        await ear.until(lambda: offsets(ear) == [7])
        link.submit(make("p-1", "attach", b'{"number":1,"epoch":"e","after":3}'))
        await peer.until(lambda: len(peer.of("/devpipe/stream")) == 2)
        assert peer.of("/devpipe/stream")[1].headers["last-event-id"] == "e:3"


async def test_a_stream_that_is_held_back_is_polled_and_explained() -> None:
    polls = 0

    async def script(exchange: Exchange) -> None:
        nonlocal polls
        if exchange.path.endswith("/stream"):
            await exchange.until_gone()
        polls += 1
        if polls > 2:
            await exchange.until_gone()
        news = {"type": "news", "epoch": "e", "offset": polls, "payload": 1}
        late = json.loads(encode_reply(reply_to=f"late-{polls}", timestamp=1))
        await exchange.reply(json.dumps({"messages": [news, late]}).encode())

    config = HttpConfig(stream_proof_timeout=0.2, poll_hold=7.0)
    async with serving(script) as peer, linked(peer.url, config=config, terms=TERMS) as (link, ear):
        await ear.until(lambda: ear.replies == ["late-1", "late-2"])
        assert offsets(ear) == [1, 2]
        assert "polled" in link.explain() and "0.2 s" in link.explain()
        assert [failure.kind for failure in ear.troubles] == [FailureKind.TIMEOUT]
        await peer.until(lambda: len(peer.of("/devpipe/message")) == 3)
        asked = [exchange.message for exchange in peer.of("/devpipe/message")]
        assert ear.lost is None
    assert [message["payload"] for message in asked] == [
        {"hold": 7.0},
        {"hold": 7.0, "epoch": "e", "after": 1},
        {"hold": 7.0, "epoch": "e", "after": 2},
    ]
    assert {(m["type"], m["session"], m["server"]) for m in asked} == {("poll", "session-1", "server-1")}
    assert len({message["id"] for message in asked}) == 3


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: not a proof\n\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: proof\ndata: {\n\n",
        b'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: proof\ndata: {"nonce":"x"}\n\n',
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: br\r\n\r\n...",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\nnonsense",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_stream_that_cannot_be_had_is_polled_and_the_link_stays(broken: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.path.endswith("/stream"):
            await exchange.raw(broken)
            raise Hung
        if exchange.message["type"] == "poll":
            await exchange.until_gone()
        await exchange.reply()

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (link, ear):
        await peer.until(lambda: bool(peer.of("/devpipe/message")))
        link.submit(make("p-1"))
        await ear.until(lambda: ear.replies == ["p-1"])
        assert "polled" in link.explain()
        assert ear.lost is None and 1 <= len(peer.of("/devpipe/stream")) <= 3


async def test_an_endless_line_ends_the_stream_and_keeps_what_came_before() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin_stream()
        if len(exchange.peer.asked) == 1:
            await exchange.data(push(1) + b"data: ")
            while True:
                await exchange.data(b"x" * 65536)
        await exchange.until_gone()

    config = HttpConfig(max_message_bytes=100_000)
    async with serving(script) as peer, linked(peer.url, config=config, terms=TERMS) as (_, ear):
        await peer.until(lambda: len(peer.asked) == 2)
        assert offsets(ear) == [1]
        assert ear.troubles[0].kind is FailureKind.PROTOCOL and "longer than" in ear.troubles[0].reason
        assert ear.lost is None


async def test_a_gzipped_stream_is_understood() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin_stream(proof=False, **{"content-encoding": "gzip"})
        proof = json.dumps({"nonce": exchange.headers["devpipe-nonce"], "server": "server-1"})
        await exchange.data(gzip.compress(encode_event(proof, event="proof") + push(1)))
        await exchange.until_gone()

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (_, ear):
        await ear.until(lambda: offsets(ear) == [1])


@pytest.mark.parametrize("path", ["/devpipe/stream", "/devpipe/message"])
async def test_a_server_that_forgot_the_session_loses_the_link(path: str) -> None:
    body = json.dumps(
        {"type": "response", "success": False, "error": {"code": "session_unknown", "message": "?"}}
    ).encode()

    async def script(exchange: Exchange) -> None:
        if exchange.path == path:
            await exchange.answer(409, body)
        else:
            await exchange.answer(404, b"", content_type="text/html")

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (_, ear):
        await ear.until(lambda: ear.lost is not None)
    assert ear.lost is not None and ear.lost.kind is FailureKind.UNAVAILABLE


async def test_a_stream_refused_for_its_token_is_opened_with_the_next_one() -> None:
    tokens = iter(["old", "new"])

    async def give() -> str:
        return next(tokens)

    async with serving(refusing("new")) as peer, linked(peer.url, config=STREAM, terms=TERMS, token=give):
        await peer.until(lambda: len(peer.asked) == 2)
        assert peer.asked[1].headers["authorization"] == "Bearer new"


@pytest.mark.parametrize("path", ["/devpipe/stream", "/devpipe/message"])
async def test_a_token_refused_for_good_to_stream_or_poll_loses_the_link(path: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(401 if exchange.path == path else 404, b"", content_type="text/html")

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS, token=token) as (_, ear):
        await ear.until(lambda: ear.lost is not None)
    assert ear.lost is not None and ear.lost.kind is FailureKind.AUTH


async def test_a_poll_refused_for_its_token_goes_again_with_the_next_one() -> None:
    tokens = iter(["old", "new"])

    async def give() -> str:
        return next(tokens)

    async def script(exchange: Exchange) -> None:
        if exchange.path.endswith("/stream"):
            await exchange.answer(404, b"", content_type="text/html")
        elif exchange.headers["authorization"] == "Bearer old":
            await exchange.answer(401, b"", content_type="text/html")
        else:
            await exchange.until_gone()

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS, token=give) as (_, ear):
        await peer.until(lambda: len(peer.of("/devpipe/message")) == 2)
        assert ear.lost is None


@pytest.mark.parametrize("reset", [False, True])
async def test_polls_that_fail_are_told_and_repeated(reset: bool) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.path.endswith("/stream"):
            await exchange.answer(404, b"", content_type="text/html")
        elif len(exchange.peer.of("/devpipe/message")) > 1:
            await exchange.until_gone()
        elif reset:
            exchange.reset()
        else:
            await exchange.answer(502, b"", content_type="text/html")

    async with serving(script) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (_, ear):
        await peer.until(lambda: len(peer.of("/devpipe/message")) == 2)
        assert len(ear.troubles) == 2 and ear.lost is None


async def test_a_server_that_dies_while_nothing_is_under_way_is_noticed_by_the_stream() -> None:
    async with anyio.create_task_group() as tasks:
        streaming, die = anyio.Event(), anyio.Event()

        async def script(exchange: Exchange) -> None:
            await exchange.begin_stream()
            streaming.set()
            await die.wait()
            exchange.reset()

        peer = Peer(script)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        peer.port = listener.extra(SocketAttribute.local_port)

        async def accept() -> None:
            async with listener:
                stream = await accepted(listener)
            await peer.serve(stream)

        tasks.start_soon(accept)
        async with linked(peer.url, config=STREAM, terms=TERMS) as (_, ear):
            with anyio.fail_after(BOUND):
                await streaming.wait()
            die.set()
            await ear.until(lambda: ear.lost is not None)
        assert ear.lost is not None and ear.lost.refused


async def test_a_new_session_gets_a_new_stream_and_the_old_one_ends() -> None:
    async with serving(echo) as peer, linked(peer.url, config=STREAM, terms=TERMS) as (link, ear):
        await peer.until(lambda: len(peer.asked) == 1)
        link.established(Terms(server="server-1", session="session-1", max_message_bytes=5))
        link.established(Terms(server="server-1", session="session-2"))
        await peer.until(lambda: len(peer.asked) == 2 and peer.connections == 1)
        assert peer.asked[1].headers["devpipe-session"] == "session-2"
        assert not ear.troubles


async def test_a_server_without_sessions_has_no_stream() -> None:
    async with serving(echo) as peer, linked(peer.url, config=STREAM, terms=Terms()) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: ear.replies == ["p-1"])
        assert not peer.of("/devpipe/stream")
        assert "no sessions" in link.explain()


async def test_without_a_stream_an_accepted_call_is_asked_for_again() -> None:
    async def script(exchange: Exchange) -> None:
        if len(exchange.peer.asked) == 1:
            await exchange.accept()
        else:
            await exchange.reply()

    async with serving(script) as peer, linked(peer.url, terms=TERMS) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: ear.replies == ["p-1"])
        assert [message["type"] for message in ear.delivered] == ["accepted", "response"]
        assert peer.asked[0].body == peer.asked[1].body
        assert "enable_sse" in link.explain()


async def test_a_call_that_was_accepted_is_never_called_unsent_again() -> None:
    async def script(exchange: Exchange) -> None:
        if len(exchange.peer.asked) == 1:
            await exchange.accept()
        else:
            await exchange.answer(429, b"", content_type="text/html")

    async with serving(script) as peer, linked(peer.url, terms=TERMS) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: bool(ear.back))
    ((_, failure, handed_over),) = ear.back
    assert failure.kind is FailureKind.UNAVAILABLE and handed_over


async def test_without_a_session_an_accepted_call_is_not_sent_again() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.message["id"] == "p-1":
            await exchange.accept()
        else:
            await exchange.reply()

    async with serving(script) as peer, linked(peer.url, terms=Terms()) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: len(ear.delivered) == 1)
        link.submit(make("p-2"))
        await ear.until(lambda: ear.replies == ["p-2"])
        assert len(peer.asked) == 2


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (httpx.ConnectTimeout("x"), FailureKind.TIMEOUT, "cannot be reached"),
        (httpx.PoolTimeout("x"), FailureKind.TIMEOUT, "no connection became free"),
        (httpx.ReadTimeout("x"), FailureKind.TIMEOUT, "no progress"),
        (httpx.ConnectError("x"), FailureKind.NETWORK, "cannot be reached"),
        (httpx.ReadError("x"), FailureKind.NETWORK, "broke"),
        (httpx.ProxyError("407 no"), FailureKind.NETWORK, "proxy refuses: '407 no'"),
        (httpx.LocalProtocolError("x"), FailureKind.PROTOCOL, "LocalProtocolError"),
        (httpx.InvalidURL("http://secret"), FailureKind.PROTOCOL, "InvalidURL"),
    ],
)
def test_each_error_of_httpx_means_something(error: Exception, kind: FailureKind, words: str) -> None:
    failure = failure_of(error)
    assert failure.kind is kind and words in failure.reason and "secret" not in failure.reason
    assert not failure.refused


@pytest.mark.parametrize(
    ("cause", "kind", "refused"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), FailureKind.NETWORK, True),
        (ExceptionGroup("all", [OSError(errno.ECONNREFUSED, "no")]), FailureKind.NETWORK, True),
        (OSError(errno.ENETUNREACH, "no"), FailureKind.NETWORK, False),
        (ssl.SSLCertVerificationError("bad certificate"), FailureKind.PROTOCOL, False),
    ],
)
def test_why_a_server_cannot_be_reached_is_found_inside(
    cause: Exception, kind: FailureKind, refused: bool
) -> None:
    error = httpx.ConnectError("all attempts failed")
    error.__cause__ = cause
    cause.__context__ = error  # a ring ends too
    failure = failure_of(error)
    assert (failure.kind, failure.refused) == (kind, refused)


def test_what_http_can_do_depends_on_the_stream() -> None:
    with_stream, without = capabilities_of(HttpConfig()), capabilities_of(PLAIN)
    assert with_stream.supports_realtime and with_stream.supports_bidirectional
    assert not without.supports_realtime and not without.supports_bidirectional
    for found in (with_stream, without):
        assert found.supports_streaming and not found.supports_filesystem and found.names_session
        assert found.max_message_bytes == 10 * 1024 * 1024 and found.max_concurrent_connections == 10
        assert found.cost == 0.2
