"""The server's own word on what it executed: a line of JSON before each handler starts."""

from __future__ import annotations

import json
import os
import time

__all__ = ["ExecutionLog"]


class ExecutionLog:
    """Appends to one file; each line goes to the kernel in one write, so a killed process leaves whole lines."""

    def __init__(self, path: str | os.PathLike[str], server: str) -> None:
        self._server = server
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *, id: str | None, session: str | None, type: str, transport: str) -> None:
        """This message is about to run."""
        entry = {
            "server": self._server,
            "id": id,
            "session": session,
            "type": type,
            "transport": transport,
            "time": time.time(),
        }
        os.write(self._fd, json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
