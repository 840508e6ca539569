"""``devpipe demo``: what it takes, how its picture looks, what its last line says, and how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from rich.console import Console

from devpipe.cli.demo import Ledger, demo, summary_of
from devpipe.cli.screen import ECHO, Screen, verdict
from devpipe.machines.events import SwitchReason, TransportSwitched

COMMAND = [sys.executable, "-m", "devpipe.cli", "demo"]
#: Nothing that is waited for here takes longer (seconds).
PATIENCE = 60.0


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--rate", value] for value in ("0", "-1", "nan", "inf", "many")),
        *(["--seconds", value] for value in ("-1", "0", "3", "nan", "inf")),
    ],
)
def test_a_play_that_shows_nothing_is_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[0] in done.stderr and "Traceback" not in done.stderr


# --- played ------------------------------------------------------------------------------------------------


def play(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "--seconds", "20", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_whatever_breaks_every_request_ends_once_and_is_executed_once() -> None:
    summary = json.loads(play("--json", "--rate", "100", "--backend", "trio").stdout)
    assert summary["ok"] and summary["sent"] >= 1500
    assert summary["ended_exactly_once"] == summary["sent"]
    assert summary["answered"] + sum(summary["errors"].values()) == summary["sent"]
    assert summary["executed"] >= summary["answered"] and summary["executed_twice_by_one_server"] == 0
    assert summary["switches"] >= 3 and len(summary["by_transport"]) >= 2
    assert all(known.endswith("maybe_executed") for known in summary["errors"]), "only what the kill cut off"


def test_in_a_log_it_is_plain_lines_that_tell_what_breaks_and_who_waited_how_long() -> None:
    told = play("--rate", "50").stdout
    assert "\x1b" not in told and "╭" not in told
    for words in (
        "the proxy cuts every WebSocket",
        "the proxy lets HTTP requests hang",
        "the proxy behaves again",
        "the server process is killed (SIGKILL)",
        "> websocket -> http (failover); callers waited ",
        "errors: none, executed ",
        "every call ended once, none ran twice",
    ):
        assert words in told, words


@pytest.mark.parametrize(
    ("broken", "kept"), [({}, True), ({"twice": 1}, False), ({"lost": 1}, False), ({"answered": 0}, False)]
)
def test_all_is_well_only_if_all_promises_held(broken: dict[str, int], kept: bool) -> None:
    ledger = Ledger(
        sent=3, answered=broken.get("answered", 3), ended=Counter(range(3 - broken.get("lost", 0)))
    )
    told = summary_of(ledger, seconds=1.0, executions=(3, broken.get("twice", 0)), switches=0, resent=0)
    assert told["ok"] is kept


def test_a_broken_promise_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*arguments: Any, **more: Any) -> dict[str, Any]:
        return {"ok": False}

    monkeypatch.setattr("devpipe.cli.demo._run_demo", broken)
    monkeypatch.setattr("devpipe.cli.world.end_as_at_ctrl_c", lambda: None)
    with pytest.raises(SystemExit) as left:
        demo.main(["--json"], standalone_mode=False)
    assert left.value.code == 1 and json.loads(capsys.readouterr().out) == {"ok": False}


# --- the last line ------------------------------------------------------------------------------------------


def summary(**differences: Any) -> dict[str, Any]:
    kept = {
        "sent": 9,
        "answered": 9,
        "ended_exactly_once": 9,
        "executed_twice_by_one_server": 0,
        "errors": {},
    }
    return {**kept, "unknown_at_the_kill": 0, **differences}


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ({}, "every call ended once, none ran twice"),
        (
            {"answered": 6, "errors": {"TransportError maybe_executed": 3}, "unknown_at_the_kill": 3},
            "every call ended once, none ran twice; 3 that were in flight at the kill ended with maybe_executed, as promised",
        ),
        (
            {
                "answered": 6,
                "errors": {"TransportError maybe_executed": 2, "QueueFull never_sent": 1},
                "unknown_at_the_kill": 2,
            },
            "every call ended once, none ran twice; 2 that were in flight at the kill ended with maybe_executed, as promised; "
            "1 ended with another error",
        ),
        ({"ended_exactly_once": 8}, "a promise was broken: 1 of 9 calls did not end exactly once"),
        ({"executed_twice_by_one_server": 2}, "a promise was broken: 2 ran twice"),
        ({"answered": 0}, "a promise was broken: none was answered"),
    ],
)
def test_the_last_line_says_what_was_promised_and_whether_it_was_kept(
    differences: dict[str, Any], words: str
) -> None:
    assert verdict(summary(**differences)) == words


# --- the picture --------------------------------------------------------------------------------------------


def row(name: str, state: str, breaker: str, latency: float | None) -> SimpleNamespace:
    return SimpleNamespace(name=name, state=state, breaker=breaker, score=0.5, latency_p50=latency)


class Scene:
    """A screen of 80 columns, and a pipe and a world that are only looked at."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.rows: list[SimpleNamespace] = []
        self.console = Console(width=80, force_terminal=True, color_system=None, record=True)
        self.screen = Screen(self.console)
        pipe: Any = SimpleNamespace(active="http", explain=lambda: SimpleNamespace(transports=self.rows))
        world: Any = SimpleNamespace(executions=lambda: (self.ledger.answered, 0))
        self.screen.begin(pipe, self.ledger, world)

    def picture(self) -> list[str]:
        self.console.print(self.screen._picture())
        return self.console.export_text().splitlines()


