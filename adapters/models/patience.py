"""How long a question waits once nothing can be reached: counted from the moment when the last transport was lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio

__all__ = ["Patience"]


class Patience:
    """``seconds`` without any transport, and whoever waits for an answer is let go.

    In the beginning nothing is lost yet: the first attempts have ``first_seconds``, unless all of them fail earlier.
    """

    def __init__(
        self, seconds: float, *, first_seconds: float, now: Callable[[], float] = anyio.current_time
    ) -> None:
        self.seconds = seconds
        self._now = now
        self._waiting: set[anyio.CancelScope] = set()
        self._ends_at = now() + max(seconds, first_seconds)

    @property
    def over(self) -> bool:
        """True if there has been no transport for too long already."""
        return self._now() >= self._ends_at

    def offline(self) -> None:
        """No transport reaches the server; telling it again does not begin anew."""
        self._set(min(self._ends_at, self._now() + self.seconds))

    def online(self) -> None:
        """A transport does."""
        self._set(math.inf)

    @contextmanager
    def waiting(self) -> Generator[anyio.CancelScope]:
        """What is awaited inside is cancelled, silently, when the patience is over: ask the scope."""
        with anyio.CancelScope(deadline=self._ends_at) as scope:
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    def _set(self, at: float) -> None:
        self._ends_at = at
        for scope in self._waiting:
            scope.deadline = at
