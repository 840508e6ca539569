"""The service: bad input of every kind, and its end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_world import OTHER, REFUSED, SESSION, World, body, code, one, poll, run_of, sent

from devpipe.machines.errors import Outcome
from devpipe.machines.protocols.service import MAX_BAD_MESSAGES
from devpipe.machines.protocols.serving import (
    Arrived,
    CancelHandler,
    ClosePath,
    HandlerEnded,
    PathClosed,
    PathOpened,
    Pushed,
    RunHandler,
    SendTo,
    ServiceEffect,
    ServiceInput,
    Shutdown,
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"type":1}',
        b'{"id":"x"}',
        b"[" * 100_000,
        b'{"type":"hello","payload":{"session":5}}',
        b'{"type":"hello"}',
        b'{"type":"attach","id":"x-1","payload":[]}',
        b'{"type":"cancel","payload":' + b"[" * 100_000,
        b'{"type":"echo","expiresAt":{}}',
        b'{"type":"x","id":"\\ud800"}',
    ],
)
def test_what_cannot_be_read_is_refused_and_the_path_goes_on(world: World, data: bytes) -> None:
    world.socket(1)
    assert code(world.feed(Arrived(path=1, data=data))) == ("bad_message", REFUSED)
    assert world.service.bad_messages == 1
    assert run_of(world.send(1, "echo", id="x-7"))


def test_who_only_sends_what_cannot_be_read_is_closed(world: World) -> None:
    world.socket(1)
    for _ in range(MAX_BAD_MESSAGES - 1):
        assert len(world.feed(Arrived(path=1, data=b"{"))) == 1
    _, closed = world.feed(Arrived(path=1, data=b"{"))
    assert isinstance(closed, ClosePath) and (closed.path, closed.code) == (1, 1008)
    assert world.feed(Arrived(path=1, data=b"{")) == []


def test_a_path_may_be_closed_twice(world: World) -> None:
    world.socket(1)
    assert world.feed(PathClosed(path=1)) == [] and world.feed(PathClosed(path=1)) == []


def test_a_server_that_closes_answers_everybody_and_takes_nothing_new() -> None:
    world = World()
    world.socket(1)
    run = run_of(world.send(1, "slow", id="x-1"))
    world.stream(2)
    poll(world, 3, epoch="epoch1", after=0)
    effects = world.feed(Shutdown())
    assert CancelHandler(run=run.run) in effects
    errors = [body(effect).get("error", {}) for effect in effects if isinstance(effect, SendTo)]
    assert errors[0]["code"] == "closing" and errors[0]["outcome"] == Outcome.EXECUTED.value
    assert sent(effects) == [(1, "x-1"), (3, "poll-2")]
    closed = [(effect.path, effect.code) for effect in effects if isinstance(effect, ClosePath)]
    assert closed == [(1, 1001), (2, 1001), (3, 1001)]
    world.open(4, "http")
    assert code(world.send(4, "echo")) == ("closing", REFUSED)
    [late] = world.feed(PathOpened(path=6, transport="websocket", max_message_bytes=100))
    assert isinstance(late, ClosePath) and (late.path, late.code) == (6, 1001)
    [refused] = world.stream(5)
    assert isinstance(refused, ClosePath) and refused.error.code == "closing"
    assert world.feed(Shutdown()) != [] and world.service.drain_events() == []


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_whatever_arrives_nothing_raises(data: bytes) -> None:
    world = World()
    world.socket(1)
    world.feed(Arrived(path=1, data=data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


TYPES = st.sampled_from(
    ["hello", "ping", "health_ping", "health_push", "attach", "poll", "cancel", "echo", "nope"]
)


FIELDS = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        "id": st.sampled_from(["x-1", "x-2", "y-1", "", "?"]) | JSON,
        "payload": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "session": st.sampled_from([SESSION, OTHER]),
                "number": st.integers(-1, 3),
                "epoch": st.sampled_from(["epoch1", "other"]),
                "after": st.integers(-1, 5),
                "hold": st.floats(-1, 30),
                "id": st.sampled_from(["x-1", "x-3"]),
            },
        ),
        "session": st.sampled_from([SESSION, OTHER, ""]),
        "server": st.sampled_from(["server", "another"]),
        "expiresAt": JSON,
        "priority": JSON,
    },
)


STEPS = st.tuples(
    st.sampled_from(["message", "close", "end", "push", "wait", "stream"]), st.integers(1, 3), FIELDS
)


@given(st.lists(STEPS, max_size=30))
def test_no_sequence_of_messages_breaks_it_or_answers_twice(
    steps: list[tuple[str, int, dict[str, Any]]],
) -> None:
    world = World(hold=2.0, max_replies=2, max_pushes=2, max_sessions=2)
    transports = {1: "websocket", 2: "http", 3: "folder"}
    path_of = dict.fromkeys(transports, 0)
    runs: list[int] = []
    world.socket(1)  # a session is known: else most of what follows would be refused
    number = path_of[1] = 1
    for step, which, fields in steps:
        effects: list[ServiceEffect] = []
        match step:
            case "message":
                if not path_of[which] or which == 2:
                    number += 1
                    path_of[which] = number
                    world.open(number, transports[which])
                try:
                    data = msgspec.json.encode(fields)
                except (msgspec.EncodeError, UnicodeEncodeError):  # half of a surrogate pair
                    continue
                effects = world.feed(Arrived(path=path_of[which], data=data))
            case "close":
                effects = world.feed(PathClosed(path=path_of[which]))
                path_of[which] = 0
            case "end" if runs:
                effects = world.feed(HandlerEnded(run=runs.pop(0)))
            case "push":
                effects = world.push()
            case "wait":
                effects = world.wait(which)
            case "stream":
                number += 1
                effects = world.stream(number)
            case _:
                pass
        runs += [effect.run for effect in effects if isinstance(effect, RunHandler)]
        for effect in effects:
            if isinstance(effect, SendTo):
                msgspec.json.decode(effect.data)
        assert world.service.running <= len(runs)
        copy = World(hold=2.0, max_replies=2, max_pushes=2, max_sessions=2)
        copy.service.restore(world.service.snapshot())
        assert copy.service.snapshot() == world.service.snapshot()
        assert copy.service.next_deadline() == world.service.next_deadline()


def test_a_restored_service_goes_on_as_if_nothing_had_happened() -> None:
    def prepared() -> tuple[World, RunHandler]:
        world = World(hold=5.0)
        world.socket(1)
        world.send(1, "attach", {"number": 1}, id="x-1")
        run = run_of(world.send(1, "slow", id="x-2"))
        poll(world, 2, epoch="epoch1", after=0)
        world.open(3)
        world.send(3, "slow")
        return world, run

    world, run = prepared()
    copy = World(hold=5.0)
    copy.service.restore(world.service.snapshot())
    for each in (world, copy):
        each.now = world.now
    steps: list[ServiceInput] = [
        Pushed(type="news", payload=b"1"),
        HandlerEnded(run=run.run, payload=b"2"),
        PathClosed(path=1),
    ]
    for step in steps:
        assert world.feed(step) == copy.feed(step)
    assert world.wait(5) == copy.wait(5)
    assert world.service.snapshot() == copy.service.snapshot()


def test_a_poll_that_is_held_when_everything_is_written_down_is_answered_in_its_time() -> None:
    world, copy = World(hold=5.0), World(hold=5.0)
    world.socket(1)
    assert poll(world, 2, hold=3.0) == []
    copy.service.restore(world.service.snapshot())
    copy.now = world.now
    assert copy.service.next_deadline() == world.service.next_deadline() == world.now + 3.0
    assert one(copy.wait(3.0))["payload"]["messages"] == []
