"""``devpipe catalogue`` as a process: what it prints can be served, and a mistake has a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "devpipe.cli", "catalogue", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_example_is_printed_and_is_right(tmp_path: Path) -> None:
    example = run()
    assert example.returncode == 0 and "PRICES AGE" in example.stdout
    file = tmp_path / "models.toml"
    file.write_text(example.stdout, encoding="utf-8")
    checked = run(str(file))
    assert checked.returncode == 0 and "10 models, dated 2026-10-07" in checked.stdout


def test_a_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        run().stdout.replace("max_tokens = 1_000_000", 'max_tokens = "many"', 1), encoding="utf-8"
    )
    checked = run(str(file))
    assert checked.returncode == 2
    assert f"{file}:17: models[0].max_tokens = 'many' is not allowed" in checked.stderr


def test_a_file_that_is_not_there_is_named() -> None:
    checked = run("/nowhere/models.toml")
    assert checked.returncode == 2 and "/nowhere/models.toml" in checked.stderr
