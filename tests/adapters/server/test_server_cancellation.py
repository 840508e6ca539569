"""A server that is cancelled at every step, from its first to its last: it keeps nothing open, and the next one begins."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from checkpoints import BOUND, cancel_at_every_step

import devpipe

pytestmark = pytest.mark.anyio

Make = Callable[..., devpipe.Server]


BODY = b'{"type":"echo","payload":1}'
REQUEST = (
    b"POST /devpipe/message HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
)


def held() -> tuple[int, int]:
    """Files of all kinds, and threads that watch a folder."""
    watchers = [thread for thread in threading.enumerate() if type(thread).__module__.startswith("watchdog")]
    return len(os.listdir("/dev/fd")), len(watchers)


async def until_released(before: tuple[int, int]) -> None:
    """Wait until no more is held than before; threads end a moment later."""
    with anyio.move_on_after(BOUND / 2):
        while any(now > then for now, then in zip(held(), before, strict=True)):
            await anyio.lowlevel.checkpoint()
    files, watchers = held()
    assert files <= before[0] and watchers <= before[1]


async def serve_once(server: devpipe.Server) -> None:
    """Serve until one request is answered."""
    listening = anyio.Event()
    urls: list[str] = []

    def told(url: str) -> None:
        urls.append(url)
        listening.set()

    async def serve() -> None:
        await server.serve(port=0, listening=told)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await listening.wait()
        async with await anyio.connect_tcp("127.0.0.1", int(urls[0].rpartition(":")[2])) as stream:
            await stream.send(REQUEST)
            answer = b""
            while b'"payload":1' not in answer:
                answer += await stream.receive()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("in_folder", [False, True], ids=["sockets", "and a folder"])
async def test_serving_may_be_cancelled_at_every_step(
    make_server: Make, tmp_path: Path, in_folder: bool
) -> None:
    folder = tmp_path / "pipe" if in_folder else None
    servers: list[devpipe.Server] = []

    async def work() -> None:
        servers.append(make_server(folder=folder))
        await serve_once(servers[-1])

    await work()
    before = held()

    async def check() -> None:
        assert not servers.pop().running
        await until_released(before)

    await cancel_at_every_step(work, check, least=20)


async def test_the_block_of_a_server_may_be_cancelled_at_every_step_and_entered_again(
    make_server: Make, tmp_path: Path
) -> None:
    server = make_server(folder=tmp_path / "pipe")

    async def work() -> None:
        async with server:
            async with devpipe.connect(server, folder=tmp_path / "pipe") as pipe:
                assert (await pipe.send("echo", 1)).payload == 1

    await work()
    before = held()

    async def check() -> None:
        assert not server.running
        await until_released(before)

    await cancel_at_every_step(work, check, least=8)
