"""``devpipe config show`` in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support import read_all

import devpipe


def show(directory: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DEVPIPE_")}
    done = subprocess.run(
        [sys.executable, "-m", "devpipe.cli", "config", "show", *words],
        cwd=directory, env={**clean, **environ}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "devpipe.toml").write_text("timeout = 4\n[http]\nmax_connections = 2\n")
    return tmp_path


def test_each_setting_stands_in_a_line_with_where_it_came_from(project: Path) -> None:
    code, out, error = show(project / "deep", DEVPIPE_CLOSE_TIMEOUT="3")
    assert (code, error) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows["file:"] == [str(project / "devpipe.toml")]
    assert rows["timeout"] == ["4.0", "devpipe.toml:1"]
    assert rows["http.max_connections"] == ["2", "devpipe.toml:3"]
    assert rows["close_timeout"] == ["3.0", "DEVPIPE_CLOSE_TIMEOUT"]
    assert rows["failover.auto_upgrade"] == ["true", "default"]
    assert rows["server_url"] == ["-", "default"]
    assert set(rows) >= {setting.key for setting in devpipe.load_settings(environ={}).settings}


LONG = {
    "DEVPIPE_SERVER_URL": f"http://127.0.0.1/{'long/' * 40}",
    "DEVPIPE_FOLDER_OPTIONS_MAX_MESSAGE_BYTES": "123456789",
    "DEVPIPE_FAILOVER_FALLBACK_CHAIN": ",".join(f"transport-{n}" for n in range(12)),
    **{f"DEVPIPE_OF_SOMEBODY_ELSE_{n}": "x" for n in range(9)},
}


def test_whatever_the_values_are_a_setting_stands_in_one_line_where_there_is_no_terminal(
    project: Path,
) -> None:
    code, out, _ = show(project, **LONG)
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[:3] for line in lines if LONG["DEVPIPE_SERVER_URL"] in line] == [
        ["server_url", LONG["DEVPIPE_SERVER_URL"], "DEVPIPE_SERVER_URL"]
    ]
    [size] = [line for line in lines if line.startswith("folder_options.max_message_bytes")]
    assert size.split()[1:] == ["123456789", "DEVPIPE_FOLDER_OPTIONS_MAX_MESSAGE_BYTES"]
    [ignored] = [line for line in lines if line.startswith("ignored, no settings:")]
    assert all(f"DEVPIPE_OF_SOMEBODY_ELSE_{n}" in ignored for n in range(9))


@pytest.mark.skipif(sys.platform == "win32", reason="needs: pseudo terminals")
def test_in_a_terminal_the_table_fits_into_80_columns_whatever_the_values_are_and_shows_them_whole(
    project: Path,
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DEVPIPE_")}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "devpipe.cli", "config", "show"],
        cwd=project, env={**clean, **LONG}, stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        table = read_all(ours).decode().splitlines()[1:]
        assert process.wait(60) == 0
    os.close(ours)
    assert max(len(line) for line in table) <= 80
    together = "".join(line.strip() for line in table)
    assert LONG["DEVPIPE_SERVER_URL"] in together and "DEVPIPE_FOLDER_OPTIONS_MAX_MESSAGE_BYTES" in together
    assert LONG["DEVPIPE_FAILOVER_FALLBACK_CHAIN"] in together.replace(" ", "")
    assert "DEVPIPE_OF_SOMEBODY_ELSE_8" in together


def test_json_is_one_document_with_everything(project: Path) -> None:
    code, out, _ = show(project, "--json", DEVPIPE_DEBUG="1", DEVPIPE_FOREIGN="x")
    document = json.loads(out)
    assert code == 0 and document["file"] == str(project / "devpipe.toml")
    settings = document["settings"]
    assert settings["timeout"] == {
        "value": 4.0, "kind": "file", "name": str(project / "devpipe.toml"), "line": 1,
    }  # fmt: skip
    assert settings["debug"] == {"value": True, "kind": "environment", "name": "DEVPIPE_DEBUG", "line": None}
    assert settings["failover.fallback_chain"]["value"] == ["websocket", "http", "folder"]
    assert document["left_alone"] == ["DEVPIPE_FOREIGN"] and document["problems"] == []


def test_a_token_is_said_to_be_there_and_never_shown(project: Path) -> None:
    for words in ((), ("--json",)):
        code, out, error = show(project, *words, DEVPIPE_TOKEN="hunter2")
        assert code == 0 and "hunter2" not in out + error
    assert "set, not shown" in show(project, DEVPIPE_TOKEN="hunter2")[1]
    assert "set, not shown" not in show(project)[1]


def test_everything_wrong_is_said_at_once_with_exit_code_2(project: Path) -> None:
    (project / "devpipe.toml").write_text("timeout = -1\n[http]\nmax_conections = 2\n")
    code, out, error = show(project, DEVPIPE_RETRY_ATTEMPTS="x", DEVPIPE_HTTP_COST="7", DEVPIPE_TIMEOT="1")
    assert (code, out) == (2, "") and "Traceback" not in error
    assert "5 settings are wrong" in error
    for words in (
        "devpipe.toml, line 1 is", "did you mean http.max_connections?", "DEVPIPE_RETRY_ATTEMPTS is not",
        "DEVPIPE_HTTP_COST", "did you mean DEVPIPE_TIMEOUT?",
    ):  # fmt: skip
        assert words in error, words
    code, out, _ = show(project, "--json", DEVPIPE_RETRY_ATTEMPTS="x")
    assert code == 2
    assert [problem["key"] for problem in json.loads(out)["problems"]] == [
        "http.max_conections", "retry_attempts", "timeout",
    ]  # fmt: skip


def test_the_file_is_named_by_the_option_or_the_variable_and_must_be_there(project: Path) -> None:
    other = project / "other.toml"
    other.write_text("timeout = 9\n")
    for words, environ in ((("--config", str(other)), {}), ((), {"DEVPIPE_CONFIG": str(other)})):
        assert "other.toml:1" in show(project, *words, **environ)[1]
    other.unlink()
    for words, environ in ((("--config", str(other)), {}), ((), {"DEVPIPE_CONFIG": str(other)})):
        code, _, error = show(project, *words, **environ)
        assert code == 2 and "cannot be read: No such file" in error and str(other) in error
