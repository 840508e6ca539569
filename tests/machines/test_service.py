"""The server's core: sessions, runs, replies, pushes, and everything a peer may send to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.config import ServerConfig
from devpipe.machines.errors import Outcome
from devpipe.machines.message import Position, Priority
from devpipe.machines.protocols.envelope import ErrorBody
from devpipe.machines.protocols.executions import MAX_ASKED
from devpipe.machines.protocols.service import MAX_BAD_MESSAGES, Service
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
    StreamOpened,
)
from devpipe.machines.protocols.sessions import MAX_LATE, session_name

SESSION = "0123456789abcdef"
OTHER = "fedcba9876543210"
WALL = 1_000_000


class World:
    """A service, its clock, and what it asked for."""

    def __init__(self, **config: Any) -> None:
        self.types = {"echo", "slow"}
        self.service = Service(
            config=ServerConfig(**config), identity="server", epochs="epoch", types=self.types
        )
        self.now = 100.0
        self.count = 0

    def feed(self, item: ServiceInput) -> list[ServiceEffect]:
        self.service.receive(item, now=self.now, wall=WALL)
        return self.service.drain_effects()

    def wait(self, seconds: float) -> list[ServiceEffect]:
        self.now += seconds
        self.service.handle_deadline(now=self.now, wall=WALL)
        return self.service.drain_effects()

    def open(self, path: int, transport: str = "websocket", limit: int = 100_000) -> None:
        assert self.feed(PathOpened(path=path, transport=transport, max_message_bytes=limit)) == []

    def send(self, path: int, type: str, payload: object = None, **fields: Any) -> list[ServiceEffect]:
        envelope = {"type": type, "payload": payload, **fields}
        return self.feed(Arrived(path=path, data=msgspec.json.encode(envelope)))

    def hello(self, path: int, session: str = SESSION, **fields: Any) -> dict[str, Any]:
        self.count += 1
        payload = {"session": session, "nonce": "n", "protocol": 1, **fields}
        return one(self.send(path, "hello", payload, id=f"hello-{self.count}"))

    def socket(self, path: int, session: str = SESSION) -> None:
        self.open(path)
        assert self.hello(path, session)["success"] is True

    def post(self, path: int, type: str, payload: object = None, **fields: Any) -> list[ServiceEffect]:
        """One HTTP exchange of the session."""
        self.open(path, "http")
        return self.send(path, type, payload, **{"session": SESSION, "server": "server", **fields})

    def stream(self, path: int, *, session: str = SESSION, server: str = "server", seen: str = "") -> Any:
        return self.feed(
            StreamOpened(
                path=path, session=session, server=server, last_event_id=seen, max_message_bytes=100_000
            )
        )

    def push(self, n: int = 1, *, session: str | None = None) -> list[ServiceEffect]:
        return self.feed(Pushed(type="news", payload=b"%d" % n, session=session))

    def end(self, effects: list[ServiceEffect], payload: bytes = b"1") -> list[ServiceEffect]:
        return self.feed(HandlerEnded(run=run_of(effects).run, payload=payload))


@pytest.fixture
def world() -> World:
    return World()


def body(effect: ServiceEffect) -> dict[str, Any]:
    assert isinstance(effect, SendTo)
    decoded: dict[str, Any] = msgspec.json.decode(effect.data)
    return decoded


def one(effects: list[ServiceEffect]) -> dict[str, Any]:
    [effect] = effects
    return body(effect)


def code(effects: list[ServiceEffect]) -> tuple[str, str]:
    error = one(effects)["error"]
    assert one(effects)["success"] is False
    return error["code"], error["outcome"]


def run_of(effects: list[ServiceEffect]) -> RunHandler:
    [run] = [effect for effect in effects if isinstance(effect, RunHandler)]
    return run


def sent(effects: list[ServiceEffect]) -> list[tuple[int, str | None]]:
    return [(effect.path, effect.reply_to) for effect in effects if isinstance(effect, SendTo)]


def offsets(effects: list[ServiceEffect]) -> list[tuple[int, int]]:
    return [
        (effect.path, effect.position.offset)
        for effect in effects
        if isinstance(effect, SendTo) and effect.position is not None
    ]


REFUSED = "rejected"

# --- hello and probes -------------------------------------------------------------------------------


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


# --- requests ---------------------------------------------------------------------------------------


def test_a_request_runs_its_handler_with_what_was_sent(world: World) -> None:
    world.socket(1)
    run = run_of(world.send(1, "echo", {"a": 1}, id="x-1", timestamp=5, priority="high"))
    assert run.payload is not None and bytes(run.payload) == b'{"a":1}'
    assert (run.type, run.id, run.timestamp, run.priority) == ("echo", "x-1", 5, Priority.HIGH)
    assert (run.session, run.transport) == (session_name(SESSION), "websocket")
    assert run_of(world.send(1, "echo", id="x-2", timestamp="2026-01-01")).timestamp == 0


def test_the_reply_goes_to_who_asked(world: World) -> None:
    world.socket(1)
    effects = world.end(world.send(1, "echo", id="x-1"), b'{"b":2}')
    assert sent(effects) == [(1, "x-1")]
    assert one(effects) | {"timestamp": 0} == {
        "type": "response",
        "timestamp": 0,
        "id": "x-1",
        "replyTo": "x-1",
        "success": True,
        "payload": {"b": 2},
    }
    assert world.service.running == 0


def test_an_error_of_a_handler_is_a_reply_and_is_remembered(world: World) -> None:
    world.socket(1)
    run = run_of(world.send(1, "echo", id="x-1"))
    error = ErrorBody(code="broken", message="no", details={"n": 1}, outcome="executed")
    effects = world.feed(HandlerEnded(run=run.run, error=error))
    assert code(effects) == ("broken", "executed")
    again = world.send(1, "echo", id="x-1")
    assert code(again) == ("broken", "executed") and body(again[0])["error"]["details"] == {"n": 1}


def test_a_repeated_id_gets_the_same_bytes_and_runs_nothing(world: World) -> None:
    world.socket(1)
    [first] = world.end(world.send(1, "echo", {"a": 1}, id="x-1"))
    world.open(2, "http")
    fields = {"session": SESSION, "server": "server", "id": "x-1"}
    [second] = world.send(2, "echo", {"a": 1}, **fields)
    assert isinstance(first, SendTo) and isinstance(second, SendTo)
    assert first.data == second.data and second.path == 2


def test_a_repeated_id_joins_what_runs_and_every_path_gets_the_reply(world: World) -> None:
    world.socket(1)
    run = world.send(1, "echo", id="x-1")
    assert world.send(1, "echo", id="x-1") == []
    assert world.post(2, "echo", id="x-1") == []
    assert sent(world.end(run)) == [(1, "x-1"), (2, "x-1")]


def test_the_paths_that_wait_for_one_reply_are_bounded(world: World) -> None:
    world.socket(1)
    run = world.send(1, "echo", id="x-1")
    for path in range(2, MAX_ASKED + 2):
        assert world.post(path, "echo", id="x-1") == []
    paths = [path for path, _ in sent(world.end(run))]
    assert len(paths) == MAX_ASKED and 1 not in paths


def test_a_lost_path_cancels_nothing_and_the_reply_is_had_by_the_next(world: World) -> None:
    world.socket(1)
    run = world.send(1, "echo", id="x-1")
    assert world.feed(PathClosed(path=1)) == []
    assert world.end(run) == []
    world.socket(2)
    assert one(world.send(2, "echo", id="x-1"))["payload"] == 1


def test_an_id_with_another_payload_is_refused(world: World) -> None:
    world.socket(1)
    run = world.send(1, "echo", {"a": 1}, id="x-1")
    assert code(world.send(1, "echo", {"a": 2}, id="x-1")) == ("id_reused", REFUSED)
    world.end(run)
    assert code(world.send(1, "slow", {"a": 1}, id="x-1")) == ("id_reused", REFUSED)


def test_a_forgotten_reply_is_told_as_executed() -> None:
    world = World(max_replies=1)
    world.socket(1)
    for number in (1, 2):
        world.end(world.send(1, "echo", id=f"x-{number}"))
    assert code(world.send(1, "echo", id="x-1")) == ("forgotten", "executed")


def test_below_the_floor_nobody_knows_and_nothing_runs(world: World) -> None:
    world.socket(1)
    for number in range(2, 2102, 2):
        world.end(world.send(1, "echo", id=f"x-{number}"))
    assert code(world.send(1, "echo", id="x-1")) == ("forgotten", REFUSED)


@pytest.mark.parametrize("id", ["x", "x-01", "../../x", None])
def test_in_a_session_an_id_counts_up(world: World, id: str | None) -> None:
    world.socket(1)
    assert code(world.send(1, "echo", id=id)) == ("bad_message", REFUSED)


def test_pings_leave_no_gaps_among_the_ids(world: World) -> None:
    world.socket(1)
    for number in range(1, 3001):
        if number % 2:
            world.send(1, "ping", id=f"x-{number}")
        else:
            world.end(world.send(1, "echo", id=f"x-{number}"))
    assert code(world.send(1, "echo", None, id="x-1")) == ("forgotten", "executed")


def test_without_a_session_a_message_is_run_each_time(world: World) -> None:
    world.open(1, "http")
    for _ in range(2):
        run = run_of(world.send(1, "echo", id="any id at all"))
        assert run.session is None
        assert sent(world.feed(HandlerEnded(run=run.run))) == [(1, "any id at all")]
    assert "replyTo" not in one(world.end(world.send(1, "echo")))


def test_an_id_of_more_than_64_characters_is_refused(world: World) -> None:
    world.open(1)
    answer = one(world.send(1, "echo", id="x" * 65))
    assert answer["error"]["code"] == "bad_message" and "replyTo" not in answer


def test_another_process_or_an_unknown_session_is_refused(world: World) -> None:
    world.socket(1)
    assert code(world.post(2, "echo", id="x-1", server="another")) == ("session_unknown", REFUSED)
    assert code(world.post(3, "echo", id="x-1", session=OTHER)) == ("session_unknown", REFUSED)
    assert code(world.post(4, "echo", id="x-1", server=None)) == ("session_unknown", REFUSED)


def test_an_unknown_type_is_refused_by_name_and_its_id_stays_new(world: World) -> None:
    world.socket(1)
    effects = world.send(1, "nope", id="x-1")
    assert code(effects) == ("unknown_type", REFUSED)
    assert one(effects)["error"]["message"] == "no handler for 'nope'; there are: echo, slow"
    assert run_of(world.send(1, "echo", id="x-1"))


def test_a_server_without_handlers_says_so(world: World) -> None:
    world.types.clear()
    world.open(1)
    assert one(world.send(1, "x"))["error"]["message"].endswith("there are: none")


def test_what_comes_too_late_is_refused_and_what_has_run_is_answered_however_late(world: World) -> None:
    world.socket(1)
    assert code(world.send(1, "echo", id="x-1", expiresAt=WALL - 1)) == ("expired", REFUSED)
    run = world.send(1, "echo", id="x-2", expiresAt=WALL + 1)
    world.end(run)
    assert one(world.send(1, "echo", id="x-2", expiresAt=WALL - 1))["success"] is True
    assert run_of(world.send(1, "echo", id="x-3", expiresAt="2020-01-01T00:00:00Z"))


def test_handlers_that_run_at_once_are_bounded() -> None:
    world = World(max_running=1)
    world.socket(1)
    run = world.send(1, "echo", id="x-1")
    effects = world.send(1, "echo", id="x-2")
    assert code(effects) == ("busy", REFUSED) and one(effects)["error"]["retryAfter"] == 1.0
    world.open(2)
    assert code(world.send(2, "echo")) == ("busy", REFUSED)
    world.end(run)
    assert run_of(world.send(1, "echo", id="x-2"))


def test_a_reply_that_does_not_fit_is_announced_and_had_over_another_transport(world: World) -> None:
    world.open(1, limit=300)
    world.hello(1)
    run = world.send(1, "echo", id="x-1")
    assert code(world.end(run, b'"' + b"x" * 300 + b'"')) == ("reply_too_large", "executed")
    assert one(world.post(2, "echo", id="x-1"))["payload"] == "x" * 300
    assert code(world.send(1, "echo", id="x-1")) == ("reply_too_large", "executed")


# --- time -------------------------------------------------------------------------------------------


def test_a_long_call_is_announced_once(world: World) -> None:
    world.socket(1)
    run = world.send(1, "slow", id="x-1")
    assert world.service.next_deadline() == world.now + 1
    assert world.wait(0.5) == []
    [effect] = world.wait(0.5)
    assert isinstance(effect, SendTo) and effect.accepted and body(effect)["type"] == "accepted"
    assert world.wait(100) == []
    assert sent(world.end(run)) == [(1, "x-1")]


def test_a_call_over_http_is_announced_on_the_stream(world: World) -> None:
    world.socket(1)
    world.stream(2)
    world.post(3, "slow", id="x-1")
    world.post(4, "slow", id="x-1")
    assert sent(world.wait(1)) == [(2, "x-1")]


def test_a_call_in_the_folder_or_over_http_alone_is_not_announced(world: World) -> None:
    world.open(1, "folder")
    world.hello(1)
    world.send(1, "slow", id="x-1")
    world.post(2, "slow", id="x-2")
    world.send(1, "slow", id="x-3")
    world.feed(PathClosed(path=1))
    assert world.wait(1) == []


def test_a_held_request_is_answered_with_accepted_and_its_reply_comes_on_the_stream() -> None:
    world = World(hold=5.0)
    world.socket(1)
    world.stream(2)
    run = world.post(3, "slow", id="x-1")
    world.wait(1)
    [effect] = world.wait(4)
    assert isinstance(effect, SendTo) and effect.path == 3 and effect.accepted
    world.feed(PathClosed(path=3))
    assert sent(world.end(run)) == [(2, "x-1")]


def test_a_held_request_whose_client_has_gone_is_answered_to_nobody() -> None:
    world = World(hold=0.5)
    world.socket(1)
    world.post(3, "slow", id="x-1")
    world.feed(PathClosed(path=3))
    assert world.wait(0.5) == []


def test_a_late_reply_waits_for_the_stream() -> None:
    world = World(hold=0.5)
    world.socket(1)
    run = world.post(3, "slow", id="x-1")
    world.wait(0.5)
    assert world.end(run) == []
    assert sent(world.stream(4)) == [(4, "x-1")]
    world.feed(PathClosed(path=4))
    assert world.stream(5) == []


def test_a_late_reply_is_had_by_repeating_the_id_and_then_waits_no_more() -> None:
    world = World(hold=0.5)
    world.socket(1)
    run = world.post(3, "slow", id="x-1")
    world.wait(0.5)
    world.end(run)
    assert sent(world.post(4, "slow", id="x-1")) == [(4, "x-1")]
    assert world.stream(5) == []


def test_a_late_reply_that_was_forgotten_is_not_sent() -> None:
    world = World(hold=0.5, max_replies=1)
    world.socket(1)
    for number in (1, 2):
        run = world.post(10 + number, "slow", id=f"x-{number}")
        world.wait(0.5)
        world.end(run)
    assert sent(world.stream(3)) == [(3, "x-2")]


def test_late_replies_are_bounded() -> None:
    world = World(hold=0.5, max_replies=5000)
    world.socket(1)
    for number in range(1, MAX_LATE + 11):
        run = world.send(1, "slow", id=f"x-{number}")
        world.feed(PathClosed(path=1))
        world.end(run)
        world.socket(1)
    assert len(world.stream(2)) == MAX_LATE


def test_without_a_session_a_request_is_held_until_its_end(world: World) -> None:
    world.open(1, "http")
    run = world.send(1, "slow", id="x-1")
    assert world.wait(100) == []
    assert sent(world.end(run)) == [(1, "x-1")]


def test_a_handler_that_hangs_is_cancelled_and_its_caller_told() -> None:
    world = World(handler_timeout=10.0)
    world.socket(1)
    run = run_of(world.send(1, "slow", id="x-1"))
    world.wait(1)
    cancel, answer = world.wait(9)
    assert cancel == CancelHandler(run=run.run)
    assert body(answer)["error"] == {
        "code": "handler_timeout",
        "message": "the handler ran for 10 s",
        "outcome": "executed",
    }
    assert world.service.running == 1  # a thread cannot be ended: it counts until it has ended
    assert world.feed(HandlerEnded(run=run.run)) == []
    assert world.service.running == 0 and world.feed(HandlerEnded(run=run.run)) == []


def test_the_deadline_of_its_caller_ends_a_handler(world: World) -> None:
    world.socket(1)
    run = run_of(world.send(1, "slow", id="x-1", expiresAt=WALL + 500))
    cancel, answer = world.wait(0.5)
    assert cancel == CancelHandler(run=run.run)
    assert body(answer)["error"]["code"] == "expired" and body(answer)["error"]["outcome"] == "executed"


def test_waking_early_does_nothing(world: World) -> None:
    world.socket(1)
    world.send(1, "slow", id="x-1")
    before = world.service.snapshot()
    assert world.wait(0.0) == [] and world.service.snapshot() == before


# --- cancel -----------------------------------------------------------------------------------------


def test_cancel_ends_what_runs_and_tells_who_asked(world: World) -> None:
    world.socket(1)
    run = run_of(world.send(1, "slow", id="x-1"))
    cancel, answer = world.send(1, "cancel", {"id": "x-1"}, id="x-2")
    assert cancel == CancelHandler(run=run.run)
    assert body(answer)["error"] == {
        "code": "cancelled",
        "message": "its caller has gone",
        "outcome": "executed",
    }
    assert world.send(1, "cancel", {"id": "x-1"}, id="x-3") == []
    assert world.feed(HandlerEnded(run=run.run)) == []


def test_a_cancel_that_overtakes_its_message_refuses_it(world: World) -> None:
    world.socket(1)
    assert world.send(1, "cancel", {"id": "x-5"}, id="x-6") == []
    assert code(world.send(1, "slow", id="x-5")) == ("cancelled", REFUSED)


def test_a_cancel_for_what_has_ended_or_without_a_session_changes_nothing(world: World) -> None:
    world.socket(1)
    world.end(world.send(1, "echo", id="x-1"))
    assert world.send(1, "cancel", {"id": "x-1"}, id="x-2") == []
    assert one(world.send(1, "echo", id="x-1"))["success"] is True
    world.open(2)
    assert world.send(2, "cancel", {"id": "x-1"}) == []


def test_over_http_a_cancel_is_answered(world: World) -> None:
    world.socket(1)
    answer = one(world.post(2, "cancel", {"id": "x-9"}, id="x-1"))
    assert answer["replyTo"] == "x-1" and answer["success"] is True


# --- pushes -----------------------------------------------------------------------------------------


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


# --- polls ------------------------------------------------------------------------------------------


def poll(world: World, path: int, **payload: Any) -> list[ServiceEffect]:
    world.count += 1
    return world.post(path, "poll", payload, id=f"poll-{world.count}")


def polled(effects: list[ServiceEffect]) -> list[Any]:
    messages = one(effects)["payload"]["messages"]
    return [message.get("offset") or message.get("replyTo") for message in messages]


def test_a_poll_is_answered_at_once_if_there_is_something(world: World) -> None:
    world.socket(1)
    for n in range(3):
        world.push(n)
    assert polled(poll(world, 2, epoch="epoch1", after=1)) == [2, 3]


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


# --- bad input, and the end -------------------------------------------------------------------------


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
    number = 0
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
