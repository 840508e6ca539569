"""The keeper of deadlines: what it does when it is late."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from devpipe.adapters.alarm import FEW_TURNS, LONG_READ, TURNS_TO_READ, Alarm
from devpipe.adapters.ports.clock import SystemClock

pytestmark = pytest.mark.anyio


class HandClock(SystemClock):
    """Stands until somebody moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 100.0
        self.now = lambda: self.at


class Overdue:
    """Its deadline is long past; it ends the test when it is handled."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self.handled_at: float | None = None

    def next_deadline(self) -> float | None:
        return 10.0 if self.handled_at is None else None

    def handle_deadline(self, *, now: float) -> None:
        self.handled_at = now
        self._scope.cancel()


@pytest.mark.parametrize(
    ("turn", "fewest", "most"),
    [(0.0, TURNS_TO_READ - 1, TURNS_TO_READ + 3), (LONG_READ, FEW_TURNS - 1, FEW_TURNS + 3)],
    ids=["quick readers", "slow readers"],
)
async def test_what_has_arrived_is_read_before_a_late_deadline_is_judged_but_not_for_long(
    turn: float, fewest: int, most: int
) -> None:
    clock, turns = HandClock(), 0

    async def read() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1
            clock.at += turn

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            overdue = Overdue(tasks.cancel_scope)
            alarm = Alarm(clock)
            alarm.watch(overdue)
            tasks.start_soon(read)
            tasks.start_soon(alarm.run)
    assert fewest <= turns <= most
    assert overdue.handled_at is not None and overdue.handled_at - 100.0 <= most * turn
