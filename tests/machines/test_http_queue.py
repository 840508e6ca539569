"""The HTTP send queue: who goes first, how many at once, and that nothing starves or leaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import QueueFull
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.http_queue import RISE, SendQueue


def make(id: str, type: str = "echo", priority: Priority = Priority.NORMAL) -> Call:
    return Call(id, type, b"null", now=0.0, deadline=60.0, priority=priority)


def drain(queue: SendQueue, *, now: float = 0.0) -> list[str]:
    ids: list[str] = []
    while (call := queue.take(now=now)) is not None:
        ids.append(call.id)
        queue.release(call)
    return ids


def test_priority_goes_first_and_equals_go_in_their_order() -> None:
    queue = SendQueue(limit=10, slots=1)
    for name, priority in (
        ("l", Priority.LOW),
        ("n1", Priority.NORMAL),
        ("c", Priority.CRITICAL),
        ("n2", Priority.NORMAL),
        ("h", Priority.HIGH),
    ):
        queue.put(make(name, priority=priority), now=0.0)
    assert queue.waiting == 5
    assert drain(queue) == ["c", "h", "n1", "n2", "l"]
    assert queue.waiting == 0


def test_the_type_decides_where_the_message_does_not() -> None:
    queue = SendQueue(limit=10, slots=1)
    queue.put(make("preferences", "preferences"), now=0.0)
    queue.put(make("usual"), now=0.0)
    queue.put(make("cancel", "cancel"), now=0.0)
    queue.put(make("own", "cancel", Priority.LOW), now=0.0)
    assert drain(queue) == ["cancel", "usual", "preferences", "own"]


def test_a_waiting_call_rises_one_step_each_five_seconds() -> None:
    queue = SendQueue(limit=10, slots=1)
    queue.put(make("old", priority=Priority.LOW), now=0.0)
    queue.put(make("young"), now=RISE - 0.1)
    first = queue.take(now=RISE - 0.1)
    assert first is not None and first.id == "young"
    queue.release(first)
    queue.put(make("younger"), now=RISE)
    assert drain(queue, now=RISE) == ["old", "younger"]


def test_nothing_starves_behind_the_most_urgent() -> None:
    queue = SendQueue(limit=10, slots=1)
    queue.put(make("low", priority=Priority.LOW), now=0.0)
    queue.put(make("urgent", priority=Priority.CRITICAL), now=0.1)
    assert drain(queue, now=3 * RISE) == ["low", "urgent"]


def test_as_many_are_under_way_as_there_are_slots() -> None:
    queue = SendQueue(limit=10, slots=2)
    for n in range(3):
        queue.put(make(f"p-{n}"), now=0.0)
    first, second = queue.take(now=0.0), queue.take(now=0.0)
    assert first is not None and second is not None
    assert queue.take(now=0.0) is None
    assert queue.under_way == 2 and queue.waiting == 1 and not queue.ready
    queue.release(first)
    queue.release(first)
    assert queue.ready
    third = queue.take(now=0.0)
    assert third is not None and third.id == "p-2"
    assert queue.take(now=0.0) is None and not queue.ready


def test_probes_have_a_place_of_their_own_and_only_one() -> None:
    queue = SendQueue(limit=1, slots=1)
    queue.put(make("call"), now=0.0)
    call = queue.take(now=0.0)
    queue.put(make("ping-1", "health_ping"), now=0.0)
    queue.put(make("ping-2", "hello"), now=0.0)
    queue.put(make("waits"), now=0.0)
    probe = queue.take(now=0.0)
    assert probe is not None and probe.id == "ping-1"
    assert not queue.ready and queue.take(now=0.0) is None
    assert queue.under_way == 2 and queue.waiting == 2
    queue.release(probe)
    assert queue.ready
    assert call is not None
    queue.release(call)
    assert drain(queue) == ["ping-2", "waits"]


def test_a_full_queue_refuses_and_says_how_large_it_is() -> None:
    queue = SendQueue(limit=2, slots=1)
    queue.put(make("a"), now=0.0)
    queue.put(make("b"), now=0.0)
    with pytest.raises(QueueFull) as caught:
        queue.put(make("c"), now=0.0)
    assert caught.value.limit == 2 and caught.value.message_id == "c"
    for n in range(SendQueue.MAX_PROBES):
        queue.put(make(f"probe-{n}", "health_ping"), now=0.0)
    with pytest.raises(QueueFull):
        queue.put(make("one more", "health_ping"), now=0.0)


def test_a_withdrawn_call_is_forgotten_and_one_that_was_taken_is_not_found() -> None:
    queue = SendQueue(limit=2, slots=1)
    a, b, probe = make("a"), make("b"), make("p", "hello")
    for call in (a, b, probe):
        queue.put(call, now=0.0)
    assert queue.withdraw(a) and not queue.withdraw(a)
    assert queue.withdraw(probe) and not queue.withdraw(probe)
    queue.put(a, now=0.0)
    assert not queue.withdraw(make("a"))  # another call of the same id
    assert drain(queue) == ["b", "a"]
    assert not queue.withdraw(b)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from(list(Priority))),
            st.tuples(st.sampled_from(["take", "release", "withdraw", "probe", "wait"]), st.none()),
        ),
        max_size=60,
    )
)
def test_whatever_happens_each_call_is_taken_or_withdrawn_once_and_the_counts_are_true(
    steps: list[tuple[str, Priority | None]],
) -> None:
    queue = SendQueue(limit=5, slots=2)
    waiting: list[tuple[Call, float]] = []
    taken: list[Call] = []
    now = 0.0
    for number, (step, priority) in enumerate(steps):
        match step:
            case "put" | "probe":
                type = "echo" if step == "put" else "health_ping"
                call = make(f"p-{number}", type, priority or Priority.NORMAL)
                try:
                    queue.put(call, now=now)
                except QueueFull:
                    assert sum(1 for call, _ in waiting if call.type == "echo") == 5
                else:
                    waiting.append((call, now))
            case "take":
                found = queue.take(now=now)
                free = sum(1 for call in taken if call.type == "echo") < 2
                probe_free = all(call.type == "echo" for call in taken)
                may = [
                    (call.type == "echo", -min(3, call.priority + int((now - since) / RISE)), n, call)
                    for n, (call, since) in enumerate(waiting)
                    if (free if call.type == "echo" else probe_free)
                ]
                assert found is (min(may, key=lambda entry: entry[:3])[3] if may else None)
                if found is not None:
                    waiting = [entry for entry in waiting if entry[0] is not found]
                    taken.append(found)
            case "release" if taken:
                queue.release(taken.pop(0))
            case "withdraw" if waiting:
                assert queue.withdraw(waiting.pop(0)[0])
            case _:
                now += 2.0
        assert queue.waiting == len(waiting)
        assert queue.under_way == len(taken)
