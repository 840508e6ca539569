"""What is open in this process, and in the server of a test: to find what a cancelled client has left behind."""

from __future__ import annotations

import os
import threading

import anyio
import anyio.lowlevel
from checkpoints import BOUND
from support import World

__all__ = ["Leftovers"]


def open_files() -> int:
    """Files, folders, watches, and both ends of each connection."""
    return len(os.listdir("/dev/fd"))


def watchers() -> int:
    """Threads that watch a folder."""
    return sum(type(thread).__module__.startswith("watchdog") for thread in threading.enumerate())


class Leftovers:
    """What a cancelled pipe may not leave in this process, nor in the server."""

    def __init__(self, world: World, name: str) -> None:
        self._server = world.server
        self._folder = "folder" in name
        self._before = self._now()

    async def are_gone(self) -> None:
        """Wait for it: threads, and the other end of a connection, end a moment later."""
        with anyio.move_on_after(BOUND / 2):
            while self._more():
                await anyio.lowlevel.checkpoint()
        more = self._more()
        assert not more, f"left open, before and now: {more}"

    def _more(self) -> dict[str, tuple[int, int]]:
        now = self._now()
        return {what: (n, now[what]) for what, n in self._before.items() if now[what] > n}

    def _now(self) -> dict[str, int]:
        # a private look: the server tells nobody how many paths it holds; that of a folder ends when it falls silent
        paths = 0 if self._folder else len(self._server._paths)
        running = self._server._service.running
        return {"files": open_files(), "watchers": watchers(), "paths": paths, "running": running}
