"""The life of a transport: every pair of state and input, and the rules that decide between two ways."""

from __future__ import annotations

import pytest

from devpipe.machines.charts.base import IllegalTransition
from devpipe.machines.config import LifecycleConfig
from devpipe.machines.decisions.health import HealthStatus
from devpipe.machines.effects import CloseLink, DrainLink, LoseCalls, OpenLink, SendProbe
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import Connected, Disconnected, Doubted, Reconnecting
from devpipe.machines.inputs import (
    Assess,
    CallsWaiting,
    Connect,
    Destroy,
    Disconnect,
    Drain,
    Drained,
    Failed,
    Failure,
    Hold,
    Initialize,
    LifecycleInput,
    LinkClosed,
    Opened,
    Proved,
    Suspect,
)
from devpipe.machines.lifecycle import Lifecycle, LifecycleState

BROKEN = Failure(kind=FailureKind.NETWORK, reason="reset")
REFUSED = Failure(kind=FailureKind.NETWORK, reason="refused", refused=True)
AUTH = Failure(kind=FailureKind.AUTH, reason="401")


def make(**settings: float) -> Lifecycle:
    return Lifecycle(name="ws", config=LifecycleConfig(**settings), nonce_prefix="n")  # type: ignore[arg-type]


def nonce(lifecycle: Lifecycle) -> str:
    return f"n{lifecycle.snapshot().context.nonces}"


def feed(lifecycle: Lifecycle, *items: LifecycleInput, now: float = 0.0) -> Lifecycle:
    for item in items:
        lifecycle.receive(item, now=now)
    return lifecycle


def opening(**settings: float) -> Lifecycle:
    return feed(make(**settings), Initialize(), Connect())


def proving(**settings: float) -> Lifecycle:
    lifecycle = opening(**settings)
    return feed(lifecycle, Opened(generation=lifecycle.generation))


def prove(lifecycle: Lifecycle, *, now: float = 0.0, latency: float = 0.1) -> Lifecycle:
    proof = Proved(generation=lifecycle.generation, nonce=nonce(lifecycle), server="S", latency=latency)
    return feed(lifecycle, proof, now=now)


def probation(**settings: float) -> Lifecycle:
    return prove(proving(**settings))


def healthy(**settings: float) -> Lifecycle:
    lifecycle = probation(**settings)
    lifecycle.useful(now=0.0)
    return lifecycle


def degraded() -> Lifecycle:
    return feed(healthy(), Assess(healthy=False))


def fail(
    lifecycle: Lifecycle, failure: Failure = BROKEN, *, now: float = 0.0, jitter: float = 0.5
) -> Lifecycle:
    return feed(lifecycle, Failed(generation=lifecycle.generation, failure=failure, jitter=jitter), now=now)


def blocked() -> Lifecycle:
    lifecycle = opening(retry_attempts=1)
    return fail(lifecycle)


STATES = {
    "new": make,
    "ready": lambda: feed(make(), Initialize()),
    "opening": opening,
    "proving": proving,
    "probation": probation,
    "healthy": healthy,
    "degraded": degraded,
    "backoff": lambda: fail(opening()),
    "blocked": blocked,
    "draining": lambda: feed(healthy(), Drain()),
    "closing": lambda: feed(healthy(), Disconnect()),
    "failed": lambda: fail(opening(), AUTH),
    "destroyed": lambda: feed(make(), Destroy()),
}

