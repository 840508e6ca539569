"""A shared folder under a running server: removed, replaced, taken by another; operations that fail once, crowds of entries."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import make_server

import devpipe
from devpipe.adapters.ports.folder import Directory
from devpipe.adapters.server import folder as server_folder
from devpipe.machines.config import FolderConfig
from devpipe.machines.protocols.folder import beat_data

pytestmark = pytest.mark.anyio

QUICK = {
    "folder_options.rescan_interval": 0.02,
    "lifecycle.backoff_initial": 0.05,
    "lifecycle.blocked_initial": 0.2,
}
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_folder, "BEAT", 0.05)
    monkeypatch.setattr(server_folder, "LOOKS_FOR", 0.3)


def quick_server(folder: Path, **options: Any) -> devpipe.Server:
    return make_server(folder=folder, folder_options=FolderConfig(rescan_interval=0.02, **options))


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.01)


def move_away(folder: Path) -> None:
    folder.rename(folder.parent / "old")


def replace(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


# --- removed, replaced, taken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree,
        replace,
        move_away,
        lambda folder: shutil.rmtree(folder / "requests"),
        lambda folder: shutil.rmtree(folder / "clients"),
        lambda folder: shutil.rmtree(folder / "claims"),
        lambda folder: shutil.rmtree(folder / "tmp"),
    ],
    ids=["removed", "replaced", "moved", "requests", "clients", "claims", "tmp"],
)
async def test_a_folder_that_was_damaged_is_served_anew_with_nothing_run_twice(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder, ran = tmp_path / "pipe", []
    server = quick_server(folder)
    server.configure(execution_log=lambda entry: ran.append(entry["id"]))
    async with server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        subscription = pipe.receive()
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        damage(folder)
        assert (await pipe.send("echo", 2, timeout=PATIENCE)).payload == 2
        await server.push("news", 3)
        with anyio.fail_after(PATIENCE):
            assert (await subscription.__anext__()).payload == 3  # type: ignore[union-attr]  # a message
        await until(lambda: (folder / "server.json").exists())
        assert {entry.name for entry in folder.iterdir()} == {
            "requests", "clients", "claims", "tmp", "server.json",
        }  # fmt: skip
    assert len(ran) == len(set(ran))
    assert [line for line in caplog.messages if "was removed or replaced" in line]


async def test_what_was_removed_with_all_around_it_is_not_made_again(tmp_path: Path) -> None:
    place = tmp_path / "project"
    async with quick_server(place / "pipe") as server:
        shutil.rmtree(place)
        with anyio.move_on_after(0.5):
            await until(place.exists)
        assert not place.exists() and server.running
        place.mkdir()
        async with devpipe.connect(folder=place / "pipe", settings=QUICK) as pipe:
            assert (await pipe.send("echo", 1, timeout=5)).payload == 1


async def test_a_server_gives_way_to_another_and_serves_again_when_that_one_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pipe"
    beat = folder / "server.json"

    def move(count: int) -> None:
        draft = folder / "tmp" / "draft_other"
        draft.write_bytes(beat_data("other", count))
        draft.rename(beat)

    def whose() -> str:
        return str(json.loads(beat.read_bytes())["server"])

    async with quick_server(folder) as server:
        move(0)
        for count in range(1, 60):  # it would have written its own ten times meanwhile
            move(count)
            await anyio.sleep(0.01)
            assert whose() == "other"
        await until(lambda: whose() == server.identity)
        async with devpipe.connect(folder=folder, settings=QUICK) as pipe:
            assert (await pipe.send("echo", 1, timeout=5)).payload == 1
    assert "another server, other, serves" in caplog.text
    assert len(caplog.messages) <= 4, caplog.messages


# --- operations that fail -------------------------------------------------------------------------------


class FailsOnce:
    """An operation of ``Directory``, in the directory of this name, on the first entry of this kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, operation: str, where: str, entry: str) -> None:
        self.failed: list[str] = []
        self.armed = False
        self._where, self._entry = where, entry
        self._real = getattr(Directory, operation)
        monkeypatch.setattr(Directory, operation, lambda *args, **kwargs: self._call(*args, **kwargs))

    def _call(self, directory: Directory, name: str, *args: Any, **kwargs: Any) -> Any:
        target = args[0].path if args and isinstance(args[0], Directory) else directory.path
        here = self._where in (directory.path.name, target.name, target.parent.name)
        if self.armed and not self.failed and here and self._entry in (name + str(args[1:])):
            self.failed.append(name)
            raise OSError(errno.EMFILE, "Too many open files", name)
        return self._real(directory, name, *args, **kwargs)


