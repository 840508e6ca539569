"""Calls in flight: each ends once, at its deadline at the latest, and what is known of it is never better than true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import Outcome
from devpipe.machines.protocols.calls import SWEEP, Call, Calls


def make(id: str = "p-1", *, now: float = 0.0, deadline: float = 1.0) -> Call:
    return Call(id, "echo", b"null", now=now, deadline=deadline)


def test_a_reply_takes_its_call_out_once_and_a_second_reply_is_counted() -> None:
    calls = Calls()
    call = make()
    calls.start(call)
    assert len(calls) == 1 and "p-1" in calls and calls.get("p-1") is call
    assert calls.take_reply("p-1") is call
    assert calls.take_reply("p-1") is None
    assert calls.unknown_replies == 1
    assert len(calls) == 0 and calls.next_deadline() is None


def test_an_id_that_is_open_cannot_be_started_again() -> None:
    calls = Calls()
    calls.start(make())
    with pytest.raises(ValueError, match="p-1"):
        calls.start(make())


def test_a_call_expires_within_one_sweep_after_its_deadline_and_not_before() -> None:
    calls = Calls()
    early, late = make("p-1", deadline=1.0), make("p-2", deadline=2.0)
    calls.start(late)
    calls.start(early)
    assert calls.handle_deadline(now=1.0) == []
    due = calls.next_deadline()
    assert due is not None and 1.0 < due <= 1.0 + SWEEP + 1e-9
    assert calls.handle_deadline(now=due) == [early]
    assert calls.handle_deadline(now=due) == []
    assert calls.handle_deadline(now=10.0) == [late]
    assert calls.handle_deadline(now=10.0) == []


def test_calls_of_one_bucket_expire_in_the_order_of_their_deadlines() -> None:
    calls = Calls()
    second, first = make("p-2", deadline=1.02), make("p-1", deadline=1.01)
    calls.start(second)
    calls.start(first)
    assert calls.handle_deadline(now=2.0) == [first, second]


def test_what_was_never_handed_over_stays_never_sent_and_the_rest_may_have_run() -> None:
    call = make()
    assert call.known is Outcome.NEVER_SENT
    call.begin_attempt("websocket", b"{}", now=0.1)
    assert (call.route, call.attempts, call.submitted) == ("websocket", 1, 0.1)
    call.end_attempt()
    assert call.outcome is Outcome.NEVER_SENT and call.route is None
    call.begin_attempt("http", b"{}", now=0.2)
    call.handed_over = True
    assert call.known is Outcome.MAYBE_EXECUTED
    call.end_attempt()
    call.begin_attempt("folder", b"{}", now=0.3)
    call.end_attempt()
    assert call.known is Outcome.MAYBE_EXECUTED, "a later attempt cannot make an earlier one unsent"


def test_calls_are_listed_by_route() -> None:
    calls = Calls()
    here, there = make("p-1"), make("p-2")
    for call, route in ((here, "http"), (there, "websocket")):
        calls.start(call)
        call.begin_attempt(route, b"{}", now=0.0)
    assert calls.on_route("http") == [here]
    assert calls.open_calls() == [here, there]
    assert calls.snapshot()[0] == ("p-1", 1.0, "http", False, Outcome.NEVER_SENT)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0.01, 5), st.booleans()), max_size=40))
def test_every_call_ends_exactly_once_whatever_order_replies_and_deadlines_come_in(
    plan: list[tuple[int, float, bool]],
) -> None:
    calls = Calls()
    ended: dict[str, int] = {}
    now = 0.0
    for number, span, replied in plan:
        id = f"p-{number}"
        if id in calls:
            if replied and calls.take_reply(id) is not None:
                ended[id] = ended.get(id, 0) + 1
            continue
        if id in ended:
            continue
        calls.start(make(id, now=now, deadline=now + span))
        now += span / 2
        for call in calls.handle_deadline(now=now):
            assert call.deadline <= now
            ended[call.id] = ended.get(call.id, 0) + 1
    for call in calls.handle_deadline(now=now + 10):
        ended[call.id] = ended.get(call.id, 0) + 1
    assert all(count == 1 for count in ended.values())
    assert len(calls) == 0 and calls.next_deadline() is None
