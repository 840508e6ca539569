"""A selector, and Phase 1's service, cancelled at every step: nothing is left behind, and the next one works."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from checkpoints import cancel_at_every_step, cancel_at_every_turn
from leftovers import Leftovers
from model_peer import ModelPeer
from support import World, serving

import devpipe

pytestmark = pytest.mark.anyio

WAYS = ["memory", "websocket", "http", "folder"]


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_a_bug(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is dropped unclosed warns when it is collected, and warnings are errors here."""
    caplog.set_level(logging.ERROR)
    yield
    gc.collect()
    assert not caplog.records


def selector(world: World, way: str) -> devpipe.ModelSelector:
    if way == "memory":
        return devpipe.ModelSelector(world.server)
    folder = world.folder if way == "folder" else None
    url = None if way == "folder" else world.url
    return devpipe.ModelSelector(url, folder=folder, transports=[way])


@contextlib.asynccontextmanager
async def witnessed(way: str) -> AsyncIterator[tuple[World, devpipe.ModelSelector]]:
    async with serving(ModelPeer().server()) as world, selector(world, way) as witness:
        await witness.select("chat")
        async with selector(world, way) as first:  # whatever is made once has been made
            await first.select("chat")
        yield world, witness


@pytest.mark.parametrize("way", WAYS)
async def test_a_selector_may_be_cancelled_at_every_step_from_entering_to_leaving(way: str) -> None:
    async with witnessed(way) as (world, witness):
        left = Leftovers(world, way)

        async def work() -> None:
            async with selector(world, way) as models:
                assert (await models.select("chat")).source == "server"

        async def check() -> None:
            assert (await witness.select("chat")).source == "server"
            await left.are_gone()

        await cancel_at_every_step(work, check, least=8)


@pytest.mark.parametrize("way", WAYS)
async def test_a_question_may_be_cancelled_at_every_turn_of_the_loop(way: str) -> None:
    async with witnessed(way) as (_, witness):

        async def work() -> None:
            assert (await witness.select("chat")).source == "server"

        async def check() -> None:
            assert witness.pipe.metrics()["waiting"] == 0
            assert (await witness.select("chat")).source == "server"

        await cancel_at_every_turn(work, check, least=1)


async def test_phase_1_may_be_cancelled_at_every_step_from_initialize_to_disconnect() -> None:
    async with witnessed("websocket") as (world, witness):
        left = Leftovers(world, "websocket")

        async def work() -> None:
            service = devpipe.ModelSelectionService(world.url)
            try:
                await service.initialize()
                await service.select_for_task("chat")
            finally:
                await service.disconnect()

        async def check() -> None:
            assert (await witness.select("chat")).source == "server"
            await left.are_gone()

        await cancel_at_every_step(work, check, least=3)
