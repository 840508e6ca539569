"""``devpipe doctor`` in a process of its own: what it prints, and what it tells a script."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys

import anyio
import pytest
from support import World, make_server, read_all, serving

pytestmark = pytest.mark.anyio

#: No run takes longer (seconds).
PATIENCE = 60.0
COMMAND = [sys.executable, "-m", "devpipe.cli", "doctor"]


async def run(*arguments: str, backend: str = "asyncio") -> tuple[int, str, str]:
    """Its exit code and what it printed."""
    with anyio.fail_after(PATIENCE):
        done = await anyio.run_process([*COMMAND, "--backend", backend, *arguments], check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def address(world: World) -> list[str]:
    return ["--server", world.url, "--folder", str(world.folder)]


def nobody() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_where_all_is_well_it_says_so_in_plain_lines_and_leaves_with_0(anyio_backend: str) -> None:
    async with serving() as world:
        code, said, complaints = await run(*address(world), backend=anyio_backend)
    assert (code, complaints) == (0, "")
    assert said.splitlines()[-1] == "websocket, http and folder work"
    assert "\x1b" not in said, "there is no terminal"


async def test_a_deployed_server_is_examined_as_its_profile_says(anyio_backend: str) -> None:
    async with serving(make_server(profile="vaultpilot")) as world:
        code, said, complaints = await run(
            *address(world),
            "--profile",
            "vaultpilot",
            "--via",
            "folder",
            "--via",
            "http",
            backend=anyio_backend,
        )
    assert (code, complaints) == (0, "")
    assert "writes no beat" in said and "warning" not in said.split("\nfolder\n")[1]


async def test_where_a_part_works_it_leaves_with_6(anyio_backend: str) -> None:
    async with serving() as world:
        code, said, complaints = await run(
            "--server", nobody(), "--folder", str(world.folder), backend=anyio_backend
        )
    assert (code, complaints) == (6, "")
    assert said.splitlines()[-1] == "folder works, websocket and http do not"
    assert "remedy: Start the server there" in said


async def test_where_nothing_works_it_leaves_with_3() -> None:
    code, said, _ = await run("--server", nobody(), "--via", "http")
    assert code == 3
    assert said.splitlines()[-1] == "nothing works: tried http"


async def test_json_is_one_document_and_has_the_same_exit_codes() -> None:
    async with serving() as world:
        code, said, _ = await run(*address(world), "--json")
        report = json.loads(said)
        assert code == 0 and report["ok"] is True
        assert [trial["transport"] for trial in report["transports"]] == ["websocket", "http", "folder"]
        assert all(trial["latency_p99"] > 0 for trial in report["transports"])
    code, said, _ = await run("--server", nobody(), "--json")
    assert code == 3
    broken = [f for f in json.loads(said)["transports"][0]["findings"] if f["status"] == "failed"]
    assert [f["check"] for f in broken] == ["connect"] and "devpipe serve" in broken[0]["remedy"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no server is named: give --server URL"),
        (["--server", "ftp://x"], "http://127.0.0.1:8000"),
        (["--server", "http://x", "--timeout", "0"], "--timeout"),
    ],
)
async def test_wrong_usage_leaves_with_2(arguments: list[str], words: str) -> None:
    code, said, complaints = await run(*arguments)
    assert (code, said) == (2, "")
    assert words in complaints


async def test_the_help_documents_the_exit_codes() -> None:
    code, said, _ = await run("--help")
    assert code == 0
    assert "0 all that was asked for works, 6 some of it, 3 nothing" in " ".join(said.split())


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo terminals")
@pytest.mark.parametrize(("encoding", "mark", "arrow"), [("utf-8", "✗", "→"), ("ascii", "x", "->")])
async def test_in_a_terminal_of_80_columns_no_line_is_longer_whatever_it_can_show(
    encoding: str, mark: str, arrow: str
) -> None:
    environ = {**os.environ, "TERM": "dumb", "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": encoding}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--server", nobody()], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    try:
        with anyio.fail_after(PATIENCE):
            shown = await anyio.to_thread.run_sync(read_all, ours, abandon_on_cancel=True)
            code = await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    lines = shown.decode(encoding).splitlines()
    assert code == 3
    assert max(map(len, lines)) == 80
    assert any(f" {mark} connect " in line for line in lines)
    assert any(f"{arrow} Start the server there" in line for line in lines)
    assert lines[-1] == "nothing works: tried websocket and http"
