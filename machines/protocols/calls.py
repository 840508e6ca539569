"""Calls in flight: which reply belongs to whom, what is known of each, and when its time is up.

One ``Calls`` serves a whole pipe, whatever transports it has: a message keeps its id over all of them, so a
late reply over the old transport ends the call as well as one over the new. This is the hot path: no chart, no
event object per message; starting and ending a call are a few dictionary operations.

A call ends exactly once: it is in the table until ``reply``, ``fail``, ``cancel`` or a deadline takes it out, and
whoever takes it out owns telling the caller. What a core cannot know is whether bytes that were handed over ever
arrived: then the outcome is ``maybe_executed``.
"""

from __future__ import annotations

from typing import Any

from devpipe.machines.errors import Outcome
from devpipe.machines.inputs import Failure
from devpipe.machines.message import Priority

__all__ = ["SWEEP", "Call", "Calls"]

#: Deadlines are gathered in buckets of this many seconds: a call ends at most one bucket late (promise P1).
SWEEP = 0.05


class Call:
    """One message on its way, with what is known of it.

    A link sets ``handed_over`` before the first byte that might complete the message can leave it.
    ``owner`` is the adapter's own handle (who is waiting); no core looks at it.
    """

    __slots__ = (
        "accepted",
        "attempts",
        "bucket",
        "data",
        "deadline",
        "expires_at",
        "failure",
        "handed_over",
        "id",
        "outcome",
        "owner",
        "payload",
        "permit",
        "priority",
        "realtime",
        "route",
        "session",
        "started",
        "submitted",
        "type",
    )

    def __init__(
        self,
        id: str,
        type: str,
        payload: bytes,
        *,
        now: float,
        deadline: float,
        priority: Priority = Priority.NORMAL,
        realtime: bool = False,
        owner: Any = None,
    ) -> None:
        self.id = id
        self.type = type
        self.payload = payload  #: JSON bytes, encoded once
        self.priority = priority
        self.realtime = realtime
        self.started = now
        self.deadline = deadline
        self.expires_at: int | None = None  #: milliseconds of the server's clock, set at the first attempt
        self.owner = owner
        self.bucket = 0
        # the present attempt
        self.route: str | None = None  #: the transport's type, None while it waits
        self.session = ""  #: the session in which it went out
        self.data = b""  #: the envelope for that transport
        self.submitted = now
        self.handed_over = False
        self.permit: Any = None  #: the breaker's, given back when the attempt ends
        # all attempts
        self.attempts = 0
        self.failure: Failure | None = None  #: why the last one that ended did, for people
        self.accepted = False  #: the server has said that it is working on it
        self.outcome = Outcome.NEVER_SENT

    def begin_attempt(self, route: str, data: bytes, *, now: float) -> None:
        """The call goes out over ``route`` now; what was known of earlier attempts is kept in ``outcome``."""
        self.route = route
        self.data = data
        self.submitted = now
        self.handed_over = False
        self.attempts += 1

    def end_attempt(self) -> None:
        """The present attempt is over without a reply: fold what is known of it into ``outcome``."""
        if self.handed_over:
            self.outcome = self.outcome.worst(Outcome.MAYBE_EXECUTED)
        self.route = None
        self.data = b""
        self.handed_over = False

    @property
    def known(self) -> Outcome:
        """What is known now, the present attempt included."""
        return self.outcome.worst(Outcome.MAYBE_EXECUTED) if self.handed_over else self.outcome


class Calls:
    """The table of open calls, with their deadlines in buckets."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}
        self._buckets: dict[int, dict[str, Call]] = {}
        self.unknown_replies = 0  #: replies to ids that are not open: late ones, strange ones

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, id: str) -> bool:
        return id in self._open

    def start(self, call: Call) -> None:
        """Enter a call. Raises ``ValueError`` if its id is open already (ids are ours: that is our bug)."""
        if call.id in self._open:
            raise ValueError(f"call {call.id} is open already")
        self._open[call.id] = call
        bucket = call.bucket = int(call.deadline / SWEEP) + 1
        calls = self._buckets.get(bucket)
        if calls is None:
            calls = self._buckets[bucket] = {}
        calls[call.id] = call

    def get(self, id: str) -> Call | None:
        """The open call of this id."""
        return self._open.get(id)

    def finish(self, id: str) -> Call | None:
        """Take a call out, because its reply came or its caller is told otherwise. None if it is not open."""
        call = self._open.pop(id, None)
        if call is None:
            return None
        calls = self._buckets[call.bucket]
        del calls[id]
        if not calls:
            del self._buckets[call.bucket]
        return call

    def take_reply(self, id: str) -> Call | None:
        """Like ``finish``, for a reply that arrived: one to an id that is not open is counted."""
        call = self.finish(id)
        if call is None:
            self.unknown_replies += 1
        return call

    def on_route(self, route: str) -> list[Call]:
        """The calls whose present attempt is on this transport, oldest first."""
        return [call for call in self._open.values() if call.route == route]

    def open_calls(self) -> list[Call]:
        """All open calls, oldest first."""
        return list(self._open.values())

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` has something to do: at most one sweep after the earliest deadline."""
        return min(self._buckets) * SWEEP if self._buckets else None

    def handle_deadline(self, *, now: float) -> list[Call]:
        """Take out every call whose time is up, in the order of their deadlines; the caller tells each one."""
        if not self._buckets:
            return []
        expired: list[Call] = []
        for bucket in sorted(bucket for bucket in self._buckets if bucket * SWEEP <= now):
            expired.extend(self._buckets[bucket].values())
        for call in expired:
            self.finish(call.id)
        expired.sort(key=lambda call: call.deadline)
        return expired

    def snapshot(self) -> tuple[tuple[str, float, str | None, bool, Outcome], ...]:
        """Plain data of every open call: id, deadline, route, handed over, outcome so far."""
        return tuple(
            (call.id, call.deadline, call.route, call.handed_over, call.outcome)
            for call in self._open.values()
        )
