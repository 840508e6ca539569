"""The server's memory of ids."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.protocols.replies import (
    MAX_PREFIXES,
    Ranges,
    Replies,
    Verdict,
    digest_of,
    split_id,
)

A, B = digest_of("echo", b"1"), digest_of("echo", b"2")


def memory(*, max_replies: int = 3, max_bytes: int = 100, max_ranges: int = 3) -> Replies:
    return Replies(max_replies=max_replies, max_bytes=max_bytes, max_ranges=max_ranges)


@pytest.mark.parametrize(
    "id",
    ["", "x", "x-", "-1", "x-0", "x-01", "x-+1", "x-1 ", "x-٣", "x-²", "x-" + "9" * 17, f"x-{2**53 + 1}"],
)
def test_what_is_no_prefix_and_number_is_no_id_of_a_session(id: str) -> None:
    assert split_id(id) is None
    assert memory().judge(id, A) is Verdict.MALFORMED


def test_an_id_is_split_at_its_last_dash() -> None:
    assert split_id("a-b-17") == ("a-b", 17)
    assert split_id(f"x-{2**53}") == ("x", 2**53)


def test_a_digest_tells_types_and_payloads_apart() -> None:
    assert digest_of("a", b"1") == digest_of("a", bytearray(b"1"))
    assert len({digest_of("a", b"1"), digest_of("a", None), digest_of("a1", None), digest_of("b", b"1")}) == 4
    assert digest_of("\udc80", None) != digest_of("a", None)


# --- ranges -----------------------------------------------------------------------------------------


def test_numbers_that_count_up_stay_one_range() -> None:
    ranges = Ranges()
    for number in range(1, 100):
        ranges.add(number)
    assert len(ranges) == 1 and 1 in ranges and 99 in ranges and 100 not in ranges


def test_a_late_number_closes_its_gap() -> None:
    ranges = Ranges()
    for number in (1, 3, 2):
        ranges.add(number)
    assert ranges.snapshot() == (0, ((1, 3),))


def test_numbers_grow_ranges_to_either_side() -> None:
    ranges = Ranges()
    for number in (10, 5, 20, 6, 9):
        ranges.add(number)
    assert ranges.snapshot() == (0, ((5, 6), (9, 10), (20, 20)))


def test_too_many_gaps_raise_the_floor() -> None:
    ranges = Ranges(limit=2)
    for number in (1, 3, 5):
        ranges.add(number)
    assert ranges.snapshot() == (1, ((3, 3), (5, 5)))
    ranges.add(1)
    assert ranges.snapshot() == (1, ((3, 3), (5, 5)))


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 6))
def test_ranges_know_what_a_set_knows_above_their_floor(numbers: list[int], limit: int) -> None:
    ranges, known = Ranges(limit=limit), set[int]()
    for number in numbers:
        ranges.add(number)
        known.add(number)
        floor, pairs = ranges.snapshot()
        assert len(pairs) <= limit
        assert floor in known or floor == 0
        inside = {n for start, end in pairs for n in range(start, end + 1)}
        assert inside == {n for n in known if n > floor}
        assert all(end + 1 < start for (_, end), (start, _) in pairwise(pairs))
        assert all((n in ranges) == (n in inside) for n in range(62))


# --- replies ----------------------------------------------------------------------------------------


def test_an_id_is_new_then_runs_then_is_answered_from_memory() -> None:
    replies = memory()
    assert replies.judge("x-1", A) is Verdict.NEW
    replies.begin("x-1", A)
    assert replies.judge("x-1", A) is Verdict.RUNNING and replies.running == 1
    replies.finish("x-1", b"reply")
    assert replies.judge("x-1", A) is Verdict.STORED and replies.running == 0
    assert replies.reply("x-1") == b"reply" and replies.stored_bytes == 5


def test_the_same_id_with_another_payload_is_told_apart_while_running_and_stored() -> None:
    replies = memory()
    replies.begin("x-1", A)
    assert replies.judge("x-1", B) is Verdict.REUSED
    replies.finish("x-1", b"reply")
    assert replies.judge("x-1", B) is Verdict.REUSED


def test_a_reply_that_makes_room_leaves_its_id_behind() -> None:
    replies = memory(max_replies=2)
    for number in (1, 2, 3):
        replies.begin(f"x-{number}", A)
        replies.finish(f"x-{number}", b"reply")
    assert replies.judge("x-1", A) is Verdict.FORGOTTEN and replies.reply("x-1") is None
    assert replies.judge("x-2", A) is Verdict.STORED and replies.stored == 2


def test_replies_are_bounded_by_bytes() -> None:
    replies = memory(max_bytes=10)
    for number in (1, 2):
        replies.begin(f"x-{number}", A)
        replies.finish(f"x-{number}", b"12345678")
    assert replies.stored == 1 and replies.stored_bytes == 8


def test_a_reply_larger_than_the_memory_is_not_kept_and_not_run_again() -> None:
    replies = memory(max_bytes=10)
    replies.begin("x-1", A)
    replies.finish("x-1", b"x" * 11)
    assert replies.stored_bytes == 0 and replies.judge("x-1", A) is Verdict.FORGOTTEN


def test_ids_below_the_floor_are_not_known() -> None:
    replies = memory(max_ranges=1)
    for number in (1, 3):
        replies.note(f"x-{number}")
    assert replies.judge("x-1", A) is Verdict.UNKNOWN
    assert replies.judge("x-3", A) is Verdict.FORGOTTEN
    assert replies.judge("x-2", A) is Verdict.NEW


def test_a_blocked_id_is_answered_whatever_it_carries() -> None:
    replies = memory()
    replies.block("x-1", b"cancelled")
    assert replies.judge("x-1", A) is Verdict.STORED and replies.judge("x-1", B) is Verdict.STORED


def test_prefixes_are_bounded() -> None:
    replies = memory()
    for prefix in range(MAX_PREFIXES + 1):
        replies.note(f"p{prefix}-1")
    replies.note("no id")
    assert replies.judge("p0-1", A) is Verdict.FORGOTTEN
    assert replies.judge(f"p{MAX_PREFIXES}-1", A) is Verdict.MALFORMED


def test_finishing_what_does_not_run_changes_nothing() -> None:
    replies = memory()
    before = replies.snapshot()
    replies.finish("x-1", b"reply")
    assert replies.snapshot() == before


def test_a_snapshot_holds_everything() -> None:
    replies = memory()
    replies.begin("x-1", A)
    replies.finish("x-1", b"reply")
    replies.begin("y-5", B)
    copy = memory()
    copy.restore(replies.snapshot())
    assert copy.snapshot() == replies.snapshot()
    assert copy.judge("x-1", A) is Verdict.STORED and copy.judge("y-5", B) is Verdict.RUNNING
    assert copy.stored_bytes == 5
