"""An event loop in a thread of its own, on which other threads call and wait.

Calls are handed over without waiting for the loop, and each is on a list until it has ended: whoever waits is told when
the loop ends, at whatever moment that is. (``BlockingPortal`` of anyio waits for the loop in order to hand over, with no
bound: a call that meets the end of the loop may hang.)
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Literal, TypeVar

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.waiter import entrance
from devpipe.machines.errors import ConfigurationError, Outcome, PipeClosed

__all__ = ["Backend", "Loop", "Stay"]

T = TypeVar("T")
Backend = Literal["asyncio", "trio"]

#: The loop's end is waited for so long; what still runs then, a name that is looked up, ends by itself (seconds).
END_SECONDS = 3.0
#: On Windows Ctrl-C is noticed between two waits, not during one (seconds).
BETWEEN = 0.1


class Loop:
    """Start it, ``call`` from any thread but its own, stop it. It never outlives the program: its thread is a daemon."""

    def __init__(self, backend: Backend = "asyncio") -> None:
        self.backend = backend
        self._process = os.getpid()
        self._started: Future[None] = Future()
        # a finalizer may run in the middle of anything this thread does: it must not wait for itself
        self._lock = threading.RLock()
        self._state: Literal["new", "open", "ended"] = "new"
        self._enter: Callable[[Callable[[], object]], object] | None = None
        self._waiting: set[_Ticket[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="devpipe", daemon=True)

    def start(self) -> None:
        """Return when calls are taken. Raises ``ConfigurationError`` if the backend is not there."""
        try:
            self._thread.start()
            self._started.result()
        except LookupError as error:  # what anyio says when the package of a backend is not there
            raise ConfigurationError(
                f"backend = {self.backend!r} is not allowed: give asyncio, or trio where it is installed"
            ) from error

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await ``function()`` in the loop and return what it gives.

        If the waiting ends before (Ctrl-C), the call is cancelled. Raises ``PipeClosed`` if the loop has ended or ends
        meanwhile, or belongs to the process that this one was forked from.
        """
        self._check_place()
        ticket = _Ticket(function)
        try:
            self._hand_over(ticket)
            return ticket.result()
        except BaseException:
            # the call's own error, or Ctrl-C: then nobody waits for it any more
            if not ticket.ended.done():
                self._soon(ticket.cancel)
            self._waiting.discard(ticket)
            ticket.forget()
            raise

    def run(self, function: Callable[[], T]) -> T:
        """Call a plain function in the loop's thread, where the objects of the loop may be touched."""

        async def call() -> T:
            return function()

        return self.call(call)

    @property
    def elsewhere(self) -> bool:
        """True in a process that was forked from the one with the loop."""
        return os.getpid() != self._process

    def stop(self, patience: float = END_SECONDS) -> None:
        """End the loop and wait for it, ``patience`` seconds at most; a second time changes nothing."""
        self.stop_soon()
        begun = self._thread.ident is not None
        if begun and not self.elsewhere and threading.current_thread() is not self._thread:
            self._thread.join(patience)

    def stop_soon(self) -> bool:
        """End the loop without waiting; allowed in every thread, in finalizers too. True if nobody asked for it before."""
        if self.elsewhere:
            return False
        with self._lock:
            state, self._state = self._state, "ended"
        # said each time: the time before, Ctrl-C may have come in between
        self._soon(lambda: self._stopping.set())
        return state != "ended"

    def let_go(self, function: Callable[[], object]) -> None:
        """Have the loop call a function some time, without waiting; if the loop is gone, it is called here."""
        if not self.elsewhere and not self._soon(function):
            function()

    @property
    def ended(self) -> bool:
        """True when nothing runs there any more."""
        return not self._thread.is_alive()

    # --- in any thread -----------------------------------------------------------------------------------

    def _check_place(self) -> None:
        if self.elsewhere:
            raise PipeClosed(f"this was opened by process {self._process}: connect again after a fork")
        if threading.current_thread() is self._thread:
            raise ConfigurationError(
                "a blocking call in the pipe's own event loop would wait for itself: call it from another thread"
            )

    def _hand_over(self, ticket: _Ticket[Any]) -> None:
        with self._lock:
            self._waiting.add(ticket)
            if self._state != "open" or not self._soon(lambda: self._begin(ticket)):
                self._waiting.discard(ticket)
                raise PipeClosed(
                    "the pipe is not open: use it inside 'with'"
                    if self._state == "new"
                    else "the pipe is closed: connect again"
                )

    def _soon(self, function: Callable[[], object]) -> bool:
        """Have the loop call it; False if the loop is gone, or not there yet."""
        if self._enter is None:
            return False
        try:
            self._enter(function)
        except RuntimeError:  # closed: asyncio says RuntimeError, and trio.RunFinishedError is one
            return False
        return True

    # --- in the loop's thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            anyio.run(self._main, backend=self.backend)
        except BaseException as error:
            if self._started.done():
                raise  # shown by threading's hook; callers are told below
            self._started.set_exception(error)
        finally:
            with self._lock:
                self._state = "ended"
                left = tuple(self._waiting)
                self._waiting.clear()
            for ticket in left:
                ticket.abandon()
            if not self._started.done():  # stopped before it began
                self._started.set_exception(PipeClosed("the pipe was closed meanwhile"))

    async def _main(self) -> None:
        self._stopping = anyio.Event()
        self._ending = False
        self._enter = entrance()
        async with anyio.create_task_group() as tasks:
            self._tasks: TaskGroup = tasks
            with self._lock:
                if self._state == "ended":
                    return
                self._state = "open"
            self._started.set_result(None)
            try:
                await self._stopping.wait()
            finally:
                self._ending = True
            tasks.cancel_scope.cancel()

    def _begin(self, ticket: _Ticket[Any]) -> None:
        if not self._ending:  # else it is told at the very end, with all that are left
            self._tasks.start_soon(self._perform, ticket)

    async def _perform(self, ticket: _Ticket[Any]) -> None:
        try:
            await ticket.perform()
        finally:
            self._waiting.discard(ticket)

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a task that nobody waits for; only in the loop's thread."""
        self._tasks.start_soon(function)


