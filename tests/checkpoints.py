"""Cancel a piece of work at every moment at which it can be cancelled: the moments are counted, not timed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import trio

from devpipe.adapters.waiter import in_trio

__all__ = ["cancel_at_every_step", "cancel_at_every_turn"]

Work = Callable[[], Awaitable[None]]

#: One run and the check behind it take at most this long, unless something hangs (seconds).
BOUND = 10.0


class _Steps:
    """Counts how often the tasks of one run are suspended, and cancels ``scope`` at the ``n``-th time."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.scope = anyio.CancelScope()

    def suspended(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


#: Whose steps are counted: whatever task is started in this context, and by the tasks that it starts.
_STEPS: ContextVar[_Steps | None] = ContextVar("steps", default=None)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine of an asyncio task that tells when it is suspended."""

    def __init__(self, inner: Coroutine[Any, Any, Any], steps: _Steps) -> None:
        self._inner = inner
        self._steps = steps

    def send(self, value: Any) -> Any:
        wanted = self._inner.send(value)
        self._steps.suspended()
        return wanted

    def throw(self, *error: Any) -> Any:
        wanted = self._inner.throw(*error)
        self._steps.suspended()
        return wanted

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("asyncio drives the coroutine of a task by send and throw")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # cr_running and the like, which anyio asks for


class _Instrument(trio.abc.Instrument):
    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        steps = task.context.get(_STEPS)
        if steps is not None and task.coro.cr_frame is not None:  # not by its end
            steps.suspended()


@asynccontextmanager
async def _steps_are_counted() -> AsyncIterator[None]:
    """Until left, each task tells the ``_STEPS`` of the context in which it was started."""
    if in_trio():
        instrument = _Instrument()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)
        return
    loop = asyncio.get_running_loop()

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        steps = _STEPS.get()
        return asyncio.Task(coro if steps is None else _Counted(coro, steps), loop=loop, **options)

    loop.set_task_factory(make)  # type: ignore[arg-type]  # Python 3.11 gives no context to a factory
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def _run(work: Work, scope: anyio.CancelScope, meanwhile: Work | None = None) -> bool:
    """Run it in a task of its own until it ends or ``scope`` is cancelled; True if it came to its end uncancelled.

    What it raises is raised as it is: a group that comes out of it is its own.
    """
    errors: list[BaseException] = []
    ended = anyio.Event()

    async def run() -> None:
        try:
            with scope:
                await work()
        except (Exception, BaseExceptionGroup) as error:  # a task group would put it into a group
            errors.append(error)
        ended.set()

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            if meanwhile is not None:
                await meanwhile()
            await ended.wait()
    if errors:
        raise errors[0]
    return not scope.cancel_called


async def cancel_at_every_step(work: Work, check: Work, *, least: int = 1, most: int = 3000) -> int:
    """Run ``work`` again and again: cancelled when a task of it is suspended for the first time, the second, and so on
    until it comes to its end; ``check`` after each run. Returns how many steps it has.

    Tasks of it are the one that runs it, and all that those start. Each run has to end within the bound, and to raise
    nothing. ``least``: it has at least so many steps, or nothing was tested.
    """
    async with _steps_are_counted():
        for n in range(1, most):
            steps = _Steps(n)
            token = _STEPS.set(steps)

            async def reset(token: Any = token) -> None:
                _STEPS.reset(token)

            done = await _run(work, steps.scope, reset)
            try:
                with anyio.fail_after(BOUND):
                    await check()
            except BaseException as error:
                error.add_note(f"after a cancellation at step {n}")
                raise
            if done:
                assert n > least, f"{n} steps are too few to have tested anything"
                return n - 1
    raise AssertionError(f"still not at its end after {most} steps")


async def cancel_at_every_turn(work: Work, check: Work, *, least: int = 1, most: int = 3000) -> int:
    """The same, cancelled after one turn of the event loop, after two, and so on: for what waits for others.

    How many turns it takes may vary, so it has to come to its end in three runs.
    """
    ended = 0
    for n in range(most):
        scope = anyio.CancelScope()

        async def turns(n: int = n, scope: anyio.CancelScope = scope) -> None:
            for _ in range(n):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        finished = False

        async def run() -> None:
            nonlocal finished
            await work()
            finished = True

        await _run(run, scope, turns)
        try:
            with anyio.fail_after(BOUND):
                await check()
        except BaseException as error:
            error.add_note(f"after a cancellation at turn {n}")
            raise
        ended += finished
        if ended == 3:
            assert n > least, f"{n} turns are too few to have tested anything"
            return n
    raise AssertionError(f"still not at its end after {most} turns")
