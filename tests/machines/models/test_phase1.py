"""The configuration of Phase 1 and 2, in milliseconds and both spellings, in devpipe's own words."""

from __future__ import annotations

from typing import Any

import pytest

from devpipe import TransportType
from devpipe.machines.errors import ConfigurationError, ModelSelectionError
from devpipe.machines.models.messages import MessageType
from devpipe.machines.models.phase1 import (
    OldSpelling,
    SelectionCriteria,
    read_config,
    read_request,
    settings_of,
)
from devpipe.machines.models.types import Preferences


def settings(**options: Any) -> dict[str, Any]:
    return settings_of(read_config("http://x", "", options)[0])


def test_the_defaults_are_those_of_phase_1() -> None:
    config, found = read_config("http://x", ".devpipe", {})
    assert found == ()
    assert (config.monitoring_interval, config.cache_duration, config.timeout) == (30000, 300000, 30000)
    assert (config.fallback_enabled, config.retry_attempts, config.debug_mode) == (True, 3, False)
    assert SelectionCriteria() == SelectionCriteria(
        latency_weight=0.3, reliability_weight=0.4, capability_weight=0.2, cost_weight=0.1
    )
    assert settings_of(config) == {"timeout": 30, "retry_attempts": 3, "debug": False}


def test_both_spellings_mean_the_same_and_the_old_one_is_named() -> None:
    old, found = read_config(
        "http://x", "", {"cacheDuration": 5, "transport": {"selectionCriteria": {"latencyWeight": 1}}}
    )
    new, none = read_config(
        "http://x", "", {"cache_duration": 5, "transport": {"selection_criteria": {"latency_weight": 1}}}
    )
    assert old == new
    assert none == ()
    assert set(found) == {
        OldSpelling("cacheDuration", "cache_duration"),
        OldSpelling("selectionCriteria", "selection_criteria"),
        OldSpelling("latencyWeight", "latency_weight"),
    }


def test_the_transport_options_of_phase_2_become_settings_in_seconds() -> None:
    assert settings(
        timeout=5000,
        transport={
            "preferred": ["http", "filesystem"],
            "health_check_interval": 1000,
            "auto_failover": False,
            "selection_criteria": {"cost_weight": 0.5},
            "transportConfigs": {
                "http": {"enableSSE": False, "maxConnections": 4, "keepAlive": False, "compression": True},
                "websocket": {
                    "heartbeatInterval": 20000,
                    "reconnectDelay": 500,
                    "maxReconnectAttempts": 7,
                    "persistMessages": False,
                },
                "filesystem": {"watchInterval": 250, "lockTimeout": 1, "maxQueueSize": 50},
            },
        },
    ) == {
        "timeout": 5,
        "retry_attempts": 3,
        "debug": False,
        "health_interval": 1,
        "failover.auto_failover": False,
        "failover.fallback_chain": ("http", "folder", "websocket"),
        "selection.latency_weight": 0.3,
        "selection.reliability_weight": 0.4,
        "selection.capability_weight": 0.2,
        "selection.cost_weight": 0.5,
        "http.enable_sse": False,
        "http.max_connections": 4,
        "http.keep_alive": False,
        "lifecycle.heartbeat_interval": 20,
        "lifecycle.backoff_initial": 0.5,
        "lifecycle.retry_attempts": 7,
        "folder_options.rescan_interval": 0.25,
        "folder_options.queue_size": 50,
    }


def test_a_chain_that_is_given_is_the_whole_chain() -> None:
    chain = settings(transport={"fallback_chain": ["http", "websocket"], "preferred": ["websocket"]})
    assert chain["failover.fallback_chain"] == ("websocket", "http")


def test_transports_may_be_named_by_their_enum_as_the_original_does() -> None:
    chain = (TransportType.HTTP, TransportType.FOLDER)
    for same in (chain, ["http", "filesystem"]):
        assert settings(transport={"fallbackChain": same})["failover.fallback_chain"] == ("http", "folder")


WAYS = {"http": {"serverUrl": "http://x/"}, "filesystem": {"devPipePath": ".devpipe"}}


@pytest.mark.parametrize("place", [("", ""), ("http://x", ".devpipe")])
def test_addresses_in_the_options_of_transports_are_those_of_the_service(place: tuple[str, str]) -> None:
    config, _ = read_config(*place, {"transport": {"transportConfigs": WAYS}})
    assert (config.server_url.rstrip("/"), config.devpipe_path) == ("http://x", ".devpipe")


