"""The server's memory of the ids of one session: what runs, what was answered, what is only known to have run.

A message is started at most once because of one rule: *what is not remembered is refused*. So forgetting a reply
never forgets its id: answered replies are bounded by count and bytes, while ids are kept as ranges. A client counts
its ids up (``<prefix>-<n>``), so ranges stay few; if they become too many, the floor rises over the lowest gap, and
whatever stands below the floor is refused from then on, whether it ever ran or not.

What this core cannot know: whether a reply that it gave out has arrived.
"""

from __future__ import annotations

from bisect import bisect_right
from enum import Enum
from hashlib import blake2b
from typing import Any

__all__ = ["MAX_PREFIXES", "MAX_RANGES", "Ranges", "Replies", "Verdict", "digest_of", "split_id"]

#: Gaps come from messages that never arrived; so many at once mean a client that does not count up.
MAX_RANGES = 1000
#: A session belongs to one pipe, and a pipe has one prefix; a few more allow for a client that restarts inside it.
MAX_PREFIXES = 8
#: JSON numbers are exact up to here in every language.
MAX_NUMBER = 2**53


class Verdict(Enum):
    """What the memory says about an id."""

    NEW = "new"  #: never seen: it may run
    RUNNING = "running"  #: its handler runs now: join it
    STORED = "stored"  #: it was answered, and the reply is still here
    FORGOTTEN = "forgotten"  #: it ran, and the reply is gone
    UNKNOWN = "unknown"  #: below the floor: nobody knows any more whether it ran
    REUSED = "reused"  #: the id is known, with another type or payload
    MALFORMED = "malformed"  #: no id of a session, or one prefix too many


