"""``devpipe demo``: things break for real, every request ends once, and the exit code says whether that held."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from devpipe.cli import commands, demo
from devpipe.cli.demo import Ledger, World
from devpipe.cli.screen import Screen

#: No end by then: the test has failed (seconds).
PATIENCE = 100.0
COMMAND = [sys.executable, "-m", "devpipe.cli", "demo"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_whatever_breaks_every_request_ends_once_and_is_executed_once(backend: str) -> None:
    done = run("--json", "--seconds", "6", "--rate", "100", "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["ok"] and summary["sent"] >= 500
    assert summary["ended_exactly_once"] == summary["sent"]
    assert summary["answered"] + sum(summary["errors"].values()) == summary["sent"]
    assert summary["executed"] >= summary["answered"] and summary["executed_twice_by_one_server"] == 0
    assert summary["switches"] >= 3 and len(summary["by_transport"]) >= 2
    assert all(known.endswith("maybe_executed") for known in summary["errors"]), "only what the kill cut off"


def test_in_a_log_it_is_plain_lines_that_tell_what_breaks_and_who_waited_how_long() -> None:
    done = run("--seconds", "5", "--rate", "50")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and "╭" not in done.stdout
    for words in (
        "the proxy cuts every WebSocket",
        "the proxy lets HTTP requests hang",
        "the proxy behaves again",
        "the server process is killed (SIGKILL)",
        "> websocket -> http (failover); callers waited ",
        "errors: none, executed ",
        "all is well",
    ):
        assert words in done.stdout, words


def test_in_a_terminal_the_picture_fits_into_80_columns_and_tells_how_requests_ended(tmp_path: Path) -> None:
    ledger = Ledger(
        sent=6600,
        answered=6443,
        errors=Counter({"TransportError maybe_executed": 157}),
        ended=Counter(range(6600)),
        by_transport=Counter(websocket=6443),
    )
    world = World(tmp_path)
    world.log.write_text("".join(json.dumps({"server": "s", "id": str(n)}) + "\n" for n in range(12)))
    screen = Screen(Console(file=io.StringIO(), force_terminal=True, width=80, height=24))

    async def draw() -> list[str]:
        server = commands.devpipe.Server()
        async with server, commands.devpipe.connect(server) as pipe:
            screen.begin(pipe, ledger, world)
            for number in range(20):
                screen.say(f"act {number}")
            printed = Console(file=io.StringIO(), width=80, color_system=None)
            printed.print(screen._picture())  # pyright: ignore[reportPrivateUsage]
            assert isinstance(printed.file, io.StringIO)
            return printed.file.getvalue().splitlines()

    lines = anyio.run(draw)
    assert len(lines) <= 24 and max(map(len, lines)) == 80
    text = "\n".join(lines)
    for words in (
        "> ",
        "memory",
        "sent 6600",
        "answered 6443",
        "157 x TransportError maybe_executed",
        "act 19",
    ):
        assert words in text, words
    assert "executed 12 " in text and "twice 0" in text


@pytest.mark.parametrize(
    ("broken", "code"), [({}, 0), ({"twice": 1}, 1), ({"lost": 1}, 1), ({"answered": 0}, 1)]
)
def test_the_exit_code_is_0_only_if_all_promises_held(broken: dict[str, int], code: int) -> None:
    ledger = Ledger(
        sent=3, answered=broken.get("answered", 3), ended=Counter(range(3 - broken.get("lost", 0)))
    )
    summary = demo.summary_of(
        ledger, seconds=1.0, executions=(3, broken.get("twice", 0)), switches=0, resent=0
    )
    assert summary["ok"] is (code == 0)


def test_a_broken_promise_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def play(*arguments: Any, **more: Any) -> dict[str, Any]:
        return {"ok": False}

    monkeypatch.setattr(demo, "run_demo", play)
    with pytest.raises(SystemExit) as left:
        commands.demo.main(["--json"], standalone_mode=False)
    assert left.value.code == 1 and json.loads(capsys.readouterr().out) == {"ok": False}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_it_cleanly_with_all_its_processes(backend: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--seconds", "60", "--rate", "50", "--backend", backend],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "the pipe is open" in line:
                break
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE)  # until the last process has closed its output
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in out + error


@pytest.mark.parametrize("option", ["--rate", "--seconds"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many"])
def test_a_number_that_makes_no_sense_is_refused(option: str, value: str) -> None:
    done = run(option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr and "Traceback" not in done.stderr
