"""The circuit breaker: what it admits, when it opens, and how it comes back."""

from __future__ import annotations

from devpipe.machines.breaker import BreakerState, CircuitBreaker, Permit
from devpipe.machines.config import BreakerConfig


def fail(breaker: CircuitBreaker, times: int, *, now: float = 0.0) -> None:
    for _ in range(times):
        permit = breaker.acquire(now=now)
        assert permit is not None
        breaker.failure(permit, now=now)


def opened(config: BreakerConfig | None = None) -> CircuitBreaker:
    breaker = CircuitBreaker(name="b", config=config)
    fail(breaker, breaker.config.failure_threshold)
    assert breaker.state is BreakerState.OPEN
    return breaker


def half_open(config: BreakerConfig | None = None) -> tuple[CircuitBreaker, Permit]:
    breaker = opened(config)
    permit = breaker.acquire(now=30.0)
    assert permit is not None and breaker.state is BreakerState.HALF_OPEN
    return breaker, permit


def test_it_opens_at_the_threshold_inside_the_window_and_not_below() -> None:
    breaker = CircuitBreaker(name="b")
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED and breaker.consecutive_failures == 4
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN and breaker.retry_at == 30.0
    assert breaker.retry_after(now=10.0) == 20.0
    changed = breaker.drain_events()[0]
    assert changed.as_dict() == {
        "event": "breaker_changed", "transport": "b", "from": "closed", "to": "open", "retry_at": 30.0,
    }  # fmt: skip
    assert breaker.drain_events() == [] and breaker.drain_effects() == []


def test_it_shows_its_name_and_where_it_is() -> None:
    breaker = CircuitBreaker(name="b")
    assert repr(breaker) == "<CircuitBreaker b closed>"
    fail(breaker, 5)
    assert repr(breaker) == "<CircuitBreaker b open>"


def test_failures_that_left_the_window_do_not_count() -> None:
    breaker = CircuitBreaker(name="b")
    for second in range(0, 30, 3):
        fail(breaker, 1, now=float(second))
    assert breaker.state is BreakerState.CLOSED
    assert breaker.error_rate(now=27.0) == 1.0 and breaker.error_rate(now=99.0) == 0.0


def test_a_success_touches_no_chart_and_ends_a_run_of_failures() -> None:
    breaker = CircuitBreaker(name="b")
    fail(breaker, 2)
    steps = breaker.steps
    for _ in range(1000):
        permit = breaker.acquire(now=1.0)
        assert permit is not None
        breaker.success(permit, now=1.0, duration=0.01)
    assert breaker.steps == steps and breaker.consecutive_failures == 0
    assert 0 < breaker.error_rate(now=1.0) < 0.01


def test_an_open_circuit_admits_nothing_until_it_has_cooled_down() -> None:
    breaker = opened()
    assert breaker.acquire(now=29.9) is None and not breaker.admits(now=29.9)
    assert breaker.admits(now=30.0) and breaker.state is BreakerState.OPEN
    assert breaker.acquire(now=30.0) is not None


def test_half_open_leases_one_permit_and_a_success_closes_it() -> None:
    breaker, permit = half_open()
    assert breaker.acquire(now=31.0) is None and not breaker.admits(now=31.0)
    breaker.success(permit, now=31.0, duration=0.1)
    assert breaker.state is BreakerState.CLOSED and breaker.next_deadline() is None
    fail(breaker, 4, now=31.0)
    assert breaker.state is BreakerState.CLOSED, "what was counted before does not count any more"


def test_half_open_goes_on_until_enough_have_succeeded() -> None:
    config = BreakerConfig(half_open_max_calls=2, half_open_successes=2)
    breaker, first = half_open(config)
    second = breaker.acquire(now=30.5)
    assert second is not None and breaker.acquire(now=30.6) is None
    breaker.success(first, now=31.0)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.success(first, now=31.0)
    assert breaker.state is BreakerState.HALF_OPEN, "a permit counts once"
    breaker.success(second, now=31.0)
    assert breaker.state is BreakerState.CLOSED


def test_a_failure_in_half_open_opens_it_again_for_the_whole_time() -> None:
    breaker, permit = half_open()
    breaker.failure(permit, now=31.0)
    assert breaker.state is BreakerState.OPEN and breaker.retry_at == 61.0


