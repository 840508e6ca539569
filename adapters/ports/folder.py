"""Files behind a small protocol: complete when the name appears, never through a link, never blocked by a pipe.

Every operation is relative to an open directory, so that nobody can swap the path underneath. They are short system
calls and are made in the event loop: a thread would cost more than they do.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar, assert_never, cast

from devpipe.machines.errors import ConfigurationError
from devpipe.machines.protocols.folder_steps import (
    Answer,
    Link,
    Linked,
    Look,
    Move,
    NotAFile,
    Place,
    Program,
    Read,
    Remove,
    Seen,
    Step,
    Write,
)

__all__ = ["FILE_BYTES", "TURN_BYTES", "Folder", "Directory", "draft_name", "open_directory", "why"]

R = TypeVar("R")

#: After so many bytes written or read the program has its turn; a file costs as much as these, whatever is in it.
TURN_BYTES = 1024 * 1024
FILE_BYTES = 32 * 1024

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
#: File systems that cannot make hard links say so with one of these.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
#: What opening a symbolic link, or a socket, says.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO})


class Directory:
    """One open directory. Close it, or use it in ``with``."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def status(self) -> os.stat_result:
        """Who owns it, and who may do what in it."""
        return os.fstat(self._fd)

    def names(self) -> list[str]:
        """What is in it, in no order."""
        return os.listdir(self._fd)

    def read(self, name: str, limit: int) -> bytes:
        """The whole file. Raises ``NotAFile`` for what is none of ours, ``OSError`` for what cannot be read."""
        try:
            fd = os.open(name, os.O_RDONLY | _NOFOLLOW | _NONBLOCK, dir_fd=self._fd)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise NotAFile(errno.EINVAL, "no plain file of its own", name) from error
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise NotAFile(errno.EINVAL, "no plain file of its own", name)
            if status.st_size > limit:
                raise NotAFile(errno.EFBIG, f"{status.st_size} bytes, the limit is {limit}", name)
            parts: list[bytes] = []
            room = limit + 1
            while room > 0 and (part := os.read(fd, room)):
                parts.append(part)
                room -= len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def write(self, name: str, data: bytes, *, durability: str = "none") -> None:
        """Write a new file that is on no watcher's way yet. Leaves nothing behind when it fails."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]  # a full disk may take a part of it
                if durability != "none":
                    os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            self.remove(name)
            raise

    def move_to(self, name: str, target: Directory, new: str) -> None:
        """Give a file its final place: complete when the name appears."""
        os.rename(name, new, src_dir_fd=self._fd, dst_dir_fd=target._fd)

    def link_to(self, name: str, target: Directory) -> Linked:
        """Give a file a second name, the same one in ``target``.

        By this and the removal of the first name a file is claimed, since a rename out of a watched directory holds up
        watchdog for half a second.
        """
        try:
            os.link(name, name, src_dir_fd=self._fd, dst_dir_fd=target._fd, follow_symlinks=False)
        except (FileExistsError, FileNotFoundError):
            return Linked.LOST  # somebody else has it, or had it
        except OSError as error:
            if error.errno in _NO_LINKS:
                return Linked.IMPOSSIBLE
            raise
        return Linked.MADE

    def sync(self) -> None:
        """Bring its names to the disk."""
        os.fsync(self._fd)

    def remove(self, name: str) -> bool:
        """Remove a file; True if it was there."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def exists(self, name: str) -> bool:
        """There is something of this name, of whatever kind."""
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def modified(self, name: str) -> float | None:
        """When it was written last, on the wall clock of whoever keeps the files; None if it is gone or no file."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_mtime if stat.S_ISREG(status.st_mode) else None

    def remove_sub(self, name: str) -> bool:
        """Remove an empty directory; False if it is not empty, or is gone."""
        try:
            os.rmdir(name, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                return False
            raise
        return True

    @property
    def removed(self) -> bool:
        """Somebody has removed it: nothing can be put into it any more."""
        return os.fstat(self._fd).st_nlink == 0

    @property
    def in_place(self) -> bool:
        """Its path still leads to it: nobody has removed it, moved it, or put something else over it."""
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(there, self.status())

    def sub(self, name: str, *, make: bool) -> Directory:
        """A directory in it; made with mode 0700 where that is wanted. Raises ``OSError`` if it is a link."""
        if make:
            try:
                os.mkdir(name, 0o700, dir_fd=self._fd)
            except FileExistsError:
                pass  # ours from before, or made by the other side
        fd = os.open(name, os.O_RDONLY | _DIRECTORY | _NOFOLLOW, dir_fd=self._fd)
        return Directory(self.path / name, fd)

    def close(self) -> None:
        """Close it; a second time changes nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Folder:
    """A shared folder by its places: it carries programs out, step by step, and decides nothing.

    ``now``: what time it is on the clock that stamps the files. ``durability``: of each file that is written.
    """

    def __init__(
        self,
        places: Mapping[Place, Directory],
        *,
        now: Callable[[], float],
        durability: str = "none",
    ) -> None:
        self._places = places
        self._now = now
        self._durability = durability

    def run(self, program: Program[R]) -> R:
        """Returns what the program returns. Raises the ``OSError`` that it does not catch."""
        try:
            step = next(program)
            while True:
                try:
                    answer = self._do(step)
                except OSError as error:
                    step = program.throw(error)
                else:
                    step = program.send(answer)
        except StopIteration as end:
            return cast("R", end.value)

    def _do(self, step: Step) -> Answer:
        match step:
            case Write(place, name, data):
                self._places[place].write(name, data, durability=self._durability)
                return None
            case Move(source, name, target, new):
                self._places[source].move_to(name, self._places[target], new)
                return None
            case Link(source, name, target):
                return self._places[source].link_to(name, self._places[target])
            case Remove(place, name):
                return self._places[place].remove(name)
            case Read(place, name, limit):
                return self._places[place].read(name, limit)
            case Look(place, name):
                modified = self._places[place].modified(name)
                return None if modified is None else Seen(modified=modified, now=self._now())
            case _ as never:
                assert_never(never)


def open_directory(path: Path, *, make: bool, allow_shared: bool) -> Directory:
    """Open the shared folder.

    Raises ``ConfigurationError`` if others may write there (the mode, or the owner) and ``allow_shared`` is not set:
    whoever may write can forge requests and replies. Raises ``OSError`` if it cannot be opened or made.
    """
    if make:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # no directory: opening it says what is wrong
    directory = Directory(path, os.open(path, os.O_RDONLY | _DIRECTORY))
    if sys.platform != "win32" and not allow_shared:
        status = directory.status()
        wrong = ""
        if status.st_uid != os.geteuid():
            wrong = f"it belongs to the user {status.st_uid}"
        elif status.st_mode & 0o022:
            wrong = f"others may write in it (mode {stat.S_IMODE(status.st_mode):o})"
        if wrong:
            directory.close()
            raise ConfigurationError(
                f"the folder {str(path)!r} is not safe: {wrong}; make it yours with mode 0700, "
                "or set folder_options.allow_shared"
            )
    return directory


def why(error: OSError) -> str:
    """What the system says, and of which entry."""
    reason = error.strerror or str(error)
    name = error.filename2 or error.filename
    return f"{reason}: {os.fspath(name)[-80:]!r}" if isinstance(name, (str, Path)) else reason


def draft_name() -> str:
    """A name for a file that is being written; nobody else has it."""
    return f"draft_{secrets.token_hex(8)}"
