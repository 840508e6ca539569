"""Addresses that lead nowhere, or to another server; and who may not talk: each by its name, over every transport."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from nonsense import BOUND
from support import make_server, open_pipe, serving

import devpipe

pytestmark = pytest.mark.anyio

over_the_network = pytest.mark.parametrize("name", ["websocket", "http"])


# --- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://h", "http://", "http://h:port", "http://h:99999", "http://u:p@h", "http://h?q=1",
     "http://[::1", "http://h/#top", "http:///x", "//h", 5, b"http://h", Path("x")],
)  # fmt: skip
async def test_a_server_url_that_is_none_is_refused_by_name(url: Any) -> None:
    with pytest.raises(devpipe.ConfigurationError, match="server_url"):
        devpipe.connect(url)


@contextmanager
def port_of_nobody() -> Iterator[int]:
    """Bound, so that nobody else can get it, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@over_the_network
async def test_a_port_nobody_listens_on_is_said(name: str) -> None:
    with port_of_nobody() as port, anyio.fail_after(BOUND):
        with pytest.raises(devpipe.AllTransportsFailed) as failed:
            async with devpipe.connect(f"http://127.0.0.1:{port}", transports=[name], connect_timeout=0.5):
                pass
    words = {"websocket": "nobody listens", "http": "refuses connections"}
    assert words[name] in str(failed.value.errors[name])
    assert failed.value.outcome is not devpipe.Outcome.EXECUTED


