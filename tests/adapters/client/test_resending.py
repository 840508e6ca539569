"""How often a message goes again: the first time is free, further ones wait for the budget, and none is lost to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from devpipe.adapters.client.traffic import Traffic
from devpipe.adapters.transports.base import Transport
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import DevPipeError, FailureKind
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import SWEEP, Call
from devpipe.machines.protocols.session import ClientSession

LOST = Failure(kind=FailureKind.NETWORK, reason="the connection broke")
#: Calls in flight; none is handed over, so each may go again.
CALLS = 60


class World:
    """Two ways that take everything and answer nothing, a clock that stands, and dice that show nought."""

    def __init__(self) -> None:
        self.time = 100.0
        self.out: list[str] = []
        self.transports = {name: cast(Transport, Way(name, self)) for name in ("websocket", "http")}
        config = PipeConfig(server_url="http://h", retry_attempts=1000)
        self.traffic = Traffic(
            config=config,
            routes=self,
            session=ClientSession("s" * 22),
            clock=cast(Any, self),
            dice=cast(Any, self),
        )

    # a clock and dice
    def now(self) -> float:
        return self.time

    def jitter(self) -> float:
        return 0.0

    # Routes
    @property
    def active(self) -> Transport | None:
        return self.transports["websocket"]

    def usable(self) -> list[Transport]:
        return list(self.transports.values())

    def will_try_before(self, deadline: float) -> bool:
        return True

    def errors(self) -> Mapping[str, DevPipeError] | Any:
        return {}

    def session_lost(self, reason: str) -> None:
        raise AssertionError(reason)

    def start(self, number: int) -> Call:
        call = Call(
            f"p-{number}", "echo", b"1", now=self.time, deadline=self.time + 1000, owner=cast(Any, Waiter())
        )
        self.traffic.start(call)
        return call

    def lose_all(self) -> None:
        for call in self.traffic.calls.open_calls():
            if call.route is not None:
                transport = self.transports[call.route]
                call.end_attempt()
                self.traffic.returned(call, LOST, transport)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / SWEEP)):
            self.time += SWEEP
            self.traffic.handle_deadline(now=self.time)


class Waiter:
    """Nobody."""

    def done(self) -> bool:
        return False

    def set_exception(self, error: BaseException) -> None:
        raise AssertionError("no call may fail here") from error


class Way:
    """Stands in for a transport."""

    ready = True
    max_message_bytes = 1 << 20

    class capabilities:
        supports_realtime = True

    class terms:
        session = None

    def __init__(self, type: str, world: World) -> None:
        self.type = type
        self._world = world

    def submit(self, call: Call, *, now: float) -> None:
        call.begin_attempt(self.type, b"1", now=now)
        self._world.out.append(call.id)


@pytest.fixture
def world() -> World:
    return World()


def test_after_a_loss_every_message_goes_again_at_once(world: World) -> None:
    for number in range(CALLS):
        world.start(number)
    world.lose_all()
    assert len(world.out) == 2 * CALLS and world.traffic.resent == CALLS


def test_a_second_loss_sends_no_more_than_the_budget_has_and_the_rest_a_few_a_second(world: World) -> None:
    for number in range(CALLS):
        world.start(number)
    world.lose_all()
    del world.out[:]
    world.lose_all()
    world.pass_time(SWEEP)
    first = len(world.out)
    assert 0 < first < CALLS / 2
    world.pass_time(2.0)
    assert first + 8 <= len(world.out) <= first + 11  # five a second
    world.pass_time(CALLS / 5)
    assert sorted(world.out) == sorted(f"p-{n}" for n in range(CALLS)), (
        "an empty budget delays, it loses nothing"
    )
    assert world.traffic.resent == 2 * CALLS
