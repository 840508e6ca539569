"""Dialling: TLS with a certificate of our own, tunnels through proxies good and bad, and what the environment names."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from devpipe.adapters import wire
from devpipe.adapters.ports import dial
from devpipe.adapters.ports.dial import ProxyRefused, SystemDialer, environment_proxy, is_loopback
from devpipe.adapters.transports.link import LinkLost
from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.adapters.wire import dial_protocol
from devpipe.machines.errors import ConfigurationError, FailureKind
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call

BOUND = 10.0  #: seconds that no wait of these tests may take

#: A certificate for localhost and 127.0.0.1, with its key, valid until 2126; nobody trusts it but these tests.
PEM = Path(__file__).with_name("localhost.pem")


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(PEM))


class Host:
    """Hears nothing in these tests."""

    def deliver(self, data: bytes | bytearray) -> None:
        raise AssertionError(data)

    def heard(self) -> None:
        pass

    def undelivered(self, call: Call, failure: Failure) -> None:
        raise AssertionError(failure)

    def trouble(self, failure: Failure) -> None:
        raise AssertionError(failure)


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[ByteStream], Awaitable[None]], *, tls: bool = False
) -> AsyncGenerator[int, None]:
    """Serve with ``handler``; gives the port."""

    async def serve(stream: ByteStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await handler(stream)

    with anyio.fail_after(BOUND):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(PEM)
                wrapped = TLSListener(listener, context, standard_compatible=False)
                tasks.start_soon(wrapped.serve, serve)
            else:
                tasks.start_soon(listener.serve, serve)
            yield listener.extra(SocketAttribute.local_port)
            tasks.cancel_scope.cancel()


async def shout(stream: ByteStream) -> None:
    """Give back what comes, in capitals."""
    while True:
        await stream.send((await stream.receive()).upper())


class Proxy:
    """An HTTP CONNECT proxy that keeps what it was asked."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    async def __call__(self, stream: ByteStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        self.asked.append(head)
        if not self.answer.startswith(b"HTTP/1.1 200 Connection"):
            await stream.send(self.answer)
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as onward, anyio.create_task_group() as tasks:
            await stream.send(self.answer)

            async def pump(source: ByteStream, sink: ByteStream) -> None:
                with contextlib.suppress(
                    anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
                ):
                    while True:
                        await sink.send(await source.receive())
                tasks.cancel_scope.cancel()

            tasks.start_soon(pump, stream, onward)
            await pump(onward, stream)


async def talk(stream: ByteStream) -> None:
    async with stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"HELLO"


# --- TLS --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_tls_goes_to_who_is_trusted() -> None:
    async with serving(shout, tls=True) as port:
        await talk(await SystemDialer()("localhost", port, tls=trusting(), proxy=None))


@pytest.mark.anyio
async def test_a_certificate_that_nobody_trusts_is_a_protocol_failure_that_says_so() -> None:
    async with serving(shout, tls=True) as port:
        link = WebSocketLink(f"https://localhost:{port}")
        with pytest.raises(LinkLost) as caught:
            await link.open(Host())
    assert caught.value.failure.kind is FailureKind.PROTOCOL
    assert "no TLS with localhost" in caught.value.failure.reason
    assert "certificate verify failed" in caught.value.failure.reason.lower()


async def garbage(stream: ByteStream) -> None:
    await stream.receive()
    await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def hang_up(stream: ByteStream) -> None:
    await stream.receive()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("handler", "words"), [(garbage, "no TLS with"), (hang_up, "hung up in the TLS handshake")]
)
async def test_a_server_that_speaks_no_tls_is_told_apart(
    handler: Callable[[ByteStream], Awaitable[None]], words: str
) -> None:
    async with serving(handler) as port:
        link = WebSocketLink(f"wss://localhost:{port}", ssl_context=trusting())
        with pytest.raises(LinkLost) as caught:
            await link.open(Host())
    assert words in caught.value.failure.reason


async def cancel_when(begun: anyio.Event, scope: anyio.CancelScope) -> None:
    """Cancel when the peer has heard the first word: from then on nothing but its answer is waited for."""
    await begun.wait()
    scope.cancel()


