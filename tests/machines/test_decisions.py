"""Backoff, windows, health, scores, the chain, configuration, errors and events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines import config as configs
from devpipe.machines.config import LifecycleConfig, PipeConfig, SelectionWeights
from devpipe.machines.decisions import windows
from devpipe.machines.decisions.backoff import backoff_delay, blocked_delay, growing
from devpipe.machines.decisions.chain import Candidate, better_than, first_in_chain, highest
from devpipe.machines.decisions.health import HealthStatus, Vitals, is_healthy
from devpipe.machines.decisions.scores import score
from devpipe.machines.decisions.windows import CallWindow
from devpipe.machines.errors import (
    AllTransportsFailed,
    CircuitOpen,
    ConfigurationError,
    FailureKind,
    TransportError,
)
from devpipe.machines.events import Disconnected, SwitchReason, TransportSwitched
from devpipe.machines.inputs import Failure


@given(attempt=st.integers(0, 10_000), jitter=st.floats(0, 0.999))
def test_a_backoff_is_jittered_from_zero_and_bounded(attempt: int, jitter: float) -> None:
    config = LifecycleConfig()
    assert (
        0
        <= backoff_delay(attempt=attempt, jitter=jitter, config=config)
        <= min(10.0, 1.5 ** min(attempt, 60))
    )
    assert 27 <= blocked_delay(times=attempt, jitter=jitter, config=config) <= 600


def test_growth_never_overflows_and_a_servers_word_is_spread_a_little() -> None:
    assert growing(count=10**9, initial=1.0, factor=2.0, most=7.0) == 7.0
    config = LifecycleConfig()
    assert backoff_delay(attempt=0, jitter=0.5, config=config, retry_after=20.0) == 21.0


def test_a_window_is_bounded_in_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_CALLS", 3)
    window = CallWindow(10.0)
    for n in range(5):
        window.add(now=float(n), failed=n < 3, slow=n == 4)
    assert (window.calls, window.failures, window.slow) == (3, 1, 1)
    kept = window.snapshot()
    window.prune(now=100.0)
    assert window.calls == 0
    window.restore(kept)
    assert (window.calls, window.failures, window.slow) == (3, 1, 1)


def test_health_changes_with_hysteresis_and_few_calls_say_nothing() -> None:
    assert is_healthy(Vitals(attempts=4, successes=0, latency=None), was_healthy=True)
    between = Vitals(attempts=100, successes=92, latency=1.0)
    assert is_healthy(between, was_healthy=True) and not is_healthy(between, was_healthy=False)
    assert not is_healthy(Vitals(attempts=100, successes=100, latency=3.0), was_healthy=True)
    assert is_healthy(Vitals(attempts=100, successes=100, latency=1.0), was_healthy=False)
    slow = Vitals(attempts=100, successes=100, latency=1.8)
    assert is_healthy(slow, was_healthy=True) and not is_healthy(slow, was_healthy=False)


def test_a_score_is_the_weighed_sum_of_its_terms_times_its_health() -> None:
    weights = SelectionWeights()
    best = score(
        latency_p50=None, attempts=0, successes=0, wishes_met=1.0, cost=0.0,
        status=HealthStatus.HEALTHY, weights=weights,
    )  # fmt: skip
    assert best.total == pytest.approx(1.0)
    poor = score(
        latency_p50=9.0, attempts=4, successes=0, wishes_met=0.5, cost=1.0,
        status=HealthStatus.DEGRADED, weights=weights,
    )  # fmt: skip
    assert (poor.latency, poor.reliability, poor.cost, poor.factor) == (0.0, 0.5, 0.0, 0.5)
    assert poor.total == pytest.approx(0.5 * (0.4 * 0.5 + 0.2 * 0.5))
    zero = SelectionWeights(latency_weight=0, reliability_weight=0, capability_weight=0, cost_weight=0)
    none = score(
        latency_p50=None, attempts=0, successes=0, wishes_met=1.0, cost=0.0,
        status=HealthStatus.HEALTHY, weights=zero,
    )  # fmt: skip
    assert none.total == 0.0


def test_the_chain_decides_unless_one_was_just_lost_or_another_leads() -> None:
    first, second = Candidate(name="a", ejected_until=5.0), Candidate(name="b")
    assert first_in_chain([first, second], now=1.0) is second
    assert first_in_chain([first, second], now=5.0) is first and first_in_chain([], now=0.0) is None
    assert highest([Candidate(name="a", score=0.5), Candidate(name="b", score=0.55)], lead=0.1) == Candidate(
        name="a", score=0.5
    )
    assert better_than(second, [first, second], lead=0.1, now=1.0) is None
    assert better_than(second, [first, second], lead=0.1, now=9.0) == (first, False)


def test_a_wrong_value_names_its_key_and_what_is_allowed() -> None:
    for wrong, word in (
        ({"failure_threshold": 0}, "failure_threshold"), ({"failure_rate": 2.0}, "failure_rate"),
        ({"reset_timeout": -1}, "reset_timeout"), ({"monitoring_period": float("inf")}, "monitoring_period"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=word):
            configs.BreakerConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as refused:
        configs.BreakerConfig(failure_threshold=0)
    assert "failure_threshold = 0 is not allowed: give " in str(refused.value), (
        "nobody said where it came from"
    )
    with pytest.raises(ConfigurationError, match="durability"):
        configs.FolderConfig(durability="maybe")
    with pytest.raises(ConfigurationError, match=r"http\.prefix"):
        configs.HttpConfig(prefix="no slash")
    with pytest.raises(ConfigurationError, match="fallback_chain"):
        configs.FailoverConfig(fallback_chain=())
    with pytest.raises(ConfigurationError, match="neither"):
        PipeConfig()
    for status in (201, 399, 600):
        with pytest.raises(ConfigurationError, match="error_status"):
            configs.ServerConfig(error_status=status)
    assert configs.ServerConfig(error_status=599).error_status == 599
    assert configs.ServerConfig().hold == 20.0


def test_errors_of_many_transports_take_their_kind_if_all_agree() -> None:
    auth = TransportError("a", kind=FailureKind.AUTH)
    assert AllTransportsFailed("x", errors={"a": auth}).kind is FailureKind.AUTH
    network = TransportError("b", kind=FailureKind.NETWORK)
    assert AllTransportsFailed("x", errors={"a": auth, "b": network}).kind is FailureKind.UNAVAILABLE
    assert CircuitOpen("x", retry_after=3.0).retry_after == 3.0


def test_events_are_plain_data_with_the_names_of_the_wire() -> None:
    switched = TransportSwitched(from_=None, to="http", reason=SwitchReason.FAILOVER)
    assert switched.as_dict() == {
        "event": "transport_switched",
        "from": None,
        "to": "http",
        "reason": "failover",
    }
    failure = Failure(kind=FailureKind.NETWORK, reason="reset")
    lost = Disconnected(transport="http", failure=failure, retry_at=1.0).as_dict()
    assert lost["failure"] == {"kind": "network", "reason": "reset"}
