"""A user's preferences here and on the server: nothing that is stored is lost, and no choice goes by other ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from model_peer import MODEL, RESPONSE, ModelPeer

import devpipe
from devpipe.adapters.models.model_server import ModelServer
from devpipe.adapters.ports.clock import SystemClock

pytestmark = pytest.mark.anyio

STORED = {"max_cost_per_request": 0.001, "quality_threshold": 0.9}


@asynccontextmanager
async def stored(user: str) -> AsyncIterator[devpipe.Server]:
    """A server that selects models, and has kept ``STORED`` of this user."""
    server = devpipe.Server()
    ModelServer(server)
    with anyio.fail_after(20):
        async with server, devpipe.connect(server) as pipe:
            await pipe.send("preferences-update", {"user": user, "preferences": STORED})
            yield server


async def kept(server: devpipe.Server, user: str) -> dict[str, Any]:
    async with devpipe.connect(server) as pipe:
        reply = await pipe.send("preferences-request", {"user": user})
    preferences: dict[str, Any] = reply.payload["preferences"]
    return preferences


@pytest.mark.parametrize("user", ["default", "ann"])
async def test_a_change_before_the_stored_preferences_have_come_leaves_the_others_as_they_were(
    user: str,
) -> None:
    async with stored(user) as server, devpipe.ModelSelector(server, user=user) as models:
        told = anyio.Event()
        models.on("preferences_updated", lambda event: told.set() if event.synced else None)
        assert not models.connected
        await models.update_preferences(priority="cost")
        await told.wait()
        assert models.preferences == devpipe.Preferences(priority="cost", **STORED)
        assert await kept(server, user) == {**await kept(server, "nobody"), "priority": "cost", **STORED}


@pytest.mark.parametrize("user", ["default", "ann"])
async def test_the_first_selection_already_goes_by_the_stored_budget(user: str) -> None:
    async with stored(user) as server, devpipe.ModelSelector(server, user=user) as models:
        for select in (models.select, models.select_high_performance):
            with pytest.raises(devpipe.ModelSelectionError) as caught:
                await select(
                    "code-generation", **({"context_length": 500_000} if select == models.select else {})
                )
            assert caught.value.code == "BUDGET_EXCEEDED"


async def test_a_change_that_is_not_told_yet_counts_for_the_first_selection() -> None:
    async with stored("ann") as server, devpipe.ModelSelector(server, user="ann") as models:
        await models.update_preferences(max_cost_per_request=100)
        choice = await models.select("code-generation", context_length=500_000)
        assert choice.source == "server"
        assert choice.estimated_cost > STORED["max_cost_per_request"]


async def test_a_refused_change_takes_back_itself_and_no_other() -> None:
    server = devpipe.Server()
    refuse, asked = anyio.Event(), anyio.Event()

    @server.handler("preferences-request")
    async def get(message: devpipe.Message) -> Any:
        return {"preferences": {}}

    @server.handler("preferences-update")
    async def update(message: devpipe.Message) -> Any:
        if message.payload.get("priority") == "cost":
            asked.set()
            await refuse.wait()
            raise devpipe.HandlerError("not you", code="INVALID_REQUEST")
        return {"preferences": message.payload}

    async def change(models: devpipe.ModelSelector) -> None:
        with pytest.raises(devpipe.ModelSelectionError, match="not you"):
            await models.update_preferences(priority="cost")

    with anyio.fail_after(20):
        async with server, devpipe.ModelSelector(server) as models:
            connected = anyio.Event()
            models.on("connected", lambda event: connected.set())
            if not models.connected:
                await connected.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(change, models)
                await asked.wait()
                tasks.start_soon(partial(models.update_preferences, max_cost_per_request=0.01))
                refuse.set()
            assert models.preferences == devpipe.Preferences(max_cost_per_request=0.01)


# --- answers that were on their way -----------------------------------------------------------------------


class Late:
    """A server that chooses when it ``may``, and tells that it was ``asked``; then it is ill."""

    def __init__(self) -> None:
        self.asked, self.may = anyio.Event(), anyio.Event()
        self.server = devpipe.Server()
        self.server.handler("model-selection-request")(self._select)

    async def _select(self, message: devpipe.Message) -> Any:
        if self.asked.is_set():
            raise devpipe.HandlerError("I am ill", code="SERVICE_UNAVAILABLE")
        self.asked.set()
        await self.may.wait()
        return RESPONSE


async def test_an_answer_by_preferences_of_before_never_stands_in_later() -> None:
    late = Late()
    with anyio.fail_after(20):
        async with late.server, devpipe.ModelSelector(late.server) as models:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(models.select, "chat")
                await late.asked.wait()
                await models.update_preferences(
                    max_cost_per_request=0.0005
                )  # the answer on its way costs twice that
                late.may.set()
            choice = await models.select("chat")
            assert choice.source == "static"
            assert choice.estimated_cost <= 0.0005


async def test_an_answer_with_a_model_that_went_offline_meanwhile_never_stands_in_later() -> None:
    late = Late()
    with anyio.fail_after(20):
        async with late.server, devpipe.ModelSelector(late.server) as models:
            offline = anyio.Event()
            models.on("health_updated", lambda event: offline.set())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(models.select, "chat")
                await late.asked.wait()
                await late.server.push("health_update", {"model_id": MODEL["id"], "status": "offline"})
                await offline.wait()
                late.may.set()
            assert (await models.select("chat")).source == "static"


async def test_an_answer_grows_old_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = 0.0
    monkeypatch.setattr(SystemClock, "slept", lambda clock: asleep)
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with peer.server() as server, devpipe.ModelSelector(server, cache_duration=300) as models:
            await models.select("chat")
            peer.answer = devpipe.HandlerError("I am ill", code="SERVICE_UNAVAILABLE")
            asleep = 200.0
            choice = await models.select("chat")
            assert (choice.source, round(choice.age or 0, -2)) == ("cache", 200)
            assert (await models.select("chat", max_age=100)).stand_in_for, "it was asked anew"
            asleep = 8 * 3600.0
            assert (await models.select("chat")).source == "static"


# --- limits that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), -1.0])
async def test_a_limit_that_json_cannot_say_is_refused_and_not_sent_as_no_limit(limit: float) -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with peer.server() as server, devpipe.ModelSelector(server) as models:
            request = devpipe.ModelSelectionRequest(task_type="chat", max_cost=limit)
            for asking in (
                models.choose(request),
                models.select("chat", max_cost_usd=limit),
                models.select_cost_optimized("chat", limit),
            ):
                with pytest.raises(devpipe.ModelSelectionError, match="max_cost") as caught:
                    await asking
                assert caught.value.code == "INVALID_REQUEST"
    assert peer.requests == []


async def test_a_deployed_server_hears_them_bare_and_may_say_what_it_likes() -> None:
    server = devpipe.Server()
    heard: list[Any] = []

    @server.handler("preferences-update")
    async def update(message: devpipe.Message) -> Any:
        heard.append(message.payload)
        return {"status": "updated"}

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    with anyio.fail_after(20):
        async with server, devpipe.ModelSelector(server, preferences=devpipe.Preferences()) as models:
            synced = anyio.Event()
            models.on("preferences_updated", lambda event: synced.set() if event.synced else None)
            await synced.wait()
            after = await models.update_preferences(priority="cost")
            assert after.priority == models.preferences.priority == "cost"
    assert heard[-1] == {"priority": "cost"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"user": ""}, "user = ''"),
        ({"user": "x" * 300}, "user = "),
        ({"user": "a\nb"}, "user = "),
        ({"preferences": devpipe.Preferences(max_cost_per_request=-1)}, "max_cost_per_request = -1"),
        ({"preferences": devpipe.Preferences(timeout_preference=float("inf"))}, "timeout_preference = inf"),
    ],
)
def test_who_asks_and_what_they_prefer_is_refused_at_once_if_no_server_would_take_it(
    wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(devpipe.ConfigurationError, match=named):
        devpipe.ModelSelector("http://127.0.0.1:9", **wrong)
