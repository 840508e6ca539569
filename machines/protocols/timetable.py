"""Deadlines by key: arm, disarm, and ask which is next."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Timetable"]

K = TypeVar("K", bound=Hashable)

#: The heap may hold this many entries of keys that were disarmed, and as many as there are live ones.
SLACK = 64


class Timetable(Generic[K]):
    """One deadline per key. A disarmed entry stays in the heap until it comes up, or until there are too many."""

    __slots__ = ("_armed", "_count", "_heap")

    def __init__(self) -> None:
        self._armed: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        """How many keys are armed."""
        return len(self._armed)

    @property
    def entries(self) -> int:
        """How many entries the heap has, the dead ones included."""
        return len(self._heap)

    def arm(self, key: K, at: float) -> None:
        """This key is due at ``at``, and at no other time."""
        self._count += 1  # two keys at one time are never compared with each other
        self._armed[key] = (at, self._count)
        heapq.heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 2 * len(self._armed) + SLACK:
            self._heap = [(at, count, key) for key, (at, count) in self._armed.items()]
            heapq.heapify(self._heap)

    def disarm(self, key: K) -> None:
        """This key is due no more; one that is not armed changes nothing."""
        self._armed.pop(key, None)

    def next_deadline(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap:
            at, count, key = heap[0]
            if self._armed.get(key) == (at, count):
                return at
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Take the earliest key out if it is due."""
        at = self.next_deadline()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._armed[key]
        return key

    def items(self) -> Iterator[tuple[K, float]]:
        """Every armed key and its time."""
        for key, (at, _) in self._armed.items():
            yield key, at
