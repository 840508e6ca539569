"""``devpipe send`` with what it cannot send: a word about it and exit code 2, never a traceback."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def send(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devpipe.cli", "send", "echo", *arguments]
    command += ["--server", "http://127.0.0.1:9", "--timeout", "0.1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_closed_port_is_told_soon_with_each_cause_once_and_a_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "devpipe.cli", "send", "echo", "--server", url, "--timeout", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    took = re.search(r"no transport was proven in ([\d.]+) s", done.stderr)
    assert took is not None and 0 < float(took[1]) < 20
    assert done.stderr.count("nobody listens") == done.stderr.count("the server refuses connections") == 1
    assert f"is the server started? devpipe doctor --server {url} tells more" in done.stderr


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
