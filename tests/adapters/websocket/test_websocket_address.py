"""The WebSocket link: its token, and addresses that are none."""

from __future__ import annotations

import pytest
from websocket_peer import (
    Host,
    Peer,
    echo,
    lost,
    make_call,
    running,
    serving,
)

from devpipe.adapters.transports.websocket import WebSocketLink
from devpipe.machines.errors import ConfigurationError, FailureKind

pytestmark = pytest.mark.anyio


async def test_the_token_goes_in_a_header_and_a_refused_one_is_asked_for_once_more(fast: bool) -> None:
    seen: list[bytes] = []
    tokens = ["old", "new"]

    async def token() -> str:
        return tokens.pop(0)

    async def peer(peer: Peer) -> None:
        await peer.request()
        (header,) = (line for line in peer.head.split(b"\r\n") if line.lower().startswith(b"authorization"))
        seen.append(header.split(b": ")[1])
        assert b"old" not in peer.head.split(b"\r\n")[0]
        if header.endswith(b"old"):
            await peer.stream.send(b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n")
        else:
            peer.data = peer.head + b"\r\n\r\n"
            await echo(peer)

    async with serving(peer) as url:
        host, link = Host(), WebSocketLink(url, token=token, fast=fast)
        async with running(link, host):
            link.submit(make_call())
            await host.until(1)
    assert seen == [b"Bearer old", b"Bearer new"]


async def test_a_token_that_stays_refused_is_sent_once_and_never_shown(fast: bool) -> None:
    dialled = 0

    async def token() -> str:
        return "s3cret"

    async def peer(peer: Peer) -> None:
        nonlocal dialled
        dialled += 1
        await peer.request()
        await peer.stream.send(b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n")

    async with serving(peer) as url:
        failure = await lost(WebSocketLink(url, token=token, fast=fast), Host())
    assert failure.kind is FailureKind.AUTH
    assert failure.reason == "the server does not accept our token"
    assert dialled == 1


@pytest.mark.parametrize("bad", ["s3cret\r\nX: y", "s3cret\N{SNOWMAN}", ""])
async def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(bad: str) -> None:
    async def token() -> str:
        return bad

    failure = await lost(WebSocketLink("http://127.0.0.1:1", token=token), Host())
    assert failure.kind is FailureKind.AUTH
    assert "s3cret" not in failure.reason


async def test_a_token_function_that_raises_is_no_bug_of_the_link() -> None:
    async def token() -> str:
        raise RuntimeError("s3cret")

    failure = await lost(WebSocketLink("http://127.0.0.1:1", token=token), Host())
    assert failure.kind is FailureKind.UNAVAILABLE
    assert "RuntimeError" in failure.reason
    assert "s3cret" not in failure.reason


async def _token() -> str:
    return "t"


@pytest.mark.parametrize(
    "url", ["http://pipe.example", "ws://192.0.2.7:8000", "http://127.0.0.1.evil.example"]
)
def test_a_token_never_leaves_this_machine_in_clear_text(url: str) -> None:
    with pytest.raises(ConfigurationError, match="clear text"):
        WebSocketLink(url, token=_token)
    WebSocketLink(url)
    WebSocketLink(url.replace("http:", "https:").replace("ws:", "wss:"), token=_token)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.3.2.1:1", "ws://[::1]:1"])
def test_on_loopback_a_token_may_go_in_clear_text_but_not_to_a_proxy_elsewhere(url: str) -> None:
    WebSocketLink(url, token=_token)
    with pytest.raises(ConfigurationError, match=r"to proxy\.example in clear text"):
        WebSocketLink(url, token=_token, proxy="http://proxy.example:3128")


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:8000", "ftp://pipe.example", "http://", "http://pipe.example:99999", "http://[::1",
        "http://a b", "http://a..b", "/devpipe",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketLink(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@pipe.example", "http://pipe.example/?token=s3cret", "ftp://u:s3cret@x"]
)
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebSocketLink(url)
    assert "s3cret" not in str(caught.value)


async def test_the_path_is_below_that_of_the_address_and_the_host_header_names_the_server() -> None:
    seen: list[bytes] = []

    async def peer(peer: Peer) -> None:
        seen.append(await peer.request())

    async with serving(peer) as url:
        await lost(WebSocketLink(f"{url}/über uns/"), Host())
    assert seen[0].startswith(b"GET /%C3%BCber%20uns/devpipe/ws HTTP/1.1\r\n")
    assert f"host: {url.removeprefix('http://')}".encode() in seen[0].lower()
