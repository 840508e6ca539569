"""The server over HTTP, as a foreign client sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import devpipe

pytestmark = pytest.mark.anyio

SESSION = "0123456789abcdef"
BOUND = 10.0
Serving = Callable[..., AbstractAsyncContextManager[Any]]
Make = Callable[..., devpipe.Server]


async def test_a_message_is_answered_in_its_own_exchange(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        answer = await served.post("echo", {"a": [1, "ü"]}, id="any")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["payload"] == {"a": [1, "ü"]} and answer.json()["replyTo"] == "any"


async def test_health_names_the_process(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        for path in ("/health", "/devpipe/health"):
            answer = await served.http.get(path)
            assert answer.json() == {"status": "ok", "server": served.server.identity}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/devpipe/message/", 404),
        ("GET", "/devpipe/message", 405),
        ("POST", "/devpipe/stream", 405),
        ("DELETE", "/health", 405),
        ("GET", "/devpipe/ws", 404),
    ],
)
async def test_what_is_not_there_is_refused_in_json(
    serving: Serving, make_server: Make, method: str, path: str, status: int
) -> None:
    async with serving(make_server()) as served:
        answer = await served.http.request(method, path)
        assert answer.status_code == status and answer.json()["success"] is False
        assert answer.json()["error"]["outcome"] == "rejected"
        if status == 405:
            assert answer.headers["allow"] in ("GET", "POST")


async def test_a_repeated_id_runs_once_over_http_and_websocket(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        fields = await served.hello()
        first = await served.post("echo", {"n": 1}, id="x-1", **fields)
        again = await served.post("echo", {"n": 1}, id="x-1", **fields)
        assert first.content == again.content
        async with served.connected() as socket:
            await socket.hello()
            assert await socket.call("echo", {"n": 1}, id="x-1") == first.json()
        changed = await served.post("echo", {"n": 2}, id="x-1", **fields)
        assert changed.json()["error"]["code"] == "id_reused"
        assert served.server.executed == ["x-1"]


async def test_another_session_or_process_is_refused(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        fields = await served.hello()
        for wrong in ({"session": "f" * 16}, {"server": "another"}):
            answer = await served.post("echo", 1, id="x-1", **{**fields, **wrong})
            assert answer.status_code == 409 and answer.json()["error"]["code"] == "session_unknown"
        assert served.server.executed == []


async def test_after_its_hold_a_request_is_accepted_and_its_reply_comes_on_the_stream(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server(config={"hold": 0.05})) as served:
        fields = await served.hello()
        async with served.stream(fields) as stream:
            await stream.line_with("proof")
            answer = await served.post("wait", id="x-1", **fields)
            assert answer.status_code == 202
            assert answer.json()["type"] == "accepted" and answer.json()["replyTo"] == "x-1"
            served.server.gate.set()
            await stream.line_with('"waited"')
        again = await served.post("wait", id="x-1", **fields)
        assert again.status_code == 200 and again.json()["payload"] == "waited"
        assert served.server.executed == ["x-1"]


def stream_headers(fields: dict[str, str], nonce: str = "my nonce") -> dict[str, str]:
    return {
        "DevPipe-Session": fields["session"],
        "DevPipe-Server": fields["server"],
        "DevPipe-Nonce": nonce,
    }


async def test_a_stream_proves_itself_and_carries_pushes_with_their_places(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server(config={"keep_alive": 0.05})) as served:
        fields = await served.hello()
        await served.post("attach", {"number": 1}, id="x-1", **fields)
        async with served.stream(fields, "my nonce") as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["cache-control"] == "no-store"
            assert stream.headers["x-accel-buffering"] == "no"
            assert await stream.line() == "event: proof"
            proof = json.loads((await stream.line()).removeprefix("data: "))
            assert proof == {"nonce": "my nonce", "server": served.server.identity}
            assert await stream.line() == ""
            assert (await stream.line()).startswith(":"), "a comment keeps an idle stream alive"
            await served.server.push("news", {"n": 1})
            epoch, _, offset = (await stream.line_with("id: ")).removeprefix("id: ").rpartition(":")
            assert epoch and offset == "1"
            push = json.loads((await stream.line()).removeprefix("data: "))
            assert push["type"] == "news" and push["offset"] == 1 and push["payload"] == {"n": 1}


async def test_a_stream_of_a_session_that_is_not_known_is_refused(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server()) as served:
        fields = await served.hello()
        for headers in ({}, stream_headers({**fields, "session": "f" * 16})):
            answer = await served.http.get("/devpipe/stream", headers=headers)
            assert answer.status_code == 409 and answer.json()["error"]["code"] == "session_unknown"


async def test_a_second_stream_ends_the_first(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        fields = await served.hello()
        async with served.stream(fields) as first, served.stream(fields) as second:
            await second.line_with("proof")
            with pytest.raises(anyio.EndOfStream):
                await first.line_with("never")


async def test_streams_and_sockets_are_bounded(serving: Serving, make_server: Make) -> None:
    async with serving(make_server(config={"max_streams": 1})) as served:
        fields = await served.hello()
        async with served.connected():
            answer = await served.http.get("/devpipe/stream", headers=stream_headers(fields))
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            async with served.socket() as socket:
                assert await socket.status() == 503
        with anyio.fail_after(BOUND):
            while True:
                async with served.socket() as socket:
                    if await socket.status() == 101:
                        return


async def until_held(server: devpipe.Server) -> None:
    """Wait until a poll is held: a private look, because a server that says nothing says it to nobody."""
    with anyio.fail_after(BOUND):
        while not server._service._desk._held:
            await anyio.lowlevel.checkpoint()


async def test_a_poll_is_held_until_there_is_a_push(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        fields = await served.hello()
        answers: list[Any] = []

        async def poll() -> None:
            payload = {"hold": 9}
            answers.append((await served.post("poll", payload, id="x-1", **fields)).json())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await until_held(served.server)
            assert not answers
            await served.server.push("news", 1)
        assert answers[0]["payload"]["messages"][0]["type"] == "news"


async def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server(config={"max_message_bytes": 1000})) as served:
        announced = await served.post("echo", "x" * 5000)
        assert announced.status_code == 413 and announced.json()["error"]["code"] == "too_large"

        async def dribble() -> Any:
            for _ in range(50):
                yield b'"' + b"x" * 100

        headers = {"content-type": "application/json"}
        chunked = await served.http.post("/devpipe/message", content=dribble(), headers=headers)
        assert chunked.status_code == 413
        assert (await served.post("echo", "still here")).json()["payload"] == "still here"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 50_000, b'{"type":5}'])
async def test_a_body_that_is_no_message_is_refused(
    serving: Serving, make_server: Make, content: bytes
) -> None:
    async with serving(make_server()) as served:
        headers = {"content-type": "application/json; charset=utf-8"}
        answer = await served.http.post("/devpipe/message", content=content, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_message"


async def test_a_body_that_never_comes_is_given_up(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.application.BODY_TIMEOUT", 0.05)
    async with serving(make_server()) as served:
        answer = await served.raw(
            b"POST /devpipe/message HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 5\r\n\r\n{"
        )
        assert answer.startswith(b"HTTP/1.1 408")


async def test_a_header_that_never_ends_is_given_up(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.serve.HEADER_TIMEOUT", 0.1)
    async with serving(make_server()) as served:
        assert await served.raw(b"POST /devpipe/message HTTP/1.1\r\nHost: loc") == b""
        assert await served.raw(b"GET /health HTTP/1.1\r\nX: " + b"x" * 20_000) != b""


async def test_a_client_that_goes_away_while_its_poll_is_held_takes_nothing_along(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.application.WATCH_AFTER", 0.01)
    async with serving(make_server()) as served:
        fields = await served.hello()

        async def post(type: str, id: str) -> None:
            await served.post(type, id=id, **fields)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, "wait", "x-1")
            tasks.start_soon(post, "poll", "x-2")
            await until_held(served.server)
            with anyio.fail_after(BOUND):
                while not served.server.executed:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(BOUND):
            while (
                served.server._paths
            ):  # what is said before it is known that nobody listens is said to nobody
                await anyio.lowlevel.checkpoint()
            served.server.gate.set()
            while served.server._service.running:
                await anyio.lowlevel.checkpoint()
        answer = (await served.post("poll", {"hold": 0}, id="x-3", **fields)).json()
        assert answer["payload"]["messages"][0]["replyTo"] == "x-1"


async def test_a_client_that_does_not_read_its_stream_is_let_go(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.stream.MAX_WAITING", 100_000)
    async with serving(make_server()) as served:
        fields = await served.hello()
        await served.post("attach", {"number": 1}, id="x-1", **fields)
        async with served.stream(fields) as stream:
            await stream.line_with("proof")
            for _ in range(100):
                await served.server.push("news", "x" * 90_000)
            with pytest.raises(anyio.EndOfStream):
                for _ in range(90):
                    await stream.line_with('"news"')
