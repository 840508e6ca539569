"""Which call goes out next over HTTP, and how many at once.

Rules:
- As many calls are under way as there are connections for messages (``slots``); one more place belongs to probes
  alone, so that ten slow calls never make a living server look dead.
- A call with a priority of its own keeps it; the others have one by their type (``PRIORITY_OF``).
- A waiting call rises one step each ``RISE`` seconds, so nothing starves; among equals the oldest goes first.
- A full queue refuses.
"""

from __future__ import annotations

from collections import OrderedDict

from devpipe.machines.errors import QueueFull
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call

__all__ = ["PRIORITY_OF", "PROBES", "RISE", "SendQueue"]

#: Seconds after which a waiting call has gained one step of priority.
RISE = 5.0
#: Messages whose answer proves the path: they have a connection of their own.
PROBES = frozenset({"hello", "health_ping"})
#: What a message is worth by its type, where it does not say so itself (the original's order).
PRIORITY_OF = {
    "health": Priority.HIGH,
    "health_check": Priority.HIGH,
    "health_pong": Priority.HIGH,
    "ping": Priority.HIGH,
    "pong": Priority.HIGH,
    "attach": Priority.HIGH,
    "cancel": Priority.HIGH,
    "control": Priority.HIGH,
    "preferences": Priority.LOW,
    "preferences_update": Priority.LOW,
}


class SendQueue:
    """Calls that wait, and the places of those that are under way.

    ``limit``: calls that may wait. ``probes``: the types of probes. Probes are not refused while fewer than ``MAX_PROBES`` of them wait.
    """

    #: Probes that may wait: each replaces what the one before asked, more of them would only be a leak.
    MAX_PROBES = 64

    def __init__(self, *, limit: int, slots: int, probes: frozenset[str] = PROBES) -> None:
        self._types = probes
        self._limit = limit
        self._slots = slots
        self._busy: set[int] = set()  #: ``id()`` of the calls under way, so that a repeat of one is another
        self._probing: int | None = None
        self._probes: OrderedDict[str, Call] = OrderedDict()
        #: by base priority, oldest first: (call, when it came, its number); the head of each has risen most
        self._waiting: tuple[OrderedDict[str, tuple[Call, float, int]], ...] = tuple(
            OrderedDict() for _ in Priority
        )
        self._count = 0
        self._number = 0

    @property
    def waiting(self) -> int:
        """Calls that were not taken yet."""
        return self._count + len(self._probes)

    @property
    def under_way(self) -> int:
        """Calls that were taken and not released yet, the probe included."""
        return len(self._busy) + (self._probing is not None)

    @property
    def ready(self) -> bool:
        """True if ``take`` would return a call."""
        return (self._count > 0 and len(self._busy) < self._slots) or (
            bool(self._probes) and self._probing is None
        )

    def put(self, call: Call, *, now: float) -> None:
        """Let a call wait for its turn. Raises ``QueueFull``."""
        if call.type in self._types:
            if len(self._probes) >= self.MAX_PROBES:
                raise QueueFull(
                    f"{self.MAX_PROBES} probes wait already", limit=self.MAX_PROBES, message_id=call.id
                )
            self._probes[call.id] = call
            return
        if self._count >= self._limit:
            raise QueueFull(f"{self._limit} messages wait already", limit=self._limit, message_id=call.id)
        priority = call.priority
        if priority is Priority.NORMAL:
            priority = PRIORITY_OF.get(call.type, priority)
        self._number += 1
        self._waiting[priority][call.id] = (call, now, self._number)
        self._count += 1

    def take(self, *, now: float) -> Call | None:
        """The call whose turn it is, if there is a place for it; give the place back with ``release``."""
        if self._probes and self._probing is None:
            _, call = self._probes.popitem(last=False)
            self._probing = id(call)
            return call
        if not self._count or len(self._busy) >= self._slots:
            return None
        best_level, best_number, best = -1, 0, self._waiting[0]
        for priority, queue in enumerate(self._waiting):
            if queue:
                _, since, number = queue[next(iter(queue))]
                level = min(int(Priority.CRITICAL), priority + int((now - since) / RISE))
                if level > best_level or (level == best_level and number < best_number):
                    best_level, best_number, best = level, number, queue
        _, (call, _, _) = best.popitem(last=False)
        self._count -= 1
        self._busy.add(id(call))
        return call

    def release(self, call: Call) -> None:
        """This call is not under way any more. A second time changes nothing."""
        if self._probing == id(call):
            self._probing = None
        else:
            self._busy.discard(id(call))

    def withdraw(self, call: Call) -> bool:
        """Forget a call that waits. False if it does not: it was taken, or never came."""
        if self._probes.get(call.id) is call:
            del self._probes[call.id]
            return True
        for queue in self._waiting:
            entry = queue.get(call.id)
            if entry is not None and entry[0] is call:
                del queue[call.id]
                self._count -= 1
                return True
        return False