@pytest.mark.parametrize(
    ("operation", "where", "entry"),
    [
        ("modified", "requests", "request_"),
        ("link_to", "requests", "request_"),
        ("remove", "requests", "request_"),
        ("modified", "claims", "request_"),
        ("read", "claims", "request_"),
        ("sub", "clients", ""),
        ("write", "tmp", "draft_"),
        ("move_to", "clients", "response_"),
        ("read", "clients", "response_"),
    ],
)
async def test_an_operation_that_fails_once_costs_a_moment_and_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, where: str, entry: str
) -> None:
    folder, ran = tmp_path / "pipe", []
    server = quick_server(folder)
    server.configure(execution_log=lambda written: ran.append(written["id"]))
    fault = FailsOnce(monkeypatch, operation, where, entry)
    async with server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        fault.armed = True
        assert (await pipe.send("echo", 2, timeout=PATIENCE)).payload == 2
        await until(lambda: fault.failed)
        assert (await pipe.send("echo", 3, timeout=5)).payload == 3
        await until(lambda: not [*(folder / "claims").iterdir(), *(folder / "requests").iterdir()])
    assert len(ran) == len(set(ran)) == 3


async def test_a_push_that_cannot_be_written_comes_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pipe"
    fault = FailsOnce(monkeypatch, "move_to", "clients", "push_")
    async with quick_server(folder) as server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        subscription = pipe.receive()
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        fault.armed = True
        await server.push("news", "the last one: none comes after it")
        assert fault.failed
        with anyio.fail_after(PATIENCE):
            message = await subscription.__anext__()
        assert isinstance(message, devpipe.Message) and message.payload == "the last one: none comes after it"


async def test_so_much_and_no_more_is_kept_for_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pipe"
    monkeypatch.setattr("devpipe.adapters.server.folder_clients.MAX_UNSENT", 3)
    full = True
    real = Directory.write

    def write(directory: Directory, name: str, data: bytes, **options: Any) -> None:
        if full and b"news" in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(directory, name, data, **options)

    monkeypatch.setattr(Directory, "write", write)
    async with quick_server(folder) as server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        subscription = pipe.receive()
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        for n in range(5):
            await server.push("news", n)
        full = False
        with anyio.fail_after(PATIENCE):  # the first two were given up; by the third the client sees that
            for n in range(5):
                assert (await subscription.__anext__()).payload == n  # type: ignore[union-attr]
    assert caplog.text.count("is given up") == 2


async def test_a_deadline_that_a_full_disk_has_eaten_up_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pipe"
    real = Directory.write

    def write(directory: Directory, name: str, data: bytes, **options: Any) -> None:
        if b"large" in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(directory, name, data, **options)

    monkeypatch.setattr(Directory, "write", write)
    settings = {**QUICK, "lifecycle.backoff_initial": 5.0}
    async with quick_server(folder), devpipe.connect(folder=folder, settings=settings) as pipe:
        with pytest.raises(devpipe.DeadlineExceeded) as caught:
            await pipe.send("echo", "large", timeout=0.3)
        assert caught.value.outcome is devpipe.Outcome.NEVER_SENT
        reason = "the request cannot be written: the disk is full: free some space (ENOSPC)"
        assert str(caught.value).endswith(f"within 0.3 s; it waits to be sent again: {reason}")


async def test_an_answer_that_cannot_be_removed_is_one_and_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pipe"
    real = Directory.remove

    def remove(directory: Directory, name: str) -> bool:
        if directory.path.parent.name == "clients":
            raise OSError(errno.EROFS, "Read-only file system", name)
        return real(directory, name)

    async with quick_server(folder) as server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        subscription = pipe.receive()
        monkeypatch.setattr(Directory, "remove", remove)
        for n in range(5):
            assert (await pipe.send("echo", n, timeout=5)).payload == n
            await server.push("news", n)
            with anyio.fail_after(PATIENCE):
                assert (await subscription.__anext__()).payload == n  # type: ignore[union-attr]
        assert pipe.metrics()["unknown_replies"] == 0 and pipe.metrics()["pushes_dropped"] == 0
        monkeypatch.undo()


async def test_a_directory_of_ours_that_is_stale_ends_the_link_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pipe"
    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1

        def removed(directory: Directory) -> bool:
            monkeypatch.undo()
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(Directory, "removed", property(removed))
        assert (await pipe.send("echo", 2, timeout=PATIENCE)).payload == 2
    assert "our directory in the folder is lost: Stale file handle (ESTALE)" in caplog.text
    assert "bug" not in caplog.text


async def test_a_beat_that_cannot_be_written_is_said_once_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "devpipe.server.folder")
    tried = 0
    full = True
    real = Directory.write

    def write(directory: Directory, name: str, data: bytes, **options: Any) -> None:
        nonlocal tried
        if full:
            tried += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        real(directory, name, data, **options)

    async with quick_server(tmp_path / "pipe"):
        monkeypatch.setattr(Directory, "write", write)
        await until(lambda: tried > 3)
        full = False
        await until(lambda: "the beat cannot be written: it is over" in caplog.messages)
    assert caplog.messages == [
        "the beat cannot be written: No space left on device",
        "the beat cannot be written: it is over",
    ]