#: What each operator's word does in each state; "!" is illegal.
ORDERS: dict[str, tuple[LifecycleInput, dict[str, str]]] = {
    "initialize": (Initialize(), {"new": "ready", "ready": "ready"}),
    "connect": (
        Connect(),
        {
            "ready": "opening", "failed": "opening", "closing": "opening", "backoff": "backoff",
            "blocked": "blocked", "opening": "opening", "proving": "proving", "probation": "probation",
            "healthy": "healthy", "degraded": "degraded", "draining": "draining",
        },
    ),
    "drain": (
        Drain(),
        {"probation": "draining", "healthy": "draining", "degraded": "draining", "draining": "draining"},
    ),
    "disconnect": (
        Disconnect(),
        {
            "new": "new", "ready": "ready", "opening": "closing", "proving": "closing", "probation": "closing",
            "healthy": "closing", "degraded": "closing", "draining": "closing", "closing": "closing",
            "backoff": "ready", "blocked": "ready", "failed": "ready", "destroyed": "destroyed",
        },
    ),
    "destroy": (Destroy(), dict.fromkeys(STATES, "destroyed")),
    "loss": (
        Failed(generation=1, failure=BROKEN, jitter=0.5),
        {
            **{state: state for state in STATES},
            "opening": "backoff", "proving": "backoff", "probation": "backoff", "healthy": "backoff",
            "degraded": "backoff", "draining": "ready", "closing": "ready",
        },
    ),
    "refusal for good": (
        Failed(generation=1, failure=AUTH, jitter=0.5),
        {
            **{state: state for state in STATES},
            "opening": "failed", "proving": "failed", "probation": "failed", "healthy": "failed",
            "degraded": "failed", "draining": "ready", "closing": "ready",
        },
    ),
    "closed": (LinkClosed(generation=1), {**{state: state for state in STATES}, "closing": "ready"}),
    "drained": (Drained(), {**{state: state for state in STATES}, "draining": "closing"}),
    "degrade": (
        Assess(healthy=False),
        {**{state: state for state in STATES}, "probation": "degraded", "healthy": "degraded"},
    ),
    "recover": (Assess(healthy=True), {**{state: state for state in STATES}, "degraded": "healthy"}),
    "suspect": (Suspect(), {state: state for state in STATES}),
    "hold": (Hold(until=5.0), {state: state for state in STATES}),
    "waiting": (CallsWaiting(since=0.0, span=30.0), {state: state for state in STATES}),
    "opened": (Opened(generation=1), {**{state: state for state in STATES}, "opening": "proving"}),
    "wrong proof": (
        Proved(generation=1, nonce="not ours", server="S", latency=0.0), {state: state for state in STATES}
    ),
}  # fmt: skip


def test_every_input_in_every_state_is_taken_ignored_or_illegal_as_the_table_says() -> None:
    for order, (item, table) in ORDERS.items():
        for state, build in STATES.items():
            lifecycle = build()
            assert lifecycle.state.value == state
            expected = table.get(state, "!")
            if expected == "!":
                before = lifecycle.snapshot()
                with pytest.raises(IllegalTransition, match=state):
                    lifecycle.receive(item, now=0.0)
                assert lifecycle.snapshot() == before, f"{order} in {state} has changed something"
            else:
                lifecycle.receive(item, now=0.0)
                assert lifecycle.state.value == expected, f"{order} in {state}"


def test_every_state_that_waits_does_the_next_thing_at_its_deadline_and_nothing_before() -> None:
    after = {
        "opening": "backoff", "proving": "backoff", "probation": "healthy", "healthy": "healthy",
        "degraded": "degraded", "backoff": "opening", "blocked": "opening", "draining": "draining",
        "closing": "ready",
    }  # fmt: skip
    for state, build in STATES.items():
        lifecycle = build()
        deadline = lifecycle.next_deadline()
        assert (deadline is not None) == (state in after), state
        if deadline is None:
            lifecycle.handle_deadline(now=1e9)
            assert lifecycle.state.value == state
            continue
        before = lifecycle.snapshot()
        lifecycle.handle_deadline(now=deadline - 0.001)
        assert lifecycle.snapshot() == before, "waking early is a no-op"
        lifecycle.handle_deadline(now=deadline)
        assert lifecycle.state.value == after[state], state
        again = lifecycle.next_deadline()
        assert again is None or again > deadline, "a handled deadline does not come back"


