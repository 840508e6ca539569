"""An ``async with`` in a task of its own, for faces that are opened and closed by calls, from any task."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import anyio

from devpipe.adapters.waiter import in_trio

__all__ = ["Background"]

T = TypeVar("T")


class Background(Generic[T]):
    """Enters the context manager at ``open`` and leaves it at ``close``, or when the event loop ends."""

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self._manager = manager
        self._closing = anyio.Event()
        self._opened = anyio.Event()
        self._ended = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None
        self._task: Any = None

    async def open(self) -> T:
        """What the manager gives; raises what its entering raised. A cancelled caller leaves nothing behind."""
        if in_trio():
            import trio

            trio.lowlevel.spawn_system_task(self._run)
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())  # kept, or it may be collected
        try:
            await self._opened.wait()
        except BaseException:  # cancelled: what was begun is ended before that is passed on
            self._closing.set()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
            raise
        if self._error is not None:
            raise self._error
        assert self._value is not None  # it was opened, and no error was met
        return self._value

    async def opened(self) -> bool:
        """Wait for another's ``open``; False if it did not come to that, or is being closed."""
        await self._opened.wait()
        return self._error is None and not self._closing.is_set()

    async def close(self) -> None:
        """Leave; raises what its leaving raised. A second time changes nothing."""
        self._closing.set()
        await self._ended.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _run(self) -> None:
        try:
            async with self._manager as value:
                self._value = value
                self._opened.set()
                await self._closing.wait()
        except Exception as error:
            # a task without a parent tells whoever opens or closes it
            self._error = error
        finally:
            self._opened.set()
            self._ended.set()
