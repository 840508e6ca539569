"""A process for limits of the system that hold for a whole process: ``together`` or ``server``, FOLDER, BACKEND.

``together``: a server and its client here; it looks often, and prints a document of what came of it. ``server``: a server
that looks once a minute, so that only a notification makes it answer in time; it prints a line when it serves. Warnings go
to the standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import anyio

import devpipe
from devpipe.adapters.transports.base import Transport
from devpipe.machines.config import FolderConfig

SOON = 0.02
LATE = 60.0


def make_server(folder: Path, rescan_interval: float) -> devpipe.Server:
    server = devpipe.Server(folder=folder, folder_options=FolderConfig(rescan_interval=rescan_interval))

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    return server


async def again(transport: Transport) -> None:
    """Another link."""
    transport.disconnect()
    with anyio.fail_after(10):
        while not transport.gone:
            await anyio.sleep(0.01)
        transport.connect(immediately=True)
        while not transport.ready:
            await anyio.sleep(0.01)


async def together(folder: Path) -> None:
    answers: list[Any] = []
    files: list[int] = []
    async with make_server(folder, SOON):
        async with devpipe.connect(folder=folder, settings={"folder_options.rescan_interval": SOON}) as pipe:
            for n in range(5):
                answers.append((await pipe.send("echo", n, timeout=10)).payload)
                files.append(len(os.listdir("/proc/self/fd")))
                await again(pipe.transports[0])
            answers.append((await pipe.send("echo", "last", timeout=10)).payload)
            note = pipe.explain().transports[0].note
    print(json.dumps({"answers": answers, "files": files, "note": note}))


async def serve(folder: Path) -> None:
    async with make_server(folder, LATE):
        print("serving", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    role, folder, backend = sys.argv[1:]
    anyio.run({"together": together, "server": serve}[role], Path(folder), backend=backend)
