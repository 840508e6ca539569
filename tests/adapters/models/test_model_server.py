"""What clients are answered and told about models, over real transports."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import TRANSPORTS, open_pipe, serving

import devpipe
from devpipe.adapters.models import preferences_store
from devpipe.adapters.models.catalogue_file import EXAMPLE, CatalogueFile
from devpipe.adapters.models.model_server import ModelServer
from devpipe.machines.models.measured import MeasuredConfig
from devpipe.machines.models.types import (
    ModelHealth,
    ModelSelectionResponse,
    PerformanceMetrics,
    Preferences,
    decode,
)

pytestmark = pytest.mark.anyio
BOUND = 10.0
DEFAULTS = {
    "priority": "balanced",
    "max_cost_per_request": 0.5,
    "preferred_providers": [],
    "fallback_enabled": True,
    "quality_threshold": 0.7,
    "timeout_preference": 30000,
}


def entry(id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": id, "name": id, "provider": "acme", "cost_per_token": 1e-6, "max_tokens": 8000,
        "response_time_avg_ms": 400, "availability_score": 0.9, "quality_score": 0.8,
        "capabilities": [{"type": "chat", "score": 0.8}],
    } | fields  # fmt: skip


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"models": entries}), encoding="utf-8")
    return path


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A cheap model and a strong one."""
    return write(
        tmp_path / "models.json",
        entry("cheap", cost_per_token=1e-7, quality_score=0.7),
        entry("strong", cost_per_token=1e-4, quality_score=0.95, provider="other",
              capabilities=[{"type": "chat", "score": 1}, {"type": "planning", "score": 1}]),
    )  # fmt: skip


@asynccontextmanager
async def asking(catalogue: Path | CatalogueFile, **options: Any) -> AsyncIterator[devpipe.Pipe]:
    """A pipe to a server of this program."""
    server = devpipe.Server()
    ModelServer(server, catalogue=catalogue, **options)
    async with server, devpipe.connect(server) as pipe:
        yield pipe


async def ask(pipe: devpipe.Pipe, type: str, payload: Any = None) -> Any:
    with anyio.fail_after(BOUND):
        return (await pipe.send(type, payload, timeout=BOUND)).payload


async def refusal(pipe: devpipe.Pipe, type: str, payload: Any = None) -> tuple[str, str, dict[str, Any]]:
    """Code, text and details of what a client gets."""
    with pytest.raises(devpipe.HandlerError) as caught:
        await ask(pipe, type, payload)
    details = caught.value.details
    assert isinstance(details, dict) and isinstance(details["suggestions"], list)
    assert caught.value.code in devpipe.ModelSelectionError.CODES
    assert caught.value.outcome is devpipe.Outcome.EXECUTED
    return caught.value.code, str(caught.value), details


def use(id: str, success: bool = True, **fields: Any) -> dict[str, Any]:
    return {"model_id": id, "task_type": "chat", "success": success, "response_time_ms": 250} | fields


# --- what is asked ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_over_every_transport_a_model_is_selected_and_an_error_has_code_details_and_suggestions(
    transport: str, catalogue: Path
) -> None:
    server = devpipe.Server()
    ModelServer(server, catalogue=catalogue)
    async with serving(server) as world, open_pipe(world, transport) as pipe:
        answer = await ask(pipe, "model-selection-request", {"task_type": "chat", "max_cost": 0.01})
        assert decode(answer, ModelSelectionResponse, what="response").selected_model.id == "cheap"
        code, text, details = await refusal(
            pipe, "model-selection-request", {"task_type": "planning", "max_cost": 0.01}
        )
        assert code == "BUDGET_EXCEEDED" and "the cheapest, strong, costs $0.1" in text
        assert details["cheapest_model"] == "strong" and details["cheapest_cost"] == pytest.approx(0.1)
        assert details["suggestions"][0] == "allow $0.10 or more: strong is the cheapest for planning"


async def test_every_message_is_known_by_both_its_spellings(catalogue: Path) -> None:
    messages: dict[str, Any] = {
        "model-selection-request": {"task_type": "chat"},
        "health-check-request": None,
        "performance-metrics-request": {},
        "preferences-update": {"priority": "cost"},
        "preferences-request": None,
        "status-update": use("cheap"),
    }
    async with asking(catalogue) as pipe:
        for type, payload in messages.items():
            one, other = await ask(pipe, type, payload), await ask(pipe, type.replace("-", "_"), payload)
            assert one.keys() == other.keys(), type


