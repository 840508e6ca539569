"""The service: pushes and polls."""

from __future__ import annotations

from typing import Any

import pytest
from service_world import OTHER, REFUSED, SESSION, World, body, code, offsets, one, poll, sent

from devpipe.machines.message import Position
from devpipe.machines.protocols.serving import (
    ClosePath,
    PathClosed,
    Pushed,
    SendTo,
    ServiceEffect,
)
from devpipe.machines.protocols.sessions import session_name


def test_pushes_go_to_the_path_that_was_attached(world: World) -> None:
    world.socket(1)
    world.push()
    attach = world.send(1, "attach", {"number": 1, "epoch": "epoch1", "after": 0}, id="x-1")
    assert body(attach[0])["payload"] == {"epoch": "epoch1", "offset": 1, "gap": False}
    assert offsets(attach) == [(1, 1)]
    [effect] = world.push(2)
    assert isinstance(effect, SendTo) and effect.position == Position("epoch1", 2)


def test_a_push_to_one_session_reaches_no_other(world: World) -> None:
    for path, session in ((1, SESSION), (2, OTHER)):
        world.socket(path, session)
        world.send(path, "attach", {"number": 1}, id="x-1")
    assert offsets(world.push(session=session_name(OTHER))) == [(2, 1)]
    assert offsets(world.push(session="nobody")) == []
    assert offsets(world.push()) == [(1, 1), (2, 2)]


def test_a_push_is_for_the_sessions_that_live_connected_or_not(world: World) -> None:
    assert world.service.audience() == 0
    world.socket(1, SESSION)
    world.socket(2, OTHER)
    world.open(3)  # a connection that has said no word is nobody's
    world.feed(PathClosed(path=1))
    assert world.service.audience() == 2
    assert world.service.audience(session_name(SESSION)) == world.service.audience(session_name(OTHER)) == 1
    assert world.service.audience("nobody") == 0


def test_pushes_wait_for_a_client_that_is_away(world: World) -> None:
    world.socket(1)
    world.send(1, "attach", {"number": 1}, id="x-1")
    world.feed(PathClosed(path=1))
    assert world.push() == []
    world.socket(2)
    effects = world.send(2, "attach", {"number": 2, "epoch": "epoch1", "after": 0}, id="x-2")
    assert offsets(effects) == [(2, 1)]


def test_over_http_pushes_go_to_the_stream_whenever_it_opens(world: World) -> None:
    world.socket(1)
    world.post(2, "attach", {"number": 1, "epoch": "epoch1", "after": 0}, id="x-1")
    assert world.push() == []
    assert offsets(world.stream(3)) == [(3, 1)]
    assert offsets(world.push()) == [(3, 2)]


def test_a_reopened_stream_goes_on_behind_its_last_event_id(world: World) -> None:
    world.socket(1)
    world.stream(2)
    world.post(3, "attach", {"number": 1}, id="x-1")
    for n in range(3):
        world.push(n)
    assert offsets(world.stream(4, seen="epoch1:1")) == [(4, 2), (4, 3)]
    for number, seen in enumerate(["other:1", "epoch1:x", "epoch1:²", "epoch1:" + "9" * 17, "junk", ""]):
        assert offsets(world.stream(5 + number, seen=seen)) == []


def test_a_newer_stream_replaces_the_older(world: World) -> None:
    world.socket(1)
    assert world.stream(2) == []
    [effect] = world.stream(3)
    assert isinstance(effect, ClosePath) and effect.path == 2 and effect.error.code == "replaced"
    world.feed(PathClosed(path=2))
    world.post(4, "attach", {"number": 1}, id="x-1")
    assert offsets(world.push()) == [(3, 1)]
    world.feed(PathClosed(path=3))
    assert offsets(world.push()) == []


@pytest.mark.parametrize(("session", "server"), [(OTHER, "server"), (SESSION, "another")])
def test_a_stream_for_nobody_is_closed(world: World, session: str, server: str) -> None:
    world.socket(1)
    [effect] = world.stream(2, session=session, server=server)
    assert isinstance(effect, ClosePath) and effect.error.code == "session_unknown"


def test_attach_without_a_session_is_refused(world: World) -> None:
    world.open(1)
    assert code(world.send(1, "attach", {"number": 1}, id="x-1")) == ("session_unknown", REFUSED)


