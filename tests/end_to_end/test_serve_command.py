"""``devpipe serve`` and what is typed with it: names, tokens, files and addresses, each refused in a sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

PATIENCE = 30.0


def devpipe(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "devpipe.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
        env={**os.environ, **variables},
    )


def refused(*arguments: str, cwd: Path | None = None, **variables: str) -> str:
    """What it says when it refuses what was typed."""
    done = devpipe(*arguments, cwd=cwd, **variables)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


@contextmanager
def served(*arguments: str, **variables: str) -> Iterator[int]:
    """A server in a process of its own; gives its port."""
    command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **variables}
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def status(port: int, host: str, token: str | None = None) -> int:
    headers = {"host": host} if token is None else {"host": host, "authorization": f"Bearer {token}"}
    body = {"type": "echo", "payload": 1}
    url = f"http://127.0.0.1:{port}/devpipe/message"
    return httpx.post(url, json=body, headers=headers, timeout=PATIENCE).status_code


def test_with_allow_host_it_goes_by_that_name_too(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    names = ["--allow-host", "Pipe.Example", "--allow-host", "192.0.2.7"]
    with served("--host", "0.0.0.0", "--token-file", str(file), *names) as port:
        for host in ("pipe.example:8000", "192.0.2.7", "localhost", "127.0.0.1"):
            assert status(port, host, "t0ken") == 200, host
        assert status(port, "evil.example", "t0ken") == 421
        assert status(port, "pipe.example", "wrong") == 401


def test_the_token_may_be_in_the_environment() -> None:
    with served(DEVPIPE_TOKEN="t0ken") as port:
        assert (status(port, "localhost", "t0ken"), status(port, "localhost")) == (200, 401)
    assert "DEVPIPE_TOKEN" in refused("serve", "--port", "0", DEVPIPE_TOKEN="two words")


def test_the_help_tells_of_allowed_hosts() -> None:
    text = devpipe("serve", "--help").stdout
    assert "--allow-host" in text and "allowed_hosts" in text


def test_an_address_for_other_machines_wants_an_option_and_no_keyword() -> None:
    said = refused("serve", "--host", "0.0.0.0", "--port", "0", DEVPIPE_TOKEN="")
    assert "--token-file" in said and "allow_anonymous" not in said


@pytest.mark.parametrize("token", [b"", b" \n", b"one\ntwo\n", b"t\xc3\xb6k\xc3\xa9n", b"\xff\x00", b"a b"])
def test_a_token_file_that_holds_no_token_is_named_and_not_shown(tmp_path: Path, token: bytes) -> None:
    file = tmp_path / "tok"
    file.write_bytes(token)
    said = refused("serve", "--port", "0", "--token-file", str(file))
    assert str(file) in said and "two" not in said


def test_a_token_file_without_an_end_is_refused() -> None:
    said = refused("serve", "--port", "0", "--token-file", "/dev/zero")
    assert "the token in '/dev/zero' is larger than 65,536 bytes" in said


def test_an_execution_log_that_cannot_be_written_is_named() -> None:
    said = refused("serve", "--port", "0", "--execution-log", "/nonexistent/x")
    assert "execution_log" in said and "/nonexistent/x" in said


def test_a_port_that_is_taken_comes_with_a_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused("serve", "--port", str(taken.getsockname()[1]))
    assert "give another --port, or 0 for a free one" in said


@pytest.mark.parametrize("port", ["65536", "99999", "-1"])
def test_a_port_that_there_cannot_be_is_refused_as_one(port: str) -> None:
    said = refused("serve", "--port", port)
    assert "--port" in said and "0<=x<=65535" in said


def test_a_catalogue_that_is_not_there_is_not_there_whatever_its_name(tmp_path: Path) -> None:
    for name in ("models", "models.toml"):
        said = refused("serve", "--port", "0", "--catalogue", str(tmp_path / name))
        assert name in said and "No such file" in said


@pytest.mark.parametrize(
    "text", ["def broken(:\n", "raise ZeroDivisionError('mine')\n", "import no_such_module\n", ""]
)
def test_a_module_that_cannot_be_loaded_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mymodule.py").write_text(text)
    said = refused("serve", "mymodule:server", cwd=tmp_path)
    assert "mymodule" in said and "cannot be loaded" in said


@pytest.mark.parametrize(
    ("missing", "words"), [("click", ["--help"]), ("rich", ["doctor", "--server", "http://127.0.0.1:9"])]
)
def test_without_its_extra_it_says_what_to_install(missing: str, words: list[str]) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from devpipe.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'vaultpilot-devpipe[cli]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("send", "echo"), ("watch",), ("doctor",)])
def test_a_command_without_an_address_names_its_options(tmp_path: Path, command: tuple[str, ...]) -> None:
    said = refused(*command, cwd=tmp_path)
    assert "--server" in said and "--folder" in said


@pytest.mark.parametrize("command", [("send", "echo"), ("watch",), ("doctor",)])
@pytest.mark.parametrize("name", ["htpp", "memory"])
def test_a_strange_transport_is_refused_with_those_that_there_are(
    command: tuple[str, ...], name: str
) -> None:
    said = refused(*command, "--server", "http://127.0.0.1:9", "--via", name)
    assert name in said and "folder, http, websocket" in said and "memory," not in said


def test_the_help_lists_each_command_in_a_whole_sentence() -> None:
    listed = devpipe("--help").stdout.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert len(listed) >= 8 and all(line.endswith(".") and "..." not in line for line in listed), listed


def test_the_help_lists_the_exit_codes() -> None:
    assert "130 interrupted" in " ".join(devpipe("--help").stdout.split())
