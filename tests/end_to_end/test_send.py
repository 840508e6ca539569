"""``devpipe send`` with what it cannot send: a word about it and exit code 2, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def send(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devpipe.cli", "send", "echo", *arguments]
    command += ["--server", "http://127.0.0.1:9", "--timeout", "0.1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("payload", ["{", "[" * 50_000, "1" + "0" * 5000, "NaN", '{"x": -Infinity}'])
def test_a_payload_that_cannot_be_sent_is_no_json(payload: str) -> None:
    done = send(payload)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the payload is no JSON" in done.stderr and "Traceback" not in done.stderr


def test_a_token_that_is_no_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"secret\xff")
    done = send("1", "--token-file", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr and "secret" not in done.stderr and "Traceback" not in done.stderr