def test_a_dial_is_an_open_link_then_a_nonce_then_a_proof() -> None:
    lifecycle = opening()
    assert lifecycle.drain_effects() == [OpenLink(generation=1)]
    assert lifecycle.drain_events() == [Reconnecting(transport="ws", attempt=1)]
    assert not lifecycle.connected and lifecycle.attempt == 1 and lifecycle.heard_at == float("-inf")
    feed(lifecycle, Opened(generation=1))
    assert lifecycle.drain_effects() == [SendProbe(generation=1, nonce="n1")]
    assert not lifecycle.connected, "open is not enough"
    prove(lifecycle, now=0.2)
    assert lifecycle.connected and lifecycle.proven_at == 0.2 and lifecycle.attempt == 0
    assert lifecycle.drain_events() == [Connected(transport="ws", server="S", latency=0.1)]


def test_a_loss_gives_back_the_calls_closes_the_link_and_says_when_it_is_dialled_again() -> None:
    lifecycle = healthy()
    lifecycle.drain_effects(), lifecycle.drain_events()
    fail(lifecycle, now=100.0, jitter=0.5)
    assert lifecycle.drain_effects() == [
        LoseCalls(generation=1, failure=BROKEN),
        CloseLink(generation=1, reason="reset"),
    ]
    lost = Disconnected(transport="ws", failure=BROKEN, retry_at=100.5, proven=True)
    assert lifecycle.drain_events() == [lost]
    assert lifecycle.retry_at == 100.5 and lifecycle.last_failure == BROKEN


def test_a_dial_that_fails_was_never_proven() -> None:
    for dial in (opening, proving):
        lifecycle = dial()
        lifecycle.drain_events()
        fail(lifecycle)
        assert [e.proven for e in lifecycle.drain_events() if isinstance(e, Disconnected)] == [False]


def test_the_word_of_the_server_on_when_to_come_back_wins() -> None:
    busy = Failure(kind=FailureKind.UNAVAILABLE, reason="503", retry_after=20.0)
    lifecycle = fail(opening(), busy, jitter=0.0)
    assert lifecycle.retry_at == 20.0


def test_dials_that_run_out_block_the_path_and_each_block_is_longer() -> None:
    lifecycle = opening(retry_attempts=3)
    waits: list[float] = []
    now = 0.0
    for _ in range(9):
        fail(lifecycle, now=now, jitter=1.0 - 1e-9)
        at = lifecycle.retry_at
        assert at is not None
        if lifecycle.state is LifecycleState.BLOCKED:
            waits.append(round(at - now))
        now = at
        lifecycle.handle_deadline(now=now)
    assert waits == [30, 60, 120]
    assert "blocked" in blocked().explain()


def test_a_refused_connection_never_blocks_because_it_is_the_server_that_is_down() -> None:
    lifecycle = opening(retry_attempts=1)
    for _ in range(20):
        fail(lifecycle, REFUSED)
        assert lifecycle.state is LifecycleState.BACKOFF and "waits" in lifecycle.explain()
        at = lifecycle.retry_at
        assert at is not None and at <= 10.0
        feed(lifecycle, Disconnect(), Connect())


def test_a_path_that_opens_and_dies_young_again_and_again_is_blocked() -> None:
    lifecycle = probation(young_limit=3)
    for _ in range(2):
        fail(lifecycle, now=1.0)
        assert lifecycle.state is LifecycleState.BACKOFF
        at = lifecycle.retry_at
        assert at is not None
        lifecycle.handle_deadline(now=at)
        feed(lifecycle, Opened(generation=lifecycle.generation), now=1.0)
        prove(lifecycle, now=1.0)
    fail(lifecycle, now=2.0)
    assert lifecycle.state is LifecycleState.BLOCKED


def test_one_useful_message_ends_dying_young() -> None:
    lifecycle = healthy(young_limit=1)
    fail(lifecycle, now=1.0)
    assert lifecycle.state is LifecycleState.BACKOFF
    lifecycle = healthy()
    steps = lifecycle.steps
    lifecycle.useful(now=1.0)
    assert lifecycle.steps == steps, "it is told once per link"


