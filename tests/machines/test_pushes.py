"""The push history of one session."""

from __future__ import annotations

import msgspec

from devpipe.machines.protocols.pushes import STREAM, Pushes


def history(*, count: int = 0, max_pushes: int = 3, max_bytes: int = 10_000) -> Pushes:
    pushes = Pushes("epoch", max_pushes=max_pushes, max_bytes=max_bytes)
    for number in range(1, count + 1):
        pushes.append("news", str(number).encode(), timestamp=5)
    return pushes


def test_a_push_is_an_envelope_with_its_place() -> None:
    pushes = history(count=1)
    [(offset, data)] = pushes.since(0)
    assert offset == 1
    assert msgspec.json.decode(data) == {
        "type": "news",
        "timestamp": 5,
        "epoch": "epoch",
        "offset": 1,
        "payload": 1,
    }


def test_the_newest_are_kept_by_count() -> None:
    pushes = history(count=5)
    assert len(pushes) == 3 and [offset for offset, _ in pushes.since(0)] == [3, 4, 5]


def test_the_newest_are_kept_by_bytes() -> None:
    pushes = history(count=5, max_bytes=150)
    assert 0 < pushes.kept_bytes <= 150 and len(pushes) < 3


def test_only_what_is_behind_a_place_is_given() -> None:
    pushes = history(count=3)
    assert [offset for offset, _ in pushes.since(2)] == [3]
    assert pushes.since(3) == [] and pushes.since(9) == []


def test_a_client_without_a_place_hears_what_comes_from_now_on() -> None:
    pushes = history(count=2)
    assert pushes.attach(1, 7, epoch=None, after=0) is False
    assert pushes.cursor == 2 and pushes.target == 7


def test_a_client_goes_on_where_it_was() -> None:
    pushes = history(count=3)
    assert pushes.attach(1, STREAM, epoch="epoch", after=1) is False
    assert pushes.cursor == pushes.attached == 1


def test_what_is_no_longer_kept_is_a_gap() -> None:
    pushes = history(count=5)
    assert pushes.attach(1, 7, epoch="epoch", after=1) is True
    assert pushes.attach(2, 7, epoch="epoch", after=2) is False


def test_another_epoch_or_an_impossible_place_is_a_gap_from_the_oldest_that_is_kept() -> None:
    pushes = history(count=5)
    for number, (epoch, after) in enumerate([("other", 4), ("epoch", 6), ("epoch", -1)]):
        assert pushes.attach(number, 7, epoch=epoch, after=after) is True
        assert pushes.cursor == 2


def test_the_highest_number_wins_whatever_comes_last() -> None:
    pushes = history(count=3)
    pushes.attach(5, 7, epoch="epoch", after=1)
    pushes.attach(4, 8, epoch="epoch", after=2)
    assert (pushes.target, pushes.cursor) == (7, 1)
    pushes.attach(5, 8, epoch="epoch", after=2)
    assert (pushes.target, pushes.cursor) == (7, 1)
    pushes.attach(5, 7, epoch="epoch", after=3)
    assert (pushes.target, pushes.cursor) == (7, 3)


def test_only_the_present_path_is_dropped() -> None:
    pushes = history()
    pushes.attach(1, 7, epoch=None, after=0)
    pushes.drop_path(8)
    assert pushes.target == 7
    pushes.drop_path(7)
    assert pushes.target is None


def test_a_snapshot_holds_everything() -> None:
    pushes = history(count=5)
    pushes.attach(3, 7, epoch="epoch", after=4)
    copy = history()
    copy.restore(pushes.snapshot())
    assert copy.snapshot() == pushes.snapshot()
    assert copy.since(3) == pushes.since(3) and copy.kept_bytes == pushes.kept_bytes
