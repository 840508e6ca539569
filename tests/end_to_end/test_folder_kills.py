"""kill -9 at every operation on the folder: of a server that answers one message, and of a client that sends one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

import devpipe

sys.path.insert(0, str(Path(__file__).parent))
import folder_process
from folder_process import TIMEOUT

from devpipe.machines.config import FolderConfig

pytestmark = pytest.mark.anyio

QUICK = {"lifecycle.blocked_initial": 0.2, "lifecycle.backoff_initial": 0.1}
#: What a test waits for comes by then, or never (seconds).
PATIENCE = 15.0
#: A deadline is kept to this (seconds): the sweep of calls, and a machine that has other things to do.
SLACK = 2.0
#: So many are killed at once: each has a folder of its own.
AT_ONCE = 10
#: More operations than one round trip has; a test that gets there has lost its way.
MANY = 400


class Child:
    """One server or client; ``code`` when it has ended."""

    def __init__(self) -> None:
        self.pid = 0
        self.code: int | None = None
        self.begun = anyio.Event()
        self.ended = anyio.Event()

    async def wait(self) -> int:
        with anyio.fail_after(PATIENCE):
            await self.ended.wait()
        assert self.code is not None
        return self.code

    async def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            await self.wait()


class Nursery:
    """Starts children, by the process that forks them."""

    def __init__(self, process: anyio.abc.Process, backend: str) -> None:
        self._process = process
        self._backend = backend
        self._children: list[Child] = []
        self._turn = anyio.Lock()

    async def start(self, role: str, place: Path, *, kill_at: int = 0) -> Child:
        child = Child()
        order = {
            "number": len(self._children),
            "role": role,
            "folder": str(place / "pipe"),
            "backend": self._backend,
            "kill_at": kill_at,
        }
        self._children.append(child)
        assert self._process.stdin is not None
        async with self._turn:
            await self._process.stdin.send(json.dumps(order).encode() + b"\n")
        with anyio.fail_after(PATIENCE):
            await child.begun.wait()
        return child

    async def listen(self) -> None:
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        while True:
            answer = json.loads(await lines.receive_until(b"\n", 1000))
            child = self._children[answer["number"]]
            if "pid" in answer:
                child.pid = answer["pid"]
                child.begun.set()
            else:
                child.code = answer["code"]
                child.ended.set()


@asynccontextmanager
async def nursery(backend: str) -> AsyncIterator[Nursery]:
    async with await anyio.open_process(
        [sys.executable, folder_process.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
    ) as process:
        children = Nursery(process, backend)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(children.listen)
            yield children
            tasks.cancel_scope.cancel()


def executions(place: Path) -> Counter[str]:
    """Which ids the servers of this folder say that they ran, in whichever process."""
    log = place / "server.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return Counter(json.loads(line)["id"] for line in lines)


async def in_turn(is_killed: Callable[[int], Awaitable[bool]]) -> int:
    """Try 1, 2, 3, ... until one is not killed any more; returns how many were tried."""
    count, over = 0, False

    async def work() -> None:
        nonlocal count, over
        while not over:
            assert count < MANY
            count += 1
            if not await is_killed(count):
                over = True

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)
    return count


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.01)


async def assert_swept(folder: Path) -> None:
    """Serve once more, as a server for which everything is old: nothing may be left but the folder itself."""
    rooms = [folder / name for name in ("requests", "claims", "tmp", "clients")]
    async with devpipe.Server(folder=folder, folder_options=FolderConfig(orphan_age=0.001)):
        await until(lambda: not [entry for room in rooms for entry in room.iterdir()])


def operations(place: Path) -> Counter[str]:
    """At which operations somebody was killed."""
    return Counter(trace.read_text() for trace in place.rglob("*.killed"))


async def ask(folder: Path) -> str:
    """One message, whoever serves; in one word how it ended, which must be in time."""
    async with devpipe.connect(folder=folder, settings=QUICK) as pipe:
        began = anyio.current_time()
        try:
            reply = await pipe.send("echo", "hello", timeout=TIMEOUT)
            assert reply.payload == "hello"
            return "answered"
        except devpipe.DevPipeError as error:
            return "unknown" if error.outcome is None else error.outcome.value
        finally:
            assert anyio.current_time() - began < TIMEOUT + SLACK


async def test_a_server_killed_at_any_operation_runs_nothing_twice_and_leaves_no_litter(
    anyio_backend_name: str, tmp_path: Path
) -> None:
    outcomes: Counter[str] = Counter()

    async def is_killed(number: int) -> bool:
        place = tmp_path / str(number)
        folder = place / "pipe"
        place.mkdir()
        server = await children.start("server", place, kill_at=number)
        servers = [server]

        async def replace() -> None:
            await server.ended.wait()
            with anyio.CancelScope(shield=True):  # one that has started must be known, or it would live on
                servers.append(await children.start("server", place))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(replace)
            outcome = await ask(folder)
            # its last operation comes after the answer
            await until(lambda: server.ended.is_set() or not [*(folder / "claims").iterdir()])
            tasks.cancel_scope.cancel()
        killed = server.ended.is_set()
        for one in servers:
            await one.kill()
        runs = executions(place)
        assert max(runs.values(), default=0) <= 1
        assert runs.total() in {"answered": (1,), "never_sent": (0,), "rejected": (0,)}.get(outcome, (0, 1))
        assert killed or outcome == "answered"
        outcomes[outcome] += 1
        await assert_swept(folder)
        return killed

    async with nursery(anyio_backend_name) as children:
        assert await in_turn(is_killed) > 40
    at = operations(tmp_path)
    assert {"mkdir", "open", "write", "rename", "link", "unlink", "listdir", "read"} <= set(at), at
    assert outcomes["answered"] and outcomes["maybe_executed"], outcomes


async def test_a_client_killed_at_any_operation_has_nothing_run_twice_and_leaves_no_litter(
    anyio_backend_name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pipe"

    async def is_killed(number: int) -> bool:
        client = await children.start("client", tmp_path, kill_at=number)
        killed = await client.wait() == -signal.SIGKILL
        assert killed or client.code == 0
        assert await ask(folder) == "answered"
        return killed

    async with nursery(anyio_backend_name) as children:
        server = await children.start("server", tmp_path)
        await until((folder / "server.json").exists)
        tried = await in_turn(is_killed)
        await server.kill()
    assert tried > 30
    assert max(executions(tmp_path).values()) == 1
    at = operations(tmp_path)
    assert {"mkdir", "open", "write", "rename", "unlink", "listdir", "read"} <= set(at), at
    assert not {*os.listdir(folder)} - {"requests", "claims", "tmp", "clients", "server.json"}
    await assert_swept(folder)
