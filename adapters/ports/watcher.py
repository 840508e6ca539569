"""Told when something appears in a directory. A hint only: whoever is told reads the listing, and reads it now and
then without being told, because notifications get lost (queues overflow, network file systems have none)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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
        observer = Observer()
        try:
            observer.schedule(_Handler(self._call), str(self._path), event_filter=self._events)
            observer.start()
        except OSError as error:  # out of inotify watches or instances: the rescan finds everything, later
            self.blind = f"no notifications ({error.strerror or error}): the folder is polled"
            log.warning("%s: %s", self._path, self.blind)
            return
        self._observer = observer

    def stop(self) -> None:
        """Watch no more; its thread ends by itself a moment later."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()


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