async def test_a_selection_says_how_long_it_took_and_leaves_the_catalogue_its_order(catalogue: Path) -> None:
    async with asking(catalogue) as pipe:
        answer = await ask(
            pipe, "model-selection-request", {"task_type": "chat", "quality_requirement": "high"}
        )
    response = decode(answer, ModelSelectionResponse, what="response")
    assert response.selected_model.id == "strong" and response.fallback_models == ()
    assert 0 < response.selection_metadata.selection_time_ms < 1000 * BOUND
    assert len(response.selection_metadata.factors_considered) == 6


async def test_a_user_is_answered_by_their_own_preferences(catalogue: Path) -> None:
    async with asking(catalogue) as pipe:
        await ask(
            pipe, "preferences-update", {"user": "ann", "preferences": {"preferred_providers": ["other"]}}
        )
        mine = await ask(pipe, "model-selection-request", {"task_type": "chat", "user": "ann"})
        others = await ask(pipe, "model-selection-request", {"task_type": "chat"})
        assert mine["selected_model"]["id"] == "strong" and others["selected_model"]["id"] == "cheap"
        said = {"task_type": "chat", "user": "ann", "user_preferences": {"fallback_enabled": False}}
        answer = await ask(pipe, "model-selection-request", said)
        assert answer["selected_model"]["id"] == "strong", "what a request does not say is as stored"
        assert answer["fallback_models"] == [] and mine["fallback_models"] != []
        stored = await ask(pipe, "preferences-request", {"user": "ann"})
        assert stored["preferences"]["fallback_enabled"] is True, "for this request alone"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (None, "Expected `object`, got `null`"),
        ({}, "task_type is missing: give one of"),
        ({"task_type": "chatt"}, "task_type = 'chatt' is not allowed"),
        ({"task_type": "chat", "max_cost": "1"}, "max_cost = '1'"),
        ({"task_type": "chat", "max_cost": -1}, "max_cost = -1"),
        ({"task_type": "chat", "context_length": 1.5}, "context_length = 1"),
        ({"task_type": "chat", "context_length": 2**60}, "context_length = 1"),
        ({"task_type": "chat", "quality_requirement": "best"}, "quality_requirement = 'best' is not"),
        ({"task_type": "chat", "user_preferences": {"quality_threshold": 2}}, "user_preferences.quality_threshold"),
        ({"task_type": "chat", "user": 7}, "user = 7"),
    ],
)  # fmt: skip
async def test_a_request_that_is_not_valid_is_named_field_by_field(
    catalogue: Path, payload: Any, words: str
) -> None:
    async with asking(catalogue) as pipe:
        code, text, details = await refusal(pipe, "model-selection-request", payload)
    assert code == "INVALID_REQUEST" and words in text and details["suggestions"]


# --- preferences ------------------------------------------------------------------------------------


async def test_preferences_change_in_part_and_stay_after_the_server_has_gone(
    catalogue: Path, tmp_path: Path
) -> None:
    file = tmp_path / "p.sqlite"
    async with asking(catalogue, preferences=file) as pipe:
        assert await ask(pipe, "preferences-request") == {"preferences": DEFAULTS}
        answer = await ask(pipe, "preferences-update", {"priority": "cost"})
        assert answer == {"preferences": DEFAULTS | {"priority": "cost"}}
    async with asking(catalogue, preferences=file) as pipe:
        answer = await ask(pipe, "preferences-update", {"preferences": {"quality_threshold": 0.1}})
        assert answer == {"preferences": DEFAULTS | {"priority": "cost", "quality_threshold": 0.1}}
        assert decode(answer["preferences"], Preferences, what="preferences").priority == "cost"


async def test_preferences_out_of_range_are_refused_by_name_and_nothing_changes(catalogue: Path) -> None:
    async with asking(catalogue) as pipe:
        change = {"preferences": {"quality_threshold": 1.5, "priority": "speed", "fallback_enabled": False}}
        code, text, details = await refusal(pipe, "preferences-update", change)
        assert code == "INVALID_REQUEST"
        assert "quality_threshold = 1.5 is not allowed: give a number from 0 to 1" in text
        assert set(details["wrong"]) == {"quality_threshold", "priority"}
        assert await ask(pipe, "preferences-request") == {"preferences": DEFAULTS}


