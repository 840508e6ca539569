"""One timer for everything that belongs together: the deadlines of all cores of a pipe.

A core says when it wants to be called (``next_deadline``) and is called then or later (``handle_deadline``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.lowlevel

from devpipe.adapters.ports.clock import Clock

__all__ = ["Alarm", "Timed"]

#: A tick this late means that the loop was busy or the machine slept: what has arrived meanwhile is read first.
LATE = 0.1
#: Turns of the loop that let readers see their sockets, take the bytes and feed them: 64 KiB each time, and much may wait.
TURNS_TO_READ = 32
#: But when that alone takes so long (seconds), so few must do: who is late already must not be kept waiting by the others.
LONG_READ, FEW_TURNS = 0.05, 4


class Timed(Protocol):
    """What has deadlines: a core, or the adapter around one."""

    def next_deadline(self) -> float | None: ...

    def handle_deadline(self, *, now: float) -> None: ...


class Alarm:
    """Calls each ``Timed`` when its deadline has come. ``run`` is the task; ``nudge`` after a deadline moved nearer.

    ``slept`` is called with the seconds that the machine was asleep, before any deadline is judged.
    """

    def __init__(self, clock: Clock, *, slept: Callable[[float], None] | None = None) -> None:
        self._clock = clock
        self._timed: list[Timed] = []
        self._slept = slept
        self._armed_for: float | None = None
        self._wake: anyio.Event | None = None
        self._sleeping_since_boot = 0.0

    def watch(self, timed: Timed) -> None:
        """Call this one too, from now on."""
        self._timed.append(timed)
        self.nudge()

    def nudge(self, deadline: float | None = None) -> None:
        """Look at the deadlines again, at the latest at ``deadline`` (None: now). Cheap when already awake then."""
        if self._wake is not None and (
            deadline is None or self._armed_for is None or deadline < self._armed_for
        ):
            self._wake.set()
            self._wake = None

    def next_deadline(self) -> float | None:
        """The earliest deadline of all."""
        deadlines = [at for timed in self._timed if (at := timed.next_deadline()) is not None]
        return min(deadlines, default=None)

    async def run(self) -> None:
        """Tick until cancelled."""
        self._sleeping_since_boot = self._clock.slept()
        while True:
            deadline = self.next_deadline()
            self._armed_for = deadline
            self._wake = wake = anyio.Event()
            if deadline is None:
                await wake.wait()
            elif deadline > self._clock.now():
                with anyio.move_on_after(deadline - self._clock.now()):
                    await wake.wait()
            else:
                await anyio.lowlevel.checkpoint()  # overdue: never spin without letting the others run
            self._wake = None
            now = self._clock.now()
            if deadline is not None and now - deadline > LATE:
                for turn in range(TURNS_TO_READ):
                    if turn >= FEW_TURNS and self._clock.now() - now > LONG_READ:
                        break
                    await anyio.lowlevel.checkpoint()
                now = self._clock.now()
            asleep = self._clock.slept()
            if asleep - self._sleeping_since_boot > 1.0:
                slept, self._sleeping_since_boot = asleep - self._sleeping_since_boot, asleep
                if self._slept is not None:
                    self._slept(slept)
            for timed in tuple(self._timed):
                at = timed.next_deadline()
                if at is not None and at <= now:
                    timed.handle_deadline(now=now)
