"""The programs of the shared folder, step by step, with the file system's answers given by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest

from devpipe.machines.protocols.folder_steps import (
    Answer,
    Collected,
    Link,
    Linked,
    Look,
    Move,
    NotAFile,
    Place,
    Program,
    Read,
    Remove,
    Seen,
    Step,
    Taken,
    Write,
    claim,
    collect,
    fetch,
    give,
    is_ours,
    sweep,
    take,
    withdraw,
)

R = TypeVar("R")
NAME = "request_a-1.json"
LINK = Link(Place.REQUESTS, NAME, Place.CLAIMS)
FIRST, SECOND = Remove(Place.REQUESTS, NAME), Remove(Place.CLAIMS, NAME)
LOOK, READ = Look(Place.CLAIMS, NAME), Read(Place.CLAIMS, NAME, 99)
YOUNG, OLD = Seen(modified=100.0, now=101.0), Seen(modified=100.0, now=200.0)


def carry_out(program: Program[R], *script: tuple[Step, Answer | OSError]) -> R:
    """Run a program against this script of steps and answers, which it must follow to its end."""
    step = next(program, None)
    for number, (expected, answer) in enumerate(script):
        assert step == expected, f"step {number}"
        try:
            step = program.throw(answer) if isinstance(answer, OSError) else program.send(answer)
        except StopIteration as end:
            assert number == len(script) - 1, "it ended too early"
            result: R = end.value
            return result
    raise AssertionError(f"it goes on with {step}")


def test_a_file_is_given_by_way_of_tmp() -> None:
    carry_out(
        give("draft_1", b"x", Place.HOME, "push_1.json"),
        (Write(Place.TMP, "draft_1", b"x"), None),
        (Move(Place.TMP, "draft_1", Place.HOME, "push_1.json"), None),
    )


def test_a_draft_that_cannot_be_moved_is_removed() -> None:
    with pytest.raises(OSError, match="full"):
        carry_out(
            give("draft_1", b"x", Place.HOME, "push_1.json"),
            (Write(Place.TMP, "draft_1", b"x"), None),
            (Move(Place.TMP, "draft_1", Place.HOME, "push_1.json"), OSError("full")),
            (Remove(Place.TMP, "draft_1"), True),
        )


def test_a_draft_that_is_gone_although_its_move_was_refused_has_been_moved() -> None:
    carry_out(
        give("draft_1", b"x", Place.REQUESTS, NAME),
        (Write(Place.TMP, "draft_1", b"x"), None),
        (Move(Place.TMP, "draft_1", Place.REQUESTS, NAME), OSError("the answer was lost")),
        (Remove(Place.TMP, "draft_1"), False),
    )


def test_a_message_is_read_before_it_is_removed() -> None:
    steps = ((Read(Place.HOME, "push_1.json", 9), b"x"), (Remove(Place.HOME, "push_1.json"), True))
    assert carry_out(collect("push_1.json", limit=9), *steps) == Collected(data=b"x")


def test_an_answer_that_cannot_be_removed_is_an_answer_and_says_that_it_is_left() -> None:
    refused = OSError("read-only")
    steps = ((Read(Place.HOME, "push_1.json", 9), b"x"), (Remove(Place.HOME, "push_1.json"), refused))
    assert carry_out(collect("push_1.json", limit=9), *steps) == Collected(data=b"x", left=refused)


@pytest.mark.parametrize(("removed", "where"), [(True, Place.CLAIMS), (False, None)])
def test_a_claim_is_won_by_whoever_removes_the_first_name(removed: bool, where: Place | None) -> None:
    program = claim(NAME, place=Place.TMP, new="draft_1")
    assert carry_out(program, (LINK, Linked.MADE), (FIRST, removed)) is where


def test_a_claim_whose_first_name_cannot_be_removed_is_given_up() -> None:
    with pytest.raises(OSError, match="fails"):
        carry_out(
            claim(NAME, place=Place.TMP, new="draft_1"),
            (LINK, Linked.MADE),
            (FIRST, OSError("the disk fails")),
            (SECOND, True),
        )


def test_a_claim_is_lost_when_the_second_name_is_there() -> None:
    assert carry_out(claim(NAME, place=Place.TMP, new="draft_1"), (LINK, Linked.LOST)) is None


@pytest.mark.parametrize(("answer", "where"), [(None, Place.TMP), (FileNotFoundError(), None)])
def test_where_files_have_one_name_only_the_rename_decides(
    answer: OSError | None, where: Place | None
) -> None:
    move = Move(Place.REQUESTS, NAME, Place.TMP, "draft_1")
    program = claim(NAME, place=Place.TMP, new="draft_1")
    assert carry_out(program, (LINK, Linked.IMPOSSIBLE), (move, answer)) is where


def test_a_request_is_read_after_it_is_won() -> None:
    steps: Sequence[tuple[Step, Answer]] = ((LINK, Linked.MADE), (FIRST, True), (LOOK, YOUNG), (READ, b"x"))
    assert carry_out(take(NAME, age=60, limit=99), *steps) == Taken(data=b"x")
    assert carry_out(take(NAME, age=60, limit=99), (LINK, Linked.LOST)) is None


def test_a_request_that_may_have_been_swept_from_its_claimer_is_run_by_nobody() -> None:
    steps: Sequence[tuple[Step, Answer]] = ((LINK, Linked.MADE), (FIRST, True), (LOOK, OLD), (SECOND, True))
    assert carry_out(take(NAME, age=60, limit=99), *steps) == Taken(data=None)


def test_a_request_that_will_never_be_read_is_removed_and_the_reason_is_told() -> None:
    with pytest.raises(NotAFile, match="too large"):
        carry_out(
            take(NAME, age=60, limit=99),
            (LINK, Linked.MADE),
            (FIRST, True),
            (LOOK, None),
            (READ, NotAFile("too large")),
            (SECOND, True),
        )


def test_a_request_that_cannot_be_read_now_stays_claimed_and_is_fetched_again() -> None:
    with pytest.raises(OSError, match="too many open files"):
        carry_out(
            take(NAME, age=60, limit=99),
            (LINK, Linked.MADE),
            (FIRST, True),
            (LOOK, YOUNG),
            (READ, OSError("too many open files")),
        )
    again: Sequence[tuple[Step, Answer]] = ((LOOK, YOUNG), (READ, b"x"))
    assert carry_out(fetch(NAME, age=60, limit=99), *again) == Taken(data=b"x")
    late: Sequence[tuple[Step, Answer]] = ((LOOK, OLD), (SECOND, True))
    assert carry_out(fetch(NAME, age=60, limit=99), *late) == Taken(data=None)


def test_a_request_is_withdrawn_by_the_same_claim() -> None:
    steps: Sequence[tuple[Step, Answer]] = ((LINK, Linked.MADE), (FIRST, True), (SECOND, True))
    assert carry_out(withdraw(NAME, "draft_1"), *steps) is True
    assert carry_out(withdraw(NAME, "draft_1"), (LINK, Linked.LOST)) is False


def test_a_request_that_has_to_be_renamed_meets_no_claim_of_its_server() -> None:
    move = Move(Place.REQUESTS, NAME, Place.TMP, "draft_1")
    steps: Sequence[tuple[Step, Answer]] = (
        (LINK, Linked.IMPOSSIBLE),
        (move, None),
        (Remove(Place.TMP, "draft_1"), True),
    )
    assert carry_out(withdraw(NAME, "draft_1"), *steps) is True


def test_only_our_own_names_are_swept() -> None:
    ours = {
        Place.CLAIMS: NAME,
        Place.TMP: "draft_0a",
        Place.HOME: "response_a-1.json",
    }
    for place in Place:
        assert is_ours(place, ours.get(place, "")) is (place in ours)
        assert not is_ours(place, "notes.txt") and not is_ours(place, "draft_ö")
    assert is_ours(Place.HOME, "push_1.json") and not is_ours(Place.HOME, NAME)
    assert not is_ours(Place.REQUESTS, NAME) and not is_ours(Place.ROOT, "server.json")
    with pytest.raises(StopIteration) as ended:
        next(sweep(Place.TMP, "notes.txt", age=60))
    assert ended.value.value is False


@pytest.mark.parametrize("seen", [YOUNG, None])
def test_what_is_young_or_gone_is_not_swept(seen: Seen | None) -> None:
    assert carry_out(sweep(Place.CLAIMS, NAME, age=60), (LOOK, seen)) is False


def test_what_is_surely_old_is_swept() -> None:
    assert carry_out(sweep(Place.CLAIMS, NAME, age=60), (LOOK, OLD), (SECOND, True)) is True