def test_a_silent_young_path_is_blocked_too() -> None:
    lifecycle = probation(young_limit=1, young_seconds=60.0, probation_period=100.0)
    feed(lifecycle, CallsWaiting(since=0.0, span=30.0))
    lifecycle.handle_deadline(now=3.0)
    lifecycle.handle_deadline(now=5.0)
    assert lifecycle.state is LifecycleState.BLOCKED


def test_an_overdue_dial_blocks_when_the_dials_have_run_out() -> None:
    for build in (opening, proving):
        lifecycle = build(retry_attempts=1)
        at = lifecycle.next_deadline()
        assert at is not None
        lifecycle.handle_deadline(now=at)
        assert lifecycle.state is LifecycleState.BLOCKED
        failure = lifecycle.last_failure
        assert failure is not None and failure.kind is FailureKind.TIMEOUT


def test_silence_with_calls_in_flight_is_known_within_five_seconds() -> None:
    for build in (healthy, degraded, probation):
        lifecycle = build()
        if build is probation:
            lifecycle = probation(probation_period=100.0)
        lifecycle.drain_effects()
        feed(lifecycle, CallsWaiting(since=10.0, span=30.0), now=10.0)
        assert lifecycle.next_deadline() == 13.0
        lifecycle.handle_deadline(now=13.0)
        assert isinstance(lifecycle.drain_effects()[0], SendProbe)
        assert lifecycle.next_deadline() == 15.0
        lifecycle.handle_deadline(now=15.0, jitter=0.5)
        assert lifecycle.state is LifecycleState.BACKOFF


def test_calls_that_wait_in_vain_cast_doubt_on_the_other_paths_and_a_heartbeat_does_not() -> None:
    lifecycle = healthy()
    lifecycle.drain_events()
    feed(lifecycle, CallsWaiting(since=10.0, span=30.0), now=10.0)
    lifecycle.handle_deadline(now=13.0)
    assert lifecycle.drain_events() == [Doubted(transport="ws", answer_within=2.0)]
    idle = healthy()
    idle.drain_events()
    idle.handle_deadline(now=30.0)
    feed(idle, Suspect(), now=31.0)
    assert idle.drain_events() == [] and idle.connected


def test_a_call_with_little_time_makes_silence_known_earlier() -> None:
    lifecycle = healthy()
    feed(lifecycle, CallsWaiting(since=10.0, span=3.0), now=10.0)
    assert lifecycle.next_deadline() == 11.0
    lifecycle.handle_deadline(now=11.0)
    assert lifecycle.next_deadline() == 12.0
    feed(lifecycle, CallsWaiting(since=None), now=11.0)
    feed(lifecycle, CallsWaiting(since=1.0), now=11.0)


def test_a_call_with_hardly_any_time_leaves_an_echo_the_time_that_the_path_needs() -> None:
    for latency, needed in ((0.001, 0.5), (0.2, 0.8), (30.0, 2.0)):
        lifecycle = prove(proving(), now=1.0, latency=latency)
        lifecycle.useful(now=1.0)
        lifecycle.drain_effects()
        feed(lifecycle, CallsWaiting(since=10.0, span=0.3), now=10.0)
        lifecycle.handle_deadline(now=10.1)
        assert isinstance(lifecycle.drain_effects()[0], SendProbe)
        assert lifecycle.next_deadline() == pytest.approx(10.1 + needed)
        prove(lifecycle, now=10.2, latency=0.15)
        lifecycle.handle_deadline(now=10.4)
        assert lifecycle.next_deadline() == pytest.approx(10.4 + 0.6), (
            "what the last echo took is what counts"
        )


def test_a_sign_of_life_after_the_ping_ends_the_silence() -> None:
    for build in (healthy, degraded, lambda: feed(healthy(), Drain())):
        lifecycle = build()
        feed(lifecycle, CallsWaiting(since=10.0, span=30.0), now=10.0)
        lifecycle.handle_deadline(now=13.0)
        lifecycle.heard(now=14.0)
        lifecycle.handle_deadline(now=15.0)
        assert lifecycle.connected
        assert lifecycle.next_deadline() == 17.0
        lifecycle.handle_deadline(now=17.0)
        prove(lifecycle, now=17.5)
        assert lifecycle.connected and lifecycle.next_deadline() == 20.5


