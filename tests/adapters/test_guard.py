"""``devpipe.Breaker`` around anyone's code, on a clock that is set by hand."""

from __future__ import annotations

import anyio
import pytest

import devpipe

CONFIG = devpipe.BreakerConfig(failure_threshold=2, reset_timeout=30)


class Now:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def failing(breaker: devpipe.Breaker, error: type[Exception] = OSError) -> None:
    with pytest.raises(error), breaker:
        raise error("ill")


def opened(now: Now) -> devpipe.Breaker:
    breaker = devpipe.Breaker("payments", config=CONFIG, clock=now)
    failing(breaker)
    failing(breaker)
    return breaker


def test_too_many_failures_open_it_and_it_says_for_how_long() -> None:
    now = Now()
    breaker = opened(now)
    assert breaker.state is devpipe.BreakerState.OPEN
    now.at += 10
    with pytest.raises(devpipe.CircuitOpen, match="payments is open for 20.0 s more") as caught, breaker:
        raise AssertionError("this must not run")
    assert caught.value.retry_after == 20
    assert caught.value.outcome is devpipe.Outcome.NEVER_SENT


def test_after_a_while_one_probe_closes_it_again() -> None:
    now = Now()
    breaker = opened(now)
    now.at += 30
    with breaker:
        with pytest.raises(devpipe.CircuitOpen), breaker:
            raise AssertionError("there is one probe at a time")
    assert breaker.state is devpipe.BreakerState.CLOSED


def test_a_probe_that_never_comes_back_is_a_failure_when_its_time_is_over() -> None:
    now = Now()
    breaker = opened(now)
    now.at += 30
    breaker.__enter__()
    now.at += CONFIG.permit_timeout
    with pytest.raises(devpipe.CircuitOpen), breaker:
        raise AssertionError("this must not run")


def test_other_exceptions_than_its_failures_are_neutral() -> None:
    breaker = devpipe.Breaker(config=CONFIG, clock=Now(), failures=(OSError,))
    for _ in range(5):
        failing(breaker, KeyError)
    assert breaker.state is devpipe.BreakerState.CLOSED


def test_an_operator_may_hold_it_open() -> None:
    now = Now()
    breaker = devpipe.Breaker("payments", clock=now)
    breaker.core.force_open(now=now())
    with pytest.raises(devpipe.CircuitOpen, match="until its operator resets it") as caught, breaker:
        raise AssertionError("this must not run")
    assert caught.value.retry_after is None


def test_without_a_clock_it_takes_the_monotonic_one() -> None:
    breaker = devpipe.Breaker(config=devpipe.BreakerConfig(failure_threshold=1))
    failing(breaker)
    with pytest.raises(devpipe.CircuitOpen) as caught, breaker:
        raise AssertionError("this must not run")
    assert caught.value.retry_after is not None and 29 < caught.value.retry_after <= 30


@pytest.mark.anyio
async def test_many_blocks_at_once_and_cancellation_is_neutral() -> None:
    breaker = devpipe.Breaker(config=CONFIG, clock=Now())

    async def fail() -> None:
        with pytest.raises(OSError, match="ill"):
            async with breaker:
                await anyio.lowlevel.checkpoint()
                raise OSError("ill")

    with anyio.CancelScope() as scope:
        async with breaker:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught and breaker.state is devpipe.BreakerState.CLOSED
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        tasks.start_soon(fail)
    assert breaker.state is devpipe.BreakerState.OPEN
