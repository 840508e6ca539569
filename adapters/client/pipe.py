"""The pipe: what a program holds. ``connect`` makes one; ``async with`` is its life."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.client.explain import Explanation, explain
from devpipe.adapters.client.manager import EVENTS, Manager
from devpipe.adapters.client.subscriptions import Subscription
from devpipe.adapters.listeners import Listener, Listeners
from devpipe.adapters.ports.clock import Clock, Dice, SystemClock, SystemDice
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.owner import Household
from devpipe.adapters.waiter import waiter_factory
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import (
    AllTransportsFailed,
    ConfigurationError,
    InvalidMessage,
    PipeClosed,
)
from devpipe.machines.lifecycle import LifecycleState
from devpipe.machines.message import Message, Position, Priority
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import check_type, encode_payload
from devpipe.machines.protocols.verdicts import reasons_of

__all__ = ["Pipe"]

log = logging.getLogger("devpipe.pipe")

#: Characters of the prefix of a pipe's message ids, which tells pipes apart (and their folders).
PREFIX_CHARS = 12

MakeTransports = Callable[[Household], Iterable[Transport]]


class Pipe:
    """One message pipe over several transports. Enter it with ``async with``; leave it in the same task.

    Entering waits until one transport is proven, ``connect_timeout`` seconds at most (``AllTransportsFailed``);
    with ``wait=False`` it enters at once. Leaving takes ``close_timeout`` seconds at most.
    """

    def __init__(
        self,
        config: PipeConfig,
        make_transports: MakeTransports,
        *,
        wait: bool = True,
        clock: Callable[[], Clock] = SystemClock,
        dice: Dice | None = None,
    ) -> None:
        self.config = config
        self.make_transports = make_transports
        self._wait = wait
        self._make_clock = clock
        #: So many refused dials of every transport in a row end the wait of entering; None: it may be a server that is
        #: about to start, and its whole time is waited.
        self.refusals: int | None = None
        self._dice = dice or SystemDice()
        self._prefix = _prefix(self._dice)
        self._count = 0
        self._listeners = Listeners(EVENTS, logger=log)
        self._manager: Manager | None = None
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()
        self._closed = False

    # --- life -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Pipe:
        if self._manager is not None or self._closed:
            raise ConfigurationError("a pipe is entered once: connect again for another one")
        if self.config.debug:
            logging.getLogger("devpipe").setLevel(logging.DEBUG)
        clock = self._make_clock()
        self._now = clock.now
        self._clock = clock
        self._make_waiter = waiter_factory()
        manager = Manager(
            config=self.config,
            make_transports=self.make_transports,
            clock=clock,
            dice=self._dice,
            prefix=self._prefix,
            listeners=self._listeners,
        )
        manager.changed = self._tell_changed
        self._traffic = manager.traffic
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._manager, self._tasks = manager, tasks
        try:
            manager.start(tasks)
            if self._wait:
                await self._wait_until_connected(manager)
        except BaseException:
            await self._leave(*sys.exc_info())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(kind, error, trace)

    async def _wait_until_connected(self, manager: Manager) -> None:
        began = self._now()
        deadline = began + self.config.connect_timeout
        with anyio.move_on_after(self.config.connect_timeout):
            while manager.active is None or not manager.active.ready:
                self._changed = anyio.Event()
                if not manager.will_try_before(deadline) or self._is_refused(manager):
                    break
                await self._changed.wait()
            else:
                return
        if manager.active is not None and manager.active.ready:
            return
        errors = manager.errors()
        reasons = reasons_of(errors.values())
        raise AllTransportsFailed(
            f"no transport was proven in {self._now() - began:.1f} s: {reasons}", errors=errors
        )

    def _is_refused(self, manager: Manager) -> bool:
        """Every transport was refused ``refusals`` times and waits, or has failed for good or for a long time."""
        times = self.refusals
        return times is not None and all(_was_refused(t, times) for t in manager.transports.values())

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything. The caller's own exception is left as it is, never put into a group."""
        assert self._manager is not None and self._tasks is not None  # only an entered pipe is left
        self._closed = True
        manager, tasks = self._manager, self._tasks
        manager.close()
        with anyio.CancelScope(shield=True), anyio.move_on_after(self.config.close_timeout):
            while not manager.gone:
                await self._clock.sleep_until(self._now() + 0.005)
        tasks.cancel_scope.cancel()
        self._tell_changed()
        try:
            await tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # nothing of ours ends a task with an error on purpose; if it happens, show the first cause bare
            raise _first(group) from None

    def _tell_changed(self) -> None:
        self._changed.set()

    # --- messages ---------------------------------------------------------------------------------------

    async def send(
        self,
        type: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        priority: Priority | str = Priority.NORMAL,
        realtime: bool = False,
    ) -> Message:
        """Send a message and return its reply.

        ``payload``: anything that can be written as JSON. ``timeout`` in seconds (default: the configuration's).
        ``priority``: ``low``, ``normal``, ``high`` or ``critical``, where messages have to wait. ``realtime``: only
        over a transport that pushes.

        Raises ``InvalidMessage``, ``MessageTooLarge``, ``QueueFull``, ``AllTransportsFailed``, ``TransportError``,
        ``RequestRefused``, ``HandlerError``, ``DeadlineExceeded`` or ``PipeClosed``; ``outcome`` on each says what is
        known of the message.
        """
        if self._manager is None or self._closed:
            raise PipeClosed("the pipe is not open: use it inside 'async with'")
        if type.__class__ is not str or not type or not type.isprintable() or len(type) > 128:
            check_type(type)
        level = priority if isinstance(priority, Priority) else _priority(priority)
        span = self.config.timeout if timeout is None else timeout
        if not isinstance(span, (int, float)) or not span > 0:
            raise InvalidMessage(f"timeout = {timeout!r} is not allowed: give seconds above 0")
        self._count += 1
        id = f"{self._prefix}-{self._count}"
        now = self._now()
        waiter = self._make_waiter()
        call = Call(
            id,
            type,
            encode_payload(payload, type=type, message_id=id),
            now=now,
            deadline=now + span,
            priority=level,
            realtime=realtime,
            owner=waiter,
        )
        self._traffic.start(call)
        try:
            reply: Message = await waiter
            return reply
        except BaseException:  # cancelled, or told to fail: in both cases nothing of the call stays behind
            self._traffic.cancelled(call)
            raise

    def receive(self) -> Subscription:
        """Subscribe to what the server pushes, from now on: an async iterator of ``Message`` and ``Gap``."""
        return self._opened().subscriptions.open()

    @property
    def position(self) -> Position | None:
        """The last push that the program has taken out of a ``receive()``."""
        return self._opened().subscriptions.position

    # --- events -------------------------------------------------------------------------------------------

    def on(self, name: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener(event)``, sync or async, at each event ``name``; returns what removes it again.

        Before the pipe is entered, too: so it hears of the first transport. Raises ``ConfigurationError`` if there is no
        such event. A listener that raises or is slow harms nobody.
        """
        return self._listeners.on(name, listener)

    def off(self, name: str, listener: Listener) -> None:
        """Remove a listener."""
        self._listeners.off(name, listener)

    # --- the choice of the transport ------------------------------------------------------------------------

    @property
    def active(self) -> str | None:
        """The type of the transport that messages go over now, None while there is none."""
        active = self._opened().active
        return None if active is None else active.type

    @property
    def transports(self) -> Sequence[Transport]:
        """All transports of this pipe, in the order of the fallback chain."""
        manager = self._opened()
        return [manager.transports[name] for name in manager.failover.names]

    def select_transport(self) -> str | None:
        """Choose anew among the proven transports by score, and return the type of the one that is active."""
        self._opened().select()
        return self.active

    def use(self, transport: str | None) -> None:
        """Use this transport and no other; ``None`` frees the choice.

        Raises ``ConfigurationError`` if the pipe has no such transport.
        """
        manager = self._opened()
        if transport is not None and transport not in manager.transports:
            raise ConfigurationError(
                f"transport = {transport!r} is not allowed: this pipe has {', '.join(manager.transports)}"
            )
        manager.pin(transport)

    def explain(self) -> Explanation:
        """Why messages go the way they go: data that prints well."""
        return explain(self._opened())

    def metrics(self) -> dict[str, Any]:
        """What has been counted, as plain data: per transport, and for the whole pipe."""
        manager = self._opened()
        traffic = manager.traffic
        return {
            "sent": traffic.sent,
            "answered": traffic.answered,
            "resent": traffic.resent,
            "in_flight": len(traffic.calls),
            "waiting": traffic.waiting,
            "unknown_replies": traffic.calls.unknown_replies,
            "pushes_dropped": manager.pushes.cursor.dropped,
            "transports": {
                name: transport.metrics.as_dict(
                    f"{name}_send", queued=transport.queued, in_flight=transport.in_flight
                )
                for name, transport in manager.transports.items()
            },
        }

    def _opened(self) -> Manager:
        if self._manager is None:
            raise PipeClosed("the pipe is not open: use it inside 'async with'")
        return self._manager

    def __repr__(self) -> str:
        where = self.config.server_url or self.config.folder
        state = "new" if self._manager is None else self._manager.failover.state.value
        return f"<Pipe to {where} {state}>"


def _prefix(dice: Dice) -> str:
    """Letters and digits only, so that an id has one place where it can be split."""
    return dice.token(PREFIX_CHARS).replace("-", "0").replace("_", "1")


def _was_refused(transport: Transport, times: int) -> bool:
    life = transport.lifecycle
    failure = transport.last_failure or life.last_failure
    if life.state in (LifecycleState.FAILED, LifecycleState.BLOCKED):
        return True
    refused = failure is not None and failure.refused
    return refused and life.attempt >= times and life.retry_at is not None


def _priority(word: object) -> Priority:
    if isinstance(word, str):
        try:
            return Priority[word.upper()]
        except KeyError:
            pass  # said below, with what is allowed
    raise InvalidMessage(f"priority = {word!r} is not allowed: give low, normal, high or critical")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner: BaseException | BaseExceptionGroup[BaseException] = group.exceptions[0]
    return (
        _first(cast("BaseExceptionGroup[BaseException]", inner))
        if isinstance(inner, BaseExceptionGroup)
        else inner
    )
