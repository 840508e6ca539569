"""The HTTP link against a scripted peer on real sockets: what arrives, what comes back, and what is lost."""

from __future__ import annotations

import errno
import gzip
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import h11
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from anyio.streams.stapled import MultiListener

from devpipe.adapters.ports.clock import SystemClock
from devpipe.adapters.transports.http import HttpLink, capabilities_of
from devpipe.adapters.transports.http_client import failure_of
from devpipe.adapters.transports.link import LinkLost, Terms
from devpipe.machines.config import HttpConfig
from devpipe.machines.errors import ConfigurationError, FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import encode_reply, encode_request
from devpipe.machines.protocols.sse import encode_comment, encode_event

pytestmark = pytest.mark.anyio

BOUND = 10.0
TERMS = Terms(server="server-1", session="session-1")
SECRET = "s3cret-token"
PLAIN = HttpConfig(enable_sse=False)
STREAM = HttpConfig(stream_proof_timeout=5.0)


# --- the peer ------------------------------------------------------------------------------------------


class Hung(Exception):
    """The script has hung up."""


@dataclass
class Exchange:
    """One request, read whole, and the ways to answer it."""

    peer: Peer
    stream: SocketStream
    protocol: h11.Connection
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message

    async def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        fields = {"content-type": "application/json", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        await self.send(h11.Response(status_code=status, headers=list(fields.items())))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def reply(self, payload: bytes = b'"done"') -> None:
        await self.answer(200, encode_reply(reply_to=self.message["id"], payload=payload, timestamp=1))

    async def accept(self) -> None:
        await self.answer(202, json.dumps({"type": "accepted", "replyTo": self.message["id"]}).encode())

    async def begin_stream(self, *, proof: bool = True, **headers: str) -> None:
        fields = {"content-type": "text/event-stream", "transfer-encoding": "chunked"} | headers
        await self.send(h11.Response(status_code=200, headers=list(fields.items())))
        if proof:
            data = json.dumps({"nonce": self.headers["devpipe-nonce"], "server": "server-1"})
            await self.data(encode_event(data, event="proof"))

    async def data(self, data: bytes) -> None:
        await self.send(h11.Data(data=data))

    async def send(self, event: Any) -> None:
        data = self.protocol.send(event)
        if data:
            await self.stream.send(data)

    async def raw(self, data: bytes) -> None:
        await self.stream.send(data)

    def reset(self) -> None:
        raw = self.stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Hung

    async def until_gone(self) -> None:
        """Wait until the client closes the connection."""
        try:
            while await self.stream.receive():
                pass
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise Hung from None


@dataclass
class Peer:
    """A server that does what its script says, and writes down what it was asked."""

    script: Callable[[Exchange], Awaitable[None]]
    port: int = 0
    connections: int = 0
    most_connections: int = 0
    asked: list[Exchange] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, path: str) -> list[Exchange]:
        return [exchange for exchange in self.asked if exchange.path == path]

    def change(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        with anyio.fail_after(BOUND):
            while not predicate():
                await self.changed.wait()

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        self.most_connections = max(self.connections, self.most_connections)
        try:
            async with stream:
                while await self._exchange(stream):
                    pass
        except (Hung, anyio.BrokenResourceError, anyio.ClosedResourceError, h11.ProtocolError):
            pass  # the client has hung up, or the script has: both are what tests are about
        finally:
            self.connections -= 1
            self.change()

    async def _exchange(self, stream: SocketStream) -> bool:
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                try:
                    protocol.receive_data(await stream.receive())
                except anyio.EndOfStream:
                    return False
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert request is not None
        exchange = Exchange(
            self,
            stream,
            protocol,
            request.method.decode(),
            request.target.decode(),
            {name.decode(): value.decode() for name, value in request.headers},
            bytes(body),
        )
        self.asked.append(exchange)
        self.change()
        await self.script(exchange)
        return protocol.our_state is h11.DONE and protocol.their_state is h11.DONE


async def accepted(listener: MultiListener[SocketStream]) -> SocketStream:
    """The first connection, and no second one."""
    (one,) = listener.listeners
    assert isinstance(one, SocketListener)
    return await one.accept()


@asynccontextmanager
async def serving(script: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[Peer]:
    peer = Peer(script)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        peer.port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, peer.serve)
            yield peer
            tasks.cancel_scope.cancel()


async def echo(exchange: Exchange) -> None:
    if exchange.path.endswith("/stream"):
        await exchange.begin_stream()
        await exchange.until_gone()
    else:
        await exchange.reply(json.dumps(exchange.message["payload"]).encode())


# --- the host ------------------------------------------------------------------------------------------


class Ear:
    """A host that writes down what the link tells it."""

    def __init__(self) -> None:
        self.delivered: list[dict[str, Any]] = []
        self.signs = 0
        self.back: list[tuple[Call, Failure, bool]] = []
        self.troubles: list[Failure] = []
        self.lost: Failure | None = None
        self.link: HttpLink
        self.changed = anyio.Event()
        self.on_deliver: Callable[[dict[str, Any]], None] = lambda message: None

    def deliver(self, data: bytes | bytearray) -> None:
        message = json.loads(data)
        self.delivered.append(message)
        self.on_deliver(message)
        self._change()

    def heard(self) -> None:
        self.signs += 1

    def undelivered(self, call: Call, failure: Failure) -> None:
        self.back.append((call, failure, call.handed_over))
        self._change()

    def trouble(self, failure: Failure) -> None:
        self.troubles.append(failure)
        self._change()

    def lose(self, failure: Failure) -> None:
        self.lost = failure
        self._change()

    def _change(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        with anyio.fail_after(BOUND):
            while not predicate():
                await self.changed.wait()

    @property
    def replies(self) -> list[str]:
        return [message["replyTo"] for message in self.delivered if message.get("type") == "response"]


class Steady:
    """Dice without chance: no wait is longer than it must be."""

    def __init__(self) -> None:
        self.tokens = 0

    def jitter(self) -> float:
        return 0.0

    def token(self, chars: int) -> str:
        self.tokens += 1
        return f"nonce-{self.tokens}".ljust(chars, "x")


def make(id: str, type: str = "echo", payload: bytes = b'"hi"', priority: Priority = Priority.NORMAL) -> Call:
    now = SystemClock().now()
    call = Call(id, type, payload, now=now, deadline=now + BOUND, priority=priority)
    call.begin_attempt("http", encode_request(id=id, type=type, payload=payload, timestamp=1), now=now)
    return call


async def token() -> str:
    return SECRET


@asynccontextmanager
async def linked(
    url: str,
    *,
    config: HttpConfig = PLAIN,
    terms: Terms | None = None,
    token: Callable[[], Awaitable[str]] | None = None,
    client: httpx.AsyncClient | None = None,
) -> AsyncIterator[tuple[HttpLink, Ear]]:
    ear = Ear()
    ids = iter(range(1_000_000))
    link = HttpLink(
        url,
        config=config,
        clock=SystemClock(),
        dice=Steady(),
        control_id=lambda: f"control-{next(ids)}",
        token=token,
        client=client,
    )
    ear.link = link

    async def run() -> None:
        try:
            await link.run()
        except LinkLost as lost:
            ear.lose(lost.failure)

    try:
        await link.open(ear)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.lowlevel.checkpoint()
            if terms is not None:
                link.established(terms)
            yield link, ear
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(BOUND):
            await link.aclose("test")


async def exchange_one(script: Callable[[Exchange], Awaitable[None]], call: Call | None = None) -> Ear:
    """One call to a peer with this script: the ear that heard how it went."""
    call = call or make("p-1")
    async with serving(script) as peer, linked(peer.url) as (link, ear):
        link.submit(call)
        await ear.until(lambda: bool(ear.delivered or ear.back or ear.lost))
        assert link.queued == 0
    return ear


# --- replies -------------------------------------------------------------------------------------------


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


# --- what stands between -------------------------------------------------------------------------------


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


# --- loss ----------------------------------------------------------------------------------------------


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


# --- the token -----------------------------------------------------------------------------------------


def refusing(*good: str) -> Callable[[Exchange], Awaitable[None]]:
    async def script(exchange: Exchange) -> None:
        if exchange.headers.get("authorization", "").removeprefix("Bearer ") not in good:
            await exchange.answer(401, b"{}", www_authenticate="Bearer")
        else:
            await echo(exchange)

    return script


async def test_after_a_401_the_token_is_asked_for_once_for_all_calls() -> None:
    tokens = iter(["old", "new", "never"])

    async def give() -> str:
        return next(tokens)

    async with serving(refusing("new")) as peer, linked(peer.url, token=give) as (link, ear):
        for number in range(5):
            link.submit(make(f"p-{number}"))
        await ear.until(lambda: len(ear.replies) == 5)
        assert ear.lost is None and not ear.back
        assert next(tokens) == "never"


async def test_a_token_that_is_refused_twice_loses_the_link_and_nothing_was_executed() -> None:
    tokens = iter(["old", "new"])

    async def give() -> str:
        return next(tokens)

    call = make("p-1")
    async with serving(refusing("other")) as peer, linked(peer.url, token=give) as (link, ear):
        link.submit(call)
        await ear.until(lambda: ear.lost is not None)
        assert len(peer.asked) == 2
    assert ear.lost is not None and ear.lost.kind is FailureKind.AUTH
    assert not call.handed_over


async def test_a_token_that_cannot_change_is_not_tried_again() -> None:
    async with serving(refusing("other")) as peer, linked(peer.url, token=token) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: ear.lost is not None)
        assert len(peer.asked) == 1
    assert ear.lost is not None and ear.lost.kind is FailureKind.AUTH


async def test_a_server_that_wants_a_token_and_gets_none_is_an_auth_failure() -> None:
    async with serving(refusing("other")) as peer, linked(peer.url) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: ear.lost is not None)
    assert ear.lost is not None and ear.lost.kind is FailureKind.AUTH


