"""The client's place in the pushes: the next offset only. Lower ones are dropped, a higher one means that some are
missing, and the pipe attaches again from here. The server's word, or a new epoch, makes a gap; so does a server that has
answered ``ATTACHES`` times and still does not send the next one: it would be asked for ever."""

from __future__ import annotations

from enum import Enum

from devpipe.machines.decisions.backoff import growing
from devpipe.machines.message import Gap, Position

__all__ = ["ATTACHES", "PushCursor", "Verdict"]

#: Answered attaches from one place, after which a push that is still missing is given up.
ATTACHES = 3
#: Between two attaches for what is missing, growing (seconds): whoever never sends it is not asked without end.
ASK_AGAIN, ASK_MOST = 0.05, 10.0


class Verdict(Enum):
    """What to do with a push that arrived."""

    TAKE = "take"
    DROP = "drop"  #: seen before
    MISSING = "missing"  #: something before it has not come: attach again


class PushCursor:
    """Where one pipe stands. ``number`` counts the attaches of a session: the highest one wins at the server."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.offset = 0  #: the last push taken
        self.number = 0
        self.dropped = 0
        self._anywhere = False  #: after a gap the server goes on where it can
        self._asked = (
            0  #: times that we had to ask for what is missing, since the last push that was the next one
        )
        self._ask_at = 0.0  #: not again before this
        self._waits = False  #: one has come meanwhile that was not the next one
        self._answers = 0  #: to attaches meanwhile

    @property
    def position(self) -> Position | None:
        """The last push that was taken, None before there was an epoch."""
        return None if self.epoch is None else Position(self.epoch, self.offset)

    def begin(self, start: Position) -> None:
        """The session has this push history. A known epoch changes nothing."""
        if self.epoch is None:
            self.epoch, self.offset = start.epoch, start.offset

    def attach(self) -> dict[str, object]:
        """The payload of the next ``attach``."""
        self.number += 1
        return {"number": self.number, "epoch": self.epoch, "after": self.offset}

    def attached(self, *, epoch: str, gap: bool, reason: str) -> Gap | None:
        """The server has answered ``attach``; returns the gap that it announced, if it did."""
        self._answers += 1
        if epoch == self.epoch and not gap:
            return None
        found = Gap(after=self.position, before=None, reason=reason)
        self._answers = 0
        if epoch != self.epoch:
            self.epoch, self.offset = epoch, 0
        self._anywhere = True
        return found

    def lost(self, reason: str) -> Gap | None:
        """The session is lost; what it still had for us is unknown. None if there never was a history."""
        if self.epoch is None:
            return None
        gap = Gap(after=self.position, before=None, reason=reason)
        self.epoch, self.offset, self.number, self._anywhere = None, 0, 0, False
        self._waits = False
        return gap

    def receive(self, push: Position, *, now: float) -> Verdict | Gap:
        """A push has arrived. A gap stands before it, and it is taken."""
        if self.epoch is None:
            self.epoch, self.offset = push.epoch, push.offset - 1
        if push.epoch == self.epoch:
            if self._anywhere:
                self._anywhere = False
                self.offset = max(self.offset, push.offset - 1)
            if push.offset <= self.offset:
                self.dropped += 1
                return Verdict.DROP
            if push.offset == self.offset + 1:
                self.offset = push.offset
                self._asked, self._waits = 0, False
                return Verdict.TAKE
        return self._receive_beyond(push, now)

    def next_deadline(self) -> float | None:
        """When ``due`` is true: something is still missing, and it is time to ask again."""
        return self._ask_at if self._waits else None

    def due(self, *, now: float) -> bool:
        """True if the pipe is to attach now; once for each time."""
        if not self._waits or now < self._ask_at:
            return False
        self._ask(now)
        return True

    def _receive_beyond(self, push: Position, now: float) -> Verdict | Gap:
        if self._asked == 0:
            self._answers = 0
        elif self._answers >= ATTACHES:
            gap = Gap(after=self.position, before=push, reason="the server does not send what is missing")
            self.epoch, self.offset = push.epoch, push.offset
            self._answers, self._waits = 0, False
            return gap
        elif now < self._ask_at:
            self._waits = True  # unless it was on its way when we asked, and comes again
            return Verdict.DROP
        self._ask(now)
        return Verdict.MISSING

    def _ask(self, now: float) -> None:
        self._ask_at = now + growing(count=self._asked, initial=ASK_AGAIN, factor=2.0, most=ASK_MOST)
        self._asked += 1
        self._waits = False