def test_a_ping_that_was_answered_late_does_not_delay_the_next_one() -> None:
    lifecycle = healthy()
    feed(lifecycle, CallsWaiting(since=10.0, span=30.0), now=10.0)
    lifecycle.handle_deadline(now=13.0)
    lifecycle.heard(now=13.5)
    lifecycle.drain_effects()
    lifecycle.handle_deadline(now=60.0)
    assert isinstance(lifecycle.drain_effects()[0], SendProbe)


def test_a_silent_path_that_is_being_drained_is_given_up() -> None:
    lifecycle = feed(healthy(), Drain())
    assert DrainLink(generation=1) in lifecycle.drain_effects()
    lifecycle.handle_deadline(now=30.0)
    lifecycle.handle_deadline(now=35.0)
    assert lifecycle.state is LifecycleState.READY


def test_an_idle_path_has_a_heartbeat() -> None:
    lifecycle = healthy()
    assert lifecycle.next_deadline() == 30.0
    lifecycle.handle_deadline(now=30.0)
    assert lifecycle.next_deadline() == 35.0
    prove(lifecycle, now=31.0)
    assert lifecycle.next_deadline() == 61.0


@pytest.mark.parametrize("way", ["a second proof", "draining"])
def test_the_deadline_of_probation_ends_with_it_whatever_ends_it(way: str) -> None:
    lifecycle = probation(probation_period=5.0, heartbeat_interval=100.0)
    if way == "draining":
        feed(lifecycle, Drain(), now=1.0)
    else:
        feed(lifecycle, CallsWaiting(since=0.0, span=30.0), now=0.0)
        lifecycle.handle_deadline(now=3.0)
        feed(lifecycle, Proved(generation=1, nonce=nonce(lifecycle), server="S", latency=0.1), now=3.1)
        feed(lifecycle, CallsWaiting(since=None, span=None), now=3.2)
    state = lifecycle.state
    for second in range(4, 60):
        lifecycle.handle_deadline(now=second)
    assert lifecycle.state is state


def test_a_second_proof_ends_probation_and_later_ones_change_nothing() -> None:
    lifecycle = probation()
    feed(lifecycle, Suspect(), now=1.0)
    prove(lifecycle, now=1.1)
    assert lifecycle.state is LifecycleState.HEALTHY
    for build in (healthy, degraded, probation, lambda: feed(healthy(), Drain())):
        lifecycle = build()
        before = lifecycle.state
        feed(lifecycle, Proved(generation=1, nonce="old", server="S", latency=0.0), now=1.0)
        assert lifecycle.state is before


def test_a_sleep_of_the_machine_makes_every_connection_prove_itself_at_once() -> None:
    for build in (probation, healthy, degraded, lambda: feed(healthy(), Drain())):
        lifecycle = build()
        lifecycle.drain_effects()
        feed(lifecycle, Suspect(), now=100.0)
        assert isinstance(lifecycle.drain_effects()[0], SendProbe)
        assert lifecycle.next_deadline() in (102.0, 5.0)
        prove(lifecycle, now=101.0)
        assert lifecycle.connected
    waiting = feed(make(), Initialize(), Suspect())
    assert waiting.drain_effects() == []


def test_callers_cut_a_backoff_short_once_per_loss() -> None:
    lifecycle = fail(healthy(), now=10.0)
    feed(lifecycle, Connect(immediately=True), now=10.0)
    assert lifecycle.state is LifecycleState.OPENING
    fail(lifecycle, now=10.1)
    feed(lifecycle, Connect(immediately=True), now=10.1)
    assert lifecycle.state is LifecycleState.BACKOFF


