"""The server's own word on what it executed: one entry before each handler starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

from devpipe.machines.errors import ConfigurationError
from devpipe.machines.protocols.envelope import encode_payload

__all__ = ["ExecutionLog", "ExecutionTarget"]

#: A file that is appended to, or a function that takes each entry.
ExecutionTarget: TypeAlias = "str | os.PathLike[str] | Callable[[dict[str, Any]], object]"


#: A pipe that nobody reads would be waited for.
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


class ExecutionLog:
    """Writes entries to one place; a file gets each line in one write, so a killed process leaves whole lines. What a full
    disk has cut off stands in a line of its own: it is no entry, and its handler did not run.

    Raises ``ConfigurationError`` if the file cannot be opened. ``wall`` gives seconds since 1970. Sessions appear by name, never by their secret id.
    """

    def __init__(self, target: ExecutionTarget, server: str, wall: Callable[[], float]) -> None:
        self._server = server
        self._wall = wall
        self._call: Callable[[dict[str, Any]], object] | None = None
        self._fd = -1
        self._cut = False  #: what was written last is no whole line
        if callable(target):
            self._call = target
        else:
            try:
                self._fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NONBLOCK, 0o600)
                self._cut = _is_cut(target)
            except (
                OSError,
                TypeError,
                ValueError,
            ) as error:  # no place, no path at all, or a null byte in it
                why = error.strerror if isinstance(error, OSError) else str(error)
                raise ConfigurationError(
                    f"execution_log = {target!r} is not allowed: give a file that can be written to ({why})"
                ) from error

    def write(self, *, id: str | None, session: str | None, type: str, transport: str) -> None:
        """This message is about to run. Raises what the file system, or the function, raises."""
        entry = {
            "server": self._server,
            "id": id,
            "session": session,
            "type": type,
            "transport": transport,
            "started": self._wall(),
        }
        if self._call is not None:
            self._call(entry)
            return
        line = encode_payload(entry, type="execution log") + b"\n"
        if self._cut:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._cut = written != len(line)
        if self._cut:
            raise OSError(f"only a part of {len(line)} bytes was written")  # a full disk

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)


def _is_cut(target: str | os.PathLike[str]) -> bool:
    """True if the file ends in the middle of a line: an earlier process has met a full disk."""
    try:
        with open(target, "rb", opener=_open_nonblocking) as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False  # a pipe, a terminal, or a file that we may only write to


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | _NONBLOCK)
