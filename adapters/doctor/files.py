"""The way to a server through a shared folder, step by step: whose it is, a file written, the server's beat."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from devpipe.adapters.doctor.report import Finding, Status
from devpipe.adapters.doctor.steps import Steps, words_of
from devpipe.adapters.ports.folder import draft_name, open_directory
from devpipe.machines.config import PipeConfig
from devpipe.machines.protocols.folder import BEAT, Beat, read_beat
from devpipe.machines.protocols.folder_steps import NotAFile

__all__ = ["FOLDER_CHECKS", "look_inside", "whose"]

FOLDER_CHECKS = ("folder", "write", "beat")
MAX_BEAT = 4096
#: A beat that has not changed after so many of its intervals does not live.
BEATS = 3
#: How often the beat is read (seconds).
LOOK_EVERY = 0.1


async def look_inside(steps: Steps, config: PipeConfig) -> None:
    """Go as far as the server's beat. Raises ``Stopped`` where the way ends.

    Files are touched in threads here: one on a dead network file system would hold up everything else.
    """
    assert config.folder is not None  # there is no such transport without one
    path = Path(config.folder)
    shared = config.folder_options.allow_shared
    late = "The file system of the folder hangs: look after the mount, or take a folder that is elsewhere."
    await steps.take(
        "folder", lambda: _threaded(lambda: whose(path, allow_shared=shared, uid=_uid())), late=late
    )
    await steps.take("write", lambda: _threaded(lambda: _write(path)), late=late)
    if config.folder_options.flat:
        words = "not tried: who serves a flat folder writes no beat, only the proof tells"
        steps.add(Finding(check="beat", status=Status.SKIPPED, words=words))
        return
    patience = max(steps.timeout, (BEATS + 1) * BEAT)
    await steps.take("beat", lambda: _beat(path), late=late, timeout=patience)


async def _threaded(check: Callable[[], Finding]) -> Finding:
    return await run_sync(check, abandon_on_cancel=True)


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def whose(path: Path, *, allow_shared: bool, uid: int) -> Finding:
    """Whether the folder is there, ours, and closed to others. ``uid``: who we are; -1 where nobody has a number."""
    named, typed = repr(str(path)), shlex.quote(str(path))
    try:
        status = path.stat()
    except FileNotFoundError:
        remedy = f"Start a server that serves it (`devpipe serve --folder {typed}`), or correct the path."
        return _failed("folder", f"{named} does not exist", remedy)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f"Let the user {uid} pass: every folder above {named} wants the right to be entered (x)."
        else:  # a file among the folders above it, links in a circle, a name that is too long, a mount that is gone
            remedy = "Correct the path, or look after what stands in it."
        return _failed("folder", f"{named}: {words_of(error)}", remedy)
    if not stat.S_ISDIR(status.st_mode):
        return _failed("folder", f"{named} is no folder", "Give a folder: the path names something else.")
    mode = stat.S_IMODE(status.st_mode)
    words = f"{named}, mode {mode:o}"
    if uid == -1:
        return Finding(check="folder", status=Status.OK, words=named)
    trouble, remedy = "", ""
    if status.st_uid != uid:
        trouble = f"it belongs to the user {status.st_uid}, we are {uid}"
        remedy = (
            f"The folder belongs to uid {status.st_uid}: run as that user, or `sudo chown -R {uid} {typed}`."
        )
    elif mode & 0o022:
        trouble = "others may write in it, and forge messages"
        remedy = f"Run `chmod 700 {typed}`."
    if not trouble:
        return Finding(check="folder", status=Status.OK, words=f"{words}, ours")
    if allow_shared:
        words = f"{words}: {trouble}; allow_shared lets that pass"
        return Finding(check="folder", status=Status.WARNING, words=words, remedy=remedy)
    return _failed("folder", f"{words}: {trouble}", remedy)


def _write(path: Path) -> Finding:
    """A file is written, moved and removed as a message is."""
    where = path
    try:
        with open_directory(path, make=False, allow_shared=True) as root:
            drafts = "tmp" in root.names()  # where a server has set the folder up, drafts are made there
            home = root.sub("tmp", make=False) if drafts else root
            where = home.path
            with home:
                first, second = draft_name(), draft_name()
                home.write(first, b"x")
                home.move_to(first, home, second)
                home.remove(second)
    except OSError as error:
        return _failed("write", f"{str(where)!r}: {words_of(error)}", _write_remedy(error, where))
    return Finding(check="write", status=Status.OK, words="a file was written, moved and removed")


def _write_remedy(error: OSError, where: Path) -> str:
    match error.errno:
        case errno.EROFS:
            return "The file system is read-only: mount it with rw, or take a folder that is elsewhere."
        case errno.ENOSPC:
            return "The disk is full: free some space (`df -h` and `df -i` show how much there is)."
        case errno.EDQUOT:
            return "Your quota is used up: free some space."
        case errno.EACCES | errno.EPERM:
            return f"Run `chmod u+rwx {shlex.quote(str(where))}`, or take a folder in which you may write."
        case _:
            return "Take a folder in which files can be written, on a local disk."


async def _beat(path: Path) -> Finding:
    """The server writes its beat once a second; only a change that is seen counts."""
    remedy = f"Start a server that serves it: `devpipe serve --folder {shlex.quote(str(path))}`."
    began = anyio.current_time()
    first: Beat | None = None
    while anyio.current_time() - began <= BEATS * BEAT:
        try:
            beat = await run_sync(_read_beat, path, abandon_on_cancel=True)
        except FileNotFoundError:
            return _failed("beat", "nobody has served this folder", remedy)
        except OSError as error:
            return _failed(
                "beat", f"server.json: {words_of(error)}", "Remove it, and start the server again."
            )
        if (
            beat is not None
            and first is not None
            and (beat.server, beat.count) != (first.server, first.count)
        ):
            words = f"the server lives: {beat.server}"
            return Finding(check="beat", status=Status.OK, words=words)
        first = first or beat
        await anyio.sleep(LOOK_EVERY)
    return _failed("beat", f"the server's beat has not changed for {BEATS * BEAT:g} s: it is gone", remedy)


def _read_beat(path: Path) -> Beat | None:
    with open_directory(path, make=False, allow_shared=True) as root:
        try:
            return read_beat(root.read("server.json", MAX_BEAT))
        except NotAFile:
            return None  # planted, or too large: no beat of ours


def _failed(check: str, words: str, remedy: str) -> Finding:
    return Finding(check=check, status=Status.FAILED, words=words, remedy=remedy)
