"""``on(name, listener)``: each listener has a task and a bounded mailbox of its own.

One that raises is logged, one that is slow loses the oldest events of its own mailbox: nobody else notices.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from devpipe.machines.errors import ConfigurationError
from devpipe.machines.events import Event

__all__ = ["Listener", "Listeners", "Log"]

Listener = Callable[[Any], Awaitable[None] | None]
Log: TypeAlias = logging.Logger | logging.LoggerAdapter[logging.Logger]

#: Events that wait for one listener; the oldest goes when there are more.
MAILBOX = 1000


class Listeners:
    """Who hears what. ``names``: the events there are, so that a misspelt one is refused at once."""

    def __init__(self, names: frozenset[str], *, logger: Log) -> None:
        self._names = names
        self._log = logger
        self._mailboxes: dict[str, list[_Mailbox]] = {name: [] for name in names}
        self._tasks: TaskGroup | None = None

    def start(self, tasks: TaskGroup) -> None:
        """Deliver from now on; what listeners missed before is still in their mailboxes."""
        self._tasks = tasks
        for mailboxes in self._mailboxes.values():
            for mailbox in mailboxes:
                tasks.start_soon(mailbox.run)

    def on(self, name: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener(event)`` (sync or async) at each event ``name``; returns what removes it again.

        Raises ``ConfigurationError`` if there is no such event.
        """
        if name not in self._names:
            raise ConfigurationError(
                f"no event is called {name!r}: there are {', '.join(sorted(self._names))}"
            )
        mailbox = _Mailbox(listener, self._log)
        self._mailboxes[name].append(mailbox)
        # what is closed, or is closing, calls nobody any more
        if self._tasks is not None and not self._tasks.cancel_scope.cancel_called:
            self._tasks.start_soon(mailbox.run)

        def remove() -> None:
            if mailbox in self._mailboxes[name]:
                self._mailboxes[name].remove(mailbox)
            mailbox.close()

        return remove

    def off(self, name: str, listener: Listener) -> None:
        """Remove a listener that ``on`` was given; nothing happens if it is not there."""
        for mailbox in [m for m in self._mailboxes.get(name, ()) if m.listener == listener]:
            self._mailboxes[name].remove(mailbox)
            mailbox.close()

    def tell(self, event: Any, name: str | None = None) -> None:
        """Put an event (or, with ``name``, anything) into the mailboxes of those who listen for it."""
        word = name if name is not None else event.name if isinstance(event, Event) else ""
        for mailbox in self._mailboxes.get(word, ()):
            mailbox.put(event)

    def clear(self) -> None:
        """Remove everybody."""
        for mailboxes in self._mailboxes.values():
            for mailbox in mailboxes:
                mailbox.close()
            mailboxes.clear()


class _Mailbox:
    def __init__(self, listener: Listener, logger: Log) -> None:
        self.listener = listener
        self._log = logger
        self._items: deque[Any] = deque(maxlen=MAILBOX)
        self._wake = anyio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, item: Any) -> None:
        if len(self._items) == MAILBOX:
            self.dropped += 1
            if self.dropped == 1:
                self._log.warning("a listener is too slow, its oldest events are dropped: %r", self.listener)
        self._items.append(item)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        while not self._closed:
            while self._items and not self._closed:
                item = self._items.popleft()
                try:
                    result = self.listener(item)
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    # a listener's bug is its own: it is shown once per event and harms nobody else
                    self._log.exception("the listener %r raised at %r", self.listener, item)
            if not self._closed and not self._items:
                self._wake = anyio.Event()
                await self._wake.wait()