@pytest.mark.anyio
async def test_a_tls_handshake_that_never_ends_can_be_cancelled() -> None:
    begun, closed = anyio.Event(), anyio.Event()

    async def silent(stream: ByteStream) -> None:
        try:
            while True:
                await stream.receive()
                begun.set()
        finally:
            closed.set()

    async with serving(silent) as port:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_when, begun, tasks.cancel_scope)
                await SystemDialer()("localhost", port, tls=trusting(), proxy=None)
            assert tasks.cancel_scope.cancelled_caught
            await closed.wait()


# --- proxies ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_tunnel_goes_through_the_proxy_with_its_password_in_a_header() -> None:
    proxy = Proxy()
    async with serving(shout) as port, serving(proxy) as proxy_port:
        address = f"http://user:p%40ss@127.0.0.1:{proxy_port}"
        await talk(await SystemDialer()("127.0.0.1", port, tls=None, proxy=address))
        assert proxy.asked[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
        assert base64.b64encode(b"user:p@ss") in proxy.asked[0]
        link = WebSocketLink("http://pipe.example", proxy=address)
        assert link.explain() == "through the proxy 127.0.0.1"


@pytest.mark.anyio
async def test_tls_goes_through_a_tunnel_and_the_proxy_itself_may_speak_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "system_trust", trusting)
    for secure in (False, True):
        async with serving(shout, tls=True) as port, serving(Proxy(), tls=secure) as proxy_port:
            address = f"{'https' if secure else 'http'}://localhost:{proxy_port}"
            await talk(await SystemDialer()("localhost", port, tls=trusting(), proxy=address))


@pytest.mark.anyio
async def test_an_ipv6_address_is_asked_for_in_brackets() -> None:
    proxy = Proxy(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    async with serving(proxy) as port:
        with pytest.raises(ProxyRefused) as caught:
            await SystemDialer()("2001:db8::1", 8000, tls=None, proxy=f"127.0.0.1:{port}")
    assert caught.value.status == 502
    assert b"CONNECT [2001:db8::1]:8000 " in proxy.asked[0]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", FailureKind.AUTH, "HTTP 407"),
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n<html>",
            FailureKind.UNAVAILABLE,
            "HTTP 403",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal\r\n\r\n", FailureKind.UNAVAILABLE, "HTTP 302"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", FailureKind.NETWORK, "does not answer as one"),
        (b"HTTP/1.1 200 ", FailureKind.NETWORK, "does not answer as one"),
        (b"HTTP/1.1 200 x\r\nX: " + b"a" * 70_000, FailureKind.NETWORK, "does not answer as one"),
        (b"HTTP/1.1 200 x\r\n\r\nbytes that nobody asked for", FailureKind.NETWORK, "nobody has asked for"),
    ],
)
async def test_a_proxy_that_does_not_let_us_through_is_named(
    answer: bytes, kind: FailureKind, words: str
) -> None:
    async with serving(Proxy(answer)) as port:
        link = WebSocketLink("http://127.0.0.1:9", proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(LinkLost) as caught:
            await link.open(Host())
    assert caught.value.failure.kind is kind
    assert words in caught.value.failure.reason
    assert "proxy" in caught.value.failure.reason


@pytest.mark.anyio
async def test_a_proxy_that_is_down_does_not_mean_that_the_server_refused() -> None:
    async with serving(shout) as port:
        pass  # nobody listens there any more
    link = WebSocketLink("http://127.0.0.1:9", proxy=f"http://127.0.0.1:{port}")
    with anyio.fail_after(BOUND), pytest.raises(LinkLost) as caught:
        await link.open(Host())
    assert not caught.value.failure.refused
    assert "through the proxy" in caught.value.failure.reason


@pytest.mark.anyio
async def test_a_silent_proxy_is_left_by_cancelling() -> None:
    begun, closed = anyio.Event(), anyio.Event()

    async def silent(stream: ByteStream) -> None:
        try:
            while True:
                await stream.receive()
                begun.set()
        finally:
            closed.set()

    async with serving(silent) as port:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_when, begun, tasks.cancel_scope)
                await WebSocketLink("http://127.0.0.1:9", proxy=f"http://127.0.0.1:{port}").open(Host())
            assert tasks.cancel_scope.cancelled_caught
            await closed.wait()