@pytest.mark.anyio
async def test_the_picture_stands_still_and_leaves_room_for_what_the_terminal_echoes() -> None:
    scene = Scene()
    scene.rows = [row("http", "new", "open", None), row("folder", "failed", "closed", 0.001)]
    first = scene.picture()
    scene.ledger.sent, scene.ledger.answered = 1_000_000, 999_999
    scene.ledger.errors["TransportError maybe_executed"] = 12_345
    scene.rows = [
        row("http", "connecting", "forced_open", 12.3456),
        row("websocket", "probation", "half_open", 99.9),
    ]
    scene.screen.say("a line of the story that is longer than the picture is wide, which it cannot be at all")
    scene.screen.switched(
        TransportSwitched(from_="websocket", to="folder", reason=SwitchReason.OPTIMIZATION), 9.8765
    )
    second = scene.picture()
    assert len(first) == len(second) <= 22
    assert {len(line) for line in first + second} == {80 - ECHO}
    for mark in ("breaker", "score", "latency", "answers", "executed", "twice"):
        places = [
            {line.index(f" {mark}") for line in lines if f" {mark}" in line} for lines in (first, second)
        ]
        assert places[0] == places[1] and len(places[0]) == 1, mark
    assert any("12345.6 ms" in line for line in second)
    assert any("ended with an error  12345 x TransportError maybe_executed" in line for line in second)
    assert any("oldest call in flight 9.9 s" in line for line in second)


@pytest.mark.anyio
async def test_only_who_was_lost_kept_callers_waiting_for_a_switch() -> None:
    scene = Scene()
    for reason in (SwitchReason.FAILOVER, SwitchReason.OPTIMIZATION, SwitchReason.UPGRADE):
        scene.screen.switched(TransportSwitched(from_="http", to="folder", reason=reason), 0.012)
    said = [line for line in scene.picture() if " -> " in line]
    assert ["callers waited 12 ms" in line for line in said] == [True, False, False]
    assert ["oldest call in flight 12 ms" in line for line in said] == [False, True, True]


@pytest.mark.anyio
async def test_a_transport_on_which_calls_hang_is_shown_to_be_silent() -> None:
    scene = Scene()
    scene.rows = [row("http", "healthy", "closed", None), row("folder", "healthy", "closed", None)]
    now = anyio.current_time()
    scene.screen._switched = now - 10
    assert not any("silent" in line for line in scene.picture()), "nobody waits"
    scene.ledger.began[1] = now - 3
    assert sum("silent 3." in line for line in scene.picture()) == 1, "only the active one is waited for"
    scene.ledger.answered_at["http"] = now - 0.5
    assert not any("silent" in line for line in scene.picture()), "others are answered"


# --- interrupted --------------------------------------------------------------------------------------------


def child_of(parent: int) -> int:
    """The first process that it has started, as soon as that runs a command of its own."""
    command, deadline = Path(f"/proc/{parent}/cmdline").read_bytes(), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{child}/cmdline").read_bytes() != command:
                return int(child)
    raise AssertionError("it has started none")


@pytest.mark.skipif(
    sys.platform != "linux", reason="needs: Linux, whose /proc shows the children of a process"
)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_its_processes_start_it_ends_them_and_shows_no_traceback(
    how: signal.Signals,
) -> None:
    process = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert "starting a server" in process.stdout.readline()
        child = child_of(process.pid)
        assert os.getsid(child) == child, "a terminal reaches it"
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # so a terminal does: to all that is in front
        else:
            process.send_signal(how)
        # it comes to an end only when nobody can write to it any more: no process is left behind
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said.strip()) == (130, "")


def test_interrupted_while_the_command_is_imported_it_shows_no_traceback() -> None:
    code = (
        "import sys, devpipe.cli\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'devpipe.cli.commands': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "devpipe.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
