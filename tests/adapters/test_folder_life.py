"""What a shared folder goes through in its life: sweeps under a living client, old requests, wrong clocks, failing disks."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import make_server

import devpipe
from devpipe.adapters.ports.clock import SystemClock
from devpipe.adapters.ports.folder import Directory, Folder
from devpipe.machines.config import FolderConfig

pytestmark = pytest.mark.anyio

HOURS_AGO = time.time() - 2 * 3600
QUICK = {"folder_options.rescan_interval": 0.02, "lifecycle.backoff_initial": 0.05}


def quick_server(folder: Path, **options: Any) -> devpipe.Server:
    return make_server(folder=folder, folder_options=FolderConfig(rescan_interval=0.02, **options))


async def gone(*paths: Path) -> None:
    with anyio.fail_after(10):
        while any(path.exists() for path in paths):
            await anyio.sleep(0.01)


async def test_a_client_whose_directory_was_swept_makes_it_anew(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        [home] = (folder / "clients").iterdir()
        home.rmdir()
        assert (await pipe.send("echo", 2, timeout=10)).payload == 2
        assert home.is_dir()


async def test_a_client_that_only_listens_notices_too_that_its_directory_was_swept(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    async with quick_server(folder) as server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        subscription = pipe.receive()
        await pipe.send("echo", 1, timeout=5)
        await server.push("news", 1)
        with anyio.fail_after(10):
            assert (await subscription.__anext__()).payload == 1  # type: ignore[union-attr]  # a message
        [home] = (folder / "clients").iterdir()
        home.rmdir()
        await server.push("news", 2)
        with anyio.fail_after(10):
            assert (await subscription.__anext__()).payload == 2  # type: ignore[union-attr]  # a message


async def test_what_dead_clients_left_is_swept_and_what_is_not_ours_or_young_stays(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    names = [
        "claims/request_a-1.json",
        "tmp/draft_0a",
        "clients/dead/response_dead-1.json",
        "clients/dead/push_1.json",
    ]
    strange = [
        "claims/notes.txt",
        "tmp/report.pdf",
        "clients/other/keep.json",
        "clients/no id!/response_x-1.json",
    ]
    for name in names + strange:
        (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).write_text("{}")
        os.utime(folder / name, (HOURS_AGO, HOURS_AGO))
    young = folder / "clients/idle"
    young.mkdir()
    folder.chmod(0o700)
    for client in ("dead", "other", "no id!"):
        os.utime(folder / "clients" / client, (HOURS_AGO, HOURS_AGO))
    async with quick_server(folder):
        await gone(*(folder / name for name in names), folder / "clients/dead")
        assert all((folder / name).exists() for name in strange)
        assert young.is_dir()


async def test_a_request_that_is_too_old_is_removed_and_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pipe"
    ran: list[Any] = []
    requests = folder / "requests"
    requests.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    for name in ("old-1", "new-1"):
        (requests / f"request_{name}.json").write_text(f'{{"type": "echo", "id": "{name}", "payload": 1}}')
    os.utime(requests / "request_old-1.json", (HOURS_AGO, HOURS_AGO))
    server = quick_server(folder)
    server.configure(execution_log=ran.append)
    async with server:
        with anyio.fail_after(10):
            while not ran or [*requests.iterdir()]:
                await anyio.sleep(0.01)
    assert [entry["id"] for entry in ran] == ["new-1"]
    assert "'request_old-1.json' in the folder was too old to be run" in caplog.text


class WrongClock(SystemClock):
    """The wall clock of a machine that is two hours ahead of the one that keeps the files."""

    def wall(self) -> float:
        return super().wall() + 2 * 3600


async def test_age_is_told_by_the_clock_that_stamps_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    server = devpipe.Server(folder=folder, clock=WrongClock)

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    async with server, devpipe.connect(folder=folder, settings=QUICK) as pipe:
        assert (await pipe.send("echo", 1, timeout=10)).payload == 1


async def test_a_request_that_shows_but_cannot_be_synced_is_no_unsent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(directory: Directory) -> None:
        raise OSError(errno.EIO, "the disk fails")

    folder = tmp_path / "pipe"
    monkeypatch.setattr(Directory, "sync", fails)
    settings = {**QUICK, "folder_options.durability": "full"}
    async with quick_server(folder), devpipe.connect(folder=folder, settings=settings) as pipe:
        troubles: list[str] = []
        pipe.on("error", lambda event: troubles.append(event.failure.reason))
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        with anyio.fail_after(5):
            while not troubles:
                await anyio.sleep(0.01)
    assert "may not outlive a power cut: the disk fails" in troubles[0]


async def test_a_claim_that_cannot_be_removed_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove = Directory.remove

    def fails(directory: Directory, name: str) -> bool:
        if directory.path.name == "claims":
            raise OSError(errno.EROFS, "read-only now")
        return remove(directory, name)

    folder = tmp_path / "pipe"
    monkeypatch.setattr(Directory, "remove", fails)
    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:
        assert (await pipe.send("echo", 1, timeout=5)).payload == 1
        assert (await pipe.send("echo", 2, timeout=5)).payload == 2
    assert "cannot be removed: read-only now" in caplog.text


async def test_each_stranger_among_the_requests_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "pipe"
    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:
        (folder / "requests" / "notes.txt").write_text("mine")
        os.mkfifo(folder / "requests" / "request_fifo-1.json")
        for n in range(5):
            assert (await pipe.send("echo", n, timeout=5)).payload == n
        (folder / "requests" / "more.txt").write_text("mine too")
        for n in range(5):
            assert (await pipe.send("echo", n, timeout=5)).payload == n
    left_alone = sorted(line.args[0] for line in caplog.records if "left alone" in line.msg)  # type: ignore[index]
    assert left_alone == ["more.txt", "notes.txt", "request_fifo-1.json"]


async def test_many_small_files_leave_the_program_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, most, run = 0, 0, Folder.run

    def count(self: Folder, program: Any) -> Any:
        nonlocal files
        files += 1
        return run(self, program)

    folder = tmp_path / "pipe"
    async with quick_server(folder), devpipe.connect(folder=folder, settings=QUICK) as pipe:
        monkeypatch.setattr(Folder, "run", count)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as turns:

                async def watch() -> None:
                    nonlocal files, most
                    while True:
                        most, files = max(most, files), 0
                        await anyio.lowlevel.checkpoint()

                turns.start_soon(watch)
                async with anyio.create_task_group() as calls:
                    for number in range(900):
                        calls.start_soon(pipe.send, "echo", number)
                turns.cancel_scope.cancel()
    # the client writes and takes, the server takes and answers
    assert 0 < most < 400, most
