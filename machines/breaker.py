"""The circuit breaker as programs use it: a typed shell around ``charts/breaker.py``.

Usable with no loop and no clock: every method takes ``now`` in seconds of any monotonic clock.

    breaker = CircuitBreaker(name="api")
    permit = breaker.acquire(now=0.0)          # None: refused
    breaker.failure(permit, now=0.1)           # or success(), or release() for a cancelled call
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from devpipe.machines.charts.base import Cell
from devpipe.machines.charts.breaker import BreakerChart, BreakerContext, BreakerEvent
from devpipe.machines.config import BreakerConfig
from devpipe.machines.decisions.windows import CallWindow
from devpipe.machines.events import BreakerChanged, Event
from devpipe.machines.inputs import BreakerInput, PathFailed, PathProven

__all__ = ["BreakerSnapshot", "BreakerState", "CircuitBreaker", "Permit"]


class BreakerState(str, Enum):
    """Where the circuit is. The last three are the operator's."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    OBSERVING = "observing"


class Permit:
    """The right to make one call, of one generation; it comes back once. Only the breaker makes them."""

    __slots__ = ("generation", "number")

    def __init__(self, generation: int, number: int) -> None:
        self.generation = generation
        self.number = number  #: 0 where calls are not counted one by one


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """All of a breaker, as plain data."""

    state: str | tuple[str, ...]
    context: BreakerContext
    window: tuple[tuple[float, bool, bool], ...]
    consecutive_failures: int
    numbers: int