class _Ticket(Generic[T]):
    """One call from another thread. Only the loop's thread ends it."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self.ended: Future[T] = Future()

    def result(self) -> T:
        while sys.platform == "win32" and not self.ended.done():
            wait((self.ended,), timeout=BETWEEN)
        return self.ended.result()

    async def perform(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                if not self._cancelled:
                    self.ended.set_result(await self._function())
        except anyio.get_cancelled_exc_class():
            raise  # the loop ends: told below
        except BaseException as error:  # whatever it is, it is the caller's, and no other call's
            self.ended.set_exception(error)
        finally:
            self.abandon()

    def forget(self) -> None:
        """Let go of the error, whose traceback leads here: in a circle, everything in it would live on for a while."""
        self.ended = Future()

    def cancel(self) -> None:
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def abandon(self) -> None:
        """Tell the caller, unless the call has ended. What was on its way may have been done."""
        if not self.ended.done():
            self.ended.set_exception(
                PipeClosed("the pipe was closed meanwhile", outcome=Outcome.MAYBE_EXECUTED)
            )


class Stay(Generic[T]):
    """One asynchronous context manager in a loop, entered and left by the same task, as most of them want it."""

    def __init__(self, loop: Loop, subject: AbstractAsyncContextManager[T]) -> None:
        self._loop = loop
        self._subject = subject
        self._error: Exception | None = None

    def enter(self) -> T:
        """Enter it and return what that gives. If the waiting ends before, it is left again."""
        return self._loop.call(self._enter)

    def leave(self) -> None:
        """Leave it, as if without an exception, and return when that is done. Raises what it raised."""
        self._loop.call(self._leave)

    async def _enter(self) -> T:
        self._entered = anyio.Event()
        self._left = anyio.Event()
        self._leaving = anyio.Event()
        self._scope = anyio.CancelScope()
        self._loop.start_soon(self._live)
        try:
            await self._entered.wait()
        except BaseException:  # nobody waits for it any more: it must not stay open
            self._scope.cancel()
            raise
        if self._error is not None:
            raise self._error
        return self._value

    async def _live(self) -> None:
        try:
            with self._scope:
                async with self._subject as self._value:
                    self._entered.set()
                    await self._leaving.wait()
        except Exception as error:
            self._error = error  # raised to those who enter or leave it
        finally:
            self._entered.set()
            self._left.set()

    async def _leave(self) -> None:
        self._leaving.set()
        await self._left.wait()
        if self._error is not None:
            raise self._error