async def test_preferences_that_cannot_be_read_now_are_an_error_with_a_code(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences_store, "BUSY_TIMEOUT", 0.01)
    async with asking(catalogue, preferences=tmp_path / "p.sqlite") as pipe:
        holder = sqlite3.connect(tmp_path / "p.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        code, _, details = await refusal(pipe, "preferences-update", {"priority": "cost"})
        holder.close()
        assert code == "SERVICE_UNAVAILABLE" and details["suggestions"]


# --- health and metrics -----------------------------------------------------------------------------


async def test_models_that_nobody_has_used_are_as_the_catalogue_says(catalogue: Path) -> None:
    async with asking(catalogue) as pipe:
        answer = await ask(pipe, "health-check-request")
        assert [health["model_id"] for health in answer["models"]] == ["cheap", "strong"]
        assert answer["models"][0] == {
            "model_id": "cheap", "status": "healthy", "response_time": 400.0, "error_rate": 0.0,
            "last_check": 0.0, "availability_percentage": 90.0,
        }  # fmt: skip
        assert await ask(pipe, "performance-metrics-request") == {"metrics": []}


async def test_reports_become_health_and_metrics_and_both_are_pushed(catalogue: Path) -> None:
    async with asking(catalogue) as pipe:
        async with pipe.receive() as pushes:
            for _ in range(5):
                assert await ask(pipe, "status-update", use("cheap", False)) == {"accepted": True}
            heard: dict[str, Any] = {}
            with anyio.fail_after(BOUND):
                async for push in pushes:
                    assert isinstance(push, devpipe.Message)
                    heard[push.type] = push.payload
                    if len(heard) == 2:
                        break
        health = decode(heard["health_update"], ModelHealth, what="health")
        assert (health.model_id, health.status, health.error_rate) == ("cheap", "offline", 1.0)
        assert isinstance(health.last_check, float) and health.last_check > 1_700_000_000_000
        metrics = decode(heard["performance_metrics"], PerformanceMetrics, what="metrics")
        assert (metrics.model_id, metrics.task_type, metrics.success_rate) == ("cheap", "chat", 0.0)
        answer = await ask(pipe, "model-selection-request", {"task_type": "chat"})
        assert answer["selected_model"]["id"] == "strong", "who is offline is not selected"
        [health] = (await ask(pipe, "health-check-request", {"model_id": "cheap"}))["models"]
        assert health == heard["health_update"]


async def test_all_offline_is_an_error_with_a_code_and_they_come_back_when_failures_are_old(
    catalogue: Path,
) -> None:
    measuring = MeasuredConfig(max_age=2.0, minimum=1)
    async with asking(catalogue, measuring=measuring) as pipe, pipe.receive() as pushes:
        for id in ("cheap", "strong"):
            await ask(pipe, "status-update", use(id, False))
        code, text, details = await refusal(pipe, "model-selection-request", {"task_type": "chat"})
        assert code == "NO_HEALTHY_MODELS" and "cheap, strong" in text
        assert sorted(details["offline"]) == ["cheap", "strong"]
        back: list[str] = []
        with anyio.fail_after(BOUND):
            async for push in pushes:  # nobody asks anything: the server tells it by itself
                assert isinstance(push, devpipe.Message)
                if push.type == "health_update" and push.payload["status"] == "healthy":
                    back.append(push.payload["model_id"])
                    if len(back) == 2:
                        break
        assert sorted(back) == ["cheap", "strong"]
        assert (await ask(pipe, "model-selection-request", {"task_type": "chat"}))["selected_model"]


async def test_metrics_are_asked_for_by_model_and_by_task(catalogue: Path) -> None:
    async with asking(catalogue, measuring=MeasuredConfig(minimum=1)) as pipe:
        for report in (
            use("cheap"),
            use("strong", satisfaction=0.5),
            use("strong", task_type="planning", cost=1),
        ):
            await ask(pipe, "status-update", report)

        async def found(**query: str) -> list[tuple[str, str]]:
            answer = await ask(pipe, "performance-metrics-request", query)
            return [(metrics["model_id"], metrics["task_type"]) for metrics in answer["metrics"]]

        assert await found() == [("cheap", "chat"), ("strong", "chat"), ("strong", "planning")]
        assert await found(model_id="strong") == [("strong", "chat"), ("strong", "planning")]
        assert await found(task_type="chat") == [("cheap", "chat"), ("strong", "chat")]
        assert await found(model_id="cheap", task_type="planning") == []


@pytest.mark.parametrize("type", ["health-check-request", "performance-metrics-request", "status-update"])
async def test_a_model_that_is_not_in_the_catalogue_is_refused_with_the_nearest(
    type: str, catalogue: Path
) -> None:
    async with asking(catalogue) as pipe:
        code, text, details = await refusal(pipe, type, use("cheep"))
        assert code == "INVALID_REQUEST" and "did you mean 'cheap'?" in text and details["suggestions"]


async def test_a_report_or_a_question_that_is_not_valid_is_named(catalogue: Path) -> None:
    async with asking(catalogue) as pipe:
        for type, payload, words in (
            ("status-update", use("cheap", response_time_ms=-1), "response_time_ms = -1"),
            ("status-update", {"state": "busy"}, "model_id"),
            ("status-update", use("cheap", satisfaction=7), "satisfaction = 7"),
            ("performance-metrics-request", {"task_type": "nothing"}, "task_type = 'nothing' is not"),
            ("health-check-request", {"model_id": ""}, "model_id = ''"),
            ("health-check-request", [], "Expected `object`"),
        ):
            code, text, details = await refusal(pipe, type, payload)
            assert code == "INVALID_REQUEST" and words in text and details["suggestions"]


# --- the catalogue ----------------------------------------------------------------------------------


async def test_a_new_catalogue_is_chosen_from_at_once_and_a_bad_one_is_not(
    catalogue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = CatalogueFile(catalogue, rescan=0.02, settle=0.01)

    async def asked_until(pipe: devpipe.Pipe, ids: list[str]) -> None:
        with anyio.fail_after(BOUND):
            while [h["model_id"] for h in (await ask(pipe, "health-check-request"))["models"]] != ids:
                await anyio.sleep(0.01)

    async with asking(file, measuring=MeasuredConfig(minimum=1)) as pipe:
        await ask(pipe, "status-update", use("cheap", False))
        write(catalogue, entry("cheap"), entry("new"))
        await asked_until(pipe, ["cheap", "new"])
        code, *_ = await refusal(pipe, "status-update", use("strong"))
        assert code == "INVALID_REQUEST"
        [health] = (await ask(pipe, "health-check-request", {"model_id": "cheap"}))["models"]
        assert health["status"] == "offline", "what is known of a model that stays, stays"
        await ask(pipe, "status-update", use("new"))
        write(catalogue, entry("bad", max_tokens="many"))
        with anyio.fail_after(BOUND):
            while file.refused is None:
                await anyio.sleep(0.01)
        answer = await ask(pipe, "model-selection-request", {"task_type": "chat"})
        assert answer["selected_model"]["id"] == "new" and "max_tokens = 'many'" in caplog.text


async def test_a_server_without_a_catalogue_of_its_own_has_the_example() -> None:
    server = devpipe.Server()
    models = ModelServer(server)
    assert len(models.catalogue.models) > 5 and EXAMPLE.exists()
    async with server, devpipe.connect(server) as pipe:
        assert (await ask(pipe, "model_selection_request", {"task_type": "embedding"}))["selected_model"]


async def test_what_is_wrong_is_said_before_anything_is_served(catalogue: Path, tmp_path: Path) -> None:
    server = devpipe.Server()
    with pytest.raises(devpipe.ConfigurationError, match="missing.toml"):
        ModelServer(server, catalogue=tmp_path / "missing.toml")
    ModelServer(server, catalogue=catalogue, preferences=tmp_path)
    with pytest.raises(devpipe.ConfigurationError, match="there is a handler"):
        ModelServer(server, catalogue=catalogue)
    with pytest.raises(devpipe.ConfigurationError, match="cannot be opened"):
        async with server:
            pass
    assert not server.running
