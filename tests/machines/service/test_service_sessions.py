"""The service: hello, and the sessions that it begins, resumes and refuses."""

from __future__ import annotations

import pytest
from service_world import OTHER, REFUSED, SESSION, WALL, World, body, code, offsets, one, run_of

from devpipe.machines.message import Position
from devpipe.machines.protocols.serving import (
    PathClosed,
    SendTo,
)
from devpipe.machines.protocols.sessions import session_name


def test_hello_makes_a_session_and_names_the_server(world: World) -> None:
    world.open(1)
    answer = world.hello(1)
    assert answer["type"] == "hello" and answer["replyTo"] == "hello-1" and answer["success"] is True
    assert answer["payload"] == {
        "protocol": 1,
        "server": "server",
        "nonce": "n",
        "time": WALL,
        "session": SESSION,
        "resumed": False,
        "limits": {"maxMessageBytes": 100_000},
        "push": {"epoch": "epoch1", "offset": 0},
    }


def test_hello_may_be_repeated_and_resumes(world: World) -> None:
    world.socket(1)
    world.open(2)
    assert world.hello(2, resume=True)["payload"]["resumed"] is True
    assert world.hello(2)["payload"]["resumed"] is True
    assert world.service.sessions == 1


def test_resuming_what_is_not_known_is_refused_and_still_proves_the_server(world: World) -> None:
    world.open(1)
    answer = world.hello(1, resume=True)
    assert answer["success"] is False and answer["error"]["code"] == "session_unknown"
    assert answer["payload"] == {"protocol": 1, "server": "server", "nonce": "n", "time": WALL}
    assert world.service.sessions == 0


def test_hello_without_an_id_is_answered(world: World) -> None:
    world.open(1)
    answer = one(world.send(1, "hello", {"session": SESSION}))
    assert answer["success"] is True and "replyTo" not in answer
    assert one(world.send(1, "ping"))["type"] == "pong"


def test_over_http_hello_makes_a_session_that_no_exchange_is_bound_to(world: World) -> None:
    world.open(1, "http")
    assert world.hello(1)["success"] is True
    assert run_of(world.send(1, "echo", id="any")).session is None
    assert run_of(world.post(2, "echo", id="x-1")).session == session_name(SESSION)


def test_another_protocol_is_refused(world: World) -> None:
    world.open(1)
    assert world.hello(1, protocol=2)["error"]["code"] == "bad_message"


@pytest.mark.parametrize("session", ["short", "x" * 129])
def test_a_session_id_that_can_be_guessed_is_refused(world: World, session: str) -> None:
    world.open(1)
    assert world.hello(1, session)["error"]["code"] == "bad_message"


def test_one_connection_may_change_its_session(world: World) -> None:
    world.socket(1)
    world.send(1, "attach", {"number": 1}, id="x-1")
    world.hello(1, OTHER)
    assert offsets(world.push(session=session_name(SESSION))) == []
    assert run_of(world.send(1, "echo", id="x-2")).session == session_name(OTHER)


@pytest.mark.parametrize(("ping", "pong"), [("health_ping", "health_pong"), ("ping", "pong")])
def test_probes_are_answered_before_hello(world: World, ping: str, pong: str) -> None:
    world.open(1)
    answer = one(world.send(1, ping, {"nonce": "abc"}, id="x-1"))
    assert answer["type"] == pong and answer["replyTo"] == "x-1"
    assert answer["payload"] == {"protocol": 1, "server": "server", "nonce": "abc", "time": WALL}


def test_a_probe_of_a_session_that_is_not_known_is_answered_too(world: World) -> None:
    answer = one(world.post(1, "health_ping", {"nonce": "abc"}, id="x-1"))
    assert answer["payload"]["nonce"] == "abc"


def test_a_push_is_made_to_the_session_that_asks_for_one_and_to_no_other(world: World) -> None:
    world.socket(1)
    world.send(1, "attach", {"number": 1}, id="x-1")
    world.socket(2, OTHER)
    world.send(2, "attach", {"number": 1}, id="y-1")
    answer, push = world.send(1, "health_push", {"nonce": "abc"}, id="x-2")
    assert body(answer)["replyTo"] == "x-2" and body(answer)["payload"] == {"nonce": "abc"}
    assert isinstance(push, SendTo) and push.path == 1 and push.position == Position("epoch1", 1)
    assert body(push)["type"] == "health_push" and body(push)["payload"] == {"nonce": "abc"}


def test_a_push_is_made_to_nobody_who_has_no_session(world: World) -> None:
    world.open(1)
    assert one(world.send(1, "health_push", {"nonce": "abc"}, id="x-1"))["error"]["code"] == "session_unknown"


def test_a_push_that_is_asked_for_is_short(world: World) -> None:
    world.socket(1)
    answer = one(world.send(1, "health_push", {"nonce": "n" * 129}, id="x-1"))
    assert answer["error"]["code"] == "bad_message"


def test_sessions_are_bounded_and_an_idle_one_makes_room(world: World) -> None:
    world = World(max_sessions=1)
    world.socket(1)
    world.open(2)
    busy = world.hello(2, OTHER)["error"]
    assert busy["code"] == "busy" and busy["retryAfter"] == 1.0
    world.feed(PathClosed(path=1))
    assert world.hello(2, OTHER)["success"] is True
    world.open(3)
    assert world.hello(3, SESSION, resume=True)["error"]["code"] == "session_unknown"


def test_a_session_that_runs_something_makes_no_room() -> None:
    world = World(max_sessions=1)
    world.socket(1)
    run = world.send(1, "echo", id="x-1")
    world.feed(PathClosed(path=1))
    world.open(2)
    assert world.hello(2, OTHER)["error"]["code"] == "busy"
    world.end(run)
    assert world.hello(2, OTHER)["success"] is True


def test_an_idle_session_is_forgotten_after_its_time() -> None:
    world = World(session_ttl=60.0)
    world.socket(1)
    world.feed(PathClosed(path=1))
    assert world.service.next_deadline() == world.now + 60
    world.wait(59)
    assert world.service.sessions == 1
    world.wait(1)
    assert world.service.sessions == 0 and world.service.next_deadline() is None


def test_a_connected_session_is_kept() -> None:
    world = World(session_ttl=60.0)
    world.socket(1)
    world.wait(61)
    assert world.service.sessions == 1


def test_a_client_of_the_folder_is_forgotten_when_it_is_silent_and_then_refused() -> None:
    world = World(session_ttl=60.0)
    world.open(1, "folder")
    world.hello(1)
    world.send(1, "attach", {"number": 1}, id="x-1")
    assert offsets(world.push()) == [(1, 1)]
    world.wait(60)
    assert world.service.sessions == 0 and world.push() == []
    assert code(world.send(1, "echo", id="x-2")) == ("session_unknown", REFUSED)
    assert world.hello(1)["payload"]["resumed"] is False
    assert run_of(world.send(1, "echo", id="x-2"))
