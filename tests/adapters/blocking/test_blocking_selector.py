"""The blocking model selector: the same names, from any thread, without an event loop."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import anyio
import pytest
from model_peer import ModelPeer
from support import World, serving

import devpipe
import devpipe.blocking


@pytest.fixture
def peer() -> ModelPeer:
    return ModelPeer()


@pytest.fixture
def world(peer: ModelPeer) -> Iterator[World]:
    """A server in a thread and an event loop of its own."""
    heard: Queue[World] = Queue()
    leave = threading.Event()

    async def serve() -> None:
        async with serving(peer.server()) as world:
            heard.put(world)
            await anyio.to_thread.run_sync(leave.wait, 60, abandon_on_cancel=True)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        yield heard.get(timeout=20)
    finally:
        leave.set()
        thread.join(20)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_script_asks_in_one_line(peer: ModelPeer, world: World, backend: Any) -> None:
    told: Queue[Any] = Queue()
    with devpipe.blocking.ModelSelector(world.url, folder=world.folder, backend=backend) as models:
        remove = models.on("model_selected", told.put)
        choice = models.select(task_type="code-generation", quality="high", max_cost_usd=0.02)
        assert (choice.selected_model.id, choice.source) == ("m-1", "server")
        assert told.get(timeout=20).choice == choice
        remove()
        assert models.select_for_task("chat", "low").live
        assert models.select_cost_optimized("chat").live
        assert models.select_high_performance("chat").live
        assert models.choose(devpipe.ModelSelectionRequest(task_type="chat"), max_age=60).source == "server"
        assert models.choose(devpipe.ModelSelectionRequest(task_type="chat"), max_age=60).source == "cache"
        models.clear_cache()
        assert models.model_health()[0].model_id == "m-1"
        assert models.health["m-1"].status == "healthy"
        assert models.performance_metrics("m-1", "chat")[0].success_rate == 0.9
        models.report("m-1", "chat", success=True, response_time=0.5)
        assert models.update_preferences(priority="cost") == models.preferences
        assert models.connected
        assert "active:" in str(models.explain())
    assert peer.reports and peer.preferences["default"]["priority"] == "cost"


def test_threads_may_share_one(world: World) -> None:
    with devpipe.blocking.ModelSelector(world.url) as models, ThreadPoolExecutor(8) as threads:
        choices = list(threads.map(lambda n: models.select("chat", context_length=n), range(40)))
    assert {choice.source for choice in choices} == {"server"}


def test_without_a_server_a_marked_choice_comes_all_the_same(tmp_path: Path) -> None:
    with devpipe.blocking.ModelSelector(
        "http://127.0.0.1:9", folder=tmp_path / "pipe", token=lambda: "t", patience=0.1
    ) as models:
        assert models.select("chat").source == "static"


def test_outside_with_it_says_what_to_do() -> None:
    models = devpipe.blocking.ModelSelector("http://127.0.0.1:9")
    with pytest.raises(devpipe.PipeClosed, match="with"):
        models.select("chat")


def test_it_has_every_public_name_of_the_asynchronous_one_with_the_same_arguments() -> None:
    for name, member in inspect.getmembers(devpipe.ModelSelector):
        if name.startswith("_"):
            continue
        ours = getattr(devpipe.blocking.ModelSelector, name)
        if inspect.isfunction(member) and name not in ("on", "off"):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(member).parameters), (
                name
            )
