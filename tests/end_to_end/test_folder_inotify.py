"""The system has no notifications left, or loses some: the folder is read now and then, and everything arrives."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import devpipe

sys.path.insert(0, str(Path(__file__).parent))
import inotify_process
from inotify_process import LATE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="needs inotify"),
]

#: What does not come by then does not come (seconds); far less than a server that is not told would take.
PATIENCE = 20.0
assert PATIENCE < LATE
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def command(*arguments: str) -> list[str]:
    return [sys.executable, inotify_process.__file__, *arguments]


def limited(limit: str, *arguments: str) -> list[str]:
    """This command where the user has nothing left of one kind. The limit is one of a namespace that ends with it."""
    script = f'echo 0 > "/proc/sys/user/{limit}" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *arguments]


def can_be_limited() -> bool:
    try:
        return subprocess.run(limited("max_inotify_watches", "true"), capture_output=True).returncode == 0
    except FileNotFoundError:  # no unshare here
        return False


@pytest.mark.skipif(not can_be_limited(), reason="needs unshare and user namespaces")
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("max_inotify_instances", "inotify instance limit reached|Too many open files"),
        ("max_inotify_watches", "inotify watch limit reached|No space left on device"),
    ],
    ids=["instances", "watches"],
)
async def test_without_notifications_the_folder_is_polled_and_that_is_said_once(
    limit: str, reason: str, anyio_backend_name: str, tmp_path: Path
) -> None:
    arguments = command("together", str(tmp_path / "pipe"), anyio_backend_name)
    with anyio.fail_after(60):
        done = await anyio.run_process(limited(limit, *arguments), check=False)
    assert done.returncode == 0, done.stderr.decode()
    warnings = [line for line in done.stderr.decode().splitlines() if "no notifications" in line]
    result = json.loads(done.stdout)
    assert result["answers"] == [0, 1, 2, 3, 4, "last"]
    # the server's directory and the client's, however often the client begins anew
    assert len(warnings) == 2 and len({line.split(":")[0] for line in warnings}) == 2, warnings
    for line in [*warnings, result["note"]]:
        assert any(f"no notifications ({words}): the folder is polled" in line for words in reason.split("|"))
        assert f"raise fs.inotify.{limit.replace('max_inotify', 'max_user')}" in line
    assert len(set(result["files"])) == 1, "each attempt leaves files open"


class NoObserver:
    """What the system says when a watcher is made, where it cannot be made to say so."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self) -> object:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "inotify instance limit reached"),
        OSError(errno.ENOSPC, "inotify watch limit reached"),
        RuntimeError("can't start new thread"),
    ],
    ids=["instances", "watches", "threads"],
)
async def test_whatever_keeps_it_from_being_told_messages_arrive(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("devpipe.adapters.ports.watcher.Observer", NoObserver(error))
    folder = tmp_path / "pipe"
    async with inotify_process.make_server(folder, inotify_process.SOON):
        settings = {"folder_options.rescan_interval": inotify_process.SOON}
        async with devpipe.connect(folder=folder, settings=settings) as pipe:
            with anyio.fail_after(PATIENCE):
                assert (await pipe.send("echo", "hello")).payload == "hello"
            assert "the folder is polled" in pipe.explain().transports[0].note


@pytest.mark.skipif(
    not QUEUE.exists() or int(QUEUE.read_text()) > 100_000, reason="needs an inotify queue that can be filled"
)
async def test_after_more_events_than_the_system_keeps_nothing_is_lost_and_the_server_is_told_again(
    anyio_backend_name: str, tmp_path: Path
) -> None:
    folder, log = tmp_path / "pipe", tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command("server", str(folder), anyio_backend_name), stdout=subprocess.PIPE, stderr=errors
        )
    try:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"serving\n"
        async with devpipe.connect(folder=folder) as pipe:
            with anyio.fail_after(PATIENCE):
                assert (await pipe.send("echo", "before")).payload == "before"
            os.kill(process.pid, signal.SIGSTOP)
            try:
                await anyio.to_thread.run_sync(flood, folder / "requests")
                with anyio.fail_after(PATIENCE):
                    async with anyio.create_task_group() as tasks:

                        async def ask() -> None:
                            assert (await pipe.send("echo", "lost event", timeout=PATIENCE)).payload

                        tasks.start_soon(ask)
                        while not list((folder / "requests").iterdir()):
                            await anyio.sleep(0.01)
                        os.kill(process.pid, signal.SIGCONT)
            finally:
                os.kill(process.pid, signal.SIGCONT)
            with anyio.fail_after(PATIENCE):
                while "queue overflowed" not in log.read_text():
                    await anyio.sleep(0.01)
                assert (await pipe.send("echo", "after")).payload == "after"
    finally:
        process.kill()
        process.wait()
    assert len(log.read_text().splitlines()) == 1, log.read_text()


def flood(directory: Path) -> None:
    """Fill the queue of events, and leave nothing else behind."""
    for number in range(int(QUEUE.read_text()) + 100):
        path = os.path.join(directory, f"flood_{number}")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)
