"""What strangers do to a shared folder, each by its name and on both sides: real links, pipes, directories, mode bits,
file systems. What is none of ours is left alone and said once; nothing is followed, opened for ever, or removed.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from nonsense import BOUND, pipe_in_use
from support import World, make_server

import devpipe
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.transports.registry import transport_names

pytestmark = pytest.mark.anyio

SECRET = '{"type":"echo","id":"evil-1","payload":"of somebody else"}'
NOBODY = 65534  #: the user of that name, on every Linux
#: Who looks for requests, and who for responses and pushes.
SIDES = ["server", "client"]

both_sides = pytest.mark.parametrize("side", SIDES)


def name_of(side: str, number: int) -> str:
    """A name that this side takes for a message."""
    return f"request_evil-{number}.json" if side == "server" else f"response_evil-{number}.json"


async def left_alone(
    side: str, plant: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture, words: str = ""
) -> None:
    """Plant something where this side looks: it is said once, with ``words``, and stays what it is."""
    async with pipe_in_use("folder") as (world, pipe):
        place = home(world, pipe) if side == "client" else world.folder / "requests"
        path = place / name_of(side, 1)
        secret = world.folder.parent / "secret"
        secret.write_text(SECRET)
        told: list[str] = []
        pipe.on("error", lambda event: told.append(event.failure.reason))
        plant(path, secret)
        before = os.lstat(path)

        def said() -> list[str]:
            lines = told if side == "client" else [record.getMessage() for record in caplog.records]
            return [line for line in lines if path.name in line]

        while not said():
            await anyio.lowlevel.checkpoint()
        for n in range(5):  # each of these is another look
            assert (await pipe.send("sync", n)).payload == n
        assert len(said()) == 1 and words in said()[0], said()
        after = os.lstat(path)
        assert (after.st_ino, after.st_mode, after.st_nlink) == (
            before.st_ino,
            before.st_mode,
            before.st_nlink,
        )
        assert secret.read_text() == SECRET


def home(world: World, pipe: Pipe) -> Path:
    return world.folder / "clients" / pipe._prefix


# --- planted ----------------------------------------------------------------------------------------------


@both_sides
async def test_a_link_that_was_planted_is_not_followed(side: str, caplog: pytest.LogCaptureFixture) -> None:
    await left_alone(side, lambda path, secret: path.symlink_to(secret), caplog)


@both_sides
async def test_a_second_name_of_a_file_that_was_planted_is_not_read(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    if side == "server":
        # a request is claimed by a second name: that it had more of them shows when it is read
        async with pipe_in_use("folder") as (world, _):
            secret = world.folder.parent / "secret"
            secret.write_text(SECRET)
            os.link(secret, world.folder / "requests" / name_of(side, 1))
            while "left alone: no plain file of its own" not in caplog.text:
                await anyio.lowlevel.checkpoint()
            assert secret.read_text() == SECRET
        return
    await left_alone(side, lambda path, secret: os.link(secret, path), caplog)


@both_sides
async def test_a_pipe_that_was_planted_holds_nobody_up(side: str, caplog: pytest.LogCaptureFixture) -> None:
    await left_alone(side, lambda path, _: os.mkfifo(path), caplog)


@both_sides
async def test_a_directory_that_was_planted_is_no_message(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    await left_alone(side, lambda path, _: path.mkdir(), caplog)


@pytest.mark.parametrize("place", ["requests", "clients", "tmp", "claims"])
async def test_a_link_that_was_planted_for_a_directory_of_ours_is_not_followed(
    place: str, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "pipe", tmp_path / "elsewhere"
    folder.mkdir(mode=0o700)
    elsewhere.mkdir()
    (folder / place).symlink_to(elsewhere)
    with anyio.fail_after(BOUND), pytest.raises(devpipe.ConfigurationError, match="cannot be served"):
        async with make_server(folder=folder):
            pass
    assert not list(elsewhere.iterdir())


# --- half written, named badly ----------------------------------------------------------------------------


async def test_a_file_half_written_is_refused_by_the_server_and_runs_nothing() -> None:
    async with pipe_in_use("folder") as (world, _):
        request = world.folder / "requests" / "request_evil-1.json"
        request.write_bytes(b'{"type": "echo", "id": "evil-1", "payl')
        while request.exists():
            await anyio.lowlevel.checkpoint()
        assert world.server._service.bad_messages == 1


async def test_a_file_half_written_by_the_server_is_counted_and_dropped() -> None:
    async with pipe_in_use("folder") as (world, pipe):
        told: list[str] = []
        pipe.on("error", lambda event: told.append(event.failure.reason))
        (home(world, pipe) / "response_evil-1.json").write_bytes(
            b'{"type": "response", "replyTo": "evil-1", "p'
        )
        while not told:
            await anyio.lowlevel.checkpoint()
        assert "not a devpipe message" in told[0]


async def test_a_file_that_is_being_written_elsewhere_is_nobodys_yet() -> None:
    async with pipe_in_use("folder") as (world, pipe):
        draft = world.folder / "tmp" / "draft_ab"
        draft.write_text('{"type": "echo", "id": "evil-1", "payload": 1}')
        for n in range(5):
            assert (await pipe.send("sync", n)).payload == n
        assert draft.exists()


BADLY_NAMED = [
    "notes.txt", "request_.json", "request_a b-1.json", "request_ü-1.json", "request_..-1.json", ".request_a-1.json",
    "request_a-1.JSON", "request_a-1.json.part", "request_noclient.json", "response_.json", "push_.json",
    "push_-1.json", "push_1e5.json", "push_99999999999999999999.json", "request_" + "a" * 70 + "-1.json", "line\nbreak",
]  # fmt: skip


@both_sides
@pytest.mark.parametrize("name", BADLY_NAMED)
async def test_a_file_named_badly_is_left_alone(side: str, name: str) -> None:
    async with pipe_in_use("folder") as (world, pipe):
        place = home(world, pipe) if side == "client" else world.folder / "requests"
        (place / name).write_text(SECRET)
        for n in range(3):
            assert (await pipe.send("sync", n)).payload == n
        assert (place / name).read_text() == SECRET


async def test_a_file_named_badly_in_bytes_is_left_alone() -> None:
    async with pipe_in_use("folder") as (world, pipe):
        for place in (world.folder / "requests", home(world, pipe)):
            (place / os.fsdecode(b"request_\xff\xfe-1.json")).write_text(SECRET)
        for n in range(3):
            assert (await pipe.send("sync", n)).payload == n


# --- full, read-only, of others -----------------------------------------------------------------------------


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own."""
    place = directory / "mounted"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "devpipe-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def fails_and_recovers(folder: Path, break_it: Callable[[], None], mend_it: Callable[[], None]) -> str:
    """A message into what is broken has never been sent; when it is mended the pipe is whole. Returns the words."""
    settings = {"retry_attempts": 1, "lifecycle.backoff_initial": 0.01}
    async with make_server(folder=folder), devpipe.connect(folder=folder, settings=settings) as pipe:
        with anyio.fail_after(30):
            assert (await pipe.send("echo", 1)).payload == 1
            break_it()
            try:
                with pytest.raises(devpipe.DevPipeError) as failed:
                    await pipe.send("echo", "x" * 8000, timeout=2)
            finally:
                mend_it()
            assert failed.value.outcome is devpipe.Outcome.NEVER_SENT
            assert (await pipe.send("echo", 2, timeout=20)).payload == 2
    assert not list((folder / "tmp").iterdir())
    return str(failed.value)


