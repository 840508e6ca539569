"""One transport used alone: the same calls, breaker and session as in a pipe, without a manager.

It sends when it is connected and raises when it is not: waiting, resending and choosing are the manager's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.alarm import Alarm
from devpipe.adapters.client.subscriptions import Subscription, Subscriptions
from devpipe.adapters.client.traffic import Traffic
from devpipe.adapters.ports.clock import Clock, Dice, SystemClock, SystemDice
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.waiter import waiter_factory
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import DevPipeError, FailureKind, Outcome, TransportError
from devpipe.machines.events import Event
from devpipe.machines.inputs import Failure
from devpipe.machines.lifecycle import LifecycleState
from devpipe.machines.message import Gap, Message
from devpipe.machines.protocols.calls import Call, Calls
from devpipe.machines.protocols.envelope import Envelope, check_type, encode_payload, to_message
from devpipe.machines.protocols.session import ClientSession, HelloAnswer

__all__ = ["SingleTransport"]

#: How often it is looked whether a link has gone, which nobody tells (seconds).
POLL = 0.005


class SingleTransport:
    """Made by ``devpipe.connect_single``; ``async with`` is its life, in which it may be connected and disconnected.

    ``transport`` is the transport itself: its ``id``, ``capabilities``, ``health_check()``, ``on(...)``.
    ``make(owner)`` returns it.
    """

    def __init__(
        self,
        config: PipeConfig,
        make: Callable[[SingleTransport], Transport],
        *,
        clock: Callable[[], Clock] = SystemClock,
        dice: Dice | None = None,
    ) -> None:
        self.config = config
        self.dice = dice or SystemDice()
        self.prefix = self.dice.token(12).replace("-", "0").replace("_", "1")
        self.session = ClientSession(self.dice.token(22))
        self.transports: dict[str, Transport] = {}
        self._make = make
        self._make_clock = clock
        self._subscriptions = Subscriptions(limit=config.push_queue_size)
        self._count = 0
        self._controls = 0
        self._changed = anyio.Event()
        self._tasks: TaskGroup | None = None

    # --- life -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> SingleTransport:
        if self.config.debug:
            logging.getLogger("devpipe").setLevel(logging.DEBUG)
        self.clock = self._make_clock()
        self._make_waiter = waiter_factory()
        self.traffic = Traffic(
            config=self.config, routes=self, session=self.session, clock=self.clock, dice=self.dice
        )
        self.transport = self._make(self)
        self.transports[self.transport.type] = self.transport
        self._alarm = Alarm(self.clock, slept=lambda slept: self.transport.suspect())
        self.traffic.nudge = self._alarm.nudge
        self.transport.driver.moved = self._alarm.nudge
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self.transport.start(tasks)
        self._alarm.watch(self.transport)
        self._alarm.watch(self.traffic)
        tasks.start_soon(self._alarm.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # entered before
        self.traffic.close()
        self.transport.destroy()
        with anyio.CancelScope(shield=True), anyio.move_on_after(self.config.close_timeout):
            await self._until_gone()
        self._subscriptions.finish()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def connect(self) -> None:
        """Return when the transport is proven; raises ``TransportError`` after ``connect_timeout`` seconds.

        It dials again by itself when the connection is lost, until it is disconnected.
        """
        self.transport.connect()
        with anyio.move_on_after(self.config.connect_timeout):
            while not self.transport.ready:
                self._changed = anyio.Event()
                if self.transport.lifecycle.state in (LifecycleState.FAILED, LifecycleState.DESTROYED):
                    break
                await self._changed.wait()
        if not self.transport.ready:
            raise next(iter(self.errors().values()))

    async def disconnect(self) -> None:
        """Return when nothing of the connection is left, after ``close_timeout`` seconds at most."""
        self.transport.disconnect()
        with anyio.move_on_after(self.config.close_timeout):
            await self._until_gone()

    async def _until_gone(self) -> None:
        while not self.transport.gone:
            await self.clock.sleep_until(self.clock.now() + POLL)

    # --- messages ---------------------------------------------------------------------------------------

    async def send(self, type: str, payload: object = None, *, timeout: float | None = None) -> Message:
        """Send a message over this transport and return its reply; raises when it is not connected."""
        check_type(type)
        now = self.clock.now()
        self._count += 1
        id = f"{self.prefix}-{self._count}"
        if not self.transport.ready:
            error = next(iter(self.errors().values()))
            error.outcome, error.message_id = Outcome.NEVER_SENT, id
            raise error
        waiter = self._make_waiter()
        call = Call(
            id,
            type,
            encode_payload(payload, type=type, message_id=id),
            now=now,
            deadline=now + (self.config.timeout if timeout is None else timeout),
            owner=waiter,
        )
        self.traffic.start(call)
        try:
            reply: Message = await waiter
            return reply
        except BaseException:  # cancelled, or told to fail: nothing of the call stays behind
            self.traffic.cancelled(call)
            raise

    def receive(self) -> Subscription:
        """What the server pushes over this transport, from now on."""
        return self._subscriptions.open()

    # --- what the traffic asks -----------------------------------------------------------------------------

    @property
    def calls(self) -> Calls:
        return self.traffic.calls

    @property
    def active(self) -> Transport | None:
        return self.transport if self.transport.ready else None

    def usable(self) -> list[Transport]:
        return [self.transport] if self.transport.ready else []

    def will_try_before(self, deadline: float) -> bool:
        return False  # alone, a transport that is not connected says so at once

    def errors(self) -> dict[str, DevPipeError]:
        transport = self.transport
        failure = transport.last_failure or transport.lifecycle.last_failure
        if failure is None or transport.lifecycle.state is LifecycleState.READY:
            error: DevPipeError = TransportError(
                f"{transport.type} is not connected ({transport.lifecycle.state.value}): await connect() first",
                kind=FailureKind.UNAVAILABLE,
                transport=transport.id,
            )
        else:
            error = TransportError(
                f"{transport.type}: {failure.reason}", kind=failure.kind, transport=transport.id
            )
        return {transport.type: error}

    def session_lost(self, reason: str) -> None:
        self.traffic.abandon_session(reason)
        self.session.renew(self.dice.token(22))
        self.transport.renew()

    # --- what the transport tells ---------------------------------------------------------------------------

    def control_id(self) -> str:
        self._controls += 1
        return f"{self.prefix}-c{self._controls}"

    def replied(self, call: Call, envelope: Envelope, transport: Transport) -> None:
        self.traffic.replied(call, envelope, transport)

    def returned(self, call: Call, failure: Failure, transport: Transport) -> None:
        self.traffic.returned(call, failure, transport)

    def to_blame(self, transport: Transport, *, silent: bool = False) -> bool:
        return True

    def released(self, call: Call) -> None:
        self.traffic.released(call)

    def pushed(self, envelope: Envelope, transport: Transport) -> None:
        message = to_message(envelope, session=self.session.id, transport=transport.type)
        self._subscriptions.put(message)
        transport.listeners.tell(message, "message")

    def missed(self, transport: Transport, reason: str) -> None:
        self._subscriptions.put(Gap(after=None, before=None, reason=reason))

    def greeted(self, transport: Transport, answer: HelloAnswer) -> bool:
        if not answer.server:
            return True
        if not answer.known or (self.session.server is not None and answer.server != self.session.server):
            self.session_lost("the server does not know our session")
            return False
        return self.session.answered(answer)

    def became_ready(self, transport: Transport) -> None:
        if transport.terms.session is not None:  # else the server pushes unasked, or not at all
            transport.attach({"number": 1, "epoch": None, "after": 0})
        self._changed.set()

    def attached(self, transport: Transport, envelope: Envelope) -> None:
        pass  # alone there is no position to go on from

    def happened(self, transport: Transport, event: Event) -> None:
        self._changed.set()
