"""Whose fault a failure is: that of the path, or of the server behind all paths.

It is the path's own if another path lived through it: one that was proven before, and shows life afterwards. When all
of them fall silent, or come back together, it was the server, and no breaker may hold its clients back for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["BLAME_AFTER", "Charge", "Charges", "Witness"]

#: The verdict falls this long after the failure (seconds): the folder's beat comes once a second.
BLAME_AFTER = 2.0
#: Failures that wait for their verdict; more say nothing new.
MAX_WAITING = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A path: since when it is proven (None: it is not), and when it was heard last."""

    proven_at: float | None
    heard_at: float

    def lived_through(self, at: float) -> bool:
        """It stood at that time, and was heard since."""
        return self.proven_at is not None and self.proven_at <= at < self.heard_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """This path has failed. ``silent``: it only said nothing, and if it goes on, it was slow."""

    name: str
    at: float
    silent: bool

    def holds(self, accused: Witness, others: Iterable[Witness]) -> bool:
        """It was the fault of this path alone."""
        if self.silent and accused.lived_through(self.at):
            return False
        return any(other.lived_through(self.at) for other in others)


class Charges:
    """Those whose verdict is still to come, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Charge] = deque()

    def add(self, charge: Charge) -> None:
        """One more."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(charge)

    def next_deadline(self) -> float | None:
        """When the next verdict falls."""
        return self._waiting[0].at + BLAME_AFTER if self._waiting else None

    def pop_due(self, now: float) -> Charge | None:
        """The oldest, if it is time for its verdict."""
        due = bool(self._waiting) and self._waiting[0].at + BLAME_AFTER <= now
        return self._waiting.popleft() if due else None