async def test_a_token_function_that_fails_is_told_without_its_words() -> None:
    async def fail() -> str:
        raise RuntimeError(SECRET)

    with pytest.raises(LinkLost) as caught:
        async with linked("http://127.0.0.1:1", token=fail):
            raise AssertionError("it was opened")
    assert caught.value.failure.kind is FailureKind.UNAVAILABLE
    assert SECRET not in str(caught.value)


async def test_a_token_function_that_fails_after_a_401_loses_the_link() -> None:
    tokens = iter(["old"])

    async def give() -> str:
        for token in tokens:
            return token
        raise OSError("no network")

    async with serving(refusing("new")) as peer, linked(peer.url, token=give) as (link, ear):
        link.submit(make("p-1"))
        await ear.until(lambda: ear.lost is not None)
    assert ear.lost is not None and ear.lost.kind is FailureKind.UNAVAILABLE


async def test_a_token_that_is_no_token_is_an_auth_failure() -> None:
    async def give() -> str:
        return "two\nlines"

    with pytest.raises(LinkLost) as caught:
        async with linked("http://127.0.0.1:1", token=give):
            raise AssertionError("it was opened")
    assert caught.value.failure.kind is FailureKind.AUTH


async def test_a_token_never_goes_in_clear_text_over_the_network() -> None:
    with pytest.raises(ConfigurationError, match="clear text"):
        async with linked("http://example.org", token=token):
            raise AssertionError("it was made")


