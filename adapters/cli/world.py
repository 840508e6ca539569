"""The processes of the demo: a server, and a proxy in front of it that misbehaves when it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import anyio

import devpipe

__all__ = ["World", "end_as_at_ctrl_c", "made_world"]

START = 20.0  #: seconds that a process may take to start


class World:
    """The processes of the demo: a server and a proxy, on free ports of loopback and in a folder of their own.

    Each has a session of its own, out of reach of what the terminal sends (Ctrl-C, the end of the terminal itself):
    ``stop`` ends them.
    """

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
            start_new_session=True,
        )
        assert self._proxy.stdout is not None  # asked for above
        with anyio.fail_after(START):
            line = await anyio.to_thread.run_sync(self._proxy.stdout.readline, abandon_on_cancel=True)
        return int(line)

    async def start_server(self) -> None:
        """Start the server and wait until it takes connections."""
        command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", str(self.port)]
        command += ["--folder", str(self.folder), "--execution-log", str(self.log), "--quiet"]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
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
async def made_world() -> AsyncGenerator[World, None]:
    with tempfile.TemporaryDirectory(prefix="devpipe-demo-") as directory:
        os.chmod(directory, 0o700)
        world = World(Path(directory))
        try:
            yield world
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(world.stop)


def end_as_at_ctrl_c() -> None:
    """Let what would end this process at once end it in order: nobody else ends the processes of a world."""
    for name in ("SIGTERM", "SIGHUP"):  # the second is not known everywhere
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
