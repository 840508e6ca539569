"""Where the static table is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import devpipe
from devpipe.adapters.models.table import MAX_BYTES, load_table
from devpipe.machines.models.types import TASK_TYPES

OWN = {
    "models": [
        {
            "id": "own",
            "name": "Own",
            "provider": "me",
            "cost_per_token": 0,
            "max_tokens": 10,
            "response_time_avg_ms": 1,
            "availability_score": 1,
            "quality_score": 1,
        }
    ],
    "tasks": {"chat": ["own"]},
}


def test_the_table_of_the_package_is_dated_and_knows_every_task() -> None:
    table = load_table()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table.dated)
    assert set(table.tasks) == set(TASK_TYPES)


def test_a_table_may_be_json(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(OWN))
    assert load_table(file).models[0].id == "own"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("table.toml", b"models = [", "is no TOML"),
        ("table.json", b"{", "is no JSON"),
        ("table.toml", b"\xff", "is no TOML"),
        ("table.json", b"[" * 100_000, "is no JSON"),
        ("table.json", b"{}", "models"),
        ("table.toml", b"x = 1" + b"0" * 5000, "is no TOML"),
        ("table.toml", b"#" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_table_that_cannot_be_read_names_its_file(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(devpipe.ConfigurationError, match=named) as caught:
        load_table(file)
    assert str(file) in str(caught.value)


def test_a_table_that_is_not_there_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(devpipe.ConfigurationError, match="nowhere.toml.*No such file"):
        load_table(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(("path", "words"), [("a\0b", "cannot be read"), ("/dev/zero", "larger than")])
def test_a_name_that_leads_to_no_table_is_refused_and_not_read_for_ever(path: str, words: str) -> None:
    with pytest.raises(devpipe.ConfigurationError, match=words):
        load_table(path)
