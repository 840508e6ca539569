"""Who may talk to the server: Host, Origin, token and content type, on POST, stream and socket alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

import devpipe

pytestmark = pytest.mark.anyio

Serving = Callable[..., AbstractAsyncContextManager[Any]]
Make = Callable[..., devpipe.Server]
BOUND = 10.0
ALLOWED = "https://app.example"
MESSAGE = {"type": "echo", "payload": 1}
ORIGINS = [
    "null",
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil.example",
    "https://evilapp.example",
    "https://app.exampl",
    "https://app.example/",
    "https://user@app.example",
    "HTTPS://APP.EXAMPLE.",
    "http://127.0.0.1",
    "http://localhost",
]
HOSTS = [
    "evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example",
    "127.0.0.2",
    "[::2]",
    "[::1",
    "0.0.0.0",
]


async def statuses(served: Any, **headers: str) -> list[int]:
    """What POST, stream and socket say."""
    posted = await served.http.post("/devpipe/message", json=MESSAGE, headers=headers)
    streamed = await served.http.get("/devpipe/stream", headers=headers)
    host = headers.pop("host", "")
    async with served.socket(host=host, **headers) as socket:
        return [posted.status_code, streamed.status_code, await socket.status()]


async def test_no_origin_but_the_allowed_ones_gets_through(serving: Serving, make_server: Make) -> None:
    server = make_server(config={"allowed_origins": (ALLOWED,)})
    async with serving(server) as served:
        assert await statuses(served, origin=ALLOWED) == [200, 409, 101]
        assert await statuses(served) == [200, 409, 101]
        for origin in ORIGINS:
            assert await statuses(served, origin=origin) == [403, 403, 403], origin
        assert len(server.executed) == 2  # type: ignore[attr-defined]  # the two that were let through


async def test_no_host_but_our_names_gets_through(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        for host in ("localhost", f"localhost:{served.port}", "LOCALHOST", "127.0.0.1:1", "[::1]:8000"):
            assert await statuses(served, host=host) == [200, 409, 101], host
        for host in HOSTS:
            assert await statuses(served, host=host) == [421, 421, 421], host
            assert await statuses(served, host=f"{host}:{served.port}") == [421, 421, 421], host
            health = await served.http.get("/health", headers={"host": host})
            assert health.status_code == 421


async def test_a_star_allows_every_host(serving: Serving, make_server: Make) -> None:
    async with serving(make_server(config={"allowed_hosts": ("*",)})) as served:
        assert await statuses(served, host="evil.example") == [200, 409, 101]


async def test_without_the_token_nobody_gets_in(
    serving: Serving, make_server: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = make_server(token="s3cret-t/ok.en~+=")
    async with serving(server) as served:
        right = {"authorization": "Bearer s3cret-t/ok.en~+="}
        posted = await served.http.post("/devpipe/message", json=MESSAGE, headers=right)
        assert posted.status_code == 200
        for wrong in ("Bearer", "Bearer s3cret", "Basic s3cret-t", "Bearer x" * 100):
            assert await statuses(served, authorization=wrong) == [401, 401, 401], wrong
        refused = await served.http.post("/devpipe/message", json=MESSAGE)
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "unauthorized"
        assert (await served.http.get("/health")).status_code == 200
        async with served.socket() as socket:
            assert await socket.status() == 401
            assert (await socket.rejection())["error"]["code"] == "unauthorized"
    assert "s3cret" not in caplog.text and "s3cret" not in repr(server)


@pytest.mark.parametrize("token", ["", " ", "two\nlines", "a b", "tökén", "t\n", b"bytes", 5])
async def test_a_token_that_no_client_could_show_is_refused_and_not_shown(token: Any) -> None:
    for give in (lambda: devpipe.Server(token=token), lambda: devpipe.Server().configure(token=token)):
        with pytest.raises(devpipe.ConfigurationError, match="printable ASCII") as refused:
            give()
        assert "two" not in str(refused.value) and "tökén" not in str(refused.value)


async def test_further_names_are_those_of_the_config_and_more(serving: Serving, make_server: Make) -> None:
    server = make_server(config={"allowed_hosts": ("Pipe.Test",)})
    async with serving(server) as served:
        assert await statuses(served, host="pipe.test") == [200, 409, 101]
        assert await statuses(served, host="more.test") == [421, 421, 421]
        refused = await served.http.get("/health", headers={"host": "more.test"})
        assert "allowed_hosts" in refused.text and "--allow-host" in refused.text
    more = devpipe.Server(devpipe.ServerConfig(allowed_hosts=("pipe.test",)))
    more.configure(allowed_hosts=("More.Test",))
    assert more.config.allowed_hosts == ("pipe.test", "More.Test") and more.hosts == {
        "pipe.test",
        "more.test",
    }


@pytest.mark.parametrize("host", ["http://pipe.test", "pipe.test:8000", "", "[::1", "a b", "pïpe", 5])
async def test_a_name_that_can_stand_in_no_host_header_is_refused(host: Any) -> None:
    with pytest.raises(devpipe.ConfigurationError, match="allowed_hosts"):
        devpipe.Server().configure(allowed_hosts=[host])


@pytest.mark.parametrize(
    "type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", ""]
)
async def test_what_a_web_page_can_post_without_asking_is_refused(
    serving: Serving, make_server: Make, type: str
) -> None:
    async with serving(make_server()) as served:
        body = b'{"type":"echo","payload":1}'
        answer = await served.http.post("/devpipe/message", content=body, headers={"content-type": type})
        assert answer.status_code == 415 and answer.json()["error"]["code"] == "not_json"
        assert served.server.executed == []


@pytest.mark.parametrize(("size", "seconds"), [(1000, 1000.0), (10**15, 0.1)])
async def test_a_bottomless_body_of_somebody_who_may_not_talk_holds_nothing_up(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch, size: int, seconds: float
) -> None:
    # either bound alone is enough
    monkeypatch.setattr("devpipe.adapters.server.application.MAX_DISCARDED", size)
    monkeypatch.setattr("devpipe.adapters.server.application.DISCARD_TIMEOUT", seconds)
    async with serving(make_server(token="t")) as served:
        head = b"POST /devpipe/message HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        with anyio.fail_after(BOUND), pytest.raises(anyio.BrokenResourceError):
            async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
                await stream.send(head)
                while True:
                    await stream.send(b"x" * 1_000_000)


async def test_a_large_body_of_somebody_who_may_not_talk_is_answered_too(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server(token="t")) as served:
        answer = await served.http.post("/devpipe/message", json={"type": "echo", "payload": "x" * 5_000_000})
        assert answer.status_code == 401
