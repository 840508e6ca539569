"""``devpipe send`` with what it cannot send: a word about it and exit code 2, never a traceback."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from support import serving

COMMAND = [sys.executable, "-m", "devpipe.cli", "send"]


def send(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "echo", *arguments, "--server", "http://127.0.0.1:9", "--timeout", "0.1"]
    done = subprocess.run(command, input=given, capture_output=True, timeout=30, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_closed_port_is_told_soon_with_each_cause_once_and_a_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = [*COMMAND, "echo", "--server", url, "--timeout", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    took = re.search(r"no transport was proven in ([\d.]+) s", done.stderr)
    assert took is not None and 0 < float(took[1]) < 20
    assert done.stderr.count("nobody listens") == done.stderr.count("the server refuses connections") == 1
    assert f"is the server started? devpipe doctor --server {url} tells more" in done.stderr


@pytest.mark.anyio
async def test_a_wrong_path_is_told_soon_and_asks_for_no_server_to_be_started() -> None:
    async with serving() as world:
        command = [*COMMAND, "echo", "--server", f"{world.url}/wrong", "--timeout", "100"]
        with anyio.fail_after(50):
            done = await anyio.run_process(command, check=False)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (3, b"")
    took = re.search(r"no transport was proven in ([\d.]+) s", said)
    assert took is not None and 0 < float(took[1]) < 20
    assert f"nothing of devpipe at {world.url}/wrong/devpipe/message: correct the path" in said
    assert f"\ndevpipe: devpipe doctor --server {world.url}/wrong tells more" in said


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


@pytest.mark.parametrize("given", [b"{", b"", b"\xff"])
def test_what_the_standard_input_holds_must_be_json_too(given: bytes) -> None:
    done = send("-", given=given)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the payload is no JSON" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.anyio
async def test_with_a_dash_the_payload_is_read_from_the_standard_input() -> None:
    async with serving() as world:
        with anyio.fail_after(30):
            done = await anyio.run_process(
                [*COMMAND, "echo", "-", "--server", world.url, "--json"], input='["grün"]'.encode()
            )
    assert json.loads(done.stdout)["payload"] == ["grün"]


@pytest.mark.anyio
async def test_with_json_an_error_is_one_document_too_and_says_what_is_known_of_the_message() -> None:
    async with serving() as world:
        for type, code, outcome in (
            ("nonsense", "unknown_type", "rejected"),
            ("fail", "handler_error", "executed"),
        ):
            command = [*COMMAND, type, "1", "--server", world.url, "--json"]
            with anyio.fail_after(30):
                done = await anyio.run_process(command, check=False)
            assert (done.returncode, done.stdout) == (5, b"")
            said = json.loads(done.stderr)
            assert (said["code"], said["outcome"]) == (code, outcome)
            assert said["error"] and said["id"] and said["safe_to_resend"] is (outcome == "rejected")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "type"),
    [
        (["1"], 3, "AllTransportsFailed"),
        (["{"], 2, "UsageError"),
        (["1", "--profile", "x"], 2, "ConfigurationError"),
    ],
)
def test_with_json_it_is_a_document_whatever_went_wrong(
    arguments: list[str], exit_code: int, type: str
) -> None:
    done = send(*arguments, "--json")
    assert (done.returncode, done.stdout) == (exit_code, "")
    [line] = done.stderr.splitlines()
    said = json.loads(line)
    assert said["type"] == type and said["error"]
    assert said["outcome"] in (None, "never_sent") and said["code"] is None


def test_the_help_tells_of_the_dash_and_of_errors_in_json() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=30, check=True)
    words = " ".join(done.stdout.split())
    assert 'With "-" for JSON' in words and "an error one on the standard error" in words
