"""The circuit breaker around anyone's code: ``async with breaker: ...`` (or ``with``)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType

from devpipe.machines.breaker import BreakerState, CircuitBreaker, Permit
from devpipe.machines.config import BreakerConfig
from devpipe.machines.errors import CircuitOpen

__all__ = ["Breaker"]


class Breaker:
    """Guards a block: refused with ``CircuitOpen`` while the circuit is open; what it raises counts as a failure.

    ``clock`` gives monotonic seconds. ``failures``: the exceptions that count; all others, and cancellation, are
    neutral. One object may guard any number of blocks at once.
    """

    def __init__(
        self,
        name: str = "breaker",
        *,
        config: BreakerConfig | None = None,
        clock: Callable[[], float] | None = None,
        failures: tuple[type[Exception], ...] = (Exception,),
    ) -> None:
        if clock is None:
            import time

            clock = time.monotonic
        self.core = CircuitBreaker(name=name, config=config or BreakerConfig())
        self._clock = clock
        self._failures = failures
        self._held: ContextVar[tuple[tuple[Permit, float], ...]] = ContextVar(f"{name}-permits", default=())

    @property
    def state(self) -> BreakerState:
        """Where the circuit is."""
        return self.core.state

    def __enter__(self) -> Breaker:
        now = self._clock()
        self._tick(now)
        permit = self.core.acquire(now=now)
        if permit is None:
            retry_after = self.core.retry_after(now=now)
            when = "until its operator resets it" if retry_after is None else f"for {retry_after:.1f} s more"
            raise CircuitOpen(
                f"the circuit breaker {self.core.name} is {self.core.state.value} {when}",
                retry_after=retry_after,
            )
        self._held.set((*self._held.get(), (permit, now)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._held.get()
        permit, since = held[-1]
        self._held.set(held[:-1])
        now = self._clock()
        if error is None:
            self.core.success(permit, now=now, duration=now - since)
        elif isinstance(error, self._failures):
            self.core.failure(permit, now=now)
        else:
            self.core.release(permit)
        self.core.drain_events()

    async def __aenter__(self) -> Breaker:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _tick(self, now: float) -> None:
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now:
            self.core.handle_deadline(now=now)
