"""How much may be sent again: a share of the traffic and a little more, so that a bad hour is not made worse."""

from __future__ import annotations

__all__ = ["RetryBudget"]


class RetryBudget:
    """A bucket of tokens: each message adds ``ratio``, each second ``per_second``, each resend takes one.

    An empty bucket delays a resend, it never fails it: ``next_token`` says when one will be there.
    """

    def __init__(self, *, ratio: float = 0.2, per_second: float = 5.0, capacity: float = 100.0) -> None:
        self._ratio = ratio
        self._per_second = per_second
        self._capacity = capacity
        self._tokens = capacity / 10
        self._filled_at: float | None = None

    def deposit(self) -> None:
        """A message was sent for the first time."""
        self._tokens = min(self._capacity, self._tokens + self._ratio)

    def take(self, *, now: float) -> bool:
        """Take one token if there is one."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def next_token(self, *, now: float) -> float:
        """When ``take`` will succeed at the latest, if nobody else takes."""
        self._fill(now)
        return now + max(0.0, 1.0 - self._tokens) / self._per_second

    def _fill(self, now: float) -> None:
        if self._filled_at is not None and now > self._filled_at:
            self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now if self._filled_at is None else max(now, self._filled_at)
