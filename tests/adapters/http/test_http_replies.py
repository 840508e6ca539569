"""The HTTP link: replies, what proxies make of them, and how a loss is told."""

from __future__ import annotations

import gzip
import json
import socket

import anyio
import anyio.lowlevel
import h11
import httpx
import pytest
from anyio.abc import SocketAttribute
from http_peer import (
    SECRET,
    Exchange,
    Hung,
    Peer,
    accepted,
    echo,
    exchange_one,
    linked,
    make,
    serving,
    token,
)

from devpipe.adapters.transports.link import LinkLost
from devpipe.machines.config import HttpConfig
from devpipe.machines.errors import FailureKind
from devpipe.machines.protocols.envelope import encode_reply

pytestmark = pytest.mark.anyio


async def test_a_reply_is_delivered_and_the_request_is_what_it_should_be() -> None:
    call = make("p-1", payload=b'{"a":1}')
    async with serving(echo) as peer, linked(peer.url, token=token) as (link, ear):
        link.submit(call)
        await ear.until(lambda: bool(ear.delivered))
        assert ear.delivered[0]["replyTo"] == "p-1" and ear.delivered[0]["payload"] == {"a": 1}
        (asked,) = peer.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/devpipe/message", call.data)
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["content-length"] == str(len(call.data))
    assert call.handed_over and ear.signs > 0 and not ear.back and ear.lost is None


async def test_connections_are_kept_and_used_again() -> None:
    async with serving(echo) as peer, linked(peer.url) as (link, ear):
        for number in range(5):
            link.submit(make(f"p-{number}"))
            await ear.until(lambda number=number: len(ear.delivered) == number + 1)  # type: ignore[misc]
        assert peer.most_connections == 1


async def test_without_keep_alive_each_message_has_its_connection() -> None:
    config = HttpConfig(enable_sse=False, keep_alive=False)
    async with serving(echo) as peer, linked(peer.url, config=config) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: len(ear.delivered) == 1)
        await peer.until(lambda: peer.connections == 0)


async def test_a_large_message_goes_out_whole_and_shows_its_progress() -> None:
    text = json.dumps("x" * 3_000_000).encode()
    async with serving(echo) as peer, linked(peer.url) as (link, ear):
        link.submit(make("p-1", payload=text))
        await ear.until(lambda: bool(ear.delivered))
        assert len(ear.delivered[0]["payload"]) == 3_000_000
    assert ear.signs > 5


async def test_a_refusal_of_the_server_is_its_reply() -> None:
    body = json.dumps(
        {"type": "response", "success": False, "error": {"code": "too_large", "message": "no"}}
    ).encode()

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(413, body)

    ear = await exchange_one(refuse)
    assert ear.delivered[0]["replyTo"] == "p-1" and ear.delivered[0]["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("status", "kind", "executed"),
    [
        (200, FailureKind.PROTOCOL, True),
        (302, FailureKind.PROTOCOL, True),
        (307, FailureKind.PROTOCOL, False),
        (404, FailureKind.PROTOCOL, False),
        (429, FailureKind.UNAVAILABLE, False),
        (502, FailureKind.UNAVAILABLE, True),
    ],
)
async def test_a_page_instead_of_a_reply_sends_the_call_back(
    status: int, kind: FailureKind, executed: bool
) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.answer(
            status, b"<html>", content_type="text/html", retry_after="3", location="/elsewhere"
        )

    ear = await exchange_one(page)
    ((_, failure, handed_over),) = ear.back
    assert failure.kind is kind and failure.retry_after == 3.0
    assert handed_over is executed
    assert ear.lost is None and not ear.delivered


async def test_a_redirect_is_not_followed() -> None:
    async def move(exchange: Exchange) -> None:
        await exchange.answer(307, location=f"http://127.0.0.1:{exchange.peer.port}/stolen")

    call = make("p-1")
    async with serving(move) as peer:
        async with httpx.AsyncClient(follow_redirects=True) as client:
            async with linked(peer.url, client=client, token=token) as (link, ear):
                link.submit(call)
                await ear.until(lambda: bool(ear.back))
        assert [asked.path for asked in peer.asked] == ["/devpipe/message"]


async def test_a_reset_before_the_reply_leaves_open_whether_it_was_executed() -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    ear = await exchange_one(reset)
    ((_, failure, handed_over),) = ear.back
    assert failure.kind is FailureKind.NETWORK and handed_over and not failure.refused


