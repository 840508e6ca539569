"""``ModelSelector`` against real servers: live answers, stand-ins that say so, preferences, health, events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from model_peer import MODEL, RESPONSE, ModelPeer
from support import serving

import devpipe

pytestmark = pytest.mark.anyio

#: Nobody listens on the discard port of this machine.
NOBODY = "http://127.0.0.1:9"


@asynccontextmanager
async def selecting(
    peer: ModelPeer, *, complete: bool = True, **options: Any
) -> AsyncIterator[devpipe.ModelSelector]:
    """A selector that reaches a server of this program over memory."""
    with anyio.fail_after(20):
        async with (
            peer.server(complete=complete) as server,
            devpipe.ModelSelector(server, **options) as models,
        ):
            yield models


class Heard:
    """What a selector told, waited for by name."""

    def __init__(self, models: devpipe.ModelSelector, *names: str) -> None:
        self.events: list[Any] = []
        self._more = anyio.Event()
        for name in names:
            models.on(name, self._hear)

    def _hear(self, event: Any) -> None:
        self.events.append(event)
        self._more.set()

    async def wait(self, name: str) -> Any:
        with anyio.fail_after(10):
            while True:
                for event in self.events:
                    if event.name == name:
                        self.events.remove(event)
                        return event
                self._more = anyio.Event()
                await self._more.wait()


# --- the answer ---------------------------------------------------------------------------------------


async def test_the_server_chooses_and_the_choice_says_so() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        choice = await models.select(task_type="code-generation", quality="high", max_cost_usd=0.02)
    assert (choice.selected_model.id, choice.reasoning) == ("m-1", "it does chat well")
    assert (choice.source, choice.live, choice.age, choice.stand_in_for) == ("server", True, 0.0, None)
    assert peer.requests == [
        {"task_type": "code-generation", "quality_requirement": "high", "max_cost": 0.02}
    ]


async def test_a_wrong_argument_is_refused_by_its_own_name_and_nothing_is_sent() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
            (models.select, ("poetry",), {}, "task_type = 'poetry' is not allowed: give one of text-generat"),
            (models.select, ("chat",), {"timeout": -1, "providers": "x"}, "providers = 'x'.*timeout = -1"),
            (
                models.select,
                ("chat",),
                {"max_age": -1},
                "max_age = -1 is not allowed: give a finite number, 0",
            ),
            (models.select, ("chat",), {"max_age": "1"}, "max_age = '1' is not allowed"),
            (models.select_for_task, ("chat", "best"), {}, "quality = 'best' is not allowed"),
            (models.select_cost_optimized, ("chat", -1), {}, "max_cost_usd = -1 is not allowed"),
            (models.select_high_performance, ("poetry",), {}, "task_type = 'poetry' is not allowed"),
            (models.report, ("m", "chat"), {"success": True, "response_time": -1}, "response_time = -1"),
        ]
        for call, arguments, keywords, words in calls:
            with pytest.raises(devpipe.ModelSelectionError, match=words) as caught:
                await call(*arguments, **keywords)
            assert caught.value.code == "INVALID_REQUEST" and caught.value.suggestions
    assert peer.requests == []


@pytest.mark.parametrize("transport", ["websocket", "http", "folder"])
async def test_it_is_the_same_over_every_transport(transport: str) -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with serving(peer.server()) as world:
            url = None if transport == "folder" else world.url
            folder = world.folder if transport == "folder" else None
            async with devpipe.ModelSelector(url, folder=folder, transports=[transport]) as models:
                choice = await models.select("chat")
                assert (choice.source, choice.selected_model.id) == ("server", "m-1")
                assert models.pipe.active == transport


async def test_low_quality_goes_first() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        await models.select("editing", quality="low")
        await models.select("analysis", quality="high")
    assert [m.priority for m in peer.messages] == [devpipe.Priority.HIGH, devpipe.Priority.NORMAL]


async def test_chat_takes_a_transport_that_pushes_though_another_one_is_active() -> None:
    peer = ModelPeer()
    chain = {"failover.fallback_chain": ("folder", "websocket"), "failover.preference_delay": 5.0}
    with anyio.fail_after(20):
        async with (
            serving(peer.server()) as world,
            devpipe.ModelSelector(
                world.url, folder=world.folder, transports=["folder", "websocket"], settings=chain
            ) as models,
        ):
            await models.select("analysis")
            while not all(transport.ready for transport in models.pipe.transports):
                await anyio.lowlevel.checkpoint()
            await models.select("chat")
            await models.select("analysis")
    assert [message.transport for message in peer.messages] == ["folder", "websocket", "folder"]


async def test_chat_goes_over_a_folder_where_that_is_all_there_is() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with (
            serving(peer.server()) as world,
            devpipe.ModelSelector(folder=world.folder) as models,
        ):
            assert (await models.select("chat")).source == "server"


async def test_the_short_forms_say_what_they_mean() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        await models.select_for_task("translation", "medium")
        await models.select_cost_optimized("chat")
        await models.select_high_performance("planning")
    task, cheap, best = peer.requests
    assert task == {"task_type": "translation", "quality_requirement": "medium"}
    assert (cheap["max_cost"], cheap["user_preferences"]["priority"]) == (0.01, "cost")
    assert (best["quality_requirement"], best["user_preferences"]["priority"]) == ("high", "performance")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"task_type": "poetry"}, "task_type"),
        ({"task_type": "chat", "quality": "superb"}, "quality = 'superb'"),
        ({"task_type": "chat", "max_cost_usd": -1}, "max_cost_usd = -1"),
        ({"task_type": "chat", "context_length": "long"}, "context_length"),
        ({"task_type": "chat", "timeout": 0}, "timeout = 0"),
    ],
)
async def test_a_request_that_is_not_valid_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        with pytest.raises(devpipe.ModelSelectionError, match=named) as caught:
            await models.select(**wrong)
    assert caught.value.code == "INVALID_REQUEST"
    assert peer.requests == []


# --- what stands in -----------------------------------------------------------------------------------


async def test_a_server_that_selects_no_models_is_told_with_the_remedy_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with anyio.fail_after(20):
        async with serving() as world:
            async with devpipe.ModelSelector(world.url, transports=["http"]) as models:
                choices = [await models.select("chat"), await models.select("chat")]
                models.fallback_enabled = False
                with pytest.raises(devpipe.ModelSelectionError) as caught:
                    await models.select("chat")
    told = caught.value
    assert str(told).startswith(
        f"the server at {world.url} selects no models (unknown_type: no handler for 'model-selection-request'; there are: echo, "
    )
    assert str(told).endswith("): start it with devpipe serve --catalogue FILE")
    assert told.code == "SERVICE_UNAVAILABLE" and isinstance(told.__cause__, devpipe.RequestRefused)
    assert [(choice.source, choice.stand_in_for) for choice in choices] == [("static", str(told))] * 2
    warnings = [record.getMessage() for record in caplog.records if record.name == "devpipe.models"]
    assert warnings == [f"{told}; until then something stands in"]


async def test_an_answer_young_enough_is_given_again_with_its_age() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        await models.select("chat")
        again = await models.select("chat", max_age=60)
        assert (again.source, again.live, again.stand_in_for) == ("cache", False, None)
        assert again.age is not None
        assert 0 <= again.age < 60
        assert (await models.select("chat")).source == "server"
        models.clear_cache()
        assert (await models.select("chat", max_age=60)).source == "server"
    assert len(peer.requests) == 3


async def test_without_a_server_the_last_answer_stands_in_and_else_the_static_table() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with peer.server() as server:
            async with devpipe.ModelSelector(server, patience=0.05) as models:
                assert (await models.select("chat")).source == "server"
                peer.answer = devpipe.HandlerError("I am ill", code="handler_error")
                cached = await models.select("chat")
                static = await models.select("analysis")
    assert (cached.source, cached.selected_model.id) == ("cache", "m-1")
    assert "I am ill" in (cached.stand_in_for or "")
    assert (static.source, static.age) == ("static", None)
    assert static.selected_model.id == "claude-sonnet-5-5"
    assert "I am ill" in static.reasoning
    assert static.selection_metadata.factors_considered == ("fallback",)


async def test_all_transports_down_from_the_start_gives_a_marked_fallback_within_the_timeout(
    tmp_path: Path,
) -> None:
    began = anyio.current_time()
    with anyio.fail_after(10):
        async with devpipe.ModelSelector(NOBODY, folder=tmp_path / "pipe", patience=0.2) as models:
            choice = await models.select("code-generation", timeout=5)
            assert (choice.source, choice.live) == ("static", False)
            assert "no transport reaches the server" in (choice.stand_in_for or "")
            assert "nobody listens" in (choice.stand_in_for or "")
            assert anyio.current_time() - began < 5
            assert not models.connected


async def test_all_transports_down_from_the_start_is_a_clear_error_where_no_fallback_is_wanted() -> None:
    with anyio.fail_after(10):
        async with devpipe.ModelSelector(NOBODY, fallback_enabled=False) as models:
            heard = Heard(models, "transport_error")
            with pytest.raises(devpipe.ModelSelectionError, match="127.0.0.1") as caught:
                await models.select("chat", timeout=0.3)
            assert caught.value.code in ("SERVICE_UNAVAILABLE", "TIMEOUT")
            assert caught.value.suggestions
            told = await heard.wait("transport_error")
            assert (told.error, told.context) == (caught.value, "model_selection")


async def test_a_preference_may_switch_the_fallback_off() -> None:
    peer = ModelPeer()
    peer.answer = ZeroDivisionError("a secret")
    async with selecting(peer, preferences=devpipe.Preferences(fallback_enabled=False)) as models:
        with pytest.raises(devpipe.ModelSelectionError) as caught:
            await models.select("chat")
    assert caught.value.code == "SERVICE_UNAVAILABLE"
    assert "secret" not in str(caught.value)


async def test_a_hanging_server_ends_in_a_marked_fallback_at_the_timeout() -> None:
    slow = devpipe.Server()

    @slow.handler("model-selection-request")
    async def hang(message: devpipe.Message) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(20):
        async with slow, devpipe.ModelSelector(slow) as models:
            choice = await models.select("chat", timeout=0.2)
            assert choice.source == "static"
            models.fallback_enabled = False
            with pytest.raises(devpipe.ModelSelectionError) as caught:
                await models.select("chat", timeout=0.2)
            assert caught.value.code == "TIMEOUT"
            assert isinstance(caught.value.__cause__, devpipe.DeadlineExceeded)


@pytest.mark.parametrize("code", ["BUDGET_EXCEEDED", "NO_HEALTHY_MODELS", "INVALID_REQUEST"])
async def test_a_server_that_refuses_has_answered_and_nothing_stands_in(code: str) -> None:
    peer = ModelPeer()
    peer.answer = devpipe.HandlerError(
        "too poor", code=code, details={"cheapest": "m-2", "suggestions": ["allow 0.03 US dollars"]}
    )
    async with selecting(peer) as models:
        with pytest.raises(devpipe.ModelSelectionError, match="too poor") as caught:
            await models.select("chat", max_cost_usd=0.001)
    assert (caught.value.code, caught.value.suggestions) == (code, ("allow 0.03 US dollars",))
    assert caught.value.outcome is devpipe.Outcome.EXECUTED


HALF = {key: value for key, value in RESPONSE.items() if key != "reasoning"}


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (HALF, "reasoning"),
        ({**RESPONSE, "selected_model": {**MODEL, "quality_score": "good"}}, "quality_score"),
        ({**RESPONSE, "selected_model": {"id": "m-1", "name": "Half"}}, "provider"),
        ({**RESPONSE, "selected_model": {**MODEL, "cost_per_token": -1}}, "cost_per_token"),
        ({**RESPONSE, "selected_model": {**MODEL, "availability_score": 7}}, "availability_score"),
        (None, "answer"),
        ("gpt-4", "answer"),
        ([], "answer"),
    ],
)
async def test_a_model_that_does_not_fit_the_schema_or_half_of_one_is_no_answer(
    answer: Any, named: str
) -> None:
    peer = ModelPeer()
    peer.answer = answer
    async with selecting(peer) as models:
        heard = Heard(models, "transport_error", "model_selected")
        choice = await models.select("chat")
        assert choice.source == "static"
        assert named in (choice.stand_in_for or "")
        assert named in str((await heard.wait("transport_error")).error)
        assert (await heard.wait("model_selected")).choice is choice


async def test_an_answer_that_was_no_answer_is_never_remembered() -> None:
    peer = ModelPeer()
    peer.answer = HALF
    async with selecting(peer) as models:
        await models.select("chat")
        peer.answer = RESPONSE
        assert (await models.select("chat", max_age=60)).source == "server"


async def test_a_budget_that_nothing_fits_names_the_cheapest_in_the_static_table_too() -> None:
    with anyio.fail_after(10):
        async with devpipe.ModelSelector(NOBODY, patience=0) as models:
            with pytest.raises(devpipe.ModelSelectionError, match="claude-haiku-5-5") as caught:
                await models.select("code-generation", max_cost_usd=0.00000001)
    assert caught.value.code == "BUDGET_EXCEEDED"
    assert "claude-haiku-5-5" in caught.value.suggestions[0]
    assert isinstance(caught.value.__cause__, devpipe.ModelSelectionError)


async def test_a_server_that_comes_up_later_answers_live_again() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        server = peer.server()
        async with devpipe.ModelSelector(server, patience=0.05) as models:
            heard = Heard(models, "connected", "disconnected")
            assert (await models.select("chat")).source == "static"
            async with server:
                assert (await heard.wait("connected")).transport == "memory"
                assert (await models.select("chat")).source == "server"
            assert "memory" in (await heard.wait("disconnected")).reason
            assert (await models.select("chat")).source == "cache"


async def test_a_table_of_ones_own_is_used(tmp_path: Path) -> None:
    table = tmp_path / "models.toml"
    table.write_text(
        '[tasks]\nchat = ["own"]\n[[models]]\nid = "own"\nname = "Own"\nprovider = "me"\ncost_per_token = 0\n'
        "max_tokens = 10\nresponse_time_avg_ms = 1\navailability_score = 1\nquality_score = 1\n"
    )
    with anyio.fail_after(10):
        async with devpipe.ModelSelector(NOBODY, patience=0, fallback_table=table) as models:
            assert (await models.select("chat")).selected_model.id == "own"


# --- preferences --------------------------------------------------------------------------------------


async def test_preferences_that_the_server_kept_are_fetched() -> None:
    peer = ModelPeer()
    peer.preferences["ann"] = {"priority": "cost"}
    async with selecting(peer, user="ann") as models:
        heard = Heard(models, "preferences_updated")
        told = await heard.wait("preferences_updated")
        assert (told.preferences.priority, told.synced) == ("cost", True)
        await models.select("chat")
    assert peer.requests[0]["user_preferences"]["priority"] == "cost"


async def test_preferences_that_are_given_are_sent_to_the_server() -> None:
    peer = ModelPeer()
    async with selecting(peer, preferences=devpipe.Preferences(priority="cost")) as models:
        heard = Heard(models, "preferences_updated")
        assert (await heard.wait("preferences_updated")).synced
    assert peer.preferences["default"]["priority"] == "cost"


async def test_a_changed_preference_is_on_the_server_when_the_call_returns() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        await models.select("chat")
        after = await models.update_preferences(priority="performance", max_cost_per_request=1)
        assert (after.priority, models.preferences) == ("performance", after)
        assert peer.preferences["default"]["max_cost_per_request"] == 1


async def test_a_change_while_the_server_is_away_reaches_it_later() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        server = peer.server()
        async with devpipe.ModelSelector(server, patience=0.05) as models:
            heard = Heard(models, "preferences_updated")
            await models.update_preferences(priority="cost")
            assert not (await heard.wait("preferences_updated")).synced
            async with server:
                assert (await heard.wait("preferences_updated")).synced
                assert peer.preferences["default"]["priority"] == "cost"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"quality_threshold": 1.5}, "quality_threshold"),
        ({"max_cost_per_request": -1}, "max_cost_per_request"),
        ({"timeout_preference": 0}, "timeout_preference"),
        ({"priority": "speed"}, "priority"),
        ({"prefered_providers": ["x"]}, "preferred_providers"),
        ({"colour": "red"}, "priority"),
    ],
)
async def test_preferences_out_of_range_are_refused_by_name_and_change_nothing(
    wrong: dict[str, Any], named: str
) -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        before = models.preferences
        with pytest.raises(devpipe.ModelSelectionError, match=named) as caught:
            await models.update_preferences(**wrong)
        assert caught.value.code == "INVALID_REQUEST"
        assert models.preferences == before
    assert peer.preferences == {}


async def test_preferences_that_the_server_refuses_change_nothing() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        await models.select("chat")
        before = models.preferences
        peer.refuse_preferences = devpipe.HandlerError("not you", code="INVALID_REQUEST")
        with pytest.raises(devpipe.ModelSelectionError, match="not you"):
            await models.update_preferences(priority="cost")
        assert models.preferences == before


# --- health, metrics, reports ---------------------------------------------------------------------------


async def test_health_is_polled_and_pushed_and_told_when_it_changes() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with peer.server() as server, devpipe.ModelSelector(server) as models:
            heard = Heard(models, "health_updated", "performance_metrics")
            assert (await heard.wait("health_updated")).health.status == "healthy"
            await models.select("chat")
            await server.push("health_update", {"model_id": "m-1", "status": "offline"})
            assert (await heard.wait("health_updated")).health.status == "offline"
            assert models.health["m-1"].status == "offline"
            assert (await models.select("chat", max_age=60)).source == "server"  # not from the cache any more
            await server.push("health_update", {"model_id": "m-1", "status": "unwell"})
            await server.push("news", 1)
            metrics = {
                "model_id": "m-1",
                "task_type": "chat",
                "success_rate": 1,
                "average_response_time": 5,
            }
            await server.push("performance-metrics", metrics)
            assert (await heard.wait("performance_metrics")).metrics.average_response_time == 5
            assert (await models.model_health("m-1"))[0].status == "healthy"
            assert (await heard.wait("health_updated")).health.status == "healthy"
            assert await models.model_health("m-2") == ()
            assert (await models.performance_metrics(task_type="planning"))[0].task_type == "planning"


async def test_health_is_polled_again_after_the_interval() -> None:
    peer = ModelPeer()
    async with selecting(peer, monitoring_interval=0.05) as models:
        heard = Heard(models, "health_updated")
        await heard.wait("health_updated")
        peer.health = [{"model_id": "m-1", "status": "degraded"}]
        assert (await heard.wait("health_updated")).health.status == "degraded"


async def test_a_server_that_knows_no_health_is_not_asked_again_and_says_so_when_asked() -> None:
    peer = ModelPeer()
    async with selecting(peer, complete=False, monitoring_interval=0.02) as models:
        assert (await models.select("chat")).source == "server"
        with pytest.raises(devpipe.ModelSelectionError, match="health-check-request") as caught:
            await models.model_health()
        assert caught.value.code == "SERVICE_UNAVAILABLE"
        assert models.health == {}


async def test_a_server_that_takes_the_place_of_an_older_one_is_asked_for_health(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pipe"
    caplog.set_level("DEBUG", "devpipe.models")
    with anyio.fail_after(20):
        async with devpipe.ModelSelector(folder=folder) as models:
            heard = Heard(models, "health_updated")
            async with ModelPeer().server(complete=False, folder=folder):
                while "health-check-request" not in caplog.text:
                    await anyio.lowlevel.checkpoint()
            async with ModelPeer().server(folder=folder):
                assert (await heard.wait("health_updated")).health.status == "healthy"


async def test_the_use_of_a_model_is_reported() -> None:
    peer = ModelPeer()
    async with selecting(peer) as models:
        await models.report("m-1", "chat", success=True, response_time=0.5, cost_usd=0.01, satisfaction=1)
        with pytest.raises(devpipe.ModelSelectionError, match="satisfaction"):
            await models.report("m-1", "chat", success=True, response_time=0.5, satisfaction=2)
    assert peer.reports == [
        {
            "model_id": "m-1",
            "task_type": "chat",
            "success": True,
            "response_time_ms": 500.0,
            "cost": 0.01,
            "satisfaction": 1.0,
        }
    ]


# --- life ----------------------------------------------------------------------------------------------


async def test_the_way_of_the_messages_is_told() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with serving(peer.server()) as world:
            async with devpipe.ModelSelector(world.url, folder=world.folder) as models:
                heard = Heard(models, "transport_changed", "connected", "transport_health")
                assert (await heard.wait("connected")).transport == "websocket"
                await models.select("chat")
                models.pipe.use("folder")
                changed = await heard.wait("transport_changed")
                while changed.to != "folder":
                    changed = await heard.wait("transport_changed")
                assert changed.from_ == "websocket"
                assert "active: folder" in str(models.explain())


async def test_the_health_of_a_transport_and_its_loss_are_told() -> None:
    with anyio.fail_after(20):
        server = ModelPeer().server()
        async with devpipe.ModelSelector(server) as models:
            heard = Heard(models, "connected", "transport_health", "connection_error")
            async with server:
                health = await heard.wait("transport_health")
                assert (health.transport, health.status) == ("memory", "healthy")
                await heard.wait("connected")
            lost = await heard.wait("connection_error")
            assert lost.transport == "memory" and "the server closed the path" in lost.reason
            assert lost.as_dict()["timestamp"] == lost.timestamp > 0


async def test_an_open_pipe_may_be_used_and_is_left_open() -> None:
    peer = ModelPeer()
    with anyio.fail_after(20):
        async with peer.server() as server, devpipe.connect(server) as pipe:
            async with devpipe.ModelSelector(pipe=pipe) as models:
                assert (await models.select("chat")).source == "server"
            assert (await pipe.send("echo", 1)).payload == 1
            with pytest.raises(devpipe.PipeClosed):
                await models.select("chat")
            with pytest.raises(devpipe.PipeClosed):
                await models.model_health()


async def test_leaving_ends_what_is_in_flight_and_nothing_stands_in_for_that() -> None:
    slow = devpipe.Server()
    asked = anyio.Event()

    @slow.handler("model-selection-request")
    async def hang(message: devpipe.Message) -> None:
        asked.set()
        await anyio.sleep_forever()

    ended: list[BaseException] = []

    async def select(models: devpipe.ModelSelector) -> None:
        with pytest.raises(devpipe.PipeClosed) as caught:
            await models.select("chat")
        ended.append(caught.value)

    with anyio.fail_after(20):
        async with slow, anyio.create_task_group() as tasks:
            async with devpipe.ModelSelector(slow) as models:
                tasks.start_soon(select, models)
                await asked.wait()
    assert len(ended) == 1


async def test_an_exception_inside_comes_out_as_it_was() -> None:
    peer = ModelPeer()
    with pytest.raises(KeyError, match="mine"):
        async with selecting(peer):
            raise KeyError("mine")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cache_duration": -1}, "cache_duration"),
        ({"max_age": float("inf")}, "max_age"),
        ({"patience": float("nan")}, "patience"),
        ({"patience": None}, "patience"),
        ({"max_age": "60"}, "max_age"),
        ({"cache_duration": True}, "cache_duration"),
        ({"monitoring_interval": 0}, "monitoring_interval"),
        ({"fallback_table": "/nowhere/at/all.toml"}, "/nowhere/at/all.toml"),
        ({"settings": {"http.colour": 1}}, "http.colour"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(devpipe.ConfigurationError, match=named):
        devpipe.ModelSelector(NOBODY, **wrong)


@pytest.mark.parametrize("selector", [devpipe.ModelSelector, devpipe.blocking.ModelSelector])
@pytest.mark.parametrize("name", ["fallback_tabl", "wait"])
def test_an_argument_that_is_none_is_named_as_one_of_the_selector(selector: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^ModelSelector\(\) got an unexpected keyword argument '{name}'"):
        selector(NOBODY, **{name: "x"})


def test_a_pipe_and_an_address_together_are_refused() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="pipe="):
        devpipe.ModelSelector(NOBODY, pipe=devpipe.connect(NOBODY))


async def test_an_unknown_event_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="model_selected"):
        devpipe.ModelSelector(NOBODY).on("model_chosen", print)
