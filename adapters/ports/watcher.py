"""Told when something appears in a directory. A hint only: whoever is told reads the listing, and reads it now and
then without being told, because notifications get lost (queues overflow, network file systems have none)."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from watchdog.events import (
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from devpipe.adapters.waiter import in_trio

__all__ = ["Watcher", "from_thread"]

log = logging.getLogger("devpipe.transport.folder")

_REMEDIES = {
    errno.ENOSPC: "; raise fs.inotify.max_user_watches",
    errno.EMFILE: "; raise fs.inotify.max_user_instances, or the limit of open files",
}


def _is_news(record: logging.LogRecord) -> bool:
    """Its thread may look once more when it has just been stopped, and then says, as an error, that it was."""
    return "called when the thread is inactive" not in record.getMessage()


logging.getLogger("watchdog.observers.inotify").addFilter(_is_news)


class Watcher:
    """Calls ``wake`` in the event loop when a file appears in ``path``; ``blind`` says why it cannot.

    With ``changes`` also when one is written to or removed: for a file that people edit, not for a busy folder.
    """

    def __init__(self, path: Path, wake: Callable[[], None], *, changes: bool = False) -> None:
        self.blind: str | None = None
        self._path = path
        self._call = from_thread(wake)
        self._events: list[type[FileSystemEvent]] = [FileCreatedEvent, FileMovedEvent]
        if changes:
            self._events += [FileModifiedEvent, FileDeletedEvent]
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Watch from now on. Where the system has no watches left, say so and go on without."""
        observer: BaseObserver | None = None
        try:
            observer = Observer()
            observer.schedule(_Handler(self._call), str(self._path), event_filter=self._events)
            observer.start()
        except (OSError, RuntimeError) as error:
            # out of inotify watches or instances, or of threads: the rescan finds everything, later
            if observer is not None:
                observer.stop()  # it has a thread and files already
            code = error.errno if isinstance(error, OSError) else None
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            remedy = _REMEDIES.get(code or 0, "")
            self.blind = f"no notifications ({reason}): the folder is polled{remedy}"
            _warn(self._path, self.blind)
            return
        self._observer = observer

    def stop(self) -> None:
        """Watch no more; its thread ends by itself a moment later."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()


@lru_cache(maxsize=1000)
def _warn(path: Path, words: str) -> None:
    """Once for each directory, however often a link to it begins anew."""
    log.warning("%s: %s", path, words)


class _Handler(FileSystemEventHandler):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._call()


def from_thread(function: Callable[[], None]) -> Callable[[], None]:
    """What another thread may call to have ``function`` called in the event loop that runs now."""
    if in_trio():
        import trio

        token = trio.lowlevel.current_trio_token()

        def call_trio() -> None:
            try:
                token.run_sync_soon(function, idempotent=True)
            except trio.RunFinishedError:
                pass  # the loop has ended before its watcher did

        return call_trio
    loop = asyncio.get_running_loop()

    def call_asyncio() -> None:
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # the loop has ended before its watcher did

    return call_asyncio
