"""Whose fault a failure is: that of the path, or of the server behind all paths.

It is the path's own if another path lived through it: one that was proven before, and shows life afterwards. When all
of them fall silent, or come back together, it was the server, and no breaker may hold its clients back for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Blame", "Charge", "Witness"]

#: So long after a failure it is judged (seconds): by then even the folder, whose beat comes once a second, has been heard
#: if the server lives.
PATIENCE = 2.0
#: Failures that wait to be judged; more say nothing new.
MAX_CHARGES = 1000


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
    """This path has failed. ``silent``: it only said nothing; if it goes on, it was slow."""

    transport: str
    at: float
    silent: bool


class Blame:
    """The failures of a pipe's transports that nobody has been charged with yet. ``alone``: there is no other path."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._charges: deque[Charge] = deque()

    def failed(self, transport: str, *, now: float, probing: bool, silent: bool = False) -> bool:
        """A transport has failed. True if it is charged at once; else ``verdicts`` tells later.

        ``probing``: its breaker judges the path already, and waits for this. ``silent``: nothing came in time, that is all.
        """
        if self._alone or probing:
            return True
        if len(self._charges) < MAX_CHARGES:
            self._charges.append(Charge(transport=transport, at=now, silent=silent))
        return False

    def next_deadline(self) -> float | None:
        """When ``verdicts`` wants to be asked, None if nobody is charged."""
        return self._charges[0].at + PATIENCE if self._charges else None

    def verdicts(self, paths: Mapping[str, Witness], *, now: float) -> list[Charge]:
        """The charges that hold, of those whose time has come. ``paths``: what each transport can say."""
        held: list[Charge] = []
        while self._charges and self._charges[0].at + PATIENCE <= now:
            charge = self._charges.popleft()
            if _holds(charge, paths):
                held.append(charge)
        return held


def _holds(charge: Charge, paths: Mapping[str, Witness]) -> bool:
    """It was the fault of this path alone."""
    if charge.silent and paths[charge.transport].lived_through(charge.at):
        return False
    return any(path.lived_through(charge.at) for name, path in paths.items() if name != charge.transport)
