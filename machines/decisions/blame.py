"""Whose failure was it? When all transports fail together it is the server's, and no breaker counts it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

__all__ = ["Blame"]

#: So long after a failure it is judged (seconds): by then even the folder, whose beat comes once a second, has been heard
#: if the server lives.
PATIENCE = 2.0
#: Failures that wait to be judged; more say nothing new.
MAX_SUSPECTS = 1000


class Blame:
    """The failures of a pipe's transports that nobody has been charged with yet.

    A failure is its transport's own if another transport has shown life since; with ``alone`` there is no other.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._suspects: deque[tuple[float, str]] = deque()

    def failed(self, transport: str, *, now: float, probing: bool) -> bool:
        """A transport has failed. True if it is charged at once; else ``verdicts`` tells later.

        ``probing``: its breaker judges the path already, and waits for this.
        """
        if self._alone or probing:
            return True
        if len(self._suspects) < MAX_SUSPECTS:
            self._suspects.append((now, transport))
        return False

    def next_deadline(self) -> float | None:
        """When ``verdicts`` wants to be asked, None if nobody is suspected."""
        return self._suspects[0][0] + PATIENCE if self._suspects else None

    def verdicts(self, heard_at: Mapping[str, float], *, now: float) -> list[str]:
        """The transports to be charged now, once for each failure.

        ``heard_at``: when the last sign of life came, of each transport that is up.
        """
        charged: list[str] = []
        while self._suspects and self._suspects[0][0] + PATIENCE <= now:
            failed_at, suspect = self._suspects.popleft()
            if any(at > failed_at for name, at in heard_at.items() if name != suspect):
                charged.append(suspect)
        return charged