async def test_a_full_folder_fails_the_message_with_the_reason_and_recovers(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        filler = place / "filler"

        def fill() -> None:
            with pytest.raises(OSError, match="No space") as full, filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            assert full.value.errno == errno.ENOSPC

        said = await fails_and_recovers(place / "pipe", fill, filler.unlink)
    assert "ENOSPC" in said


async def test_a_read_only_file_system_under_the_folder_fails_the_message_and_recovers(
    tmp_path: Path,
) -> None:
    with mounted(tmp_path) as place:

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)

        said = await fails_and_recovers(place / "pipe", lambda: remount("ro"), lambda: remount("rw"))
    assert "EROFS" in said


@contextmanager
def without_rights() -> Iterator[Path]:
    """Be somebody who may not write everywhere, as root may; gives a directory of that user's."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        # read while that may be: somebody else may not even see where we are installed
        for transport in transport_names():
            import_module(f"devpipe.adapters.transports.{transport}")
        try:
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        except OSError:
            pytest.skip("needs another user")
        try:
            yield Path(name)
        finally:
            os.seteuid(0)
            os.setegid(0)


@pytest.mark.parametrize("place", ["tmp", "requests"])
async def test_a_read_only_folder_by_its_mode_bits_fails_the_message_and_recovers(place: str) -> None:
    with without_rights() as own:
        directory = own / "pipe" / place
        said = await fails_and_recovers(
            own / "pipe", lambda: directory.chmod(0o500), lambda: directory.chmod(0o700)
        )
    assert "no permission to write there (EACCES)" in said


async def test_a_read_only_folder_cannot_be_served_and_is_named() -> None:
    with without_rights() as own:
        folder = own / "pipe"
        folder.mkdir(mode=0o500)
        with pytest.raises(devpipe.ConfigurationError, match="pipe' cannot be served: Permission denied"):
            async with make_server(folder=folder):
                pass


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720, 0o1777])
async def test_a_folder_that_others_may_write_is_refused_on_both_sides_unless_it_is_allowed(
    mode: int, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(devpipe.ConfigurationError, match="not safe: others may write"):
        async with make_server(folder=folder):
            pass
    options = devpipe.FolderConfig(allow_shared=True)
    async with make_server(folder=folder, folder_options=options):
        with anyio.fail_after(BOUND), pytest.raises(devpipe.AllTransportsFailed, match="not safe"):
            async with devpipe.connect(folder=folder):
                pass
        async with devpipe.connect(folder=folder, settings={"folder_options.allow_shared": True}) as pipe:
            assert pipe.active == "folder"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
async def test_a_folder_of_somebody_else_is_refused_on_both_sides(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    async with make_server(folder=folder):
        os.chown(folder, NOBODY, NOBODY)
        with anyio.fail_after(BOUND), pytest.raises(devpipe.AllTransportsFailed, match="belongs to the user"):
            async with devpipe.connect(folder=folder):
                pass
    with pytest.raises(devpipe.ConfigurationError, match="belongs to the user"):
        async with make_server(folder=folder):
            pass
