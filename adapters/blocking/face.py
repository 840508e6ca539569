"""What every blocking face has: its loop, its life, and two ways to call what is behind it."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from devpipe.adapters.blocking.loop import Backend, Loop, Stay
from devpipe.machines.errors import ConfigurationError, PipeClosed

__all__ = ["Face"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
#: After Ctrl-C the loop's end is waited for so long, no longer: the rest ends by itself (seconds).
INTERRUPTED_SECONDS = 0.5


class Face(Generic[S]):
    """A blocking face of an asynchronous object ``S`` that is entered with ``async with``. Enter it with ``with``.

    A subclass has a method for each one that it shows, which is how its types stay true::

        class Selector(Face[devpipe.ModelSelector]):
            def select(self, request: Request) -> Selection:
                return self._call(self._subject.select, request)

            @property
            def preferences(self) -> Preferences:
                return self._run(lambda: self._subject.preferences)

    ``face``: another face, in whose loop this one lives (what is behind both may then belong together); without one it
    has a loop and a thread of its own, of the kind ``backend``. The object is entered and left inside the loop.
    """

    def __init__(
        self,
        subject: AbstractAsyncContextManager[S],
        *,
        backend: Backend = "asyncio",
        face: Face[Any] | None = None,
    ) -> None:
        self._behind: S | None = None
        self._owns_loop = face is None
        self._loop: Loop = Loop(backend) if face is None else face._loop
        self._stay = Stay(self._loop, subject)
        self._entered = self._closed = False

    def __enter__(self) -> Self:
        if self._entered:
            raise ConfigurationError(f"{self!r} is entered once: make another one")
        self._entered = True
        try:
            if self._owns_loop:
                self._finalizer = weakref.finalize(self, _forgotten, self._loop, type(self).__name__)
                self._loop.start()
            self._behind = self._stay.enter()
        except BaseException:
            self._closed = True
            if self._owns_loop:
                self._loop.stop(INTERRUPTED_SECONDS)
                self._finalizer.detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave what is behind, and end the loop. Calls that wait in other threads end with ``PipeClosed``.

        A second time, or before it was entered, nothing happens. In a process that was forked while it was open
        nothing can be closed: that is a ``ResourceWarning``.
        """
        if self._behind is None or self._closed:
            return
        self._closed = True
        if not self._owns_loop:
            self._leave()
            return
        if self._loop.elsewhere:
            self._finalizer.detach()
            _warn_of_fork(type(self).__name__)
            return
        try:
            self._leave()
        except BaseException:
            # Ctrl-C once more, or what was behind failed in the end: the loop ends all the same
            self._loop.stop(INTERRUPTED_SECONDS)
            raise
        self._loop.stop()
        self._finalizer.detach()  # last: where Ctrl-C comes before it, the finalizer ends the loop

    def _leave(self) -> None:
        try:
            self._stay.leave()
        except PipeClosed:
            pass  # the loop has ended before, and everything in it was left then

    @property
    def _subject(self) -> S:
        """What is behind. Its methods are only called through ``_call`` and ``_run``."""
        if self._behind is None:
            raise PipeClosed(f"{self!r} is not open: use it inside 'with'")
        return self._behind

    def _call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Wait for an asynchronous method of what is behind."""
        return self._loop.call(partial(function, *args, **kwargs))

    def _run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a plain method of what is behind; it happens in the loop's thread."""
        return self._loop.run(partial(function, *args, **kwargs))

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._behind is None else "open"
        return f"<blocking {type(self).__name__} {state}>"


def _forgotten(loop: Loop, name: str) -> None:
    """The program let go of it, or ends, and has not closed it."""
    if loop.elsewhere:
        _warn_of_fork(name)
    elif loop.stop_soon():
        warnings.warn(
            f"a blocking {name} was not closed: use it inside 'with'", ResourceWarning, stacklevel=2
        )


def _warn_of_fork(name: str) -> None:
    warnings.warn(
        f"a blocking {name} was open when process {os.getpid()} was forked: it is left to the other process",
        ResourceWarning,
        stacklevel=3,
    )
