"""The pushes of one session: a history with places, of which the newest are kept, and the one path they take.

Every push has an offset that counts up from 1 inside one history, the ``epoch``. A session has one push path at a
time: the client names it with ``attach`` and a number that only grows, so that the highest number wins, whatever
arrives last. ``cursor`` is the last push that was handed to the present path; if that path loses some, the client
sees the hole and attaches again behind the last one it has.
"""

from __future__ import annotations

from collections import deque

from devpipe.machines.protocols.envelope import encode_push

__all__ = ["STREAM", "Pushes"]

#: The target of an ``attach`` that came over HTTP: the session's stream, whichever connection that is.
STREAM = 0

PushSnapshot = tuple[str, int, int, int, int, "int | None", tuple[tuple[int, bytes], ...]]


class Pushes:
    """The history of one session, bounded by count and bytes; the oldest pushes go first."""

    __slots__ = (
        "_bytes",
        "_log",
        "_max_bytes",
        "_max_pushes",
        "attached",
        "cursor",
        "epoch",
        "number",
        "offset",
        "target",
    )

    def __init__(self, epoch: str, *, max_pushes: int, max_bytes: int) -> None:
        self.epoch = epoch
        self.offset = 0  #: of the latest push
        self.cursor = 0  #: the last push handed to the present path
        self.attached = (
            0  #: the place that the last ``attach`` named: a poll without a place of its own goes on there
        )
        self.number: int = -1  #: the highest number that was attached
        self.target: int | None = None  #: a path, or STREAM, or None if none was named or it is gone
        self._log: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._max_pushes = max_pushes
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        """How many pushes are kept."""
        return len(self._log)

    @property
    def kept_bytes(self) -> int:
        """How many bytes they are together."""
        return self._bytes

    def append(self, type: str, payload: bytes, *, timestamp: int) -> None:
        """One more push; ``payload`` is JSON, ``timestamp`` in milliseconds."""
        self.offset += 1
        data = encode_push(
            type=type, payload=payload, timestamp=timestamp, epoch=self.epoch, offset=self.offset
        )
        self._log.append((self.offset, data))
        self._bytes += len(data)
        while len(self._log) > self._max_pushes or self._bytes > self._max_bytes:
            self._bytes -= len(self._log.popleft()[1])

    def attach(self, number: int, target: int, *, epoch: str | None, after: int) -> bool:
        """Pushes go to ``target`` from now on, behind ``after``; returns whether some are missing there (a gap).

        An older number moves nothing; the same number moves nothing but its own path's place. Without an epoch
        the client has no place yet: it hears what comes from now on.
        """
        cursor, gap = self.place(epoch, after)
        if number > self.number or (number == self.number and target == self.target):
            self.number, self.target, self.cursor, self.attached = number, target, cursor, cursor
        return gap

    def place(self, epoch: str | None, after: int) -> tuple[int, bool]:
        """Where a client that has seen ``after`` of ``epoch`` goes on, and whether it has missed some."""
        if not epoch:
            return self.offset, False
        if epoch != self.epoch or not 0 <= after <= self.offset:
            # its offsets mean nothing here: it hears what is kept of this history, and knows that there is a gap
            return self.offset - len(self._log), True
        return after, after < self.offset - len(self._log)

    def since(self, after: int) -> list[tuple[int, bytes]]:
        """The kept pushes behind ``after``, in order."""
        count = min(len(self._log), self.offset - after)
        if count <= 0:
            return []
        return [self._log[index] for index in range(len(self._log) - count, len(self._log))]

    def drop_path(self, path: int) -> None:
        """This path is gone; if the pushes went there, they wait for the next ``attach``."""
        if self.target == path:
            self.target = None

    def snapshot(self) -> PushSnapshot:
        """Plain data of everything."""
        return (
            self.epoch,
            self.offset,
            self.cursor,
            self.attached,
            self.number,
            self.target,
            tuple(self._log),
        )

    def restore(self, state: PushSnapshot) -> None:
        """Put a snapshot back."""
        self.epoch, self.offset, self.cursor, self.attached, self.number, self.target, log = state
        self._log = deque(log)
        self._bytes = sum(len(data) for _, data in log)