def test_a_released_permit_is_neutral_and_comes_back_once() -> None:
    breaker, permit = half_open()
    breaker.release(permit)
    breaker.release(permit)
    assert breaker.state is BreakerState.HALF_OPEN
    again = breaker.acquire(now=32.0)
    assert again is not None and breaker.acquire(now=32.0) is None
    closed = CircuitBreaker(name="b")
    free = closed.acquire(now=0.0)
    assert free is not None
    closed.release(free)
    assert closed.error_rate(now=0.0) == 0.0


def test_a_permit_that_never_comes_back_is_a_failure_at_its_deadline() -> None:
    breaker, _ = half_open()
    assert breaker.next_deadline() == 60.0
    breaker.handle_deadline(now=59.0)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.handle_deadline(now=60.0)
    assert breaker.state is BreakerState.OPEN and breaker.next_deadline() is None
    breaker.handle_deadline(now=61.0)
    assert breaker.state is BreakerState.OPEN


def test_late_results_of_an_older_generation_change_nothing() -> None:
    breaker = CircuitBreaker(name="b")
    old = breaker.acquire(now=0.0)
    assert old is not None
    fail(breaker, 5)
    probe = breaker.acquire(now=30.0)
    assert probe is not None
    breaker.success(old, now=30.1)
    breaker.failure(old, now=30.1)
    breaker.release(old)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.success(probe, now=30.2)
    assert breaker.state is BreakerState.CLOSED


def test_a_failure_rate_opens_it_where_one_is_configured() -> None:
    config = BreakerConfig(failure_threshold=100, failure_rate=0.5, minimum_calls=10)
    breaker = CircuitBreaker(name="b", config=config)
    for _ in range(5):
        permit = breaker.acquire(now=0.0)
        assert permit is not None
        breaker.success(permit, now=0.0)
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_slow_calls_open_it_where_a_rate_is_configured() -> None:
    config = BreakerConfig(slow_call_rate=0.5, slow_call_seconds=1.0, minimum_calls=4)
    breaker = CircuitBreaker(name="b", config=config)
    for duration in (0.1, 0.1, 2.0, 2.0):
        assert breaker.state is BreakerState.CLOSED
        permit = breaker.acquire(now=0.0)
        assert permit is not None
        breaker.success(permit, now=0.0, duration=duration)
    assert breaker.state is BreakerState.OPEN


def test_the_operator_overrides_everything_and_gives_it_back() -> None:
    for first in ("force_open", "disable", "observe"):
        for second in ("force_open", "disable", "observe"):
            breaker = CircuitBreaker(name="b")
            getattr(breaker, first)(now=0.0)
            getattr(breaker, second)(now=1.0)
            assert breaker.state.value == {
                "force_open": "forced_open", "disable": "disabled", "observe": "observing",
            }[second]  # fmt: skip
            breaker.reset(now=2.0)
            assert breaker.state is BreakerState.CLOSED


def test_forced_open_admits_nothing_disabled_counts_nothing_observing_never_opens() -> None:
    breaker = CircuitBreaker(name="b")
    breaker.force_open(now=0.0)
    assert breaker.acquire(now=999.0) is None and breaker.retry_at is None
    assert breaker.retry_after(now=0.0) is None
    breaker.disable(now=0.0)
    fail(breaker, 9)
    permit = breaker.acquire(now=0.0)
    assert permit is not None
    breaker.success(permit, now=0.0)
    assert breaker.state is BreakerState.DISABLED and breaker.error_rate(now=0.0) == 0.0
    breaker.observe(now=0.0)
    fail(breaker, 9)
    assert breaker.state is BreakerState.OBSERVING and breaker.error_rate(now=0.0) == 1.0


def test_reset_closes_an_open_circuit_too() -> None:
    breaker = opened()
    breaker.reset(now=1.0)
    assert breaker.state is BreakerState.CLOSED and breaker.error_rate(now=1.0) == 0.0
    breaker.reset(now=2.0)
    assert breaker.state is BreakerState.CLOSED


def test_a_snapshot_is_plain_data_and_brings_everything_back() -> None:
    breaker, permit = half_open()
    kept = breaker.snapshot()
    hash(kept)
    breaker.failure(permit, now=31.0)
    breaker.drain_events()
    breaker.restore(kept)
    assert breaker.state is BreakerState.HALF_OPEN and breaker.snapshot() == kept
    breaker.success(permit, now=31.0)
    assert breaker.state is BreakerState.CLOSED
