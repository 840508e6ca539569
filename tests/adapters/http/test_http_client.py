"""The HTTP link: its token, and a client that the program has brought."""

from __future__ import annotations

import httpx
import pytest
from http_peer import (
    SECRET,
    STREAM,
    TERMS,
    Exchange,
    echo,
    linked,
    make,
    refusing,
    serving,
    token,
)

from devpipe.adapters.transports.link import LinkLost
from devpipe.machines.errors import ConfigurationError, FailureKind
from devpipe.machines.protocols.envelope import encode_reply

pytestmark = pytest.mark.anyio


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
    assert ear.lost.reason == "the server wants a token: give token= or DEVPIPE_TOKEN"


async def test_a_token_of_a_given_client_that_is_refused_was_shown_all_the_same() -> None:
    async with (
        serving(refusing("other")) as peer,
        httpx.AsyncClient(headers={"Authorization": "Bearer its-own"}) as client,
        linked(peer.url, client=client) as (link, ear),
    ):
        link.submit(make("p-1"))
        await ear.until(lambda: ear.lost is not None)
    assert ear.lost is not None and ear.lost.reason == "the server does not accept our token"


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
        for given in tokens:
            return given
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
