"""The client's session, its place in the pushes, and the budget for sending again."""

from __future__ import annotations

import pytest

from devpipe.machines.decisions.budget import RetryBudget
from devpipe.machines.errors import Outcome, TransportError
from devpipe.machines.message import Gap, Position
from devpipe.machines.protocols.cursor import ATTACHES, PushCursor, Verdict
from devpipe.machines.protocols.envelope import decode
from devpipe.machines.protocols.session import ClientSession, read_attached, read_hello

HELLO = (
    b'{"type":"hello","replyTo":"c","success":true,"payload":{"protocol":1,"server":"S","session":"me",'
    b'"nonce":"n","time":1500,"limits":{"maxMessageBytes":9},"push":{"epoch":"e","offset":3}}}'
)


def test_the_first_answer_binds_the_session_to_that_process_and_later_hellos_ask_to_resume() -> None:
    session = ClientSession("me")
    assert session.hello("n", client="t")["resume"] is False
    answer = read_hello(decode(HELLO), transport="http")
    assert (
        answer.known
        and answer.time == 1.5
        and answer.max_message_bytes == 9
        and answer.push == Position("e", 3)
    )
    assert session.answered(answer) and session.server == "S" and session.remembers
    assert session.hello("n", client="t")["resume"] is True


def test_another_process_and_one_that_does_not_know_us_are_not_ours() -> None:
    session = ClientSession("me")
    session.answered(read_hello(decode(HELLO), transport="http"))
    other = read_hello(decode(HELLO.replace(b'"S"', b'"T"')), transport="http")
    assert not session.answered(other)
    unknown = decode(b'{"type":"hello","replyTo":"c","success":false,"payload":{"server":"T","nonce":"n"}}')
    assert not session.answered(read_hello(unknown, transport="http"))
    session.renew("you")
    assert session.id == "you" and session.server is None and not session.remembers


def test_answers_that_make_no_sense_are_protocol_errors() -> None:
    assert read_hello(decode(b'{"type":"hello","replyTo":"c"}'), transport="x").server == ""
    with pytest.raises(TransportError):
        read_hello(decode(b'{"type":"hello","payload":{"server":5}}'), transport="x")
    with pytest.raises(TransportError):
        read_attached(decode(b'{"type":"response","payload":{"offset":"a"}}'), transport="x")
    assert (
        read_attached(decode(b'{"type":"a","payload":{"epoch":"e","offset":1}}'), transport="x").gap is False
    )


def test_pushes_are_taken_in_order_and_once_and_a_hole_is_noticed() -> None:
    cursor = PushCursor()
    assert cursor.position is None
    cursor.begin(Position("e", 2))
    cursor.begin(Position("f", 9))
    assert cursor.attach() == {"number": 1, "epoch": "e", "after": 2}
    assert cursor.receive(Position("e", 3), now=0.0) is Verdict.TAKE
    assert cursor.receive(Position("e", 3), now=0.0) is Verdict.DROP and cursor.dropped == 1
    assert cursor.receive(Position("e", 5), now=0.0) is Verdict.MISSING
    assert cursor.receive(Position("f", 4), now=1.0) is Verdict.MISSING
    assert cursor.position == Position("e", 3)
    assert cursor.attach()["number"] == 2
    assert cursor.receive(Position("e", 4), now=0.0) is Verdict.TAKE


def test_what_comes_behind_a_hole_is_no_reason_to_ask_once_for_each() -> None:
    cursor = PushCursor()
    cursor.begin(Position("e", 0))
    asked: list[float] = []
    for tick in range(480):
        if cursor.receive(Position("e", 2 + tick), now=tick / 8) is Verdict.MISSING:
            asked.append(tick / 8)
    assert asked == [0.0, 0.125, 0.25, 0.5, 1.0, 1.875, 3.5, 6.75, 13.25, 23.25, 33.25, 43.25, 53.25]
    assert cursor.position == Position("e", 0)
    assert cursor.next_deadline() == 63.25 and not cursor.due(now=63.0)
    assert cursor.due(now=63.25) and not cursor.due(now=63.25), "once"
    assert cursor.next_deadline() is None
    assert cursor.receive(Position("e", 1), now=60.0) is Verdict.TAKE
    assert cursor.receive(Position("e", 3), now=60.0) is Verdict.MISSING, "the next hole is asked for at once"


@pytest.mark.parametrize("strange", [Position("e", 7), Position("f", 1)])
def test_a_push_that_the_server_never_sends_becomes_a_gap(strange: Position) -> None:
    cursor = PushCursor()
    cursor.begin(Position("e", 2))
    cursor.attached(epoch="e", gap=False, reason="")
    for now in range(ATTACHES):
        assert cursor.receive(strange, now=float(now)) is Verdict.MISSING
        assert cursor.attached(epoch="e", gap=False, reason="") is None
    gap = cursor.receive(strange, now=9.0)
    assert isinstance(gap, Gap) and (gap.after, gap.before) == (Position("e", 2), strange)
    assert cursor.receive(strange, now=9.0) is Verdict.DROP, "it was taken"
    assert cursor.receive(Position(strange.epoch, strange.offset + 1), now=9.0) is Verdict.TAKE
    assert cursor.receive(Position(strange.epoch, strange.offset + 3), now=9.0) is Verdict.MISSING, "anew"


def test_only_the_servers_word_or_another_epoch_makes_a_gap_and_then_it_goes_on_where_it_can() -> None:
    cursor = PushCursor()
    cursor.begin(Position("e", 2))
    assert cursor.attached(epoch="e", gap=False, reason="") is None
    gap = cursor.attached(epoch="e", gap=True, reason="too old")
    assert gap is not None and gap.after == Position("e", 2)
    assert cursor.receive(Position("e", 9), now=0.0) is Verdict.TAKE
    assert cursor.receive(Position("e", 11), now=0.0) is Verdict.MISSING
    gap = cursor.attached(epoch="f", gap=False, reason="new")
    assert gap is not None and gap.after == Position("e", 9)
    assert cursor.receive(Position("f", 7), now=0.0) is Verdict.TAKE


def test_a_lost_session_is_a_gap_if_there_was_a_history() -> None:
    cursor = PushCursor()
    assert cursor.lost("gone") is None
    assert cursor.receive(Position("e", 4), now=0.0) is Verdict.TAKE
    gap = cursor.lost("gone")
    assert gap is not None and gap.after == Position("e", 4) and cursor.position is None


def test_the_budget_delays_and_refills_with_traffic_and_time() -> None:
    budget = RetryBudget(ratio=0.5, per_second=1.0, capacity=10.0)
    assert budget.take(now=0.0)
    assert not budget.take(now=0.0)
    assert budget.next_token(now=0.0) == 1.0
    budget.deposit()
    budget.deposit()
    assert budget.take(now=0.0)
    assert budget.take(now=1.5)
    assert not budget.take(now=1.0), "a clock that goes back fills nothing"
    assert budget.next_token(now=100.0) == 100.0


def test_the_worst_outcome_wins() -> None:
    assert Outcome.NEVER_SENT.worst(Outcome.MAYBE_EXECUTED) is Outcome.MAYBE_EXECUTED
    assert Outcome.EXECUTED.worst(Outcome.REJECTED) is Outcome.EXECUTED
