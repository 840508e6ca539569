"""``receive()``: every subscriber gets every push from the moment of the call, in order, or is told of the gap."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType

import anyio

from devpipe.machines.message import Gap, Message, Position

__all__ = ["Subscription", "Subscriptions"]


class Subscription:
    """An async iterator of ``Message`` and ``Gap``, and a context manager. ``break`` ends it as well as ``close``.

    If the program takes pushes more slowly than they come and its queue is full, the newest ones are not kept, and
    a ``Gap`` stands where they would have been: ``after`` the last push kept, ``before`` the next one that comes.
    """

    def __init__(
        self, *, limit: int, closed: Callable[[Subscription], None], taken: Callable[[Position], None]
    ) -> None:
        self._items: deque[Message | Gap] = deque()
        self._limit = limit
        self._closed = closed
        self._taken = taken
        self._wake = anyio.Event()
        self._overflow_after: Position | None = None
        self._overflowed = False
        self._last: Position | None = None
        self._ended = False

    def put(self, item: Message | Gap) -> None:
        """A push, or a gap between pushes, has come."""
        if self._ended:
            return
        position = item.position if isinstance(item, Message) else None
        if len(self._items) >= self._limit:
            if not self._overflowed:
                self._overflowed, self._overflow_after = True, self._last
            return
        if self._overflowed:
            self._overflowed = False
            self._items.append(
                Gap(
                    after=self._overflow_after,
                    before=position,
                    reason="this receive() took pushes too slowly",
                )
            )
        self._items.append(item)
        if position is not None:
            self._last = position
        self._wake.set()

    def close(self) -> None:
        """Stop receiving; a second time changes nothing."""
        if not self._ended:
            self._ended = True
            self._items.clear()
            self._wake.set()
            self._closed(self)

    def finish(self) -> None:
        """The pipe is closed: what has come is still delivered, then the iterator ends."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message | Gap:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            if self._overflowed:
                self._overflowed = False
                return Gap(
                    after=self._overflow_after, before=None, reason="this receive() took pushes too slowly"
                )
            self._wake = anyio.Event()
            await self._wake.wait()
        item = self._items.popleft()
        if isinstance(item, Message) and item.position is not None:
            self._taken(item.position)
        return item

    async def aclose(self) -> None:
        """The same as ``close``, for ``contextlib.aclosing``."""
        self.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # ``break`` out of ``async for`` drops the last reference: then nothing may fill up any more
        self._closed(self)


class Subscriptions:
    """All that listen now. ``position``: the last push that a program has taken."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, _Slot] = {}
        self._finished = False
        self.position: Position | None = None

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Subscription:
        """A new one; it gets what comes from now on."""
        subscription = Subscription(limit=self._limit, closed=self._close, taken=self._take)
        if self._finished:
            subscription.finish()
        else:
            self._open[id(subscription)] = _Slot(subscription)
        return subscription

    def put(self, item: Message | Gap) -> None:
        """Give it to everybody."""
        for slot in tuple(self._open.values()):
            subscription = slot.subscription()
            if subscription is not None:
                subscription.put(item)

    def finish(self) -> None:
        """No more will come, and who subscribes from now on is told so at once."""
        self._finished = True
        for slot in tuple(self._open.values()):
            subscription = slot.subscription()
            if subscription is not None:
                subscription.finish()
        self._open.clear()

    def _close(self, subscription: Subscription) -> None:
        self._open.pop(id(subscription), None)

    def _take(self, position: Position) -> None:
        if self.position is None or position.epoch != self.position.epoch or position > self.position:
            self.position = position


class _Slot:
    """A weak hold: the program owns its subscription, so that dropping it ends it."""

    __slots__ = ("subscription",)

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = weakref.ref(subscription)
