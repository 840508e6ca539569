"""Bytes that are no message, on real ways: what a strange program would send to our server, and a strange server to us."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
from support import World, make_server, open_pipe, serving

import devpipe
from devpipe.adapters.client.pipe import Pipe
from devpipe.machines.protocols.calls import Call

__all__ = ["BOUND", "hear", "pipe_in_use", "say", "troubles"]

#: Nothing here takes so long unless it hangs (seconds).
BOUND = 20.0

_numbers = itertools.count(1_000_000)


def say(pipe: Pipe, data: bytes) -> None:
    """Send these bytes to the server over the link that carries the messages of this pipe: a frame, a POST, a file."""
    transport = pipe.transports[0]
    id = f"{pipe._prefix}-{next(_numbers)}"  # the name of a file has to be an id
    call = Call(id, "echo", b"", now=0.0, deadline=1.0)
    call.begin_attempt(transport.type, data, now=0.0)
    transport.driver.link.submit(call)


async def hear(world: World, pipe: Pipe, data: bytes) -> None:
    """Let the server send these bytes over the path that it answers and pushes on: a frame, an event, a file."""
    while not (paths := [path for path in world.server._paths.values() if path.transport != "http"]):
        await anyio.lowlevel.checkpoint()
    [path] = paths
    path.send(data, reply_to=f"{pipe._prefix}-{next(_numbers)}")


def troubles(pipe: Pipe) -> int:
    """What this pipe has heard and could not use."""
    return sum(pipe.metrics()["transports"][pipe.transports[0].type]["troubles"].values())


@asynccontextmanager
async def pipe_in_use(name: str, server: devpipe.Server | None = None) -> AsyncIterator[tuple[World, Pipe]]:
    """A pipe with one message on its way all the while: at the end it gets its reply, it has run once, others are
    answered too, and whoever listens has been told nothing but what was pushed.
    """
    server = make_server() if server is None else server
    ran: list[dict[str, object]] = []
    server.configure(execution_log=ran.append)
    gate = anyio.Event()
    answers: list[object] = []

    @server.handler("gate")
    async def wait(message: devpipe.Message) -> object:
        await gate.wait()
        return message.payload

    with anyio.fail_after(BOUND):
        async with serving(server) as world, open_pipe(world, name) as pipe:
            pushes = pipe.receive()

            async def ask() -> None:
                answers.append((await pipe.send("gate", "mine", timeout=BOUND)).payload)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                while not ran:
                    await anyio.lowlevel.checkpoint()
                yield world, pipe
                assert (await pipe.send("echo", "others", timeout=BOUND)).payload == "others"
                gate.set()
            assert answers == ["mine"]
            assert [entry["type"] for entry in ran if entry["type"] != "sync"] == ["gate", "echo"]
            await server.push("news", "last")
            while True:
                item = await pushes.__anext__()
                assert isinstance(item, devpipe.Gap) or item.type == "news", item
                if isinstance(item, devpipe.Message) and item.payload == "last":
                    return