@pytest.mark.parametrize(
    "proxy", ["socks5://u:s3cret@127.0.0.1:1080", "http://u:s3cret@", "http://u:s3cret@h:x", "http://["]
)
def test_a_proxy_address_that_is_none_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="proxy = ") as caught:
        WebSocketLink("http://pipe.example", proxy=proxy)
    assert "s3cret" not in str(caught.value)


# --- what the environment names -----------------------------------------------------------------------------

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_each_scheme_has_its_proxy_and_all_proxy_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_proxy("http", "pipe.example", 80) is None
    monkeypatch.setenv("all_proxy", "http://all:1")
    assert environment_proxy("https", "pipe.example", 443) == "http://all:1"
    monkeypatch.setenv("https_proxy", "secure:2")
    assert environment_proxy("https", "pipe.example", 443) == "secure:2"
    assert environment_proxy("http", "pipe.example", 80) == "http://all:1"
    assert WebSocketLink("wss://pipe.example").explain() == "through the proxy secure"
    assert WebSocketLink("wss://pipe.example", proxy="http://mine:3").explain() == "through the proxy mine"


def test_this_machine_is_never_reached_through_a_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "::1"):
        assert is_loopback(host)
        assert environment_proxy("http", host, 80) is None
    assert environment_proxy("http", "127.0.0.1.example", 80) == "http://proxy:1"


@pytest.mark.parametrize(
    ("entry", "host", "spared"),
    [
        ("*", "pipe.example", True),
        ("pipe.example", "pipe.example", True),
        ("PIPE.example", "pipe.EXAMPLE", True),
        ("example", "pipe.example", True),
        ("example", "pipeexample", False),
        (".pipe.example", "pipe.example", False),
        (".pipe.example", "a.pipe.example", True),
        ("other, pipe.example", "pipe.example", True),
        ("pipe.example:8000", "pipe.example", True),
        ("pipe.example:8001", "pipe.example", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("2.1", "192.0.2.1", True),
        ("192.0.2.1", "x.192.0.2.1", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("[2001:db8::1]:8000", "2001:db8::1", True),
        ("https://pipe.example", "pipe.example", False),
        ("http://pipe.example", "pipe.example", True),
        ("all://pipe.example", "pipe.example", True),
        ("http://example", "pipe.example", False),
        ("http://*.example", "pipe.example", True),
        ("", "pipe.example", False),
    ],
)
def test_no_proxy_spares_what_it_names(
    monkeypatch: pytest.MonkeyPatch, entry: str, host: str, spared: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", entry)
    assert (environment_proxy("http", host, 8000) is None) is spared


# --- the race of addresses under asyncio ----------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # under trio anyio dials
@pytest.mark.anyio
async def test_a_name_whose_first_address_is_dead_is_reached_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def two_addresses(host: str, port: int, **_: object) -> list[object]:
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1", "127.0.0.1")]

    monkeypatch.setattr(anyio, "getaddrinfo", two_addresses)
    async with serving(shout) as port:
        reached = await dial_protocol("pipe.example", port)
        await reached.send(b"hello")
        assert await reached.receive() == b"HELLO"
        await reached.aclose(b"", linger=0)
    with pytest.raises(OSError, match="no address") as caught:
        await dial_protocol("pipe.example", port)
    group = cast("ExceptionGroup[Exception]", caught.value.__cause__)
    assert [type(error) for error in group.exceptions] == [ConnectionRefusedError, ConnectionRefusedError]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # under trio anyio dials
@pytest.mark.anyio
async def test_of_two_addresses_that_answer_together_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = anyio.Event()
    closed: list[str] = []

    class Connected:
        """As much of a wire as a race needs."""

        def __init__(self, address: str) -> None:
            self.address = address

        async def aclose(self, words: bytes, *, linger: float) -> None:
            closed.append(self.address)

    async def connect(address: str) -> Any:
        if address == "b":
            asyncio.get_running_loop().call_later(0.01, both.set)
        await both.wait()
        return Connected(address)

    monkeypatch.setattr(wire, "NEXT_ADDRESS", 0.01)
    with anyio.fail_after(BOUND):
        winner: Any = await wire.race(["a", "b"], connect)
    assert sorted([winner.address, *closed]) == ["a", "b"]
