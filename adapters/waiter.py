"""How a caller waits for its reply, and how other threads get in: the one room that knows which event loop runs.

An asyncio future or a parked trio task, behind one face: an event object of anyio would cost several times as
much per message.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import trio

__all__ = ["Waiter", "entrance", "in_trio", "waiter_factory"]


class Waiter(Protocol):
    """Awaited by one task, ended once by another with a result or an exception."""

    def done(self) -> bool: ...

    def set_result(self, value: Any, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...

    def __await__(self) -> Generator[Any, None, Any]: ...


def in_trio() -> bool:
    """True inside a trio task. Asked first, because trio may be a guest of an asyncio loop."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def waiter_factory() -> Callable[[], Waiter]:
    """What makes waiters in the event loop that runs now; ask once, outside the hot path."""
    if in_trio():
        return _TrioWaiter
    return asyncio.get_running_loop().create_future


def entrance() -> Callable[[Callable[[], object]], object]:
    """What has the event loop that runs now call a function soon, in its own context; never waits, from any thread.

    Used after the loop has ended it raises ``RuntimeError``.
    """
    if in_trio():
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    return partial(asyncio.get_running_loop().call_soon_threadsafe, context=copy_context())


class _TrioWaiter:
    """A trio task that is parked until somebody says how it goes on."""

    __slots__ = ("_ended", "_error", "_task", "_value")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._ended = False
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        return self._ended

    def set_result(self, value: Any, /) -> None:
        self._value = value
        self._end()

    def set_exception(self, error: BaseException, /) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._ended = True
        if self._task is not None:
            import trio

            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def __await__(self) -> Generator[Any, None, Any]:
        import trio

        if not self._ended:
            self._task = trio.lowlevel.current_task()

            def abort(_: Any) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            yield from trio.lowlevel.wait_task_rescheduled(abort).__await__()  # noqa: ASYNC105 - awaited, as a generator does it
        if self._error is not None:
            raise self._error
        return self._value
