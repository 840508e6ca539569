"""``devpipe demo``: the main job on an embedded default, with things broken for real.

A server in a process of its own, a proxy in front of it in another, and one pipe over all three transports that keeps
asking. The proxy cuts and refuses WebSockets and lets HTTP hang, the server is killed and started again. What was
executed is counted by the server's own log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

import devpipe

if TYPE_CHECKING:
    from devpipe.cli.screen import Screen

__all__ = ["Ledger", "World", "run_demo", "summary_of"]

RATE = 300.0  #: requests per second
TIMEOUT = 20.0  #: of each request, in seconds: longer than every outage of the play
START = 20.0  #: seconds that a process may take to start


@dataclass
class Ledger:
    """What has become of the requests, by the client's count."""

    sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[int] = field(default_factory=Counter[int])
    by_transport: Counter[str] = field(default_factory=Counter[str])
    began: dict[int, float] = field(default_factory=dict[int, float])  #: of the requests in flight

    def oldest(self, now: float) -> float:
        """How long the request that has waited longest has waited (seconds)."""
        return max((now - began for began in self.began.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens to the world, ``at`` seconds after the beginning."""

    at: float
    words: str
    order: str


PLAY = (
    Act(2.5, "the proxy cuts every WebSocket and refuses new ones", "cut"),
    Act(5.5, "the proxy lets HTTP requests hang, without a word", "hang"),
    Act(11.5, "the proxy behaves again", "heal"),
    Act(16.5, "the server process is killed (SIGKILL) and started again", "kill"),
)
LENGTH = 22.0
#: A play of seconds cannot wait for minutes as a program should: blocked paths, breakers and returns are hurried, and
#: the queues hold what arrives while nothing answers.
SETTINGS: dict[str, Any] = {
    "queue_size": 10_000,
    "http.queue_size": 10_000,
    "folder_options.queue_size": 10_000,
    "lifecycle.blocked_initial": 1.0,
    "lifecycle.blocked_max": 2.0,
    "breaker.reset_timeout": 2.0,
    "failover.min_stay": 1.0,
    "failover.ejection_initial": 1.0,
    "failover.ejection_max": 2.0,
}


class World:
    """The processes of the demo: a server and a proxy, on free ports of loopback and in a folder of their own."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "pipe"
        self.log = directory / "executions.jsonl"
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._proxy: subprocess.Popen[bytes] | None = None

    async def start(self) -> int:
        """Start both; returns the port of the proxy."""
        await self.start_server()
        self._proxy = subprocess.Popen(
            [sys.executable, "-m", "devpipe.cli.proxy", str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._proxy.stdout is not None  # asked for above
        with anyio.fail_after(START):
            line = await anyio.to_thread.run_sync(self._proxy.stdout.readline, abandon_on_cancel=True)
        return int(line)

    async def start_server(self) -> None:
        """Start the server and wait until it takes connections."""
        command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", str(self.port)]
        command += ["--folder", str(self.folder), "--execution-log", str(self.log), "--quiet"]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with anyio.fail_after(START):
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", self.port)).aclose()
                    return
                except OSError:  # not yet: the interpreter takes its time
                    if self._server.poll() is not None:
                        raise devpipe.ConfigurationError("the demo's server did not start") from None
                    await anyio.sleep(0.05)

    def kill_server(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        assert self._server is not None  # started before
        self._server.kill()
        self._server.wait()

    def tell_proxy(self, *orders: str) -> None:
        """Change the weather."""
        assert self._proxy is not None and self._proxy.stdin is not None  # started with a pipe
        for order in orders:
            self._proxy.stdin.write(order.encode() + b"\n")
        self._proxy.stdin.flush()

    def stop(self) -> None:
        """End both processes, and wait for them."""
        for process in (self._proxy, self._server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (self._proxy, self._server):
            if process is not None:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:  # it must be gone before its files are
                    process.kill()
                    process.wait()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()

    def executions(self) -> tuple[int, int]:
        """By the server's own log: requests executed, and how many of these one process executed twice."""
        counts: Counter[tuple[str, str]] = Counter()
        if self.log.exists():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the line that the kill cut off: its handler never started
                    continue
                counts[(str(entry["server"]), str(entry["id"]))] += 1
        return sum(counts.values()), sum(1 for count in counts.values() if count > 1)


@asynccontextmanager
async def _world() -> AsyncGenerator[World, None]:
    with tempfile.TemporaryDirectory(prefix="devpipe-demo-") as directory:
        os.chmod(directory, 0o700)
        world = World(Path(directory))
        try:
            yield world
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(world.stop)


async def run_demo(screen: Screen, *, seconds: float = LENGTH, rate: float = RATE) -> dict[str, Any]:
    """Play it, and return the summary. ``seconds`` scales the length of the play."""
    ledger = Ledger()
    scale = seconds / LENGTH
    async with _world() as world:
        screen.say("starting a server and a proxy, each a process of its own")
        port = await world.start()
        url = f"http://127.0.0.1:{port}"
        async with devpipe.connect(url, folder=world.folder, settings=SETTINGS) as pipe:
            screen.begin(pipe, ledger, world)
            switches = 0

            def switched(event: Any) -> None:
                nonlocal switches
                switches += 1
                screen.switched(event, ledger.oldest(anyio.current_time()))

            pipe.on("transport_switched", switched)
            began = anyio.current_time()
            async with anyio.create_task_group() as painting:
                painting.start_soon(screen.paint)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_play, world, screen, began, scale)
                    while (elapsed := anyio.current_time() - began) < seconds:
                        due = int(elapsed * rate) + 1
                        while ledger.sent < due:
                            ledger.sent += 1
                            tasks.start_soon(_ask, pipe, ledger, ledger.sent)
                        await anyio.sleep(1 / rate)
                painting.cancel_scope.cancel()
            return summary_of(
                ledger,
                seconds=seconds,
                executions=world.executions(),
                switches=switches,
                resent=pipe.metrics()["resent"],
            )


def summary_of(
    ledger: Ledger, *, seconds: float, executions: tuple[int, int], switches: int, resent: int
) -> dict[str, Any]:
    """What came of it, and whether the promises held: every request ended once, and no server ran one twice."""
    executed, twice = executions
    once = sum(1 for count in ledger.ended.values() if count == 1)
    return {
        "seconds": seconds,
        "sent": ledger.sent,
        "answered": ledger.answered,
        "errors": dict(ledger.errors),
        "ended_exactly_once": once,
        "executed": executed,
        "executed_twice_by_one_server": twice,
        "switches": switches,
        "by_transport": dict(ledger.by_transport),
        "resent": resent,
        "ok": once == ledger.sent and twice == 0 and ledger.answered > 0,
    }


async def _ask(pipe: devpipe.Pipe, ledger: Ledger, number: int) -> None:
    ledger.began[number] = anyio.current_time()
    try:
        reply = await pipe.send("echo", {"n": number}, timeout=TIMEOUT)
        if reply.payload != {"n": number}:
            ledger.errors["wrong reply"] += 1
        else:
            ledger.answered += 1
        ledger.by_transport[reply.transport or "?"] += 1
    except devpipe.DevPipeError as error:
        outcome = "unknown" if error.outcome is None else error.outcome.value
        ledger.errors[f"{type(error).__name__} {outcome}{_code(error)}"] += 1
    del ledger.began[number]
    ledger.ended[number] += 1


async def _play(world: World, screen: Screen, began: float, scale: float) -> None:
    for act in PLAY:
        await anyio.sleep(max(0.0, began + act.at * scale - anyio.current_time()))
        screen.act(act.words)
        match act.order:
            case "cut":
                world.tell_proxy("refuse", "cut")
            case "kill":
                await anyio.to_thread.run_sync(world.kill_server)
                await world.start_server()
            case order:
                world.tell_proxy(order)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _code(error: devpipe.DevPipeError) -> str:
    code = getattr(error, "code", "")
    return f" ({code})" if code else ""
