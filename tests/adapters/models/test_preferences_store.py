"""Preferences last, change in part, belong to one user, and harm nobody when their file is out of order."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import anyio
import pytest

from devpipe.adapters.models import preferences_store
from devpipe.adapters.models.preferences_store import PreferencesStore
from devpipe.machines.errors import ConfigurationError, ModelSelectionError
from devpipe.machines.models.types import Preferences

pytestmark = pytest.mark.anyio
BOUND = 10.0


async def test_what_was_updated_is_there_after_the_store_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    async with PreferencesStore(path) as store:
        assert await store.get("ann") == Preferences()
        changed = await store.update("ann", {"priority": "cost", "preferred_providers": ["a", "b"]})
        assert changed == Preferences(priority="cost", preferred_providers=("a", "b"))
    async with PreferencesStore(path) as store:
        assert await store.get("ann") == changed
        assert await store.get("bob") == Preferences(), "everybody has their own"
        both = await store.update("ann", {"quality_threshold": 1})
        assert both == Preferences(priority="cost", preferred_providers=("a", "b"), quality_threshold=1)
    assert os.listdir(tmp_path) == ["p.sqlite"], "the journal was folded in"


async def test_without_a_file_they_are_kept_in_memory_until_the_store_is_closed(tmp_path: Path) -> None:
    store = PreferencesStore()
    async with store:
        await store.update("ann", {"priority": "cost"})
        assert (await store.get("ann")).priority == "cost"
    async with store:
        assert await store.get("ann") == Preferences()


async def test_two_stores_on_one_file_lose_no_change_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    async with PreferencesStore(path) as one, PreferencesStore(path) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.update, "ann", {"priority": "cost"})
            tasks.start_soon(other.update, "ann", {"fallback_enabled": False})
            for user in range(20):
                tasks.start_soon((one, other)[user % 2].update, f"u{user}", {"quality_threshold": 0.1})
        assert await one.get("ann") == Preferences(priority="cost", fallback_enabled=False)
        assert (await other.get("u4")).quality_threshold == 0.1
    mode = sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)


async def test_a_preference_out_of_range_changes_nothing(tmp_path: Path) -> None:
    async with PreferencesStore(tmp_path / "p.sqlite") as store:
        await store.update("ann", {"priority": "cost"})
        with pytest.raises(ModelSelectionError, match="quality_threshold = 2 is not allowed") as caught:
            await store.update("ann", {"priority": "balanced", "quality_threshold": 2})
        assert caught.value.code == "INVALID_REQUEST"
        assert await store.get("ann") == Preferences(priority="cost")
        await store.update("ann", {"quality_threshold": 0.5})


async def test_users_are_bounded_and_nobody_makes_room_for_a_stranger() -> None:
    async with PreferencesStore(max_users=2) as store:
        for user in ("ann", "bob", "ann"):
            await store.update(user, {"priority": "cost"})
        with pytest.raises(ModelSelectionError, match="preferences of 2 users") as caught:
            await store.update("eve", {"priority": "cost"})
        assert caught.value.code == "SERVICE_UNAVAILABLE" and caught.value.suggestions
        assert (await store.get("ann")).priority == "cost" and await store.get("eve") == Preferences()


async def test_a_file_that_another_process_holds_is_a_clear_error_and_blocks_no_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preferences_store, "BUSY_TIMEOUT", 0.3)
    path = tmp_path / "p.sqlite"
    async with PreferencesStore(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        errors: list[ModelSelectionError] = []
        turns = 0

        async def update() -> None:
            with pytest.raises(ModelSelectionError) as caught:
                await store.update("ann", {"priority": "cost"})
            errors.append(caught.value)

        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(update)
                while not errors:
                    turns += 1
                    await anyio.sleep(0.01)
        assert turns > 5, "the loop went on"
        assert errors[0].code == "SERVICE_UNAVAILABLE" and "locked" in caplog.text
        holder.execute("ROLLBACK")
        holder.close()
        assert (await store.update("ann", {"priority": "cost"})).priority == "cost"


async def test_whoever_reads_does_not_wait_for_those_who_wait_to_write(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    async with PreferencesStore(path) as store:
        await store.update("ann", {"priority": "cost"})
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        refused = 0

        async def update() -> None:
            nonlocal refused
            with pytest.raises(ModelSelectionError):
                await store.update("bob", {"priority": "cost"})
            refused += 1

        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(update)
                await anyio.wait_all_tasks_blocked()
                assert (await store.get("ann")).priority == "cost"
                assert not refused, "the one who writes still waits"
        holder.close()


@pytest.mark.parametrize("first", ["get", "update"])
async def test_what_is_told_as_kept_is_found_again_although_the_file_was_removed_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    path = tmp_path / "p.sqlite"
    async with PreferencesStore(path) as store:
        await store.update("ann", {"priority": "cost"})
        path.unlink()
        if first == "get":
            assert await store.get("ann") == Preferences(), "it is gone, and is not remembered by us alone"
        for number in range(50):
            await store.update(f"u{number}", {"priority": "performance"})
            assert (await store.get(f"u{number}")).priority == "performance"
        assert str(path) in caplog.text
    async with PreferencesStore(path) as store:
        assert (await store.get("u49")).priority == "performance"
        assert await store.get("ann") == Preferences()


async def test_a_backup_that_is_put_back_counts_at_once_and_a_wrong_one_is_a_clear_error(
    tmp_path: Path,
) -> None:
    path, backup = tmp_path / "p.sqlite", tmp_path / "b.sqlite"
    async with PreferencesStore(backup) as store:
        await store.update("ann", {"priority": "cost"})
    async with PreferencesStore(path) as store:
        await store.get("ann")
        backup.replace(path)
        assert (await store.get("ann")).priority == "cost"
        (tmp_path / "text").write_text("no database, but rather more than the head of one is long" * 10)
        (tmp_path / "text").replace(path)
        for _ in range(2):
            with pytest.raises(ModelSelectionError) as caught:
                await store.get("ann")
            assert caught.value.code == "SERVICE_UNAVAILABLE"
        path.unlink()
        assert await store.get("ann") == Preferences()
        assert (await store.update("ann", {"priority": "cost"})).priority == "cost"


async def test_a_caller_that_is_cancelled_leaves_the_store_in_order(tmp_path: Path) -> None:
    async with PreferencesStore(tmp_path / "p.sqlite") as store:
        for delay in (0, 0.0005, 0.001, 0.002):
            with anyio.move_on_after(delay):
                await store.update("ann", {"priority": "cost"})
        assert (await store.update("ann", {"priority": "cost"})).priority == "cost"


async def test_it_works_in_a_worker_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    change = preferences_store.change_preferences

    def noting(current: Preferences, changes: object) -> Preferences:
        threads.append(threading.current_thread())
        return change(current, changes)

    monkeypatch.setattr(preferences_store, "change_preferences", noting)
    async with PreferencesStore() as store:
        await store.update("ann", {})
    assert threads and threads[0] is not threading.current_thread()


async def test_damaged_preferences_of_one_user_count_as_defaults_and_can_be_set_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.sqlite"
    async with PreferencesStore(path) as store:
        await store.update("ann", {"priority": "cost"})
        with sqlite3.connect(path) as other:
            other.execute("""UPDATE preferences SET document = '{"priority": 7}'""")
        other.close()
        assert await store.get("ann") == Preferences() and "'ann'" in caplog.text
        assert (await store.update("ann", {"quality_threshold": 0})).quality_threshold == 0
        with sqlite3.connect(path) as other:
            other.execute("UPDATE preferences SET document = 5.5")
        other.close()
        assert await store.get("ann") == Preferences()


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    foreign, later = tmp_path / "f.sqlite", tmp_path / "l.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    async with PreferencesStore(later):
        pass
    with sqlite3.connect(later) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    before = {path: path.read_bytes() for path in (foreign, later)}
    for path in before:
        with pytest.raises(ConfigurationError, match="another program, or of a later version"):
            async with PreferencesStore(path):
                pass
        assert path.read_bytes() == before[path]


async def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n" * 200, encoding="utf-8")
    for path in (text, tmp_path / "missing" / "p.sqlite", tmp_path, "a\0b"):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            async with PreferencesStore(path):
                pass


async def test_a_store_that_is_closed_or_open_already_says_so() -> None:
    store = PreferencesStore()
    with pytest.raises(ModelSelectionError, match="closed") as caught:
        await store.get("ann")
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    async with store:
        with pytest.raises(ConfigurationError, match="open already"):
            async with store:
                pass
        assert await store.get("ann") == Preferences()
