"""The examples run as their users would run them, against servers in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

import devpipe

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """``devpipe serve`` with its built-in handlers: its address and folder."""
    folder = tmp_path / "pipe"
    command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", "0", "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # asked for above
    try:
        yield process.stdout.readline().split("serves at ")[1].split()[0], folder
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(name: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_script_asks_once_and_goes(server: tuple[str, Path]) -> None:
    [line] = run("script.py", server[0], "code-generation")
    assert "(server): " in line


def test_the_script_gets_a_marked_answer_without_a_server() -> None:
    [line] = run("script.py", "http://127.0.0.1:9", "code-generation")
    assert "(static): " in line


def test_the_plugin_answers_from_what_is_there(server: tuple[str, Path]) -> None:
    lines = run("plugin.py", server[0], str(server[1]))
    chat = [line for line in lines if line.startswith("chat: ")]
    assert len(chat) == 2
    assert chat[1].endswith("(cache)")
    assert any(line.startswith("now over ") for line in lines)
    assert any(line.startswith("poetry: INVALID_REQUEST") for line in lines)


def test_the_plugin_answers_without_a_server_too(tmp_path: Path) -> None:
    lines = run("plugin.py", "http://127.0.0.1:9", str(tmp_path / "pipe"))
    assert sum(line.endswith("(static)") for line in lines) == 3


def test_the_trio_program_asks_several_at_once(server: tuple[str, Path]) -> None:
    lines = run("trio_program.py", server[0])
    assert sorted(line.split(" over ")[0] for line in lines) == [f"{n}: {{'number': {n}}}" for n in range(5)]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_that_is_run_without_what_it_wants_says_how_it_is_run(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"usage: .*{name.removesuffix('.py')}.*\n", done.stderr)


@pytest.fixture
def fastapi_application() -> Iterator[str]:
    """The application as its first lines say, served by hypercorn: its address."""
    command = [sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:0", "fastapi_app:app"]
    # a group of its own: hypercorn has a worker in a process of its own, which would outlive it
    process = subprocess.Popen(
        command, cwd=EXAMPLES, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None  # asked for above
    try:
        for line in process.stderr:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found is not None:
                break
        assert found is not None, "hypercorn did not come up"
        yield found[0]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.mark.anyio
async def test_the_fastapi_application_serves_its_pages_and_its_pipe(fastapi_application: str) -> None:
    async with devpipe.connect(f"{fastapi_application}/pipe") as pipe:
        pushes = pipe.receive()
        reply = await pipe.send("summarize", {"text": "one two three four five six"}, timeout=10)
        assert reply.payload == {"summary": "one two three four five", "words": 6}
        async with httpx.AsyncClient(base_url=fastapi_application) as browser:
            answer = await browser.post("/announce/lunch")
            assert answer.json() == {"announced": "lunch"}
        with anyio.fail_after(10):
            push = await anext(pushes)
        assert isinstance(push, devpipe.Message)
        assert push.payload == {"text": "lunch"}