async def test_a_port_nobody_listens_on_keeps_no_folder_from_its_work(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    with port_of_nobody() as port, anyio.fail_after(BOUND):
        async with (
            make_server(folder=folder),
            devpipe.connect(f"http://127.0.0.1:{port}", folder=folder) as pipe,
        ):
            assert (await pipe.send("echo", 1)).transport == "folder"


async def test_a_wrong_path_in_the_address_is_named_with_what_to_correct_and_that_once() -> None:
    async with serving() as world:
        with anyio.fail_after(20), pytest.raises(devpipe.AllTransportsFailed) as failed:
            async with devpipe.connect(f"{world.url}/wrong", connect_timeout=2):
                pass
    said, where = str(failed.value), world.url.removeprefix("http://")
    for at in (f" {where}/wrong/devpipe/ws", f" {world.url}/wrong/devpipe/message"):
        assert f"nothing of devpipe at{at}" in said
    assert (
        said.count("correct the path in the address (a mounted server is at its mount path, like /pipe)") == 1
    )
    assert "profile='vaultpilot'" in said


# --- a second server behind the same address ---------------------------------------------------------------


Choose = Callable[[bytes], str]


@asynccontextmanager
async def balancer(choose: Choose) -> AsyncIterator[str]:
    """One address in front of several servers: ``choose`` gives the one that a connection with these first bytes goes to."""

    async def carry(source: SocketStream, target: SocketStream) -> None:
        try:
            while True:
                await target.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await target.aclose()  # one end is gone, and so is the other

    async def connection(client: SocketStream) -> None:
        async with client:
            first = await client.receive()
            port = int(choose(first).rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as server:
                await server.send(first)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(carry, client, server)
                    tasks.start_soon(carry, server, client)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, connection)
            yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("names", [("websocket",), ("http",), ("websocket", "http")], ids="+".join)
async def test_a_second_server_behind_the_same_address_runs_nothing_twice(names: tuple[str, ...]) -> None:
    ran: list[dict[str, object]] = []
    ended: list[str] = []
    async with (
        serving(make_server(execution_log=ran.append)) as one,
        serving(make_server(execution_log=ran.append)) as other,
    ):
        turn = itertools.cycle([one.url, other.url])  # each connection, as load balancers do by default
        async with balancer(lambda _: next(turn)) as url:
            with anyio.fail_after(BOUND * 2):
                async with devpipe.connect(url, transports=names) as pipe:

                    async def ask(n: int) -> None:
                        try:
                            assert (await pipe.send("echo", n, timeout=5)).payload == n
                            ended.append("answered")
                        except devpipe.DevPipeError as error:
                            ended.append("unknown" if error.outcome is None else error.outcome.value)

                    async with anyio.create_task_group() as tasks:
                        for n in range(30):
                            tasks.start_soon(ask, n)
    assert len(ended) == 30 and "unknown" not in ended
    ids = [entry["id"] for entry in ran]
    assert len(ids) == len(set(ids)), "a message ran on both"
    assert len(ids) >= ended.count("answered")


async def test_a_second_server_behind_the_same_address_is_set_aside_and_explained() -> None:
    async with serving() as one, serving() as other:

        def by_kind(first: bytes) -> str:
            return one.url if b"upgrade: websocket" in first.lower() else other.url

        async with balancer(by_kind) as url, devpipe.connect(url) as pipe:
            with anyio.fail_after(BOUND):
                while not (
                    aside := {t.name for t in pipe.explain().transports if "another server" in t.note}
                ):
                    await anyio.lowlevel.checkpoint()
                assert len(aside) == 1  # whoever answered first reaches our server
                for n in range(10):
                    reply = await pipe.send("echo", n)
                    assert reply.payload == n and reply.transport not in aside


async def test_a_second_server_in_the_folder_of_the_first_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    async with make_server(folder=folder), devpipe.connect(folder=folder) as pipe:
        with pytest.raises(devpipe.ConfigurationError, match="another server"):
            async with make_server(folder=folder):
                pass
        with anyio.fail_after(BOUND):
            assert (await pipe.send("echo", 1)).payload == 1


# --- who may not talk -------------------------------------------------------------------------------------


async def is_refused_for(token: str | None, name: str) -> None:
    """At once, with kind ``auth``; the breaker is untouched, the word is in no error, and who has it is answered."""
    async with serving(token="the-right-one") as world:
        pipe = devpipe.connect(world.url, transports=[name], token=token, connect_timeout=60)
        with anyio.fail_after(10), pytest.raises(devpipe.AllTransportsFailed) as failed:
            async with pipe:
                pass
        assert failed.value.kind is devpipe.FailureKind.AUTH
        assert failed.value.errors[name].kind is devpipe.FailureKind.AUTH  # type: ignore[attr-defined]  # one of a transport
        assert token is None or token not in str(failed.value)
        words = (
            "the server wants a token: give token= or DEVPIPE_TOKEN"
            if token is None
            else "the server does not accept our token"
        )
        assert str(failed.value.errors[name]) == f"{name}: {words}"
        assert pipe.transports[0].breaker.consecutive_failures == 0
        async with devpipe.connect(world.url, transports=[name], token="the-right-one") as good:
            with anyio.fail_after(10):
                assert (await good.send("echo", 1)).payload == 1


@over_the_network
async def test_a_wrong_token_fails_at_once_and_the_breaker_is_untouched(name: str) -> None:
    await is_refused_for("a-wrong-one", name)


@over_the_network
async def test_a_missing_token_fails_at_once_and_the_breaker_is_untouched(name: str) -> None:
    await is_refused_for(None, name)


WAYS = [("POST", "/devpipe/message"), ("GET", "/devpipe/stream"), ("GET", "/devpipe/ws")]
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


async def refused_with(status: int, method: str, path: str, headers: dict[str, str]) -> None:
    ran: list[object] = []
    async with serving(make_server(execution_log=ran.append)) as world, httpx.AsyncClient() as client:
        more = HANDSHAKE if path.endswith("ws") else {}
        body = b'{"type":"echo","id":"evil-1"}' if method == "POST" else None
        async with open_pipe(world, "http") as pipe:
            reply = await client.request(
                method,
                world.url + path,
                headers={"Content-Type": "application/json", **more, **headers},
                content=body,
            )
            assert reply.status_code == status and reply.json()["success"] is False
            with anyio.fail_after(BOUND):
                assert (await pipe.send("echo", 1)).payload == 1
        assert len(ran) == 1


@pytest.mark.parametrize(("method", "path"), WAYS)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost", "http://127.0.0.1:1"])
async def test_a_foreign_origin_is_refused(method: str, path: str, origin: str) -> None:
    await refused_with(403, method, path, {"Origin": origin})


@pytest.mark.parametrize(("method", "path"), WAYS)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.2"])
async def test_a_foreign_host_is_refused(method: str, path: str, host: str) -> None:
    await refused_with(421, method, path, {"Host": host})


async def test_a_foreign_host_is_said_to_the_client_that_goes_by_it() -> None:
    async with serving() as world:
        world.server.hosts.clear()  # it goes by no name of this machine any more
        with anyio.fail_after(BOUND), pytest.raises(devpipe.AllTransportsFailed, match="allowed_hosts"):
            async with devpipe.connect(world.url, connect_timeout=1):
                pass