# --- many at once --------------------------------------------------------------------------------------


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


# --- withdrawal and cancellation -----------------------------------------------------------------------


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


# --- the user's client ---------------------------------------------------------------------------------


async def test_a_given_client_brings_its_headers_cookies_and_hooks_and_stays_open() -> None:
    async def cookie(exchange: Exchange) -> None:
        if exchange.path.endswith("/stream"):
            await echo(exchange)
        else:
            body = encode_reply(reply_to=exchange.message["id"], timestamp=1)
            await exchange.answer(200, body, set_cookie="route=two; Path=/")

    hooked: list[str] = []

    async def hook(request: httpx.Request) -> None:
        hooked.append(request.method)

    async with serving(cookie) as peer:
        client = httpx.AsyncClient(headers={"X-Own": "yes"}, event_hooks={"request": [hook]})
        async with client:
            async with linked(peer.url, client=client, config=STREAM, terms=TERMS) as (link, ear):
                link.submit(make("p-1"))
                await ear.until(lambda: len(ear.replies) == 1)
                link.submit(make("p-2"))
                await ear.until(lambda: len(ear.replies) == 2)
                await peer.until(lambda: bool(peer.of("/devpipe/stream")))
            assert not client.is_closed
            first, second = peer.of("/devpipe/message")
    assert first.headers["x-own"] == second.headers["x-own"] == "yes"
    assert peer.of("/devpipe/stream")[0].headers["x-own"] == "yes"
    assert "cookie" not in first.headers and second.headers["cookie"] == "route=two"
    assert hooked.count("POST") == 2


async def test_a_hook_that_raises_for_a_status_sends_the_call_back() -> None:
    async def raise_for_status(response: httpx.Response) -> None:
        response.raise_for_status()

    async def busy(exchange: Exchange) -> None:
        await exchange.answer(503, b"busy", content_type="text/plain")

    async with serving(busy) as peer:
        async with httpx.AsyncClient(event_hooks={"response": [raise_for_status]}) as client:
            async with linked(peer.url, client=client) as (link, ear):
                link.submit(make("p-1"))
                await ear.until(lambda: bool(ear.back))
    failure = ear.back[0][1]
    assert "hook" in failure.reason and str(peer.port) not in failure.reason


# --- the stream ----------------------------------------------------------------------------------------


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
