"""A catalogue in a file: both formats, every way to be wrong, and what happens when somebody edits it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from devpipe.adapters.models.catalogue_file import EXAMPLE, MAX_BYTES, CatalogueFile, load_catalogue
from devpipe.adapters.ports.watcher import Watcher
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.models.catalogue import Catalogue, CatalogueError
from devpipe.machines.models.scoring import choose
from devpipe.machines.models.types import TASK_TYPES, ModelSelectionRequest

BOUND = 10.0


def entry(id: str = "small", **fields: Any) -> dict[str, Any]:
    return {
        "id": id, "name": id, "provider": "acme", "cost_per_token": 1e-6, "max_tokens": 8000,
        "response_time_avg_ms": 400, "availability_score": 1, "quality_score": 0.8,
        "capabilities": [{"type": "chat", "score": 0.8}],
    } | fields  # fmt: skip


def write_json(path: Path, *ids: str, **fields: Any) -> None:
    path.write_text(json.dumps({"models": [entry(id, **fields) for id in ids]}, indent=1), encoding="utf-8")


def refused(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_catalogue(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- one look ---------------------------------------------------------------------------------------


def test_the_packaged_example_can_do_every_task_and_says_how_old_it_is() -> None:
    catalogue = load_catalogue(EXAMPLE)
    assert catalogue.dated.startswith("20") and len(catalogue.models) >= 5
    for task in TASK_TYPES:
        for quality in ("low", "high"):
            request = ModelSelectionRequest(task_type=task, quality_requirement=quality)  # type: ignore[arg-type]
            assert choose(request, models=catalogue.models).selected_model.id in catalogue.ids
    head = EXAMPLE.read_text(encoding="utf-8").split("dated")[0]
    assert "PRICES AGE" in head and "--catalogue" in head


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml, other = tmp_path / "c.TOML", tmp_path / "c.json"
    write_json(other, "small")
    lines = [f"{key} = {json.dumps(value)}" for key, value in entry().items() if key != "capabilities"]
    text = "dated = 2025-07-01\n[[models]]\n" + "\n".join(lines)
    text += '\n[[models.capabilities]]\ntype = "chat"\nscore = 0.8\n'
    toml.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_catalogue(toml).models == load_catalogue(other).models
    assert load_catalogue(str(toml)).dated == "2025-07-01"


def test_a_mistake_in_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_json(path, "a", "b", quality_score="good")
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    assert [problem.line for problem in caught.value.mistakes] == [11, 27]
    assert f"\n  {path}:11: models[0].quality_score = 'good' is not allowed" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("c.yaml", b"", "ends in .toml or .json"),
        ("c.toml", b"a = 1\nb = = 2\n", "is no TOML: Invalid value (at line 2, column 5)"),
        ("c.json", b'{"models":\n[,]}', "is no JSON: Expecting value: line 2 column 2"),
        ("c.json", b"", "is no JSON"),
        ("c.json", b"[" * 100_000, "nested too deeply"),
        ("c.toml", b"a = " + b"[" * 100_000, "nested too deeply"),
        ("c.json", b"9" * 5000, "is no JSON"),
        ("c.toml", b"a = " + b"9" * 5000, "is no TOML"),
        ("c.toml", b"# a\n# b\xff\n", "is no UTF-8 in line 2"),
        ("c.json", b" " * (MAX_BYTES + 1), f"larger than {MAX_BYTES:,} bytes"),
        ("c.json", b"NaN", "is no table"),
    ],
)
def test_a_file_that_is_no_catalogue_is_a_clear_error(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert words in refused(path)


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe.toml", tmp_path / "folder.toml"
    os.mkfifo(pipe)
    folder.mkdir()
    assert "no plain file" in refused(pipe) and "no plain file" in refused(folder)
    assert "No such file" in refused(tmp_path / "missing.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_catalogue("a\0.toml")


# --- kept fresh -------------------------------------------------------------------------------------


class Watched:
    """A file that is watched, and what was told of it."""

    def __init__(self, file: CatalogueFile) -> None:
        self.file = file
        self.told: list[tuple[str, ...]] = []
        self.changed = anyio.Event()

    def take(self, catalogue: Catalogue) -> None:
        self.told.append(catalogue.ids)
        self.changed.set()

    async def next(self) -> tuple[str, ...]:
        with anyio.fail_after(BOUND):
            await self.changed.wait()
        self.changed = anyio.Event()
        return self.told[-1]

    async def refusal(self) -> str:
        with anyio.fail_after(BOUND):
            while self.file.refused is None:
                await anyio.sleep(0.01)
        return str(self.file.refused)


@asynccontextmanager
async def watched(path: Path, *, rescan: float = 60.0) -> AsyncIterator[Watched]:
    watched = Watched(CatalogueFile(path, rescan=rescan, settle=0.02))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.file.watch, watched.take)
        await anyio.wait_all_tasks_blocked()
        yield watched
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_file_that_is_written_in_place_or_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_json(path, "a")
    async with watched(path) as seen:
        assert seen.file.catalogue.ids == ("a",)
        write_json(path, "b", "c")
        assert await seen.next() == ("b", "c") == seen.file.catalogue.ids
        write_json(tmp_path / "new.json", "d")
        (tmp_path / "new.json").replace(path)
        assert await seen.next() == ("d",)
    assert seen.told == [("b", "c"), ("d",)], "other files in the folder are nobody's business"


@pytest.mark.anyio
async def test_a_file_behind_a_link_is_found_by_looking(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    real, link = tmp_path / "versions" / "1.json", tmp_path / "c.json"
    write_json(real, "a")
    link.symlink_to(real)
    async with watched(link, rescan=0.05) as seen:
        write_json(real, "b")
        assert await seen.next() == ("b",)


@pytest.mark.anyio
async def test_without_notifications_a_change_is_found_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "start", lambda self: None)
    path = tmp_path / "c.json"
    write_json(path, "a")
    async with watched(path, rescan=0.05) as seen:
        write_json(path, "b")
        assert await seen.next() == ("b",)


@pytest.mark.anyio
async def test_a_bad_new_version_keeps_the_old_one_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.json"
    write_json(path, "a", "b")
    async with watched(path, rescan=0.02) as seen:
        write_json(path, "c", cost_per_token=-1)
        assert "cost_per_token = -1 is not allowed" in await seen.refusal()
        assert seen.file.catalogue.ids == ("a", "b") and seen.told == []
        path.unlink()
        with anyio.fail_after(BOUND):
            while "cannot be read" not in str(seen.file.refused):
                await anyio.sleep(0.01)
        assert seen.file.catalogue.ids == ("a", "b")
        write_json(path, "d")
        assert await seen.next() == ("d",) and seen.file.refused is None
    bad, gone = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert bad.name == "devpipe.models.catalogue"
    assert "is refused; models kept from before: 2." in bad.getMessage()
    assert "c.json:7: models[0].cost_per_token = -1" in bad.getMessage()
    assert "cannot be read" in gone.getMessage()


@pytest.mark.anyio
async def test_a_file_that_is_still_being_written_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.json"
    write_json(path, "a")
    write_json(tmp_path / "b", "b")
    text = (tmp_path / "b").read_text(encoding="utf-8")
    watched = Watched(CatalogueFile(path, rescan=60, settle=1.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.file.watch, watched.take)
        await anyio.wait_all_tasks_blocked()
        with path.open("w", encoding="utf-8") as file:
            for char in range(0, len(text), 40):
                file.write(text[char : char + 40])
                file.flush()
                await anyio.sleep(0.02)
        assert await watched.next() == ("b",)
        tasks.cancel_scope.cancel()
    assert [record for record in caplog.records if record.levelno == logging.ERROR] == []


@pytest.mark.anyio
async def test_a_file_that_never_rests_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.json"
    write_json(path, "a")
    monkeypatch.setattr("devpipe.adapters.models.catalogue_file.MAX_SETTLING", 3)
    watched = Watched(CatalogueFile(path, rescan=60, settle=0.01))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.file.watch, watched.take)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(BOUND):
            for turn in range(10_000):
                write_json(tmp_path / "new", "b", "x" * (1 + turn % 100))
                (tmp_path / "new").replace(path)
                if watched.told:
                    break
                await anyio.sleep(0.001)
        assert watched.told
        tasks.cancel_scope.cancel()
