"""The pipe for programs without an event loop: the same names, and each call returns when it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Unpack

import anyio

from devpipe.adapters.blocking.listening import Listening
from devpipe.adapters.blocking.loop import Backend, Loop
from devpipe.adapters.client import pipe as asynchronous
from devpipe.adapters.client import subscriptions
from devpipe.adapters.client.connect import ChoiceOptions
from devpipe.adapters.client.connect import connect as connect_asynchronous
from devpipe.adapters.client.explain import Explanation
from devpipe.machines.errors import ConfigurationError, DeadlineExceeded, PipeClosed
from devpipe.machines.message import Gap, Message, Position, Priority

__all__ = ["Pipe", "Subscription", "Token", "check_place", "connect"]


def connect(
    server_url: str | None = None,
    *,
    token: str | Callable[[], str] | None = None,
    wait: bool = True,
    backend: Backend = "asyncio",
    **options: Unpack[ChoiceOptions],
) -> Pipe:
    """A pipe to a server: ``with devpipe.blocking.connect("http://127.0.0.1:8000") as pipe``.

    Everything is as with ``devpipe.connect``, but that ``token`` may be a plain function, which is called in a thread of
    its own, and that a ``Server`` object is not taken: it lives in another event loop, give its address. ``backend``: the
    event loop in the pipe's thread, ``asyncio`` or ``trio``. An ``http_client`` must be used nowhere else.

    Raises ``ConfigurationError``. No thread is started before the pipe is entered.
    """
    check_place(server_url, backend)
    plain = Token(token) if callable(token) else token
    return Pipe(connect_asynchronous(server_url, token=plain, wait=wait, **options), backend=backend)


def check_place(server_url: object, backend: object) -> None:
    """Refuse what cannot be behind a face: an object of another event loop, and a loop that there is not."""
    if server_url is not None and not isinstance(server_url, str):
        raise ConfigurationError(
            f"server_url = {server_url!r} is not allowed: give an address like http://127.0.0.1:8000"
        )
    if backend not in ("asyncio", "trio"):
        raise ConfigurationError(f"backend = {backend!r} is not allowed: give asyncio or trio")


class Pipe(Listening[asynchronous.Pipe]):
    """One message pipe over several transports, in an event loop and a thread of its own.

    Any number of threads may use it at once. Ctrl-C ends a call that waits: ``KeyboardInterrupt`` is raised in it, the
    call is cancelled, and the pipe goes on until it is closed. In a program with an event loop, call it in a worker thread
    (``anyio.to_thread.run_sync``): called in the loop's own thread it works, and that loop stands still meanwhile.

    A pipe that is dropped without being closed is closed then, with a ``ResourceWarning``. In a process that was forked
    while it was open each call raises ``PipeClosed``.
    """

    def __init__(self, pipe: asynchronous.Pipe, *, backend: Backend = "asyncio") -> None:
        super().__init__(pipe, backend=backend)
        self.config = pipe.config

    # --- messages ---------------------------------------------------------------------------------------

    def send(
        self,
        type: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        priority: Priority | str = Priority.NORMAL,
        realtime: bool = False,
    ) -> Message:
        """Send a message, wait for its reply and return it. Arguments and errors are those of ``devpipe.Pipe.send``."""
        return self._call(
            self._subject.send, type, payload, timeout=timeout, priority=priority, realtime=realtime
        )

    def receive(self) -> Subscription:
        """Subscribe to what the server pushes, from now on: an iterator of ``Message`` and ``Gap``."""
        return self._run(lambda: Subscription(self, self._loop, self._subject.receive()))

    @property
    def position(self) -> Position | None:
        """The last push that the program has taken out of a ``receive()``."""
        return self._run(lambda: self._subject.position)

    # --- the choice of the transport ------------------------------------------------------------------------

    @property
    def active(self) -> str | None:
        """The type of the transport that messages go over now, None while there is none."""
        return self._run(lambda: self._subject.active)

    @property
    def transports(self) -> tuple[str, ...]:
        """The types of all transports of this pipe, in the order of the fallback chain."""
        return self._run(lambda: tuple(transport.type for transport in self._subject.transports))

    def select_transport(self) -> str | None:
        """Choose anew among the proven transports by score, and return the type of the one that is active."""
        return self._run(self._subject.select_transport)

    def use(self, transport: str | None) -> None:
        """Use this transport and no other; ``None`` frees the choice.

        Raises ``ConfigurationError`` if the pipe has no such transport.
        """
        self._run(self._subject.use, transport)

    def explain(self) -> Explanation:
        """Why messages go the way they go: data that prints well."""
        return self._run(self._subject.explain)

    def metrics(self) -> dict[str, Any]:
        """What has been counted, as plain data: per transport, and for the whole pipe."""
        return self._run(self._subject.metrics)


class Subscription:
    """An iterator of ``Message`` and ``Gap``, and a context manager. It ends when it, or the pipe, is closed.

    Threads may share one: each item goes to one of them. Dropping it, as ``break`` does, ends it as well.
    """

    def __init__(self, pipe: Pipe, loop: Loop, subscription: subscriptions.Subscription) -> None:
        self._pipe = pipe  # which must not be dropped while somebody iterates
        self._loop = loop
        self._behind = subscription
        self._turn = anyio.Lock()  # the one behind is made for one reader
        self._lock = threading.Lock()

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Message | Gap:
        try:
            return self._loop.call(self._take)
        except StopAsyncIteration:
            raise StopIteration from None
        except PipeClosed:
            if self._loop.elsewhere:
                raise
            return self._left_over()

    def next(self, timeout: float) -> Message | Gap:
        """The next item, if it comes within ``timeout`` seconds. Raises ``DeadlineExceeded``, or ``PipeClosed`` at the end.

        After ``DeadlineExceeded`` it goes on as before, nothing is lost.
        """

        async def wait() -> Message | Gap | None:
            with anyio.move_on_after(timeout):
                return await self._take()
            return None

        try:
            item = self._loop.call(wait)
        except StopAsyncIteration:
            raise PipeClosed("the subscription has ended: the pipe was closed, or it was") from None
        if item is None:
            raise DeadlineExceeded(f"no push within {timeout:g} s")
        return item

    async def _take(self) -> Message | Gap:
        async with self._turn:
            return await self._behind.__anext__()

    def close(self) -> None:
        """Stop receiving; a second time changes nothing."""
        try:
            self._loop.run(self._behind.close)
        except PipeClosed:
            with self._lock:  # the loop is gone, and with it everybody else who touches this
                self._behind.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # what is behind ends when it is dropped, but has to be dropped in the loop's thread
        self._loop.let_go(self._behind.close)

    def _left_over(self) -> Message | Gap:
        """What had come before the pipe was closed: with the loop gone, taking it waits for nothing."""
        self._loop.stop()
        if not self._loop.ended:
            raise StopIteration  # it is stuck in its end; what it holds is not ours to touch
        with self._lock:
            taking = self._behind.__anext__()
            try:
                taking.send(None)
            except StopIteration as taken:
                item: Message | Gap = taken.value
                return item
            except StopAsyncIteration:
                raise StopIteration from None
            taking.close()
            raise StopIteration


@dataclass(frozen=True, slots=True)
class Token:
    """A plain function that gives a token, as the asynchronous one that is wanted: called in a thread because it may take its time."""

    function: Callable[[], str]

    async def __call__(self) -> str:
        return await anyio.to_thread.run_sync(self.function, abandon_on_cancel=True)
