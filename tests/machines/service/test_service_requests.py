"""The service: requests, each of which runs once at most, and their cancellation."""

from __future__ import annotations

import pytest
from service_world import OTHER, REFUSED, SESSION, WALL, World, body, code, one, run_of, sent

from devpipe.machines.message import Priority
from devpipe.machines.protocols.envelope import ErrorBody
from devpipe.machines.protocols.executions import MAX_ASKED
from devpipe.machines.protocols.serving import (
    CancelHandler,
    HandlerEnded,
    PathClosed,
    SendTo,
)
from devpipe.machines.protocols.sessions import session_name


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


def test_in_a_folder_a_cancel_is_answered_since_its_file_is_kept_until_then(world: World) -> None:
    world.socket(1)
    world.open(2, "folder")
    effects = world.send(2, "cancel", {"id": "x-9"}, id="x-1", session=SESSION, server="server")
    assert sent(effects) == [(2, "x-1")] and one(effects)["success"] is True


def test_over_http_a_cancel_is_answered(world: World) -> None:
    world.socket(1)
    answer = one(world.post(2, "cancel", {"id": "x-9"}, id="x-1"))
    assert answer["replyTo"] == "x-1" and answer["success"] is True
