"""What a restarted, a dead and a second server of one folder mean to its clients: real processes, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import devpipe
from devpipe.machines.protocols.folder import BEAT, MISSED_BEATS

pytestmark = pytest.mark.anyio

SERVER = """
import sys
import anyio
import devpipe

server = devpipe.Server(folder=sys.argv[1])

@server.handler("echo")
async def echo(message):
    return message.payload

@server.handler("begin")
async def begin(message):
    open(sys.argv[3], "w").close()
    await anyio.sleep_forever()

async def main():
    await server.serve(port=int(sys.argv[2]), listening=lambda url: print(url, flush=True))

anyio.run(main, backend=sys.argv[4])
"""
#: A lost session is known by then (seconds): a look at the beat, or a probe of 2 s, and the hello to the new server.
PROMPT = 4.0
#: Without a sign of life a ping goes out after 3 s, and may stay unanswered for 2 s; a look at the beat and one sweep.
SILENCE = 3.0 + 2.0 + 0.25 + 0.25
#: What a crowded machine may add (seconds): less than the beat that was counted before.
SLACK = 0.9


class Place:
    """A folder and a port that one server after the other serves."""

    def __init__(self, root: Path, backend: str) -> None:
        self.folder = root / "pipe"
        self.begun = root / "begun"
        self.url = "http://127.0.0.1:0"
        self._backend = backend
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *, elsewhere: bool = False) -> subprocess.Popen[str]:
        """A server that listens already, or has ended; at the port of the one before if not ``elsewhere``."""
        port = "0" if elsewhere else self.url.rpartition(":")[2]
        command = [sys.executable, "-c", SERVER, str(self.folder), port, str(self.begun), self._backend]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._processes.append(process)
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def place(tmp_path: Path, anyio_backend_name: str) -> Iterator[Place]:
    place = Place(tmp_path, anyio_backend_name)
    try:
        yield place
    finally:
        place.end()


async def until(condition: Callable[[], object], *, within: float = 15.0) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)


@contextmanager
def lost_in_flight() -> Iterator[None]:
    with pytest.raises(devpipe.TransportError) as caught:
        yield
    assert caught.value.outcome is devpipe.Outcome.MAYBE_EXECUTED, caught.value


@pytest.mark.parametrize("names", [["folder"], ["folder", "websocket", "http"]])
async def test_a_call_over_the_folder_ends_promptly_when_its_server_was_killed_and_restarted_at_once(
    place: Place, names: list[str]
) -> None:
    server = await anyio.to_thread.run_sync(place.start)
    url = place.url if "http" in names else None
    ended: list[float] = []
    async with devpipe.connect(url, folder=place.folder, transports=names) as pipe:
        pipe.use("folder")
        await until(lambda: pipe.active == "folder")

        async def call() -> None:
            with lost_in_flight():
                await pipe.send("begin", 1, timeout=60)
            ended.append(time.monotonic())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until(place.begun.exists)
            server.kill()
            server.wait()
            await anyio.to_thread.run_sync(place.start)
            restarted = time.monotonic()
            await until(lambda: ended)
        assert ended[0] - restarted < PROMPT
        assert (await pipe.send("echo", 2, timeout=10)).payload == 2


async def test_a_call_to_a_frozen_server_ends_when_another_way_has_met_the_next_server(place: Place) -> None:
    old = await anyio.to_thread.run_sync(place.start)
    names = ["websocket", "folder"]
    async with devpipe.connect(place.url, folder=place.folder, transports=names) as pipe:
        await until(lambda: pipe.active == "websocket" and all(t.ready for t in pipe.transports))

        async def call() -> None:
            with lost_in_flight():
                await pipe.send("begin", 1, timeout=60)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until(place.begun.exists)
            os.kill(old.pid, signal.SIGSTOP)
            # its beat stands still, so another one may serve the folder; it keeps its port
            await anyio.to_thread.run_sync(partial(place.start, elsewhere=True))
            tasks.cancel_scope.deadline = anyio.current_time() + PROMPT + 2.0
        assert not tasks.cancel_scope.cancelled_caught
        assert (await pipe.send("echo", 2, timeout=10)).payload == 2


async def test_silence_over_the_folder_is_known_after_five_seconds(place: Place) -> None:
    """However late the last beat was read: the server dies just before the look at it is due."""
    server = await anyio.to_thread.run_sync(place.start)
    lost: list[float] = []
    async with devpipe.connect(folder=place.folder, transports=["folder"]) as pipe:
        pipe.on("transport_failed", lambda event: lost.append(time.monotonic()))

        async def call() -> None:
            with pytest.raises(devpipe.DevPipeError):
                await pipe.send("begin", 1, timeout=30)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until(place.begun.exists)
            beat = (place.folder / "server.json").read_bytes()
            await until(lambda: (place.folder / "server.json").read_bytes() != beat)
            server.kill()
            died = time.monotonic()
            await until(lambda: lost)
            assert lost[0] - died < SILENCE + SLACK
            tasks.cancel_scope.cancel()


async def test_what_a_silent_server_has_not_taken_from_the_folder_goes_to_the_next_one(place: Place) -> None:
    server = await anyio.to_thread.run_sync(place.start)
    settings = {"lifecycle.silence_ping": 0.5, "lifecycle.silence_answer": 0.5}  # before the beat is missed
    answers: list[object] = []
    async with devpipe.connect(folder=place.folder, settings=settings) as pipe:
        lost: list[str] = []
        pipe.on("transport_failed", lambda event: lost.append(event.failure.reason))  # type: ignore[attr-defined]
        server.kill()
        server.wait()

        async def ask(number: int) -> None:
            answers.append((await pipe.send("echo", number, timeout=60)).payload)

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(ask, number)
            await until(lambda: lost)
            assert "ping" in lost[0]
            await anyio.to_thread.run_sync(place.start)
            await until(lambda: len(answers) == 5)
    assert sorted(map(str, answers)) == list("01234"), (
        "nobody had seen them: they were no loss of the old session"
    )


@pytest.mark.parametrize("timeout", [1.0, 8.0], ids=["before", "after"])
async def test_what_a_frozen_server_has_not_taken_was_never_sent(place: Place, timeout: float) -> None:
    """Whether the time of the call is up before the silence is known, or after it."""
    server = await anyio.to_thread.run_sync(place.start)
    async with devpipe.connect(folder=place.folder, transports=["folder"]) as pipe:
        assert (await pipe.send("echo", 1, timeout=10)).payload == 1
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(devpipe.DevPipeError) as caught:
            await pipe.send("echo", 2, timeout=timeout)
        assert caught.value.outcome is devpipe.Outcome.NEVER_SENT, caught.value
        os.kill(server.pid, signal.SIGCONT)


async def test_a_second_server_of_a_folder_is_refused_while_the_first_one_lives(place: Place) -> None:
    await anyio.to_thread.run_sync(place.start)
    second = await anyio.to_thread.run_sync(partial(place.start, elsewhere=True))
    out, error = await anyio.to_thread.run_sync(second.communicate)
    assert second.returncode != 0 and not out
    assert "ConfigurationError: another server, " in error, error
    assert f"serves the folder '{place.folder}': its beat moved" in error
    async with devpipe.connect(folder=place.folder) as pipe:
        assert (await pipe.send("echo", 1, timeout=10)).payload == 1, "the first one has kept its beat"


async def test_a_server_that_was_killed_is_replaced_at_once(place: Place) -> None:
    server = await anyio.to_thread.run_sync(place.start)
    server.kill()
    server.wait()
    killed = time.monotonic()
    await anyio.to_thread.run_sync(place.start)
    assert place.url
    assert time.monotonic() - killed < BEAT * MISSED_BEATS, "before its clients have given the folder up"


async def test_a_server_that_ended_well_takes_its_beat_with_it(place: Place) -> None:
    server = await anyio.to_thread.run_sync(place.start)
    lost: list[str] = []
    async with devpipe.connect(folder=place.folder, transports=["folder"]) as pipe:
        assert (await pipe.send("echo", 1, timeout=10)).payload == 1
        pipe.on("transport_failed", lambda event: lost.append(event.failure.reason))  # type: ignore[attr-defined]
        server.terminate()
        await anyio.to_thread.run_sync(server.wait)
        assert not (place.folder / "server.json").exists()
        await until(lambda: lost, within=3.0)
    assert lost == [f"nobody serves the folder '{place.folder}'"]