def test_a_hold_delays_dials_and_its_end_brings_none_forward() -> None:
    lifecycle = fail(opening(), now=0.0)
    feed(lifecycle, Hold(until=9.0))
    assert lifecycle.retry_at == 9.0
    feed(lifecycle, Connect(immediately=True))
    assert lifecycle.state is LifecycleState.BACKOFF, "held"
    feed(lifecycle, Hold(until=None))
    assert lifecycle.retry_at == 9.0
    for lifecycle in (feed(make(), Initialize()), fail(opening(), AUTH)):
        feed(lifecycle, Hold(until=5.0), Connect())
        assert lifecycle.state is LifecycleState.BACKOFF and lifecycle.retry_at == 5.0
    lifecycle = fail(feed(opening(), Hold(until=50.0)))
    assert lifecycle.retry_at == 50.0


def test_news_of_an_older_link_is_dropped_and_counted() -> None:
    lifecycle = fail(opening())
    lifecycle.handle_deadline(now=10.0)
    assert lifecycle.generation == 2
    for item in (
        Opened(generation=1), LinkClosed(generation=1), Failed(generation=1, failure=BROKEN, jitter=0.0),
        Proved(generation=1, nonce="n1", server="S", latency=0.0),
    ):  # fmt: skip
        lifecycle.receive(item, now=10.0)
    assert lifecycle.late == 4 and lifecycle.state is LifecycleState.OPENING


def test_every_state_has_one_health_status() -> None:
    for state, build in STATES.items():
        lifecycle = build()
        assert isinstance(lifecycle.status, HealthStatus)
        assert lifecycle.explain().startswith(
            state if state not in ("backoff", "failed") else ("waits" if state == "backoff" else "failed")
        )
    assert degraded().status is HealthStatus.DEGRADED
    assert blocked().status is HealthStatus.FAILING
    assert feed(make(), Initialize()).status is HealthStatus.DISCONNECTED


def test_a_snapshot_is_plain_data_and_brings_everything_back() -> None:
    for build in STATES.values():
        lifecycle = build()
        kept = lifecycle.snapshot()
        hash(kept)
        other = make()
        other.restore(kept)
        assert other.snapshot() == kept and other.next_deadline() == lifecycle.next_deadline()


def test_useful_messages_count_in_every_proven_state() -> None:
    for build in (probation, lambda: feed(probation(), Assess(healthy=False))):
        lifecycle = build()
        lifecycle.useful(now=0.5)
        fail(lifecycle, now=1.0)
        assert lifecycle.state is LifecycleState.BACKOFF and lifecycle.snapshot().context.young_deaths == 0
    assessed = feed(probation(), Assess(healthy=False), Assess(healthy=True))
    assert assessed.state is LifecycleState.HEALTHY
    assessed.useful(now=0.5)
    fail(assessed, now=1.0)
    assert assessed.snapshot().context.young_deaths == 0


def test_a_path_that_is_degraded_in_its_probation_has_no_probation_to_end() -> None:
    lifecycle = feed(probation(), Assess(healthy=False))
    assert lifecycle.next_deadline() == 30.0
    lifecycle.handle_deadline(now=30.0)
    assert lifecycle.state is LifecycleState.DEGRADED


def test_a_heartbeat_that_is_due_before_a_call_has_waited_long_comes_first() -> None:
    lifecycle = feed(healthy(), CallsWaiting(since=28.0, span=30.0), now=28.0)
    assert lifecycle.next_deadline() == 30.0


@pytest.mark.parametrize("state", STATES)
def test_what_is_destroyed_waits_for_nothing_however_long_its_link_takes_to_close(state: str) -> None:
    life = feed(STATES[state](), Destroy())
    assert life.next_deadline() is None
    life.handle_deadline(now=1e9)
    assert life.state is LifecycleState.DESTROYED


def test_it_shows_its_name_and_where_it_is() -> None:
    assert repr(make()) == "<Lifecycle ws new>"
    assert repr(healthy()) == "<Lifecycle ws healthy>"
