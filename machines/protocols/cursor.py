"""The client's place in the pushes: the next offset only. Lower ones are dropped, a higher one means that some are
missing, and the pipe attaches again from here. Only the server's word, or a new epoch, makes a gap."""

from __future__ import annotations

from enum import Enum

from devpipe.machines.message import Gap, Position

__all__ = ["PushCursor", "Verdict"]


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
        if epoch == self.epoch and not gap:
            return None
        found = Gap(after=self.position, before=None, reason=reason)
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
        return gap

    def receive(self, push: Position) -> Verdict:
        """A push has arrived."""
        if self.epoch is None:
            self.epoch, self.offset = push.epoch, push.offset - 1
        if push.epoch != self.epoch:
            return Verdict.MISSING
        if self._anywhere:
            self._anywhere = False
            self.offset = max(self.offset, push.offset - 1)
        if push.offset <= self.offset:
            self.dropped += 1
            return Verdict.DROP
        if push.offset > self.offset + 1:
            return Verdict.MISSING
        self.offset = push.offset
        return Verdict.TAKE
