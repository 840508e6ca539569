"""The server's core with clients that know no sessions: what they hear, and that nobody else is harmed by them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from devpipe.machines.config import ServerConfig
from devpipe.machines.protocols.service import Service
from devpipe.machines.protocols.serving import (
    Arrived,
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
    StreamOpened,
)

WALL = 1_000_000
SESSION = "0123456789abcdef"


class World:
    """A service in the profile, its clock, and what it asked for."""

    def __init__(self, *types: str, **config: Any) -> None:
        made = ServerConfig(**config).with_profile("vaultpilot")
        self.make = lambda: Service(config=made, identity="server", epochs="epoch", types=types or ("echo",))
        self.service = self.make()
        self.now = 100.0

    def feed(self, item: ServiceInput) -> list[ServiceEffect]:
        self.service.receive(item, now=self.now, wall=WALL)
        return self.service.drain_effects()

    def wait(self, seconds: float) -> list[ServiceEffect]:
        self.now += seconds
        self.service.handle_deadline(now=self.now, wall=WALL)
        return self.service.drain_effects()

    def open(self, path: int, transport: str) -> None:
        assert self.feed(PathOpened(path=path, transport=transport, max_message_bytes=100_000)) == []

    def stream(self, path: int, session: str = "") -> list[ServiceEffect]:
        item = StreamOpened(
            path=path, session=session, server="", last_event_id="", max_message_bytes=100_000
        )
        return self.feed(item)

    def send(self, path: int, type: str, **fields: Any) -> list[ServiceEffect]:
        return self.feed(Arrived(path=path, data=msgspec.json.encode({"type": type, **fields})))

    def ask(self, path: int, transport: str, type: str = "echo", **fields: Any) -> list[ServiceEffect]:
        self.open(path, transport)
        return self.send(path, type, **{"id": f"msg_{path}", **fields})

    def end(self, run: int) -> list[ServiceEffect]:
        return self.feed(HandlerEnded(run=run, payload=b"1"))


@pytest.fixture
def world() -> World:
    return World()


def sent(effects: list[ServiceEffect]) -> list[tuple[int, dict[str, Any]]]:
    return [(e.path, msgspec.json.decode(e.data)) for e in effects if isinstance(e, SendTo)]


def one(effects: list[ServiceEffect]) -> tuple[int, dict[str, Any]]:
    [told] = sent(effects)
    return told


@pytest.mark.parametrize("transport", ["http", "websocket", "folder"])
def test_a_message_without_a_session_is_run_and_answered_on_its_path(world: World, transport: str) -> None:
    [run] = world.ask(1, transport)
    assert isinstance(run, RunHandler) and run.session is None
    path, reply = one(world.end(run.run))
    assert (path, reply["id"], reply["replyTo"], reply["success"]) == (1, "msg_1", "msg_1", True)


def test_the_first_clients_find_their_reply_inside_response_over_http_alone(world: World) -> None:
    world.ask(1, "http", timestamp="2025-07-06T00:00:00Z")
    _, reply = one(world.end(1))
    assert reply["id"] == reply["response"]["id"] == "msg_1" and reply["response"]["payload"] == 1
    world.ask(2, "websocket", timestamp="2025-07-06T00:00:00Z")
    _, reply = one(world.end(2))
    assert "response" not in reply


def test_both_spellings_of_a_type_run_the_handler_that_there_is() -> None:
    world = World("model-selection-request")
    [run] = world.ask(1, "http", "model_selection_request")
    assert isinstance(run, RunHandler) and run.type == "model-selection-request"


def test_an_expiry_is_counted_from_when_it_was_sent_by_the_clients_own_clock(world: World) -> None:
    times = {"timestamp": "2001-01-01T00:00:00Z", "expires_at": "2001-01-01T00:00:30Z"}
    [run] = world.ask(1, "http", **times)
    assert isinstance(run, RunHandler) and run.timestamp == 978307200000
    assert sent(world.wait(29.0)) == []
    assert one(world.wait(2.0))[1]["error"]["code"] == "expired"


# --- pushes -----------------------------------------------------------------------------------------------


def test_a_push_to_all_is_heard_on_streams_and_sockets_without_a_place_in_any_history(world: World) -> None:
    assert world.stream(1) == []
    world.open(2, "websocket")
    world.send(2, "handshake", id="hs")
    world.ask(3, "http")
    told = sent(world.feed(Pushed(type="news", payload=b"5")))
    assert [path for path, _ in told] == [1, 2] and world.service.audience() == 2
    assert told[0][1] == {"type": "news", "timestamp": WALL, "payload": 5}
    world.feed(PathClosed(path=1))
    assert [path for path, _ in sent(world.feed(Pushed(type="news", payload=b"5")))] == [2]


def test_a_push_to_one_session_is_nobody_elses(world: World) -> None:
    world.stream(1)
    assert world.feed(Pushed(type="news", payload=b"5", session="somebody")) == []
    assert world.service.audience("somebody") == 0


def test_a_client_that_says_hello_has_a_session_as_ever_and_hears_each_push_once(world: World) -> None:
    world.open(1, "websocket")
    world.send(1, "ping")
    hello = {"session": SESSION, "nonce": "n"}
    assert one(world.send(1, "hello", id="c-c1", payload=hello))[1]["payload"]["session"] == SESSION
    world.send(1, "attach", id="c-c2", payload={"number": 1})
    [(path, push)] = sent(world.feed(Pushed(type="news", payload=b"5")))
    assert (path, push["offset"]) == (1, 1) and world.service.audience() == 1


def test_a_stream_that_names_a_strange_session_or_comes_too_late_is_refused(world: World) -> None:
    [refused] = world.stream(1, "fedcba9876543210")
    assert isinstance(refused, ClosePath) and refused.error.code == "session_unknown"
    world.feed(Shutdown())
    [refused] = world.stream(2)
    assert isinstance(refused, ClosePath) and refused.error.code == "closing"


def test_without_the_profile_a_stream_needs_a_session() -> None:
    service = Service(config=ServerConfig(), identity="s", epochs="e", types=())
    item = StreamOpened(path=1, session="", server="", last_event_id="", max_message_bytes=1000)
    service.receive(item, now=0.0, wall=0)
    [refused] = service.drain_effects()
    assert isinstance(refused, ClosePath)


# --- late replies ------------------------------------------------------------------------------------------------


def test_a_held_exchange_is_answered_with_another_id_and_its_reply_comes_on_the_streams() -> None:
    world = World(hold=5.0)
    world.stream(1)
    world.open(2, "websocket")
    world.send(2, "handshake", id="hs")
    world.ask(3, "http")
    path, accepted = one(world.wait(5.0))
    assert path == 3 and accepted["id"] != "msg_3" and accepted["type"] == "accepted"
    path, reply = one(world.end(1))
    assert (path, reply["type"], reply["id"], reply["payload"]) == (1, "response", "msg_3", 1)


@pytest.mark.parametrize("fields", [{}, {"id": None}])
def test_with_nobody_to_hear_it_later_or_no_id_to_know_it_by_a_reply_is_held(fields: dict[str, None]) -> None:
    world = World(hold=5.0)
    if fields:
        world.stream(1)
    world.ask(2, "http", **fields)
    assert sent(world.wait(60.0)) == []
    assert one(world.end(1))[0] == 2


def test_a_reply_whose_exchange_has_gone_comes_on_the_streams(world: World) -> None:
    world.stream(1)
    world.ask(2, "http")
    world.feed(PathClosed(path=2))
    assert one(world.end(1))[0] == 1


def test_an_exchange_that_has_gone_is_not_told_that_it_is_held() -> None:
    world = World(hold=5.0)
    world.stream(1)
    world.ask(2, "http")
    world.feed(PathClosed(path=2))
    assert world.wait(6.0) == []


def test_a_long_call_over_a_socket_is_not_announced_in_words_that_look_like_its_reply(world: World) -> None:
    world.ask(1, "websocket")
    assert world.wait(30.0) == []
    assert one(world.end(1))[1]["replyTo"] == "msg_1"


# --- small talk ----------------------------------------------------------------------------------------------------


def test_pings_of_any_form_are_answered_and_health_pings_under_their_id(world: World) -> None:
    world.open(1, "websocket")
    assert one(world.send(1, "ping", timestamp=5, payload="hello?"))[1]["type"] == "pong"
    _, pong = one(world.send(1, "health_ping", id="msg_7"))
    assert (pong["type"], pong["id"]) == ("health_pong", "msg_7")


def test_a_handshake_is_answered_and_a_pong_is_not_but_an_exchange_always_is(world: World) -> None:
    world.open(1, "websocket")
    assert one(world.send(1, "handshake", id="hs"))[1]["replyTo"] == "hs"
    assert world.send(1, "pong") == [] and world.send(1, "cancel", payload={"id": "x"}) == []
    for path, transport in enumerate(("http", "folder"), start=2):
        for type in ("pong", "cancel"):
            told = world.ask(path * 10 + len(type), transport, type, payload={"id": "x"})
            assert one(told)[1]["success"] is True


def test_a_handler_of_such_a_name_is_asked_all_the_same() -> None:
    world = World("pong")
    [run] = world.ask(1, "websocket", "pong")
    assert isinstance(run, RunHandler)


def test_a_snapshot_holds_who_listens_and_who_wants_it_nested(world: World) -> None:
    world.stream(1)
    world.ask(2, "http", timestamp="2025-07-06T00:00:00Z")
    other = world.make()
    other.restore(world.service.snapshot())
    assert other.snapshot() == world.service.snapshot()
    world.service = other
    assert [path for path, _ in sent(world.feed(Pushed(type="news", payload=b"5")))] == [1]
    assert "response" in one(world.end(1))[1]