async def test_a_connection_closed_without_a_word_is_a_broken_connection() -> None:
    async def close(exchange: Exchange) -> None:
        raise Hung

    ear = await exchange_one(close)
    ((_, failure, handed_over),) = ear.back
    assert failure.kind is FailureKind.NETWORK and handed_over


@pytest.mark.parametrize("reset", [False, True])
async def test_a_reply_that_is_cut_off_is_no_reply(reset: bool) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.raw(
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"type'
        )
        if reset:
            exchange.reset()
        raise Hung

    ear = await exchange_one(cut)
    ((_, failure, handed_over),) = ear.back
    assert failure.kind is FailureKind.NETWORK and handed_over


async def test_what_is_no_http_is_a_protocol_failure_that_names_no_address_and_no_token() -> None:
    async def nonsense(exchange: Exchange) -> None:
        await exchange.raw(f"{exchange.headers['authorization']} {exchange.path}\r\n\r\n".encode())
        raise Hung

    async with serving(nonsense) as peer, linked(peer.url, token=token) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: bool(ear.back))
    failure = ear.back[0][1]
    assert failure.kind is FailureKind.PROTOCOL
    assert SECRET not in failure.reason and str(peer.port) not in failure.reason


async def test_a_gzip_bomb_stops_at_the_limit_and_the_link_goes_on() -> None:
    bomb = gzip.compress(bytes(200_000_000), 1)

    async def explode(exchange: Exchange) -> None:
        if exchange.message["id"] == "p-1":
            await exchange.answer(200, bomb, content_encoding="gzip")
        else:
            await exchange.answer(
                200, gzip.compress(encode_reply(reply_to="p-2", timestamp=1)), content_encoding="gzip"
            )

    config = HttpConfig(enable_sse=False, max_message_bytes=100_000, max_connections=1)
    async with serving(explode) as peer, linked(peer.url, config=config) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: bool(ear.back))
        assert "larger than" in ear.back[0][1].reason
        link.submit(make("p-2"))
        await ear.until(lambda: bool(ear.delivered))
        assert ear.replies == ["p-2"]


async def test_an_endless_reply_stops_at_the_limit() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(h11.Response(status_code=200, headers=[("content-type", "application/json")]))
        while True:
            await exchange.data(b" " * 65536)

    config = HttpConfig(enable_sse=False, max_message_bytes=1000)
    async with serving(endless) as peer, linked(peer.url, config=config) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: bool(ear.back))
        assert ear.back[0][1].kind is FailureKind.PROTOCOL
        await peer.until(lambda: peer.connections == 0)


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_port_loses_the_link_and_nothing_was_sent() -> None:
    calls = [make(f"p-{number}") for number in range(3)]
    async with linked(f"http://127.0.0.1:{refused_port()}") as (link, ear):
        for call in calls:
            link.submit(call)
        await ear.until(lambda: ear.lost is not None)
    assert ear.lost is not None and ear.lost.kind is FailureKind.NETWORK and ear.lost.refused
    assert "127.0.0.1" not in ear.lost.reason
    assert not any(call.handed_over for call in calls)
    assert ear.back == []  # they come back all at once, with the loss


async def test_a_refused_connection_loses_nothing_while_another_request_stands() -> None:
    release = anyio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.reply()

    peer = Peer(script)
    slow, fresh = make("p-slow"), make("p-fresh")
    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        peer.port = listener.extra(SocketAttribute.local_port)

        async def accept() -> None:
            async with anyio.create_task_group() as connections:
                stream = await accepted(listener)
                connections.start_soon(peer.serve, stream)

        tasks.start_soon(accept)
        async with linked(peer.url) as (link, ear):
            link.submit(slow)
            await peer.until(lambda: bool(peer.asked))
            await listener.aclose()  # from now on refused
            link.submit(fresh)
            await ear.until(lambda: bool(ear.back))
            assert ear.back[0][0] is fresh and ear.back[0][1].refused and not ear.back[0][2]
            assert ear.lost is None
            release.set()
            await ear.until(lambda: ear.replies == ["p-slow"])


async def test_a_closed_client_cannot_be_opened() -> None:
    client = httpx.AsyncClient()
    await client.aclose()
    with pytest.raises(LinkLost) as caught:
        async with linked("http://127.0.0.1:1", client=client):
            raise AssertionError("it was opened")
    assert caught.value.failure.kind is FailureKind.UNAVAILABLE
