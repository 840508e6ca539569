"""Sliding windows over the recent past: what succeeded, failed or was slow, and when."""

from __future__ import annotations

from collections import deque

__all__ = ["CallWindow"]

#: One window never holds more than this: at higher rates the oldest calls of the period leave early.
MAX_CALLS = 10_000


class CallWindow:
    """The calls of the last ``period`` seconds. Adding and forgetting cost the same whatever the rate."""

    __slots__ = ("_calls", "_failures", "_period", "_slow")

    def __init__(self, period: float) -> None:
        self._period = period
        self._calls: deque[tuple[float, bool, bool]] = deque()
        self._failures = 0
        self._slow = 0

    def add(self, *, now: float, failed: bool, slow: bool = False) -> None:
        """A call has ended."""
        self._calls.append((now, failed, slow))
        self._failures += failed
        self._slow += slow
        if len(self._calls) > MAX_CALLS:
            self._forget_oldest()
        self.prune(now=now)

    def prune(self, *, now: float) -> None:
        """Forget what is older than the period."""
        calls, oldest = self._calls, now - self._period
        while calls and calls[0][0] <= oldest:
            self._forget_oldest()

    def clear(self) -> None:
        """Forget everything."""
        self._calls.clear()
        self._failures = self._slow = 0

    @property
    def calls(self) -> int:
        """How many calls are remembered."""
        return len(self._calls)

    @property
    def failures(self) -> int:
        """How many of them failed."""
        return self._failures

    @property
    def slow(self) -> int:
        """How many of them were slow."""
        return self._slow

    def snapshot(self) -> tuple[tuple[float, bool, bool], ...]:
        """Plain data."""
        return tuple(self._calls)

    def restore(self, calls: tuple[tuple[float, bool, bool], ...]) -> None:
        """Put a snapshot back."""
        self._calls = deque(calls)
        self._failures = sum(failed for _, failed, _ in calls)
        self._slow = sum(slow for _, _, slow in calls)

    def _forget_oldest(self) -> None:
        _, failed, slow = self._calls.popleft()
        self._failures -= failed
        self._slow -= slow
