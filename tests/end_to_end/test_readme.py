"""What the README shows runs as it stands."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from model_peer import ModelPeer
from support import serving

import devpipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.anyio
async def test_the_first_example_talks_to_a_server_and_hears_its_push() -> None:
    client = BLOCKS[0].replace("import devpipe\n", "")
    assert 'devpipe.connect("http://127.0.0.1:8000", folder=".devpipe")' in client
    async with serving() as world:
        client = client.replace("http://127.0.0.1:8000", world.url).replace(".devpipe", str(world.folder))
        body = "".join(f"    {line}\n" for line in client.replace("...", "return message").splitlines())
        scope: dict[str, object] = {"devpipe": devpipe}
        exec("async def example():\n" + body, scope)
        printed = io.StringIO()
        heard: list[object] = []

        async def run() -> None:
            heard.append(await scope["example"]())  # type: ignore[operator]

        with contextlib.redirect_stdout(printed), anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                while not heard:
                    await world.server.push("news", {"n": 1})
                    await anyio.lowlevel.checkpoint()
        assert printed.getvalue().startswith("{'text': 'hello'} ")
        assert isinstance(heard[0], devpipe.Message) and heard[0].payload == {"n": 1}


@pytest.mark.anyio
async def test_the_second_example_is_a_server() -> None:
    source = BLOCKS[1].replace('await server.push("news", {"n": 1})', "pushing = server.push")
    scope: dict[str, object] = {"devpipe": devpipe}
    exec(source, scope)
    server = scope["server"]
    assert isinstance(server, devpipe.Server)
    async with serving(server) as world, devpipe.connect(world.url) as pipe:
        assert (await pipe.send("echo", [1], timeout=10)).payload == [1]


@pytest.mark.anyio
async def test_the_third_example_gets_a_model_from_the_server() -> None:
    assert BLOCKS[2].startswith("async with devpipe.ModelSelector(")
    async with serving(ModelPeer().server()) as world:
        source = BLOCKS[2].replace("http://127.0.0.1:8000", world.url).replace(".devpipe", str(world.folder))
        scope: dict[str, Any] = {"devpipe": devpipe}
        exec("async def example():\n" + "".join(f"    {line}\n" for line in source.splitlines()), scope)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), anyio.fail_after(20):
            await scope["example"]()
    assert printed.getvalue() == "m-1 it does chat well server\n"


@pytest.mark.anyio
async def test_the_fourth_example_needs_no_event_loop() -> None:
    assert "import devpipe.blocking" in BLOCKS[3]
    async with serving(ModelPeer().server()) as world:
        source = BLOCKS[3].replace("http://127.0.0.1:8000", world.url)
        done = await anyio.run_process([sys.executable, "-c", source], stderr=None)
    assert done.stdout == b"m-1\n"


def test_the_machines_are_driven_by_hand_and_print_what_the_comments_say() -> None:
    block = next(block for block in BLOCKS if "CircuitBreaker(name=" in block)
    printed = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    promised = [line.split("  # ", 1)[1].strip() for line in block.splitlines() if "print(" in line]
    assert [line.split(": open is")[0] for line in promised] == printed


def test_quick_start_holds_two_commands() -> None:
    section = README.split("## Quick start")[1].split("\n## ")[0]
    assert [
        len(block.strip().splitlines()) for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    ] == [1, 1]


def test_the_command_line_answers_with_exit_codes_that_scripts_can_use(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "devpipe.cli", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert run("--help")[0] == 0
    assert "breaker" in run("diagrams")[1]
    assert run("diagrams", "nothing")[0] == 2
    assert run("send", "echo", "{", "--server", "http://127.0.0.1:9")[0] == 2
    assert run("send", "echo", "--server", "nonsense")[0] == 2
    code, _, error = run("send", "echo", "1", "--server", "http://127.0.0.1:9", "--timeout", "0.5")
    assert code == 3 and "nobody listens" in error and "Traceback" not in error
    assert run("serve", "nothing:server")[0] == 2
    assert run("serve", "--host", "0.0.0.0")[0] == 2
    server = subprocess.Popen(
        [sys.executable, "-m", "devpipe.cli", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split("serves at ")[1].split()[0]
        assert run("send", "echo", '{"a": 1}', "--server", url, "--json")[1].count('"a": 1') == 1
        assert run("send", "echo", "1", "--server", url, "--via", "http")[1] == "1\n"
        assert run("send", "nothing", "--server", url)[0] == 5
        chosen = run("send", "model-selection-request", '{"task_type": "chat"}', "--server", url)
        assert chosen[0] == 0 and '"selected_model"' in chosen[1]
    finally:
        server.terminate()
        server.wait(10)
        if server.stdout is not None:
            server.stdout.close()
