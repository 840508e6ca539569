"""``on`` and ``off`` of a blocking face: listeners are called in threads, never in the caller's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import anyio

from devpipe.adapters.blocking.face import Face
from devpipe.adapters.blocking.loop import Backend
from devpipe.adapters.listeners import Listener
from devpipe.machines.errors import PipeClosed

__all__ = ["Listening"]

#: So many listeners of one face run at once; more wait for each other.
LISTENER_THREADS = 8


class Told(Protocol):
    """What is behind: it tells events."""

    def on(self, name: str, listener: Listener) -> Callable[[], None]: ...

    def off(self, name: str, listener: Listener) -> None: ...


S = TypeVar("S", bound=Told)


class Listening(Face[S]):
    """A face of something that tells events."""

    def __init__(
        self,
        subject: AbstractAsyncContextManager[S],
        *,
        backend: Backend = "asyncio",
        face: Face[Any] | None = None,
    ) -> None:
        super().__init__(subject, backend=backend, face=face)
        self._limiter: anyio.CapacityLimiter | None = None

    def on(self, name: str, listener: Callable[[Any], object]) -> Callable[[], None]:
        """Call ``listener(event)`` at each event ``name``; returns what removes it again.

        It is called in a worker thread, never in yours: one event after the other, in order, while other listeners may
        run beside it. So it may take its time and may use what it listens to. One that raises is logged. Raises
        ``ConfigurationError`` if there is no such event.
        """
        remove = self._run(self._listen, name, listener)

        def remove_it() -> None:
            try:
                self._run(remove)
            except PipeClosed:
                pass  # what is closed calls nobody

        return remove_it

    def _listen(self, name: str, listener: Callable[[Any], object]) -> Callable[[], None]:
        if self._limiter is None:  # made in the loop, to which it belongs
            self._limiter = anyio.CapacityLimiter(LISTENER_THREADS)
        return self._subject.on(name, _Relay(listener, self._limiter))

    def off(self, name: str, listener: Callable[[Any], object]) -> None:
        """Remove a listener."""
        self._run(lambda: self._subject.off(name, _Relay(listener)))


@dataclass(frozen=True, slots=True)
class _Relay:
    """Stands for a listener in the loop and calls it in a thread; two for the same listener are equal."""

    listener: Callable[[Any], object]
    limiter: anyio.CapacityLimiter | None = field(default=None, compare=False)

    async def __call__(self, event: Any) -> None:
        # abandoned when the face is closed: a listener that does not return must not keep it open
        await anyio.to_thread.run_sync(self.listener, event, abandon_on_cancel=True, limiter=self.limiter)

    def __repr__(self) -> str:
        return repr(self.listener)
