"""Servers and pipes for tests: real sockets and files, in this event loop or in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio

import devpipe
from devpipe.adapters.client.pipe import Pipe

__all__ = [
    "TRANSPORTS",
    "World",
    "make_server",
    "open_pipe",
    "read_all",
    "server_process",
    "serving",
    "with_handlers",
]

S = TypeVar("S", bound=devpipe.Server)
TRANSPORTS = ["memory", "websocket", "http", "folder"]


def make_server(**options: Any) -> devpipe.Server:
    """A server with the handlers that tests ask for."""
    return with_handlers(devpipe.Server(**options))


def with_handlers(server: S) -> S:
    """The same, for a server of the test's own kind."""

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    @server.handler("sync")
    def sync(message: devpipe.Message) -> Any:
        return message.payload

    @server.handler("wait")
    async def wait(message: devpipe.Message) -> None:
        await anyio.sleep_forever()

    @server.handler("who")
    async def who(message: devpipe.Message) -> Any:
        return {"session": message.session, "transport": message.transport, "id": message.id}

    @server.handler("fail")
    async def fail(message: devpipe.Message) -> Any:
        raise ZeroDivisionError("a secret of the server")

    @server.handler("refuse")
    async def refuse(message: devpipe.Message) -> Any:
        raise devpipe.HandlerError("too poor", code="BUDGET_EXCEEDED", details={"least": 3})

    @server.handler("large")
    async def large(message: devpipe.Message) -> Any:
        return "x" * int(message.payload)

    return server


class World:
    """A running server, and how to reach it."""

    def __init__(self, server: devpipe.Server, url: str, folder: Path) -> None:
        self.server = server
        self.url = url
        self.folder = folder


@asynccontextmanager
async def serving(server: devpipe.Server | None = None, **options: Any) -> AsyncIterator[World]:
    """Serve over loopback and a folder until left."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "pipe"
        chosen = server if server is not None else make_server(**options)
        chosen.configure(folder=folder)
        heard: list[str] = []
        ready = anyio.Event()

        def listening(url: str) -> None:
            heard.append(url)
            ready.set()

        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                await chosen.serve(port=0, listening=listening)

            tasks.start_soon(serve)
            with anyio.fail_after(10):
                await ready.wait()
            try:
                yield World(chosen, heard[0], folder)
            finally:
                tasks.cancel_scope.cancel()


def open_pipe(world: World, *names: str, **options: Any) -> Pipe:
    """A pipe over these transports; ``memory`` goes straight into the server object."""
    if names == ("memory",):
        return devpipe.connect(world.server, **options)
    folder = world.folder if "folder" in names else None
    url = world.url if set(names) & {"websocket", "http"} else None
    return devpipe.connect(url, folder=folder, transports=names, **options)


@contextmanager
def server_process(
    folder: Path, log: Path, *, port: int = 0, backend: str = "asyncio"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``devpipe serve`` in a process of its own; gives the process and its port."""
    command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", str(port), "--folder", str(folder)]
    command += ["--execution-log", str(log), "--backend", backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield process, int(line.split("127.0.0.1:")[1].split()[0])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def read_all(terminal: int) -> bytes:
    """What is written to a pseudo terminal until its other end is closed."""
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end has been closed
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)