async def test_what_cannot_be_swept_keeps_nothing_else_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pipe"
    names = [f"claims/request_a-{n}.json" for n in range(5)] + [f"tmp/draft_{n}" for n in range(5)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).write_text("{}")
        os.utime(folder / name, (1000, 1000))
    folder.chmod(0o700)
    real = Directory.remove

    def remove(directory: Directory, name: str) -> bool:
        if name == "request_a-2.json":
            raise PermissionError(errno.EPERM, "Operation not permitted", name)
        return real(directory, name)

    monkeypatch.setattr(Directory, "remove", remove)
    async with quick_server(folder):
        left = [folder / name for name in names if name != "claims/request_a-2.json"]
        await until(lambda: not any(path.exists() for path in left))
        await until(lambda: caplog.messages)
    assert (folder / "claims" / "request_a-2.json").exists()
    assert caplog.messages == [
        "not everything in the folder can be swept: Operation not permitted: 'request_a-2.json'"
    ]


# --- crowds ---------------------------------------------------------------------------------------------


async def test_a_crowd_of_entries_that_are_no_files_is_looked_at_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listings = tmp_path / "pipe", 0
    real = Directory.names

    def names(directory: Directory) -> list[str]:
        nonlocal listings
        listings += directory.path.name == "requests"
        return real(directory)

    (folder / "requests").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    for n in range(200):
        os.mkfifo(folder / "requests" / f"request_x-{n}.json")
    monkeypatch.setattr(Directory, "names", names)
    async with make_server(folder=folder, folder_options=FolderConfig(rescan_interval=60)):
        async with devpipe.connect(folder=folder, settings=QUICK) as pipe:
            assert (await pipe.send("echo", 1, timeout=5)).payload == 1
    assert listings < 50


class Turns:
    """Counts the turns that a task of the program has, and at which of them something of ours was done."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: list[int] = []

    async def run(self) -> None:
        while True:
            self.count += 1
            await anyio.lowlevel.checkpoint()

    def mark(self) -> None:
        self.seen.append(self.count)


async def test_a_folder_full_of_large_requests_leaves_the_other_tasks_their_turn(tmp_path: Path) -> None:
    folder, turns = tmp_path / "pipe", Turns()
    (folder / "requests").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    for n in range(10):
        document = {"id": f"x-{n}", "type": "echo", "payload": "y" * (1024 * 1024 + 1)}
        (folder / "requests" / f"request_x-{n}.json").write_text(json.dumps(document))
    server = quick_server(folder)
    real = server.receive

    def receive(data: bytes, path: Any) -> None:
        turns.mark()
        real(data, path)

    server.receive = receive  # type: ignore[method-assign]  # to see when
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turns.run)
        async with server:
            await until(lambda: len(turns.seen) == 10)
        tasks.cancel_scope.cancel()
    assert len(set(turns.seen)) >= 4, turns.seen


async def test_a_program_that_sends_much_at_once_has_its_turn_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, turns = tmp_path / "pipe", Turns()
    real = Directory.move_to

    def move_to(directory: Directory, name: str, target: Directory, new: str) -> None:
        if target.path.name == "requests":
            turns.mark()
        real(directory, name, target, new)

    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:

        async def send() -> None:
            assert (await pipe.send("echo", "y" * (1024 * 1024 + 1), timeout=PATIENCE)).payload

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(turns.run)
            monkeypatch.setattr(Directory, "move_to", move_to)
            async with anyio.create_task_group() as sending:
                for _ in range(10):
                    sending.start_soon(send)
            tasks.cancel_scope.cancel()
    assert len(set(turns.seen)) >= 4, turns.seen


async def test_while_much_is_written_the_server_is_seen_to_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "pipe", list[str]()
    move_to, read = Directory.move_to, Directory.read

    def moves(directory: Directory, name: str, target: Directory, new: str) -> None:
        if target.path.name == "requests":
            seen.append("written")
        move_to(directory, name, target, new)

    def reads(directory: Directory, name: str, limit: int) -> bytes:
        if name == "server.json":
            seen.append("looked")
        return read(directory, name, limit)

    # the server reads it too, with each of its own beats: the next one is to come later than this
    monkeypatch.setattr(server_folder, "BEAT", 60.0)
    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:
        monkeypatch.setattr("devpipe.adapters.transports.folder.CLOSE_LOOK", 0.0)
        monkeypatch.setattr(Directory, "move_to", moves)
        monkeypatch.setattr(Directory, "read", reads)

        async def send() -> None:
            assert (await pipe.send("echo", "y" * (1024 * 1024 + 1), timeout=PATIENCE)).payload

        async with anyio.create_task_group() as sending:
            for _ in range(10):
                sending.start_soon(send)
    written = [at for at, what in enumerate(seen) if what == "written"]
    assert seen[written[0] : written[9]].count("looked") >= 4, seen
