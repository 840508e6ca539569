"""``ModelSelectionService``: a program of Phase 1 as it was written, and what it is told about its spelling."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from model_peer import ModelPeer
from support import World, serving

import devpipe

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def world_of(peer: ModelPeer) -> AsyncIterator[World]:
    with anyio.fail_after(20):
        async with serving(peer.server()) as world:
            yield world


async def test_a_program_of_phase_1_runs_and_gains_the_transports() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world:
        changes: list[Any] = []
        service = devpipe.ModelSelectionService(world.url, str(world.folder), {"timeout": 5000})
        service.on("transport_changed", changes.append).on("model_selected", changes.append)
        assert not service.is_connected()
        await service.initialize()
        try:
            response = await service.select_model({"task_type": "chat", "max_cost": 0.01})
            assert (response.selected_model.id, response.source) == ("m-1", "server")
            assert (await service.select_for_task("chat")).estimated_cost == 0.001
            assert (await service.select_cost_optimized("chat")).source == "server"
            assert (await service.select_high_performance("chat")).source == "server"
            assert (await service.get_model_health())[0].model_id == "m-1"
            assert (await service.refresh_model_health())[0].status == "healthy"
            assert service.is_healthy("m-1")
            assert service.get_cached_health("m-2") is None
            assert not service.is_healthy("m-2")
            assert (await service.get_performance_metrics("m-1"))[0].model_id == "m-1"
            assert (await service.update_preferences({"priority": "cost"})).priority == "cost"
            assert service.get_preferences().priority == "cost"
            assert service.is_connected()
            assert service.get_config().timeout == 5000
            assert [t.name for t in service.get_transport_status()] == ["websocket", "http", "folder"]
        finally:
            await service.disconnect()
        assert not service.is_connected()
        assert [event.name for event in changes if event.name == "transport_changed"]


OLD_CALLS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("selectModel", "select_model", ({"task_type": "chat"},)),
    ("selectForTask", "select_for_task", ("chat",)),
    ("selectCostOptimized", "select_cost_optimized", ("chat",)),
    ("selectHighPerformance", "select_high_performance", ("chat",)),
    ("getModelHealth", "get_model_health", ()),
    ("refreshModelHealth", "refresh_model_health", ()),
    ("getCachedHealth", "get_cached_health", ("m-1",)),
    ("isHealthy", "is_healthy", ("m-1",)),
    ("getPerformanceMetrics", "get_performance_metrics", ()),
    ("updatePreferences", "update_preferences", ({"priority": "cost"},)),
    ("getPreferences", "get_preferences", ()),
    ("isConnected", "is_connected", ()),
    ("getConfig", "get_config", ()),
    ("getTransportStatus", "get_transport_status", ()),
]


async def test_each_old_spelling_works_with_one_warning_that_names_the_new_one() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world, devpipe.ModelSelectionService(world.url) as service:
        for old, new, arguments in OLD_CALLS:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                result = getattr(service, old)(*arguments)
                if hasattr(result, "__await__"):
                    await result
            assert [(w.category, str(w.message), w.filename) for w in told] == [
                (DeprecationWarning, f"{old} is an old spelling: write {new}", __file__)
            ]


async def test_old_spellings_in_a_request_are_taken_and_named() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world, devpipe.ModelSelectionService(world.url) as service:
        with pytest.warns(DeprecationWarning, match="taskType is an old spelling: write task_type"):
            await service.select_model({"taskType": "chat"})
        with pytest.warns(DeprecationWarning, match="qualityThreshold") as told:
            await service.update_preferences({"qualityThreshold": 0.5})
        assert told[0].filename == __file__
    assert peer.requests == [{"task_type": "chat"}]


async def test_a_name_in_a_request_that_is_none_is_refused_and_nothing_is_sent() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world, devpipe.ModelSelectionService(world.url) as service:
        with pytest.raises(devpipe.ModelSelectionError, match="did you mean 'max_cost'") as caught:
            await service.select_model({"task_type": "chat", "max_cost_usd": 1e-9})
        assert caught.value.code == "INVALID_REQUEST"
        with pytest.raises(devpipe.ModelSelectionError, match="did you mean 'priority'"):
            await service.update_preferences({"prioritty": "cost"})
    assert peer.requests == []


def test_old_spellings_in_the_options_are_taken_and_named() -> None:
    with pytest.warns(DeprecationWarning, match="old spelling") as told:
        service = devpipe.ModelSelectionService(
            "http://127.0.0.1:9", "", {"cacheDuration": 1}, retryAttempts=2
        )
    assert [str(w.message) for w in told] == [
        "cacheDuration is an old spelling: write cache_duration",
        "retryAttempts is an old spelling: write retry_attempts",
    ]
    assert told[0].filename == __file__
    assert (service.get_config().cache_duration, service.get_config().retry_attempts) == (1, 2)


async def test_it_may_be_opened_by_one_task_and_closed_by_another() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world:
        service = devpipe.ModelSelectionService(world.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.initialize)
        await service.initialize()  # once more changes nothing
        assert (await service.select_for_task("chat")).source == "server"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.disconnect)
        await service.disconnect()


async def test_when_two_parts_of_a_program_initialize_at_once_both_can_ask_when_it_returns() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world:
        service = devpipe.ModelSelectionService(world.url)
        sources: list[str] = []

        async def use() -> None:
            await service.initialize()
            sources.append((await service.select_for_task("chat")).source)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use)
        await service.disconnect()
    assert sources == ["server"] * 3


async def test_an_initialize_that_waits_for_another_one_begins_anew_when_that_is_cancelled() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world:
        service = devpipe.ModelSelectionService(world.url)
        first = anyio.CancelScope()

        async def cancelled() -> None:
            with first:
                await service.initialize()

        async def waiting() -> None:
            first.cancel()
            await service.initialize()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            tasks.start_soon(waiting)
        assert (await service.select_for_task("chat")).source == "server"
        await service.disconnect()


async def test_it_may_be_opened_again_and_its_listeners_stay() -> None:
    peer = ModelPeer()
    heard: list[Any] = []
    async with world_of(peer) as world:
        service = devpipe.ModelSelectionService(world.url)
        service.on("model_selected", heard.append)
        service.on("preferences_updated", heard.append)
        service.off("preferences_updated", heard.append)
        async with service:
            service.off("connected", heard.append)
        async with service:
            done = anyio.Event()
            service.on("model_selected", lambda event: done.set())
            await service.select_for_task("chat")
            await done.wait()
            await service.update_preferences({"priority": "cost"})
    assert [event.name for event in heard] == ["model_selected"]


async def test_a_cancelled_initialize_leaves_nothing_behind() -> None:
    peer = ModelPeer()
    async with world_of(peer) as world:
        service = devpipe.ModelSelectionService(world.url)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await service.initialize()
        assert scope.cancelled_caught
        assert not service.is_connected()
        async with service:
            assert (await service.select_for_task("chat")).source == "server"


async def test_without_a_server_it_falls_back_as_phase_1_did(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        async with devpipe.ModelSelectionService("http://127.0.0.1:9", str(tmp_path / "pipe")) as service:
            response = await service.select_for_task("code-generation")
            assert (response.source, response.live) == ("static", False)
        async with devpipe.ModelSelectionService(
            "http://127.0.0.1:9", timeout=200, fallback_enabled=False
        ) as service:
            with pytest.raises(devpipe.ModelSelectionError):
                await service.select_for_task("chat")


async def test_before_initialize_it_says_what_to_do() -> None:
    service = devpipe.ModelSelectionService("http://127.0.0.1:9")
    with pytest.raises(devpipe.PipeClosed, match="initialize"):
        await service.select_for_task("chat")
    with pytest.raises(devpipe.ConfigurationError, match="model_selected"):
        service.on("chosen", print)


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        (("ftp://x",), {}, "server_url"),
        ((), {}, "server_url"),
        (("http://x",), {"timeout": -1}, "timeout"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    arguments: tuple[str, ...], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(devpipe.ConfigurationError, match=named):
        devpipe.ModelSelectionService(*arguments, **options)
