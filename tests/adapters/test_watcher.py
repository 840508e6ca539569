"""The watcher of a folder: what its package says of its own end is nobody's business."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio.lowlevel
import pytest
from watchdog.observers.api import EventEmitter

from devpipe.adapters.ports.watcher import Watcher

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="needs inotify"),
]


async def test_a_look_that_comes_after_the_end_is_no_error_of_anybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await anyio.lowlevel.checkpoint()
    watcher = Watcher(tmp_path, lambda: None)
    watcher.start()
    observer = watcher._observer
    assert observer is not None
    emitters: set[EventEmitter] = set(observer.emitters)
    watcher.stop()
    for emitter in emitters:
        emitter.join(10)
        emitter.queue_events(0.01)  # its thread may have been about to
    assert emitters and not caplog.messages
