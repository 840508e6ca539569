"""The service: deadlines, holds and what grows old."""

from __future__ import annotations

from service_world import WALL, World, body, run_of, sent

from devpipe.machines.protocols.serving import (
    CancelHandler,
    HandlerEnded,
    PathClosed,
    SendTo,
)
from devpipe.machines.protocols.sessions import MAX_LATE


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