@pytest.mark.parametrize(
    ("place", "named"),
    [
        (("http://y", ""), "http.server_url = 'http://x/' is not allowed beside server_url = 'http://y'"),
        (("", "other"), "filesystem.devpipe_path = '.devpipe' is not allowed beside devpipe_path = 'other'"),
    ],
)
def test_two_addresses_are_refused(place: tuple[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read_config(*place, {"transport": {"transportConfigs": WAYS}})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"time_out": 5}, "time_out"),
        ({"cacheDuration": -1}, "cache_duration"),
        ({"transport": {"preferred": ["carrier-pigeon"]}}, "preferred"),
        ({"transport": {"selectionCriteria": {"latencyWeight": 2}}}, "latency_weight"),
        ({"transport": {"transportConfigs": {"websocket": {"persistMessages": True}}}}, "persist_messages"),
        ({"transport": 5}, "transport"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read_config("http://x", "", options)


def test_all_wrong_options_are_said_at_once_with_what_is_probably_meant() -> None:
    options = {
        "cache_duraton": 5,
        "timeout": 0,
        "lock_timeout": 5,
        "server_url": 5,
        "carrier_pigeons": True,
        "transport": {
            "preferred": ["pigeon"],
            "auto_failover": 1,
            "transport_configs": {
                "http": {"max_conections": 5},
                "websocket": 5,
                "filesystem": {"timeout": []},
            },
        },
    }
    with pytest.raises(ConfigurationError) as caught:
        read_config("http://x", "", options)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "the options of ModelSelectionService are not valid: "
    assert set(lines[1:6]) == {
        "cache_duraton is not an option: did you mean 'cache_duration'?",
        "timeout = 0 is not allowed: give a number above 0 (milliseconds)",
        "lock_timeout is not an option: did you mean 'transport.transport_configs.filesystem.lock_timeout'?",
        "server_url = 5 is not allowed: give a text",
        "carrier_pigeons is not an option: there are server_url, devpipe_path, monitoring_interval, "
        "fallback_enabled, cache_duration, retry_attempts, timeout, debug_mode, transport",
    }
    inner = "transport.transport_configs"
    assert lines[6:] == [
        "transport.preferred = a list of 1 is not allowed: give a list, each of it one of "
        "'websocket', 'http', 'filesystem', 'folder'",
        "transport.auto_failover = 1 is not allowed: give true or false",
        f"{inner}.http.max_conections is not an option: did you mean 'max_connections'?",
        f"{inner}.websocket = 5 is not allowed: give a table",
        f"{inner}.filesystem.timeout = a list of 0 is not allowed: give a number above 0 (milliseconds)",
    ]


def test_an_option_with_one_value_is_told_which() -> None:
    with pytest.raises(ConfigurationError, match="persist_messages = true is not allowed: give false$"):
        settings(transport={"transport_configs": {"websocket": {"persist_messages": True}}})


def test_a_request_is_read_and_its_values_are_checked() -> None:
    request = read_request({"task_type": "chat", "user_preferences": {"priority": "cost"}})
    assert request.user_preferences == Preferences(priority="cost")
    with pytest.raises(ModelSelectionError, match="user_preferences"):
        read_request({"task_type": "chat", "user_preferences": 7})


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"max_cost_usd": 1e-9}, "max_cost_usd is no field of a request: did you mean 'max_cost'?"),
        ({"quality": "high"}, "quality is no field of a request: did you mean 'quality_requirement'?"),
        ({"providers": []}, "did you mean 'preferred_providers'?"),
        ({"timeout": 5}, "did you mean 'timeout_ms'?"),
        ({"contextlength": 5}, "did you mean 'context_length'?"),
        ({"zzz": 5}, "zzz is no field of a request: there are task_type, quality_requirement, max_cost"),
        (
            {"user_preferences": {"qualty_threshold": 0.5}},
            "user_preferences.qualty_threshold is no field of a request: did you mean 'quality_threshold'?",
        ),
    ],
)
def test_a_name_in_a_request_that_is_none_is_refused(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelSelectionError) as caught:
        read_request({"task_type": "chat", **request_})
    assert caught.value.code == "INVALID_REQUEST" and words in str(caught.value)
    assert caught.value.details["wrong"] and caught.value.suggestions


def test_a_message_type_is_known_in_both_spellings() -> None:
    assert MessageType("model_selection_request") is MessageType.MODEL_SELECTION
    assert MessageType("model-selection-request") is MessageType.MODEL_SELECTION
    for wrong in ("model_selection", "nothing", 5):
        with pytest.raises(ValueError, match=str(wrong)):
            MessageType(wrong)
