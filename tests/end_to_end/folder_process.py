"""A process that makes servers and clients of a folder by forking itself, so that one costs milliseconds.

Each line of its input asks for one: a document with ``number``, ``role`` (server or client), ``folder``, ``backend``, and
``kill_at``: before which operation on the folder it kills itself with SIGKILL, 0 for none; a write is cut in half. Beside the
folder it leaves ``server.log`` and ``<role>-<kill_at>.killed``, with the name of the operation. It answers
``{"number", "pid"}``, and ``{"number", "code"}`` when that process has ended: minus the signal, if it was one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

import devpipe
from devpipe.adapters.ports import folder as port

#: Whoever sends gives up after this long (seconds).
TIMEOUT = 3.0
OPERATIONS = frozenset(
    [
        "open",
        "read",
        "write",
        "fsync",
        "close",
        "listdir",
        "stat",
        "fstat",
        "link",
        "unlink",
        "rename",
        "mkdir",
        "rmdir",
    ]
)


class CountedOs:
    """``os`` for the port of the folder: every operation is counted, and one of them is the end."""

    def __init__(self, kill_at: int, trace: Path) -> None:
        self.kill_at = kill_at
        self.trace = trace
        self.done = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        return self.counted(name, value) if name in OPERATIONS else value

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.done += 1
            if self.done == self.kill_at:
                self.trace.write_text(name)
                if name == "write":
                    fd, data = args
                    os.write(fd, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call


def make_server(**options: Any) -> devpipe.Server:
    server = devpipe.Server(**options)

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    return server


async def serve(folder: Path, log: Path) -> None:
    async with make_server(folder=folder, execution_log=log):
        await anyio.sleep_forever()


async def send(folder: Path, log: Path) -> None:
    async with devpipe.connect(folder=folder) as pipe:
        reply = await pipe.send("echo", "hello", timeout=TIMEOUT)
        assert reply.payload == "hello"


ROLES = {"server": serve, "client": send}


async def rehearse() -> None:
    """Have everything imported, so that no child has to."""
    from devpipe.adapters.server import folder  # noqa: F401

    async with make_server() as server, devpipe.connect(server) as pipe:
        await pipe.send("echo", 1)
    async with devpipe.connect(folder="/nowhere", wait=False):
        pass


def become(order: dict[str, Any]) -> None:
    """Never returns: this process is the server, or the client."""
    code = 1
    try:
        folder, kill_at = Path(order["folder"]), order["kill_at"]
        trace = folder.parent / f"{order['role']}-{kill_at}.killed"
        port.os = CountedOs(kill_at, trace)  # type: ignore[attr-defined]  # stands in for the module
        anyio.run(ROLES[order["role"]], folder, folder.parent / "server.log", backend=order["backend"])
        code = 0
    except BaseException:  # this is the end of a process, whatever it was
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    for backend in ("asyncio", "trio"):
        anyio.run(rehearse, backend=backend)
    say, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    numbers: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([0, say], [], [])
        if say in ready:
            os.read(say, 1000)
            while numbers:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                answer(number=numbers.pop(pid), code=os.waitstatus_to_exitcode(status))
        if 0 in ready:
            line = sys.stdin.buffer.raw.readline()
            if not line:
                break
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (say, woken, 0, 1):
                    os.close(fd)
                become(order)
            numbers[pid] = order["number"]
            answer(number=order["number"], pid=pid)
    for pid in numbers:
        os.kill(pid, signal.SIGKILL)


def answer(**document: int) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    main()