def digest_of(type: str, payload: Any) -> bytes:
    """What tells two messages of the same id apart; ``payload`` is bytes or a buffer, or None."""
    digest = blake2b(type.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\x00")
    if payload is not None:
        digest.update(payload)
    return digest.digest()


def split_id(id: str) -> tuple[str, int] | None:
    """``("Ab3", 17)`` for ``Ab3-17``; None if ``id`` is not a prefix and a number from 1."""
    prefix, dash, digits = id.rpartition("-")
    # isdigit() takes digits of other scripts and int() too: two names for one number must not exist
    if not dash or not prefix or not digits.isascii() or not digits.isdigit() or digits[0] == "0":
        return None
    if len(digits) > 16:
        return None
    number = int(digits)
    return (prefix, number) if number <= MAX_NUMBER else None


class Ranges:
    """A set of positive integers as disjoint ranges, with a floor under which it knows nothing any more."""

    __slots__ = ("_ends", "_limit", "_starts", "floor")

    def __init__(self, limit: int = MAX_RANGES) -> None:
        self.floor = 0
        self._limit = limit
        self._starts: list[int] = []
        self._ends: list[int] = []  #: inclusive

    def __contains__(self, number: int) -> bool:
        ends = self._ends
        if not ends or number > ends[-1]:  # the usual case: the next number
            return False
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number <= ends[index]

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def add(self, number: int) -> None:
        """Enter a number; one that is in already, or below the floor, changes nothing."""
        starts, ends = self._starts, self._ends
        if ends and number == ends[-1] + 1:
            ends[-1] = number
            return
        if number <= self.floor or number in self:
            return
        index = bisect_right(starts, number)  # the range that will stand behind it
        joins_left = index > 0 and ends[index - 1] == number - 1
        joins_right = index < len(starts) and starts[index] == number + 1
        if joins_left and joins_right:
            ends[index - 1] = ends.pop(index)
            del starts[index]
        elif joins_left:
            # only an inner range can grow here: the last one was dealt with above
            ends[index - 1] = number
        elif joins_right:
            starts[index] = number
        else:
            starts.insert(index, number)
            ends.insert(index, number)
            if len(starts) > self._limit:
                del starts[0]
                self.floor = ends.pop(0)

    def snapshot(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The floor, and every range."""
        return (self.floor, tuple(zip(self._starts, self._ends, strict=True)))

    def restore(self, state: tuple[int, tuple[tuple[int, int], ...]]) -> None:
        """Put a snapshot back."""
        self.floor, pairs = state
        self._starts = [start for start, _ in pairs]
        self._ends = [end for _, end in pairs]


ReplySnapshot = tuple[
    tuple[tuple[str, tuple[int, tuple[tuple[int, int], ...]]], ...],
    tuple[tuple[str, bytes], ...],
    tuple[tuple[str, bytes | None, bytes], ...],
]


class Replies:
    """All ids of one session.

    ``judge`` an id; if it is new and you run it, ``begin`` it; ``finish`` it with the bytes of its reply. ``block``
    an id that must never run. ``note`` the id of a message that runs nothing (a ping), so that it leaves no gap.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_ranges", "_max_replies", "_ranges", "_running", "_stored")

    def __init__(self, *, max_replies: int, max_bytes: int, max_ranges: int = MAX_RANGES) -> None:
        self._max_replies = max_replies
        self._max_bytes = max_bytes
        self._max_ranges = max_ranges
        self._bytes = 0
        self._ranges: dict[str, Ranges] = {}
        self._running: dict[str, bytes] = {}
        #: oldest first; a digest of None matches every message
        self._stored: dict[str, tuple[bytes | None, bytes]] = {}

    @property
    def running(self) -> int:
        """How many ids run now."""
        return len(self._running)

    @property
    def stored(self) -> int:
        """How many replies are kept."""
        return len(self._stored)

    @property
    def stored_bytes(self) -> int:
        """How many bytes they are together."""
        return self._bytes

    def judge(self, id: str, digest: bytes) -> Verdict:
        """What is known of this id; nothing changes."""
        stored = self._stored.get(id)
        if stored is not None:
            return Verdict.STORED if stored[0] is None or stored[0] == digest else Verdict.REUSED
        running = self._running.get(id)
        if running is not None:
            return Verdict.RUNNING if running == digest else Verdict.REUSED
        parts = split_id(id)
        if parts is None:
            return Verdict.MALFORMED
        ranges = self._ranges.get(parts[0])
        if ranges is None:
            return Verdict.NEW if len(self._ranges) < MAX_PREFIXES else Verdict.MALFORMED
        if parts[1] in ranges:
            return Verdict.FORGOTTEN
        return Verdict.NEW if parts[1] > ranges.floor else Verdict.UNKNOWN

    def begin(self, id: str, digest: bytes) -> None:
        """A new id runs from now on."""
        self.note(id)
        self._running[id] = digest

    def finish(self, id: str, data: bytes) -> None:
        """A running id has been answered: keep the reply as long as there is room, the id for good."""
        digest = self._running.pop(id, None)
        if digest is not None:
            self._keep(id, digest, data)

    def block(self, id: str, data: bytes) -> None:
        """A new id shall never run: whoever sends it gets ``data``."""
        self.note(id)
        self._keep(id, None, data)

    def note(self, id: str) -> None:
        """An id has been used up. One that is no id of a session, or has a prefix too many, is not kept."""
        parts = split_id(id)
        if parts is None:
            return
        ranges = self._ranges.get(parts[0])
        if ranges is None:
            if len(self._ranges) >= MAX_PREFIXES:
                return
            ranges = self._ranges[parts[0]] = Ranges(self._max_ranges)
        ranges.add(parts[1])

    def reply(self, id: str) -> bytes | None:
        """The stored reply, byte for byte as it went out first."""
        stored = self._stored.get(id)
        return None if stored is None else stored[1]

    def _keep(self, id: str, digest: bytes | None, data: bytes) -> None:
        self._stored[id] = (digest, data)
        self._bytes += len(data)
        while len(self._stored) > self._max_replies or self._bytes > self._max_bytes:
            oldest = next(iter(self._stored))
            self._bytes -= len(self._stored.pop(oldest)[1])

    def snapshot(self) -> ReplySnapshot:
        """Plain data of everything: ranges by prefix, running ids, stored replies oldest first."""
        return (
            tuple((prefix, ranges.snapshot()) for prefix, ranges in self._ranges.items()),
            tuple(self._running.items()),
            tuple((id, digest, data) for id, (digest, data) in self._stored.items()),
        )

    def restore(self, state: ReplySnapshot) -> None:
        """Put a snapshot back."""
        ranges, running, stored = state
        self._ranges = {prefix: Ranges(self._max_ranges) for prefix, _ in ranges}
        for prefix, content in ranges:
            self._ranges[prefix].restore(content)
        self._running = dict(running)
        self._stored = {id: (digest, data) for id, digest, data in stored}
        self._bytes = sum(len(data) for _, _, data in stored)
