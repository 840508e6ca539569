"""``devpipe serve`` with a catalogue, as a process: what it selects from, what it refuses, and what it remembers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import devpipe

BOUND = 20.0
GOOD = """\
dated = 2025-07-01

[[models]]
id = "cheap"
name = "Cheap"
provider = "acme"
cost_per_token = 0.000001
max_tokens = 8000
response_time_avg_ms = 400
availability_score = 0.99
quality_score = 0.8
capabilities = [{ type = "chat", score = 0.8 }]
"""
SECOND = GOOD.split("\n\n")[1].replace("cheap", "dear").replace("0.000001", "0.01")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "devpipe.cli", *map(str, words)]


def run(*words: object) -> tuple[int, str, str]:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@contextmanager
def served(*words: object, cwd: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address; its standard error is readable as ``process.stderr``."""
    process = subprocess.Popen(
        command("serve", "--port", 0, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert "serves at " in line, process.stderr.read()
        yield process, line.split("serves at ")[1].split()[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def ask(url: str, type: str, payload: Any = None) -> Any:
    """What a client gets: the payload, or the code, text and details of the error."""

    async def asked() -> Any:
        async with devpipe.connect(url) as pipe:
            try:
                return (await pipe.send(type, payload, timeout=BOUND)).payload
            except devpipe.HandlerError as error:
                return error.code, str(error), error.details

    return anyio.run(asked)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A good one, in a file."""
    path = tmp_path / "models.toml"
    path.write_text(GOOD + "\n" + SECOND, encoding="utf-8")
    return path


def edited(path: Path, old: str, new: str) -> None:
    """Write the good catalogue with something else in it."""
    path.write_text(GOOD.replace(old, new), encoding="utf-8")


def refused(tmp_path: Path, text: str) -> list[str]:
    """What stands under the first line of the error when this catalogue is to be served."""
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    code, out, error = run("serve", "--port", 0, "--catalogue", path)
    assert code == 2 and out == ""
    head, *lines = error.rstrip().split("\n")
    assert head.startswith(f"devpipe: the catalogue {path} has ")
    return [line.strip().replace(str(path), "bad.toml") for line in lines]


# --- bad input, item by item ------------------------------------------------------------------------


def test_a_catalogue_with_wrong_types_is_refused_with_file_line_key_value_and_what_is_allowed(
    tmp_path: Path,
) -> None:
    text = GOOD.replace("8000", '"8000"').replace("score = 0.8 }", "score = true }")
    assert refused(tmp_path, text) == [
        "bad.toml:8: models[0].max_tokens = '8000' is not allowed: give an integer from 1 to 1,000,000,000 "
        "(tokens of context)",
        "bad.toml:12: models[0].capabilities[0].score = true is not allowed: give a number from 0 to 1",
    ]


def test_a_catalogue_with_unknown_keys_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    [missing, unknown] = refused(tmp_path, GOOD.replace("quality_score", "qualty_score"))
    assert missing == "bad.toml:3: models[0].quality_score is missing: give a number from 0 to 1"
    assert unknown.startswith("bad.toml:11: models[0].qualty_score is no key of a catalogue here")
    assert unknown.endswith("did you mean 'quality_score'?")


def test_a_catalogue_with_negative_prices_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, GOOD.replace("0.000001", "-0.5")) == [
        "bad.toml:7: models[0].cost_per_token = -0.5 is not allowed: give a number from 0 to 1 "
        "(US dollars for one token, not for a million)"
    ]


def test_a_catalogue_with_duplicates_is_refused_with_both_lines(tmp_path: Path) -> None:
    assert refused(tmp_path, GOOD + "\n" + GOOD.split("\n\n")[1]) == [
        "bad.toml:15: models[1].id = 'cheap' is the id of models[0], line 4, too: give each its own"
    ]


def test_an_empty_or_broken_or_missing_catalogue_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "") == ["bad.toml: models is missing: give a list of at least one, at most 1000"]
    path = tmp_path / "broken.json"
    path.write_text('{"models": [\n', encoding="utf-8")
    code, _, error = run("serve", "--port", 0, "--catalogue", path)
    assert code == 2 and "is no JSON: Expecting value: line 2" in error
    code, _, error = run("serve", "--port", 0, "--catalogue", tmp_path / "missing.toml")
    assert code == 2 and "cannot be read: No such file" in error


def test_preferences_out_of_range_are_refused_by_name(catalogue: Path) -> None:
    with served("--catalogue", catalogue) as (_, url):
        code, text, details = ask(url, "preferences-update", {"preferences": {"timeout_preference": -1}})
        assert code == "INVALID_REQUEST"
        assert "timeout_preference = -1 is not allowed: give a number above 0" in text
        assert details["suggestions"][0].startswith("timeout_preference: give a number above 0")
        assert ask(url, "preferences-request")["preferences"]["timeout_preference"] == 30000


def test_a_budget_that_nothing_fits_names_the_cheapest_that_would_do_and_its_cost(catalogue: Path) -> None:
    with served("--catalogue", catalogue) as (_, url):
        request = {"task_type": "chat", "max_cost": 0.001, "context_length": 4000}
        code, text, details = ask(url, "model-selection-request", request)
        assert code == "BUDGET_EXCEEDED" and "the cheapest, cheap, costs $0.004" in text
        assert details["cheapest_model"] == "cheap" and details["cheapest_cost"] == pytest.approx(0.004)
        assert "allow $0.004 or more: cheap is the cheapest for chat" in details["suggestions"]
        answer = ask(url, "model-selection-request", request | {"max_cost": 0.004})
        assert answer["selected_model"]["id"] == "cheap"


# --- life -------------------------------------------------------------------------------------------


def test_what_users_prefer_survives_a_killed_server(catalogue: Path, tmp_path: Path) -> None:
    words = ("--catalogue", catalogue, "--preferences", tmp_path / "preferences.sqlite")
    with served(*words) as (process, url):
        changed = ask(
            url, "preferences-update", {"user": "ann", "preferences": {"max_cost_per_request": 0.002}}
        )
        process.kill()
    with served(*words) as (_, url):
        assert ask(url, "preferences-request", {"user": "ann"}) == changed
        code, *_ = ask(
            url, "model-selection-request", {"task_type": "chat", "context_length": 3000, "user": "ann"}
        )
        assert code == "BUDGET_EXCEEDED"


def test_a_catalogue_that_is_edited_while_it_is_served_counts_and_a_bad_one_is_told(catalogue: Path) -> None:
    async def edit(url: str) -> None:
        async with devpipe.connect(url) as pipe:

            async def models() -> list[str]:
                reply = await pipe.send("health-check-request", timeout=BOUND)
                return [health["model_id"] for health in reply.payload["models"]]

            assert await models() == ["cheap", "dear"]
            edited(catalogue, "cheap", "renamed")
            with anyio.fail_after(BOUND):
                while await models() != ["renamed"]:
                    await anyio.sleep(0.05)
            edited(catalogue, "8000", "-8000")

    with served("--catalogue", catalogue) as (process, url):
        anyio.run(edit, url)
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert "models kept from before: 1." in lines[0] and "max_tokens = -8000" in lines[1]
        assert ask(url, "model_selection_request", {"task_type": "chat"})["selected_model"]["id"] == "renamed"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0 and "Traceback" not in process.stderr.read()


def test_without_a_catalogue_the_example_is_served_and_echo_is_there(tmp_path: Path) -> None:
    with served() as (_, url):
        answer = ask(url, "model-selection-request", {"task_type": "code-generation"})
        assert answer["selected_model"]["cost_per_token"] > 0 and answer["fallback_models"]
        assert ask(url, "echo", [1]) == [1]
        code, out, _ = run(
            "send", "model-selection-request", '{"task_type": "chat", "max_cost": 0}', "--server", url
        )
        assert code == 5 and out == ""


def test_a_server_of_your_own_selects_models_if_a_catalogue_is_named(catalogue: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import devpipe\nserver = devpipe.Server()\n\n"
        "@server.handler('mine')\nasync def mine(message):\n    return 'mine'\n",
        encoding="utf-8",
    )
    with served("mine:server", "--catalogue", catalogue, cwd=tmp_path) as (_, url):
        assert ask(url, "mine") == "mine"
        assert ask(url, "model-selection-request", {"task_type": "chat"})["selected_model"]["id"] == "cheap"
    done = subprocess.run(
        command("serve", "mine:server", "--preferences", tmp_path / "p.sqlite"),
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2 and "wants --catalogue" in done.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_preferences_that_cannot_be_opened_are_a_wrong_configuration(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "text"
    path.write_text(json.dumps(["no database"] * 100), encoding="utf-8")
    code, _, error = run("serve", "--port", 0, "--preferences", path, "--backend", backend)
    assert code == 2 and f"the preferences {str(path)!r} cannot be opened: file is not a database" in error
