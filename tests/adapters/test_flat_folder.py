"""The flat folder of deployed programs, with things in it that are no files: whoever meets them goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import devpipe
from devpipe.adapters.ports.folder import Directory

pytestmark = pytest.mark.anyio


class Deployed:
    """A program that answers requests in ``folder``; those of type ``strange`` by making a directory, when it ``may``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.may = anyio.Event()
        self.strange: list[Path] = []
        self._seen: set[str] = set()

    async def run(self) -> None:
        while True:
            for name in os.listdir(self.folder):
                found = re.fullmatch(r"request_(.+)\.json", name)
                if found is not None and found[1] not in self._seen:
                    self._seen.add(found[1])
                    self._answer(found[1], json.loads((self.folder / name).read_bytes())["type"])
            if self.may.is_set():
                for path in self.strange:
                    path.mkdir(exist_ok=True)
            await anyio.sleep(0.02)  # so often such a program looks

    def _answer(self, id: str, type: str) -> None:
        path = self.folder / f"response_{id}.json"
        if type == "strange":
            self.strange.append(path)
        else:
            path.write_text(json.dumps({"id": id, "success": True, "payload": type}))


@asynccontextmanager
async def deployed(folder: Path) -> AsyncIterator[tuple[Deployed, devpipe.Pipe]]:
    peer = Deployed(folder)
    settings = {"folder_options.rescan_interval": 0.05}
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.run)
            async with devpipe.connect(folder=folder, profile="vaultpilot", settings=settings) as pipe:
                yield peer, pipe
            tasks.cancel_scope.cancel()


async def test_a_late_response_that_cannot_be_removed_harms_no_other_call(tmp_path: Path) -> None:
    async with deployed(tmp_path) as (peer, pipe):
        failed: list[object] = []
        pipe.on("transport_failed", failed.append)
        with pytest.raises(devpipe.DeadlineExceeded):
            await pipe.send("strange", timeout=0.2)
        [late] = peer.strange
        peer.may.set()
        while not late.exists():
            await anyio.lowlevel.checkpoint()
        for _ in range(3):  # each answer is found by a look that finds the directory, too
            assert (await pipe.send("other", timeout=5)).payload == "other"
        assert not failed and pipe.active == "folder"
        assert late.exists()


async def test_a_reply_whose_file_cannot_be_removed_is_a_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def kept(path: str, *, dir_fd: int | None = None) -> None:
        """Another user's file in a directory with the sticky bit; root may remove it, so it is said here."""
        if str(path).startswith("response_"):
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, dir_fd=dir_fd)

    async with deployed(tmp_path) as (_, pipe):
        monkeypatch.setattr(os, "unlink", kept)
        for _ in range(3):
            assert (await pipe.send("other", timeout=5)).payload == "other"
        assert pipe.active == "folder"
        monkeypatch.undo()


async def test_a_response_that_is_no_file_keeps_no_old_one_from_being_removed(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    (folder / "claims").mkdir(parents=True)
    folder.chmod(0o700)
    old = time.time() - 10_000
    for number in range(5):
        claim = folder / "claims" / f"request_c-{number}.json"
        claim.write_bytes(b"")
        os.utime(claim, (old, old))
        response = folder / f"response_c-{number}.json"
        if number == 2:
            response.mkdir()
        else:
            response.write_text("{}")
    server = devpipe.Server(profile="vaultpilot", folder=folder)
    with anyio.fail_after(10):
        async with server:
            while os.listdir(folder / "claims"):
                await anyio.lowlevel.checkpoint()
    assert [name for name in os.listdir(folder) if name.startswith("response_")] == ["response_c-2.json"]


# --- a server of a flat folder --------------------------------------------------------------------------


def flat_server(folder: Path, ran: list[str]) -> devpipe.Server:
    options = devpipe.FolderConfig(rescan_interval=0.02)
    server = devpipe.Server(profile="vaultpilot", folder=folder, folder_options=options)
    server.configure(execution_log=lambda entry: ran.append(entry["id"]))

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    return server


async def ask(folder: Path, id: str) -> Any:
    """As a deployed client does it: written in place, looked for, left lying."""
    document = {"id": id, "type": "echo", "payload": id, "timestamp": 1}
    (folder / f"request_{id}.json").write_text(json.dumps(document))
    answer = folder / f"response_{id}.json"
    with anyio.fail_after(15):
        while not answer.exists():
            await anyio.sleep(0.01)
    return json.loads(answer.read_text())


@pytest.mark.parametrize("damage", ["removed", "replaced", "claims", "tmp"])
async def test_a_flat_folder_that_was_damaged_is_served_anew(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.folder_life.LOOK_AGAIN", 0.05)
    folder, ran = tmp_path / "pipe", list[str]()
    async with flat_server(folder, ran):
        assert (await ask(folder, "c-1"))["success"]
        shutil.rmtree(folder / damage if damage in ("claims", "tmp") else folder)
        if damage == "replaced":
            folder.mkdir(mode=0o700)
        with anyio.fail_after(15):
            while not (folder / "claims").exists() or not (folder / "tmp").exists():
                await anyio.sleep(0.01)
        assert (await ask(folder, "c-2"))["success"]
    assert ran == ["c-1", "c-2"]


@pytest.mark.parametrize(
    ("operation", "where"), [("read", "pipe"), ("write", "claims"), ("write", "tmp"), ("move_to", "tmp")]
)
async def test_what_fails_once_in_a_flat_folder_costs_a_moment_and_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, where: str
) -> None:
    folder, ran, failed = tmp_path / "pipe", list[str](), list[str]()
    real = getattr(Directory, operation)

    def fails_once(directory: Directory, name: str, *args: Any, **kwargs: Any) -> Any:
        if directory.path.name == where and not failed:
            failed.append(name)
            raise OSError(errno.EMFILE, "Too many open files", name)
        return real(directory, name, *args, **kwargs)

    monkeypatch.setattr(Directory, operation, fails_once)
    async with flat_server(folder, ran):
        assert (await ask(folder, "c-1"))["success"]
    assert failed and ran == ["c-1"]


async def test_what_cannot_be_swept_in_a_flat_folder_keeps_nothing_else_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pipe"
    names = [
        f"{place}{name}" for place in ("tmp/", "") for name in ("draft_a.tmp", "draft_b.tmp", "draft_c.tmp")
    ]
    names += [f"claims/request_c-{n}.json" for n in range(3)]
    kept = ["tmp/draft_b.tmp", "draft_b.tmp", "claims/request_c-1.json"]
    strange = ["notes.tmp", "draft_ö.tmp"]
    for name in [*names, *strange]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).write_text("{}")
        os.utime(folder / name, (1000, 1000))
    folder.chmod(0o700)
    real = Directory.remove

    def remove(directory: Directory, name: str) -> bool:
        if name in ("draft_b.tmp", "request_c-1.json"):
            raise PermissionError(errno.EPERM, "Operation not permitted", name)
        return real(directory, name)

    monkeypatch.setattr(Directory, "remove", remove)
    with anyio.fail_after(15):
        async with flat_server(folder, []):
            while any((folder / name).exists() for name in names if name not in kept):
                await anyio.lowlevel.checkpoint()
    assert all((folder / name).exists() for name in [*kept, *strange])
