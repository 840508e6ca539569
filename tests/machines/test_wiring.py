"""What one machine puts out and another is told: the tables, and what of a reading is news."""

from __future__ import annotations

import pytest

from devpipe.machines.breaker import BreakerState, CircuitBreaker
from devpipe.machines.decisions.health import HealthStatus, Vitals
from devpipe.machines.decisions.readings import Reading
from devpipe.machines.effects import Dial, Doubt, HangUp, HoldDials
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import BreakerChanged, Connected, Disconnected, Doubted, Event, HealthChecked
from devpipe.machines.inputs import (
    Alive,
    Assess,
    Connect,
    Disconnect,
    Failure,
    Hold,
    PathFailed,
    PathProven,
    Standing,
    Suspect,
    TransportDown,
    TransportUp,
)
from devpipe.machines.wiring import BREAKER, FAILOVER, LIFECYCLE, MONITOR, OTHERS, Wire, news

RESET = Failure(kind=FailureKind.NETWORK, reason="reset")
AUTH = Failure(kind=FailureKind.AUTH, reason="401")
UP = Connected(transport="http", server="S", latency=0.1)
DOWN = Disconnected(transport="http", failure=RESET, retry_at=7.0, proven=True)
OPENED = BreakerChanged(transport="http", from_="closed", to="open", retry_at=3.0)
FINE = Vitals(attempts=10, successes=10, latency=0.1)
BAD = Vitals(attempts=10, successes=5, latency=0.1)


def told(table: tuple[Wire, ...], output: object) -> list[object]:
    return list(news(table, output, jitter=0.5))


def reading(vitals: Vitals = FINE, *, connected: bool = True, degraded: bool = False) -> Reading:
    return Reading(
        transport="http",
        score=0.8,
        admitted=False,
        retry_at=3.0,
        connected=connected,
        status=HealthStatus.DEGRADED if degraded else HealthStatus.HEALTHY,
        vitals=vitals,
    )


def test_every_row_has_a_reason_and_each_table_one_target() -> None:
    for table in (BREAKER, LIFECYCLE, OTHERS, MONITOR, FAILOVER):
        assert all(wire.reason for wire in table)
        assert len({wire.target for wire in table}) == 1


def test_a_path_on_which_calls_wait_in_vain_casts_doubt_on_the_others() -> None:
    assert told(OTHERS, Doubted(transport="websocket", answer_within=1.5)) == [Suspect(answer_within=1.5)]


def test_a_lifecycle_tells_the_failover_whether_it_is_up() -> None:
    assert told(FAILOVER, UP) == [TransportUp(transport="http", server="S")]
    assert told(FAILOVER, DOWN) == [TransportDown(transport="http", failure=RESET, retry_at=7.0)]
    left = Disconnected(transport="http", failure=None, retry_at=None, proven=True)
    [down] = told(FAILOVER, left)
    assert isinstance(down, TransportDown) and down.failure.kind is FailureKind.UNAVAILABLE


def test_the_failover_and_an_open_breaker_tell_the_lifecycle_when_to_dial() -> None:
    assert told(LIFECYCLE, Dial(transport="http", immediately=True)) == [
        Connect(jitter=0.5, immediately=True)
    ]
    assert told(LIFECYCLE, HangUp(transport="http")) == [Disconnect()]
    assert told(LIFECYCLE, HoldDials(until=9.0)) == [Hold(until=9.0)]
    assert told(LIFECYCLE, OPENED) == [Hold(until=3.0)]


def test_a_doubted_path_is_probed_at_once_and_only_an_answer_ends_the_doubt() -> None:
    assert told(LIFECYCLE, Doubt(transport="http")) == [Suspect()]
    assert told(FAILOVER, HealthChecked(transport="http", success=True, latency=0.1)) == [
        Alive(transport="http")
    ]
    assert told(FAILOVER, HealthChecked(transport="http", success=False, latency=0.0)) == []


def test_a_loss_is_a_failure_of_the_path_and_a_failed_dial_or_a_refused_token_is_none() -> None:
    assert told(BREAKER, UP) == [PathProven()]
    assert told(BREAKER, DOWN) == [PathFailed()]
    for failure, proven in ((RESET, False), (AUTH, True), (None, True)):
        lost = Disconnected(transport="http", failure=failure, retry_at=None, proven=proven)
        assert told(BREAKER, lost) == []


@pytest.mark.parametrize("event", [UP, OPENED])
def test_the_monitor_looks_anew_when_a_choice_may_follow(event: Event) -> None:
    assert told(MONITOR, event) == ["http"]


def test_the_monitor_tells_the_failover_what_it_has_read() -> None:
    assert told(FAILOVER, reading()) == [Standing(transport="http", score=0.8, admitted=False, retry_at=3.0)]


def test_the_lifecycle_hears_of_its_health_only_when_the_assessment_has_changed() -> None:
    assert told(LIFECYCLE, reading()) == []
    assert told(LIFECYCLE, reading(BAD)) == [Assess(healthy=False)]
    assert told(LIFECYCLE, reading(BAD, degraded=True)) == []
    assert told(LIFECYCLE, reading(degraded=True)) == [Assess(healthy=True)]
    assert told(LIFECYCLE, reading(BAD, connected=False)) == []


def test_a_failure_of_the_path_counts_and_a_proven_dial_probes_an_open_circuit() -> None:
    breaker = CircuitBreaker(name="b")
    for _ in range(4):
        breaker.receive(PathFailed(), now=0.0)
    breaker.receive(PathProven(), now=0.0)
    assert breaker.consecutive_failures == 4, "a dial that is proven while all is admitted is no call"
    breaker.receive(PathFailed(), now=0.0)
    assert breaker.state is BreakerState.OPEN
    breaker.receive(PathProven(), now=29.9)
    assert breaker.state is BreakerState.OPEN, "it has not cooled down"
    breaker.receive(PathFailed(), now=30.0)
    assert breaker.state is BreakerState.OPEN and breaker.retry_at == 60.0, "the probe has failed"
    breaker.receive(PathProven(), now=60.0)
    assert breaker.state is BreakerState.CLOSED
