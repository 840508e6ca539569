"""Health and metrics are what clients have reported lately; what changes is told once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models import rules
from devpipe.machines.models.measured import HealthChanged, Measured, MeasuredConfig, MetricsChanged
from devpipe.machines.models.types import ModelHealth, ModelReport, PerformanceMetrics, decode, encode


def report(success: bool = True, *, id: str = "a", **fields: Any) -> ModelReport:
    values = {"task_type": "chat", "response_time_ms": 100.0} | fields
    return ModelReport(model_id=id, success=success, **values)


def fed(*successes: bool, config: MeasuredConfig | None = None) -> Measured:
    """One report of each second from 0 on."""
    core = Measured(["a", "b"], config=config)
    for second, success in enumerate(successes):
        core.receive(report(success), now=second, wall=1000.0 * second)
    return core


def statuses(core: Measured) -> list[str]:
    return [event.health.status for event in core.drain_events() if isinstance(event, HealthChanged)]


def pushed(core: Measured) -> list[PerformanceMetrics]:
    return [event.metrics for event in core.drain_events() if isinstance(event, MetricsChanged)]


def test_under_five_reports_nothing_is_known() -> None:
    core = fed(False, False, False, False)
    assert core.drain_events() == [] and not core.health and not core.metrics
    core.receive(report(False), now=4, wall=4000)
    assert statuses(core) == ["offline"]
    assert core.health["a"] == ModelHealth(
        model_id="a", status="offline", response_time=100.0, error_rate=1.0, last_check=4000.0,
        availability_percentage=0.0,
    )  # fmt: skip


def test_the_status_follows_the_error_rate_and_each_change_is_told_once() -> None:
    core = fed(*[True] * 9)
    assert statuses(core) == []
    heard: list[str] = []
    for second in range(9, 19):
        core.receive(report(False), now=second, wall=0)
        heard += statuses(core)
    assert heard == ["degraded", "offline"]
    assert core.health["a"].error_rate == pytest.approx(10 / 19)


def test_a_better_status_is_reached_only_a_little_below_the_rate_that_took_it_away() -> None:
    core = fed(*[False] * 5, *[True] * 5)
    assert core.health["a"].status == "offline", "exactly at the rate"
    core.receive(report(), now=10, wall=0)
    core.receive(report(), now=10, wall=0)
    assert core.health["a"].error_rate == pytest.approx(5 / 12) and core.health["a"].status == "offline"
    core.receive(report(), now=10, wall=0)
    assert core.health["a"].status == "degraded", "5 of 13 are under 0.8 times a half"
    for _ in range(49):
        core.receive(report(), now=11, wall=0)
    assert core.health["a"].error_rate < 0.1 and core.health["a"].status == "degraded"
    core.receive(report(), now=11, wall=0)
    assert core.health["a"].status == "healthy"
    assert statuses(core) == ["offline", "degraded", "healthy"]


def test_a_model_that_is_offline_comes_back_when_its_failures_are_old() -> None:
    core = fed(*[False] * 6)
    assert statuses(core) == ["offline"] and core.next_deadline() == 300.0
    core.handle_deadline(now=299.9, wall=0)
    assert core.drain_events() == []
    core.handle_deadline(now=300.0, wall=5.0)
    assert core.health["a"].status == "offline", "five are left"
    assert core.next_deadline() == 301.0
    core.handle_deadline(now=301.0, wall=6.0)
    [event] = core.drain_events()
    assert isinstance(event, HealthChanged) and event.health.status == "healthy"
    assert event.health.last_check == 6.0 and "a" not in core.health and not core.metrics
    assert core.next_deadline() is None
    core.handle_deadline(now=900.0, wall=0)
    assert core.drain_events() == [] and core.next_deadline() is None


def test_the_window_is_bounded_in_count() -> None:
    config = MeasuredConfig(max_reports=10)
    core = fed(*[False] * 10, *[True] * 10, config=config)
    assert core.health["a"].error_rate == 0.0 and core.metrics["a", "chat"].success_rate == 1.0
    core.receive(report(task_type="planning"), now=20, wall=0)
    assert core.metrics["a", "chat"].success_rate == 1.0 and ("a", "planning") not in core.metrics
    core = fed(*[True] * 6, config=MeasuredConfig(max_reports=6))
    for second in (6, 7):
        assert ("a", "chat") in core.metrics
        core.receive(report(task_type="planning"), now=second, wall=0)
    assert ("a", "chat") not in core.metrics, "four are left"


def test_metrics_are_the_means_of_one_task_and_times_are_those_of_answers() -> None:
    core = Measured(["a"])
    for n in range(5):
        core.receive(report(response_time_ms=100.0 + n, cost=0.01 * n), now=n, wall=n)
        core.receive(report(task_type="planning", satisfaction=n / 4), now=n, wall=n)
    core.receive(report(False, response_time_ms=30_000.0, cost=0.04, satisfaction=0.5), now=6, wall=6)
    assert core.metrics["a", "chat"] == PerformanceMetrics(
        model_id="a", task_type="chat", success_rate=5 / 6, average_response_time=pytest.approx(102.0),
        average_cost=pytest.approx(0.14 / 6), user_satisfaction_score=0.5, last_updated=6,
    )  # fmt: skip
    planning = core.metrics["a", "planning"]
    assert planning.user_satisfaction_score == pytest.approx(0.5) and planning.average_cost == 0.0
    core = fed(*[False] * 5)
    assert core.metrics["a", "chat"].average_response_time == 100.0, (
        "where nothing was answered, what there is"
    )


@pytest.mark.parametrize(
    "further",
    [
        report(False),
        report(response_time_ms=300.0),
        report(cost=0.1),
        report(satisfaction=1.0),
    ],
)
def test_metrics_are_told_when_they_have_moved_enough_and_not_too_often(further: ModelReport) -> None:
    core = fed(*[True] * 5)
    assert [metrics.success_rate for metrics in pushed(core)] == [1.0]
    core.receive(report(response_time_ms=101.0), now=20, wall=0)
    assert pushed(core) == [], "that is no news"
    core.receive(further, now=21, wall=0)
    core.receive(further, now=21, wall=0)
    [told] = pushed(core)
    assert told != core.metrics["a", "chat"], "the second of them comes too soon"
    core.receive(further, now=21 + 5, wall=0)
    core.receive(further, now=21 + 5, wall=0)
    assert len(pushed(core)) <= 1


def test_satisfaction_that_moves_is_told() -> None:
    core = Measured(["a"])
    for second in range(5):
        core.receive(report(satisfaction=0.5), now=second, wall=0)
    assert [metrics.user_satisfaction_score for metrics in pushed(core)] == [0.5]
    core.receive(report(satisfaction=1.0), now=10, wall=0)
    [told] = pushed(core)
    assert told.user_satisfaction_score == pytest.approx(3.5 / 6)


def test_satisfaction_that_was_not_known_before_is_told_even_if_there_is_none() -> None:
    core = fed(*[True] * 5)
    core.drain_events()
    core.receive(report(satisfaction=0.0), now=20, wall=0)
    assert [metrics.user_satisfaction_score for metrics in pushed(core)] == [0.0]


def test_metrics_that_were_forgotten_are_told_again() -> None:
    core = fed(*[True] * 5)
    assert len(pushed(core)) == 1
    core.handle_deadline(now=400, wall=0)
    assert not core.metrics and pushed(core) == []
    for _ in range(5):
        core.receive(report(), now=401, wall=0)
    assert len(pushed(core)) == 1


def test_huge_numbers_stay_numbers() -> None:
    core = Measured(["a"])
    for second in range(6):
        core.receive(report(response_time_ms=1.7e308, cost=1.7e308), now=second, wall=0)
    assert core.metrics["a", "chat"].average_cost == pytest.approx(1.7e308)


def test_a_model_that_nobody_knows_is_refused_with_the_nearest() -> None:
    core = Measured(["gpt-small"])
    with pytest.raises(ModelSelectionError, match="did you mean 'gpt-small'") as caught:
        core.receive(report(id="gpt-smal"), now=0, wall=0)
    assert caught.value.code == "INVALID_REQUEST" and caught.value.suggestions


def test_a_model_that_leaves_the_catalogue_is_forgotten_and_the_others_are_not() -> None:
    core = fed(*[True] * 5)
    for second in range(5):
        core.receive(report(id="b"), now=second, wall=0)
    core.keep(["b", "c"])
    assert set(core.health) == {"b"} and set(core.metrics) == {("b", "chat")}
    core.drain_events()
    core.keep(["a", "b"])
    core.receive(report(), now=9, wall=0)
    assert "a" not in core.health and core.drain_events() == []


numbers = st.floats(min_value=0, allow_infinity=False, allow_nan=False)
reports = st.builds(
    ModelReport,
    model_id=st.sampled_from(["a", "b"]),
    task_type=st.sampled_from(["chat", "planning"]),
    success=st.booleans(),
    response_time_ms=numbers,
    cost=numbers,
    satisfaction=st.none() | st.floats(0, 1),
)


@given(st.lists(st.tuples(st.floats(0, 100), reports), max_size=40))
def test_whatever_is_reported_what_is_told_is_valid_on_the_wire(
    steps: list[tuple[float, ModelReport]],
) -> None:
    core, now = Measured(["a", "b"], config=MeasuredConfig(max_reports=8)), 0.0
    last = {"a": "healthy", "b": "healthy"}
    for step, one in steps:
        now += step
        core.handle_deadline(now=now, wall=now)
        core.receive(one, now=now, wall=now)
        for event in core.drain_events():
            if isinstance(event, HealthChanged):
                assert event.health.status != last[event.health.model_id]
                last[event.health.model_id] = event.health.status
        for health in core.health.values():
            assert decode(encode(health), ModelHealth, what="health").status == last[health.model_id]
        for metrics in core.metrics.values():
            assert decode(encode(metrics), PerformanceMetrics, what="metrics") == metrics
        deadline = core.next_deadline()
        assert (deadline is None) == (set(last.values()) == {"healthy"})
        assert deadline is None or deadline > now


@pytest.mark.parametrize("slip", ["acme/modell-0777", "acme/mdel-0777", "cme/model-0777", "acme/model-07770"])
def test_the_model_that_was_meant_is_guessed_among_a_thousand_with_few_comparisons(
    slip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def counting(word: str, known: list[str], n: int) -> list[str]:
        compared.append(len(known))
        return get_close_matches(word, known, n)

    monkeypatch.setattr(rules, "get_close_matches", counting)
    core = Measured(f"acme/model-{number:04}" for number in range(1000))
    with pytest.raises(ModelSelectionError, match="did you mean 'acme/model-0777'"):
        core.receive(report(id=slip), now=0, wall=0)
    assert compared == [rules.MAX_COMPARED], "it costs the server a millisecond, not twenty"
