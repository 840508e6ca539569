"""``devpipe watch`` in a process of its own, beside a server that pushes and goes away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import anyio
import pytest
from support import serving

from devpipe import FailureKind
from devpipe.cli.watch import line_of
from devpipe.machines import events
from devpipe.machines.inputs import Failure

pytestmark = pytest.mark.anyio

LOST = Failure(kind=FailureKind.NETWORK, reason="reset by peer")
#: No line by then: the test has failed (seconds).
PATIENCE = 20.0


class Watcher:
    """The process, and its lines one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: Queue[str] = Queue()
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: object) -> None:
        for line in stream:  # type: ignore[attr-defined]  # an open text stream
            self._lines.put(line)

    async def until(self, word: str) -> str:
        """The next line with this word in it."""
        while True:
            line = await anyio.to_thread.run_sync(lambda: self._lines.get(timeout=PATIENCE))
            if word in line:
                return line


@contextmanager
def watching(*arguments: str) -> Iterator[Watcher]:
    command = [sys.executable, "-m", "devpipe.cli", "watch", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Watcher(process)
    finally:
        process.kill()
        process.communicate()


async def test_it_tells_of_transports_and_pushes_a_line_each_and_ends_cleanly_at_ctrl_c() -> None:
    async with serving() as world:
        with watching("--server", world.url, "--via", "websocket") as watcher:
            assert "to=websocket" in await watcher.until("transport_switched")
            await world.server.push("news", {"n": 1})
            assert 'payload={"n": 1}' in await watcher.until("push")
            watcher.process.send_signal(signal.SIGINT)
            code = await anyio.to_thread.run_sync(lambda: watcher.process.wait(PATIENCE))
            assert code == 130
            assert watcher.process.stderr is not None
            assert "Traceback" not in watcher.process.stderr.read()


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            events.Disconnected(transport="http", failure=LOST, retry_at=101.25, proven=True),
            "disconnected         transport=http (network: reset by peer) retry in 1.2 s",
        ),
        (
            events.Disconnected(transport="http", failure=LOST, retry_at=None),
            "disconnected         transport=http (network: reset by peer) a dial failed",
        ),
        (
            events.TransportFailed(transport="http", timestamp=99.0, failure=LOST),
            "transport_failed     transport=http (network: reset by peer)",
        ),
        (events.Exhausted(retry_at=99.0), "exhausted            retry in 0.0 s"),
        (
            events.Connected(transport="http", server="S", latency=0.0161),
            "connected            transport=http server=S latency=16 ms",
        ),
        (
            events.Connected(transport="http", server="S\x9b31m", latency=0.00161),
            r"connected            transport=http server=S\x9b31m latency=1.6 ms",
        ),
        (events.ResumedFromSleep(slept=61.23), "resumed              slept=61.2 s"),
        (
            events.HealthUpdated(transport="http", status="failing"),
            "health_updated       transport=http status=failing",
        ),
    ],
)
def test_for_people_a_line_says_how_long_and_why_and_no_number_of_a_clock(
    event: events.Event, line: str
) -> None:
    assert line_of(event.as_dict(), now=100.0) == line


async def test_with_json_every_line_is_a_document_and_a_lost_server_is_told() -> None:
    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()
        address: list[str] = []
        ready = anyio.Event()

        async def serve() -> None:
            async with serving() as world:
                address.append(world.url)
                ready.set()
                await stop.wait()

        tasks.start_soon(serve)
        with anyio.fail_after(PATIENCE):
            await ready.wait()
        with watching("--server", address[0], "--via", "http", "--json") as watcher:
            assert json.loads(await watcher.until("transport_switched"))["to"] == "http"
            stop.set()
            lost = json.loads(await watcher.until("transport_failed"))
            assert lost["transport"] == "http"
            assert json.loads(await watcher.until("exhausted"))["event"] == "exhausted"


async def test_it_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    with watching("--folder", str(tmp_path / "pipe")) as watcher:
        await watcher.until("exhausted")
        async with serving() as world:
            with watching("--folder", str(world.folder)) as second:
                assert "to=folder" in await second.until("transport_switched")
        assert watcher.process.poll() is None