class CircuitBreaker:
    """Admits calls while a path works, and keeps them off while it does not.

    Where everything is admitted (``closed``, ``disabled``, ``observing``) a call and its success touch no chart: they
    cost a look at a field and an entry in the window.
    """

    def __init__(self, *, name: str = "breaker", config: BreakerConfig | None = None) -> None:
        self.name = name
        self.config = config or BreakerConfig()
        self._cell = Cell(BreakerContext(config=self.config))
        self._chart = BreakerChart(self._cell)
        self._window = CallWindow(self.config.monitoring_period)
        self._events: list[Event] = []
        self._numbers = 0
        self.consecutive_failures = 0
        self.steps = 0  #: events that the chart has taken
        self._state = BreakerState.CLOSED
        self._open_permit: Permit | None = Permit(0, 0)

    # --- state ----------------------------------------------------------------------------------------

    @property
    def state(self) -> BreakerState:
        """Where the circuit is."""
        return self._state

    @property
    def retry_at(self) -> float | None:
        """When an open circuit will admit a probe, None if it is not open or an operator holds it."""
        if self._state is not BreakerState.OPEN:
            return None
        return self._cell.ctx.opened_at + self.config.reset_timeout

    def retry_after(self, *, now: float) -> float | None:
        """The same as seconds from now."""
        return None if self.retry_at is None else max(0.0, self.retry_at - now)

    def error_rate(self, *, now: float) -> float:
        """The share of failures in the window."""
        self._window.prune(now=now)
        return self._window.failures / self._window.calls if self._window.calls else 0.0

    def admits(self, *, now: float) -> bool:
        """True if ``acquire`` would give a permit now. Changes nothing."""
        match self._state:
            case BreakerState.OPEN:
                return self._chart.cooled_down(BreakerEvent(now=now))
            case BreakerState.HALF_OPEN:
                return self._chart.permit_free(BreakerEvent(now=now))
            case BreakerState.FORCED_OPEN:
                return False
            case _:
                return True

    # --- calls ----------------------------------------------------------------------------------------

    def acquire(self, *, now: float) -> Permit | None:
        """Ask for a call; None is a refusal. A permit must come back once: by success, failure or release."""
        if self._open_permit is not None:
            return self._open_permit
        if not self.admits(now=now):
            return None
        self._numbers += 1
        number = self._numbers
        self._step("acquire", BreakerEvent(now=now, permit=number))
        return Permit(self._cell.ctx.generation, number)

    def success(self, permit: Permit, *, now: float, duration: float | None = None) -> None:
        """The call worked; ``duration`` in seconds tells slow ones."""
        if permit.generation != self._cell.ctx.generation or self._state is BreakerState.DISABLED:
            return
        self.consecutive_failures = 0
        slow = duration is not None and duration >= self.config.slow_call_seconds
        self._window.add(now=now, failed=False, slow=slow)
        if permit.number:
            if self._leased(permit):
                self._step("success", BreakerEvent(now=now, permit=permit.number))
        elif slow and self._state is BreakerState.CLOSED:
            self._step("slow", self._counts(now))

    def failure(self, permit: Permit, *, now: float) -> None:
        """The path failed under the call."""
        if permit.generation != self._cell.ctx.generation or self._state is BreakerState.DISABLED:
            return
        self.consecutive_failures += 1
        self._window.add(now=now, failed=True)
        if self._state is BreakerState.CLOSED or self._leased(permit):
            self._step("failure", self._counts(now, permit.number))

    def release(self, permit: Permit) -> None:
        """The call ended without a verdict on the path: it was cancelled, or refused before it was tried."""
        if permit.generation == self._cell.ctx.generation and self._leased(permit):
            self._step("release", BreakerEvent(now=0.0, permit=permit.number))

    # --- the operator ---------------------------------------------------------------------------------

    def force_open(self, *, now: float) -> None:
        """Admit nothing until ``reset``."""
        self._step("force_open", BreakerEvent(now=now))

    def disable(self, *, now: float) -> None:
        """Admit everything and count nothing until ``reset``."""
        self._step("disable", BreakerEvent(now=now))

    def observe(self, *, now: float) -> None:
        """Admit everything and count, but never open, until ``reset``."""
        self._step("observe", BreakerEvent(now=now))

    def reset(self, *, now: float) -> None:
        """Close the circuit and forget what was counted."""
        self._window.clear()
        self.consecutive_failures = 0
        self._step("reset", BreakerEvent(now=now))

    # --- the common verbs -----------------------------------------------------------------------------

    def receive(self, item: BreakerInput, *, now: float) -> None:
        """What is known of the path without a call; while the breaker admits nothing, it changes nothing."""
        permit = self.acquire(now=now)
        if permit is None:
            return
        match item:
            case PathProven():
                if permit.number:  # a probe; where everything is admitted, a dial is no call
                    self.success(permit, now=now)
            case PathFailed():
                self.failure(permit, now=now)
            case _ as never:
                assert_never(never)

    def next_deadline(self) -> float | None:
        """When a leased permit is overdue, None if none is out."""
        return min((deadline for _, deadline in self._cell.ctx.leased), default=None)

    def handle_deadline(self, *, now: float) -> None:
        """A permit that has not come back is a failure."""
        if self._state is BreakerState.HALF_OPEN:
            self._step("expire", BreakerEvent(now=now))

    def drain_effects(self) -> list[object]:
        """A breaker asks for nothing."""
        return []

    def drain_events(self) -> list[Event]:
        """What has happened since the last time: ``BreakerChanged``."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> BreakerSnapshot:
        """All of it, as plain data."""
        return BreakerSnapshot(
            self._cell.state_data,
            self._cell.ctx,
            self._window.snapshot(),
            self.consecutive_failures,
            self._numbers,
        )

    def restore(self, snapshot: BreakerSnapshot) -> None:
        """Put it back."""
        self._cell.restore_state(snapshot.state)
        self._cell.ctx = snapshot.context
        self._window.restore(snapshot.window)
        self.consecutive_failures, self._numbers = snapshot.consecutive_failures, snapshot.numbers
        self._events.clear()
        self._look()

    # --- inside ---------------------------------------------------------------------------------------

    def _leased(self, permit: Permit) -> bool:
        return any(number == permit.number for number, _ in self._cell.ctx.leased)

    def _counts(self, now: float, permit: int = 0) -> BreakerEvent:
        window = self._window
        window.prune(now=now)
        return BreakerEvent(
            now=now, calls=window.calls, failures=window.failures, slow=window.slow, permit=permit
        )

    def _step(self, event: str, ev: BreakerEvent) -> None:
        before = self._state
        self.steps += 1
        self._chart.step(event, ev)
        self._look()
        if self._state is not before:
            if self._state is BreakerState.CLOSED:
                self._window.clear()
            self._events.append(
                BreakerChanged(
                    transport=self.name, from_=before.value, to=self._state.value, retry_at=self.retry_at
                )
            )

    def _look(self) -> None:
        """Read the chart: the typed state, and the permit that everybody shares where all are admitted."""
        self._state = BreakerState(self._cell.leaf)
        free = self._state in (BreakerState.CLOSED, BreakerState.DISABLED, BreakerState.OBSERVING)
        self._open_permit = Permit(self._cell.ctx.generation, 0) if free else None

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name} {self.state.value}>"
