"""The way through a shared folder, and everything that can be wrong with it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devpipe import Status
from devpipe.adapters.doctor.files import whose
from devpipe.adapters.ports import watcher

sys.path.insert(0, str(Path(__file__).parent))
from patients import check_broken, diagnose, findings
from support import serving

pytestmark = pytest.mark.anyio


# --- the folder ------------------------------------------------------------------------------------------


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    report = await diagnose(folder=tmp_path / "missing")
    remedy = check_broken(report, "folder", "folder", "does not exist")
    assert f"`devpipe serve --folder {tmp_path / 'missing'}`" in remedy


async def test_a_folder_is_named_so_that_its_name_is_no_word_of_the_sentence_or_of_the_command(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "no body"
    report = await diagnose(folder=folder)
    remedy = check_broken(report, "folder", "folder", f"'{folder}' does not exist")
    assert f"`devpipe serve --folder '{folder}'`" in remedy
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    report = await diagnose(folder=folder)
    assert check_broken(report, "folder", "folder", f"'{folder}', mode 777") == f"Run `chmod 700 '{folder}'`."


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = await diagnose(folder=tmp_path / "file")
    check_broken(report, "folder", "folder", "is no folder")


async def test_a_folder_behind_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = await diagnose(folder=tmp_path / "file" / "pipe")
    check_broken(report, "folder", "folder", "ENOTDIR")


async def test_a_folder_in_which_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    folder.mkdir()
    folder.chmod(0o777)
    report = await diagnose(folder=folder)
    assert check_broken(report, "folder", "folder", "mode 777") == f"Run `chmod 700 {folder}`."


async def test_a_shared_folder_that_is_allowed_is_a_warning(tmp_path: Path) -> None:
    async with serving() as world:
        world.folder.chmod(0o777)
        report = await diagnose(folder=world.folder, settings={"folder_options.allow_shared": True})
    assert report.ok and findings(report, "folder")["folder"].status is Status.WARNING


async def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    mine = os.geteuid()
    found = whose(tmp_path, allow_shared=False, uid=mine + 1)
    assert (
        found.status is Status.FAILED and f"it belongs to the user {mine}, we are {mine + 1}" in found.words
    )
    assert found.remedy is not None and found.remedy.startswith(f"The folder belongs to uid {mine}: ")


async def test_a_folder_without_owners_is_ours(tmp_path: Path) -> None:
    assert whose(tmp_path, allow_shared=False, uid=-1).status is Status.OK


@pytest.mark.parametrize(
    ("code", "word"), [(errno.ENOTDIR, "Correct the path"), (errno.EACCES, "the right to be entered")]
)
def test_what_is_to_be_done_about_a_path_is_about_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, word: str
) -> None:
    def stat(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))  # root may enter everything, so it is said here

    monkeypatch.setattr(Path, "stat", stat)
    found = whose(tmp_path / "folder", allow_shared=False, uid=1000)
    assert found.status is Status.FAILED and word in (found.remedy or "")


@pytest.mark.skipif(sys.platform != "linux", reason="needs: /sys, in which nobody may make a file")
async def test_a_folder_in_which_nothing_can_be_written() -> None:
    report = await diagnose(folder="/sys")
    check = "write" if os.geteuid() == 0 else "folder"
    assert check_broken(report, "folder", check)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "chmod u+rwx"),
        (errno.EIO, "local disk"),
    ],
)
async def test_each_reason_why_nothing_can_be_written_has_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    from devpipe.adapters.ports.folder import Directory

    def refuse(self: Directory, name: str, data: bytes, *, durability: str = "none") -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Directory, "write", refuse)
    report = await diagnose(folder=tmp_path)
    assert remedy in check_broken(report, "folder", "write", errno.errorcode[code])


async def test_a_folder_that_nobody_serves(tmp_path: Path) -> None:
    report = await diagnose(folder=tmp_path)
    remedy = check_broken(report, "folder", "beat", "nobody has served this folder")
    assert f"`devpipe serve --folder {tmp_path}`" in remedy
    assert os.listdir(tmp_path) == [], "the trial leaves nothing behind"


async def test_a_folder_whose_server_is_gone() -> None:
    async with serving() as world:
        copy = world.folder.parent / "copy"
        shutil.copytree(world.folder, copy)
        copy.chmod(0o700)
        report = await diagnose(folder=copy)
    check_broken(report, "folder", "beat", "it is gone")


async def test_a_beat_that_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "server.json").mkdir()
    report = await diagnose(folder=tmp_path)
    check_broken(report, "folder", "beat")


async def test_a_system_without_watches_left_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """No more of these."""

        def schedule(self, *arguments: object, **options: object) -> None:
            raise OSError(errno.EMFILE, "inotify instance limit reached")

        def stop(self) -> None:
            """It has a thread already, although it cannot watch."""

    async with serving() as world:
        monkeypatch.setattr(watcher, "Observer", Full)
        report = await diagnose(folder=world.folder, settings={"folder_options.rescan_interval": 0.05})
    push = findings(report, "folder")["push"]
    assert report.ok and push.status is Status.WARNING and "instance limit" in push.words
    assert push.remedy == "Run `sudo sysctl fs.inotify.max_user_instances=1024`."


async def test_a_folder_that_tells_nothing_is_noticed_by_its_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """What a network file system is."""

        blind = None

        def __init__(self, path: Path, wake: Callable[[], None]) -> None:
            pass

        def start(self) -> None:
            pass

        def stop(self) -> None:
            pass

    from devpipe.adapters.transports import folder

    async with serving() as world:
        monkeypatch.setattr(folder, "Watcher", Deaf)
        report = await diagnose(
            folder=world.folder, timeout=3.0, settings={"folder_options.rescan_interval": 0.3}
        )
    latency = findings(report, "folder")["latency"]
    assert report.ok and latency.status is Status.WARNING
    assert latency.remedy is not None and "No notification arrives" in latency.remedy
