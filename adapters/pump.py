"""Run to completion without a task: an input that arrives while another is handled waits for its turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Pump"]

T = TypeVar("T")


class Pump(Generic[T]):
    """Hands inputs to ``handle`` one after the other, in the order in which they were posted.

    ``handle`` moves the machine first and then carries out what it asks for; that may post again.
    """

    def __init__(self, handle: Callable[[T], None]) -> None:
        self._handle = handle
        self._inbox: deque[T] = deque()
        self._busy = False

    def post(self, item: T) -> None:
        """Handle ``item`` now, or after what is being handled."""
        self._inbox.append(item)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._busy = False
