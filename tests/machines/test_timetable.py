"""Deadlines by key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.protocols.timetable import SLACK, Timetable


def test_keys_come_due_in_the_order_of_their_times() -> None:
    table = Timetable[str]()
    for key, at in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        table.arm(key, at)
    assert table.next_deadline() == 1.0
    assert [table.pop_due(2.0), table.pop_due(2.0), table.pop_due(2.0)] == ["a", "b", None]
    assert len(table) == 1


def test_a_key_that_is_armed_again_is_due_at_its_new_time_only() -> None:
    table = Timetable[str]()
    table.arm("a", 1.0)
    table.arm("a", 5.0)
    assert table.pop_due(4.0) is None and table.pop_due(5.0) == "a" and table.next_deadline() is None


def test_a_disarmed_key_is_never_due() -> None:
    table = Timetable[str]()
    table.arm("a", 1.0)
    table.disarm("a")
    table.disarm("never armed")
    assert table.next_deadline() is None and table.pop_due(9.0) is None


def test_keys_of_one_time_come_due_in_the_order_in_which_they_were_armed_and_are_never_compared() -> None:
    table = Timetable[object]()
    first, second, third = object(), object(), object()
    for key in (first, second, third):
        table.arm(key, 1.0)
    assert [table.pop_due(1.0) for _ in range(3)] == [first, second, third]


def test_dead_entries_do_not_pile_up() -> None:
    table = Timetable[int]()
    table.arm(-1, 1e9)
    for number in range(10_000):
        table.arm(number, 300.0 + number)
        table.disarm(number)
    assert table.entries <= 2 * len(table) + SLACK + 1


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 20)))))
def test_it_does_what_a_dictionary_does(steps: list[tuple[int, int | None]]) -> None:
    table, model = Timetable[int](), dict[int, int]()
    for key, at in steps:
        if at is None:
            table.disarm(key)
            model.pop(key, None)
        else:
            table.arm(key, at)
            model[key] = at
        assert table.next_deadline() == min(model.values(), default=None)
        assert dict(table.items()) == model
    times = []
    while (key := table.pop_due(100)) is not None:
        times.append(model.pop(key))
    assert times == sorted(times) and not model