def polled(effects: list[ServiceEffect]) -> list[Any]:
    messages = one(effects)["payload"]["messages"]
    return [message.get("offset") or message.get("replyTo") for message in messages]


def test_a_poll_is_answered_at_once_if_there_is_something(world: World) -> None:
    world.socket(1)
    for n in range(3):
        world.push(n)
    assert polled(poll(world, 2, epoch="epoch1", after=1)) == [2, 3]
    assert polled(poll(world, 3, epoch="epoch1")) == [1, 2, 3], "from the beginning, if it names no place"


def test_a_poll_is_held_until_there_is_something(world: World) -> None:
    world.socket(1)
    assert poll(world, 2, epoch="epoch1", after=0) == []
    assert polled(world.push()) == [1]
    assert world.push() == []


def test_a_poll_is_answered_empty_when_its_time_is_up(world: World) -> None:
    world.socket(1)
    assert poll(world, 2, epoch="epoch1", after=0, hold=3) == []
    assert polled(world.wait(3)) == []
    assert poll(world, 3, epoch="epoch1", after=0, hold=-3) == []
    assert polled(world.wait(0)) == []


def test_a_poll_without_a_place_goes_on_where_attach_said(world: World) -> None:
    world.socket(1)
    world.push()
    world.post(2, "attach", {"number": 1, "epoch": "epoch1", "after": 0}, id="x-1")
    world.stream(3)  # a proxy swallows what is sent there
    assert polled(poll(world, 4)) == [1]


def test_a_poll_brings_late_replies() -> None:
    world = World(hold=0.5)
    world.socket(1)
    run = world.post(2, "slow", id="x-1")
    world.wait(0.5)
    poll(world, 3, epoch="epoch1", after=0)
    assert polled(world.end(run)) == ["x-1"]


def test_a_late_reply_that_does_not_fit_a_poll_is_announced_in_it() -> None:
    world = World(hold=0.5)
    world.socket(1)
    run = world.post(2, "slow", id="x-1")
    world.wait(0.5)
    world.end(run, b'"' + b"x" * 99_500 + b'"')
    [message] = one(poll(world, 3))["payload"]["messages"]
    assert message["replyTo"] == "x-1" and message["error"]["code"] == "reply_too_large"


def test_a_forgotten_late_reply_is_left_out_of_a_poll() -> None:
    world = World(hold=0.5, max_replies=1)
    world.socket(1)
    for number in (1, 2):
        run = world.post(10 + number, "slow", id=f"x-{number}")
        world.wait(0.5)
        world.end(run)
    assert polled(poll(world, 3)) == ["x-2"]


def test_what_does_not_fit_one_poll_comes_with_the_next() -> None:
    world = World(hold=0.5)
    world.socket(1)
    for number in (1, 2):
        run = world.post(10 + number, "slow", id=f"x-{number}")
        world.wait(0.5)
        world.end(run, b'"' + b"x" * 60_000 + b'"')
    assert polled(poll(world, 3)) == ["x-1"]
    assert polled(poll(world, 4)) == ["x-2"]
    for _ in range(2):
        world.feed(Pushed(type="news", payload=b'"' + b"x" * 60_000 + b'"'))
    assert polled(poll(world, 5, epoch="epoch1", after=0)) == [1]
    assert polled(poll(world, 6, epoch="epoch1", after=1)) == [2]


def test_a_newer_poll_ends_the_older(world: World) -> None:
    world.socket(1)
    poll(world, 2, epoch="epoch1", after=0)
    assert sent(poll(world, 3, epoch="epoch1", after=0)) == [(2, "poll-2")]
    assert sent(world.push()) == [(3, "poll-3")]


def test_a_poll_whose_client_has_gone_takes_nothing(world: World) -> None:
    world.socket(1)
    poll(world, 2, epoch="epoch1", after=0)
    world.feed(PathClosed(path=2))
    assert world.push() == [] and world.wait(100) == []
    assert polled(poll(world, 3, epoch="epoch1", after=0)) == [1]


def test_a_poll_wants_a_session_an_id_and_http(world: World) -> None:
    world.open(1, "http")
    assert code(world.send(1, "poll", {}, id="x-1")) == ("session_unknown", REFUSED)
    world.socket(2)
    assert code(world.send(2, "poll", {}, id="x-1")) == ("bad_message", REFUSED)
    world.open(3, "http")
    effects = world.send(3, "poll", {}, session=SESSION, server="server")
    assert code(effects) == ("bad_message", REFUSED)
