"""The execution log in a file: whole lines, whatever the disk does, and nothing that is waited for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from devpipe.adapters.server import audit
from devpipe.adapters.server.audit import ExecutionLog
from devpipe.machines.errors import ConfigurationError


def begin(log: ExecutionLog, id: str) -> None:
    log.write(id=id, session=None, type="echo", transport="folder")


def ids(file: Path) -> list[str]:
    """What a reader finds that skips what is no entry."""
    found: list[str] = []
    for line in file.read_text().splitlines():
        try:
            found.append(json.loads(line)["id"])
        except json.JSONDecodeError:
            continue
    return found


def test_what_a_full_disk_has_cut_off_spoils_no_entry_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    log = ExecutionLog(file, "server", lambda: 1.0)
    begin(log, "x-1")
    write = os.write
    for cut in (10, 1):
        monkeypatch.setattr(audit.os, "write", lambda fd, data, cut=cut: write(fd, data[:cut]))
        with pytest.raises(OSError, match="only a part"):
            begin(log, "x-2")
    monkeypatch.undo()
    begin(log, "x-3")
    begin(log, "x-4")
    log.close()
    assert ids(file) == ["x-1", "x-3", "x-4"]


def test_a_log_that_an_earlier_process_left_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "log"
    for before in ("", '{"id": "x-1"}\n', '{"id": "x-1"}\n{"id": "x'):
        file.write_text(before)
        log = ExecutionLog(file, "server", lambda: 1.0)
        begin(log, "x-3")
        log.close()
        assert ids(file) == [*(["x-1"] if before else []), "x-3"]


def test_a_pipe_that_nobody_reads_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="give a file that can be written to"):
        ExecutionLog(pipe, "server", lambda: 1.0)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = ExecutionLog(pipe, "server", lambda: 1.0)
    begin(log, "x-1")
    assert json.loads(os.read(reader, 1000))["id"] == "x-1"
    log.close()
    os.close(reader)
