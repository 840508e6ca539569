"""The flat folder of deployed programs, with things in it that are no files: whoever meets them goes on."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import devpipe

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
