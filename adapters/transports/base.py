"""A transport: one lifecycle, one breaker, one link at a time, and the calls that are on it now.

The correlation of replies belongs to whoever owns the calls (a pipe over all its transports, or ``SingleTransport`` for one
transport used alone): the owner is told of each reply and of each attempt that came back without one. A transport
never repeats a message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.alarm import LATE
from devpipe.adapters.driver import Driver
from devpipe.adapters.listeners import Listener, Listeners
from devpipe.adapters.metrics import TransportMetrics
from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.transports.face import HealthCheckResult, HealthReport, capabilities_of, health_of
from devpipe.adapters.transports.host import Host
from devpipe.adapters.transports.link import Capabilities, Link, LinkHost, Terms
from devpipe.adapters.transports.outgoing import write_call
from devpipe.adapters.transports.owner import Owner
from devpipe.machines.breaker import CircuitBreaker
from devpipe.machines.config import BreakerConfig, LifecycleConfig, PeerConfig
from devpipe.machines.decisions.blame import Witness
from devpipe.machines.errors import CircuitOpen, FailureKind, MessageTooLarge, TransportError
from devpipe.machines.events import (
    Connected,
    Disconnected,
    ErrorOccurred,
    Event,
    HealthChecked,
    Reconnecting,
)
from devpipe.machines.inputs import (
    CallsWaiting,
    Connect,
    Destroy,
    Disconnect,
    Drained,
    Failed,
    Failure,
    Initialize,
    LifecycleInput,
    PathFailed,
    Suspect,
)
from devpipe.machines.lifecycle import Lifecycle, LifecycleState
from devpipe.machines.message import Priority
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import encode_payload
from devpipe.machines.protocols.profiles import DEFAULT, Profile
from devpipe.machines.protocols.session import ClientSession
from devpipe.machines.wiring import BREAKER, LIFECYCLE, news

__all__ = ["Transport"]

#: The names of a transport's events, for ``on``.
EVENTS = frozenset({"connected", "disconnected", "message", "error", "health_check", "reconnecting"})
#: A health check takes at most this long (seconds).
HEALTH_CHECK = 5.0


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Puts the id of its transport before each line, and into the record as ``transport``."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        assert self.extra is not None  # given by the transport
        return f"{self.extra['transport']}: {msg}", {**kwargs, "extra": self.extra}


class Transport:
    """One way to the server. Made by a factory of its kind; used by a pipe, or alone through ``SingleTransport``."""

    def __init__(
        self,
        type: str,
        *,
        make_link: Callable[[], Link],
        capabilities: Capabilities,
        owner: Owner,
        clock: Clock,
        dice: Dice,
        lifecycle: LifecycleConfig | None = None,
        breaker: BreakerConfig | None = None,
        profile: Profile = DEFAULT,
        peer: PeerConfig | None = None,
    ) -> None:
        self.type = type
        self.id = f"{type}-{dice.token(6).lower().replace('_', 'a').replace('-', 'b')}"
        self.capabilities = capabilities
        self.profile = profile
        self.peer = peer or PeerConfig()
        self.owner = owner
        self.clock = clock
        self.dice = dice
        self.metrics = TransportMetrics()
        self.log = _Log(logging.getLogger(f"devpipe.transport.{type}"), {"transport": self.id})
        self.lifecycle = Lifecycle(
            name=type, config=lifecycle or LifecycleConfig(), nonce_prefix=dice.token(8)
        )
        self.breaker = CircuitBreaker(name=type, config=breaker or BreakerConfig())
        self.driver = Driver(
            self.lifecycle,
            make_link=make_link,
            carrier=self,
            clock=clock,
            dice=dice,
            logger=self.log,
        )
        self.listeners = Listeners(EVENTS, logger=self.log)
        self.terms = Terms()
        self.ready = False  #: proven, and the server knows our session: calls may go out
        self.last_failure: Failure | None = None
        self.last_check: float | None = None
        self._host: Host | None = None
        self._silent_since: float | None = None
        self._next_sweep: float | None = None

    # --- the face ----------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Proven: a nonce went out and came back."""
        return self.lifecycle.connected

    @property
    def available(self) -> bool:
        """Initialized, and its breaker admits messages."""
        return self.lifecycle.state not in _UNAVAILABLE and self.breaker.admits(now=self.clock.now())

    @property
    def witness(self) -> Witness:
        """What this path can say for itself, and for others."""
        return Witness(proven_at=self.lifecycle.proven_at, heard_at=self.lifecycle.heard_at)

    @property
    def max_message_bytes(self) -> int:
        """The largest message that both sides take here, in bytes."""
        told = self.terms.max_message_bytes
        ours = self.capabilities.max_message_bytes
        return ours if told is None else min(ours, told)

    def get_capabilities(self) -> dict[str, Any]:
        """What this transport can do, with what was measured of it (latency in seconds)."""
        return capabilities_of(self)

    def get_health_status(self) -> HealthReport:
        """How the transport is now."""
        return health_of(self)

    async def health_check(self) -> HealthCheckResult:
        """Send a nonce the way that messages go, and wait for it: 5 s at most. Never raises."""
        host = self._host
        error: str | None = None
        started = self.clock.now()
        if host is None or self.driver.link is None:
            error = f"{self.type} is not connected ({self.lifecycle.state.value})"
        else:
            echo = host.ping(self.dice.token(16))
            with anyio.move_on_after(HEALTH_CHECK):
                await echo.wait()
            if not echo.is_set():
                error = f"no answer within {HEALTH_CHECK:g} s"
            elif self._host is not host:
                error = "the connection was lost"
        self.last_check = self.clock.wall()
        latency = self.clock.now() - started if error is None else 0.0
        self.happened(HealthChecked(transport=self.type, success=error is None, latency=latency, error=error))
        return HealthCheckResult(
            success=error is None, latency=latency, timestamp=self.last_check, error=error
        )

    def on(self, name: str, listener: Listener) -> Callable[[], None]:
        """Hear ``connected``, ``disconnected``, ``message``, ``error``, ``health_check``, ``reconnecting``."""
        return self.listeners.on(name, listener)

    def off(self, name: str, listener: Listener) -> None:
        """Stop hearing; ``on`` returns the same as a function."""
        self.listeners.off(name, listener)

    # --- life ---------------------------------------------------------------------------------------

    def start(self, tasks: TaskGroup) -> None:
        """Everything of this transport runs in ``tasks`` from now on."""
        self.driver.start(tasks)
        self.listeners.start(tasks)
        self.initialize()

    def initialize(self) -> None:
        """Make the transport ready to connect; a second time changes nothing."""
        self.driver.post(Initialize())

    def connect(self, *, immediately: bool = False) -> None:
        """Bring it up and keep it up; ``connected`` tells when."""
        self.driver.post(Connect(jitter=self.dice.jitter(), immediately=immediately))

    def disconnect(self) -> None:
        """Bring it down. Calls that are on it come back."""
        self.driver.post(Disconnect())

    def destroy(self) -> None:
        """Bring it down for good and forget the listeners. A second time changes nothing."""
        self.driver.post(Destroy())
        self.listeners.clear()

    def feed(self, item: LifecycleInput) -> None:
        """Tell the lifecycle something that another machine decided."""
        self.driver.post(item)

    @property
    def gone(self) -> bool:
        """Nothing of any link is left."""
        return self.driver.links == 0

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: Call, *, now: float) -> None:
        """Send a call this way. It is told to the owner how the attempt ends.

        Raises, with nothing sent: ``CircuitOpen``, ``MessageTooLarge``, ``QueueFull``, or ``TransportError`` if
        there is no connection.
        """
        link = self.driver.link
        if link is None or not self.ready:
            raise TransportError(
                f"{self.type} is not connected ({self.lifecycle.state.value})",
                kind=FailureKind.UNAVAILABLE,
                transport=self.id,
                outcome=call.known,
                message_id=call.id,
            )
        data = self._write(call, self.owner.session if self.capabilities.names_session else None, now=now)
        limit = self.max_message_bytes
        if len(data) > limit:
            raise MessageTooLarge(
                f"message {call.id} has {len(data)} bytes, {self.type} takes {limit}",
                size=len(data),
                limit=limit,
                message_id=call.id,
            )
        permit = self.breaker.acquire(now=now)
        if permit is None:
            self._tell_breaker()
            raise CircuitOpen(
                f"the breaker of {self.type} is {self.breaker.state.value}",
                retry_after=self.breaker.retry_after(now=now),
            )
        call.begin_attempt(self.type, data, now=now)
        call.session = self.owner.session.id
        call.permit = permit
        try:
            link.submit(call)
        except BaseException:
            self.breaker.release(permit)
            call.permit = None
            call.end_attempt()
            raise
        self.metrics.sent += 1
        self.metrics.bytes_sent += len(data)

    def withdraw(self, call: Call) -> None:
        """Nobody waits for this call any more: free its place, neither success nor failure."""
        link = self.driver.link
        if link is not None:
            link.withdraw(call)
        if call.permit is not None:
            self.breaker.release(call.permit)
            call.permit = None
        if call.handed_over and self.terms.session is not None and link is not None and self.ready:
            self.control("cancel", {"id": call.id})

    def timed_out(self, call: Call, *, now: float) -> None:
        """The call's own time is up.

        A path that was heard meanwhile has not failed; it only has not brought this reply. Of a call that never left, or
        whose end we notice late, nothing is known: it waited here.
        """
        permit, call.permit = call.permit, None
        if permit is not None:
            silent = self.lifecycle.heard_at <= call.submitted
            if call.accepted:
                self.breaker.release(permit)
            elif not call.handed_over or now > call.deadline + LATE:
                self.breaker.release(permit)
                self.metrics.unanswered(FailureKind.TIMEOUT)
            elif not silent:
                self.breaker.release(permit)
                self.metrics.failure(FailureKind.TIMEOUT, now=now)
            elif self.owner.to_blame(self, silent=True):
                self.breaker.failure(permit, now=now)
                self.metrics.failure(FailureKind.TIMEOUT, now=now)
            else:
                self.breaker.release(permit)
                self.metrics.unanswered(FailureKind.TIMEOUT)
            self._tell_breaker()
        self.withdraw(call)

    def attach(self, payload: object) -> None:
        """Ask the server for the pushes on this path."""
        if self._host is not None:
            self._host.attach(payload)

    def control(self, type: str, payload: object) -> str | None:
        """Send a message that is no call; returns its id, None if there is no connection."""
        return None if self._host is None else self._host.control(type, payload)

    def _write(self, call: Call, session: ClientSession | None, *, now: float) -> bytes:
        wall = self.clock.wall()
        return write_call(call, profile=self.profile, peer=self.peer, session=session, now=now, wall=wall)

    def control_call(self, type: str, payload: object, *, id: str | None = None) -> Call:
        """The call object of a message that is no call: it is in nobody's table. ``id``: one that was asked for."""
        now = self.clock.now()
        call = Call(
            id or self.owner.control_id(),
            type,
            encode_payload(payload, type=type),
            now=now,
            deadline=now + HEALTH_CHECK,
            priority=Priority.HIGH,
        )
        session = self.owner.session if self.capabilities.names_session and type != "hello" else None
        call.begin_attempt(self.type, self._write(call, session, now=now), now=now)
        return call

    @property
    def in_flight(self) -> int:
        """Calls whose present attempt is here."""
        return len(self.owner.calls.on_route(self.type))

    @property
    def queued(self) -> int:
        """Of these, those that wait to be handed over."""
        link = self.driver.link
        return 0 if link is None else link.queued

    # --- time -------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        deadlines = [self.driver.next_deadline(), self.breaker.next_deadline(), self._next_sweep]
        return min((at for at in deadlines if at is not None), default=None)

    def handle_deadline(self, *, now: float) -> None:
        at = self.driver.next_deadline()
        if at is not None and at <= now:
            self.driver.handle_deadline(now=now)
        at = self.breaker.next_deadline()
        if at is not None and at <= now:
            self.breaker.handle_deadline(now=now)
            self._tell_breaker()
        if self._next_sweep is not None and self._next_sweep <= now:
            self._next_sweep = None

    def watch_silence(self, waiting: list[Call], *, now: float) -> None:
        """Tell the lifecycle what is in flight here, if that has changed. Part of the owner's sweep."""
        since = min((call.submitted for call in waiting if not call.accepted), default=None)
        if since is None and self._silent_since is None:
            return
        if since != self._silent_since and self.connected:
            span = min((c.deadline - c.submitted for c in waiting if not c.accepted), default=None)
            if span is not None:  # a third of it is what the ping waits, and another what its answer may take
                span = max(span, 3 * self.capabilities.answers_within)
            self._silent_since = since
            self.feed(CallsWaiting(since=since, span=span))

    def suspect(self) -> None:
        """There is a sign that this connection is dead: probe it at once."""
        self.feed(Suspect())

    def finish_draining(self) -> None:
        """Part of the owner's sweep: tell the lifecycle when nothing is in flight any more."""
        if self.lifecycle.state is LifecycleState.DRAINING and self.in_flight == 0:
            self.feed(Drained(transport=self.type))

    # --- what the driver asks for (Carrier) ----------------------------------------------------------------

    def host(self, generation: int, link: Link) -> LinkHost:
        self._host = Host(self, generation, link)
        return self._host

    def probe(self, generation: int, nonce: str) -> None:
        if self._host is not None and self._host.generation == generation:
            self._host.prove(nonce)

    def renew(self) -> None:
        """The pipe has a new session: introduce ourselves again before anything else goes out."""
        self.ready = False
        if self._host is not None and self.driver.link is not None:
            self._host.greet_again(self.dice.token(16))

    def learn_clock(self, server_time: float) -> None:
        """The server's clock shows this (seconds since 1970) now: it, or ours, may have been set."""
        self.terms = replace(self.terms, clock_offset=server_time - self.clock.wall())

    def abandon(self, generation: int, failure: Failure) -> None:
        """The path of this generation is not worth keeping: the machine decides what comes next."""
        self.feed(Failed(generation=generation, failure=failure, jitter=self.dice.jitter()))

    def lose(self, generation: int, failure: Failure) -> None:
        host = self._host
        if host is None or host.generation != generation:
            return
        self.ready = False
        self._silent_since = None
        self._host = None
        host.lost()
        self.last_failure = failure
        now = self.clock.now()
        for call in self.owner.calls.on_route(self.type):
            host.take_back(call)
            self.give_back(call, failure, now=now, count=False)

    def give_back(self, call: Call, failure: Failure, *, now: float, count: bool) -> None:
        """An attempt is over without a reply. ``count``: it is a failure of its own, not one of many in a loss."""
        permit, call.permit = call.permit, None
        if permit is not None:
            if count and self.owner.to_blame(self):
                self.breaker.failure(permit, now=now)
            else:
                self.breaker.release(permit)
            self._tell_breaker()
        if count:
            self.metrics.failure(failure.kind, now=now)
            self.last_failure = failure
        call.end_attempt()
        self.owner.returned(call, failure, self)

    def happened(self, event: Event) -> None:
        if isinstance(event, Disconnected):
            self.ready = False
        for item in news(BREAKER, event, jitter=self.dice.jitter()):
            if not isinstance(item, PathFailed):
                self.breaker.receive(item, now=self.clock.now())
                self._tell_breaker()
            elif self.owner.to_blame(self):
                self.blame(now=self.clock.now())
        match event:
            case Disconnected() if event.failure is not None:
                self.log.info("lost (%s)", event.failure.reason)
            case Connected() | Reconnecting() | ErrorOccurred():
                self.log.debug("%s", event)
            case _:
                pass
        self.listeners.tell(event)
        self.owner.happened(self, event)

    def _tell_breaker(self) -> None:
        """What the breaker has to say is news to the lifecycle, and to whoever owns both."""
        for event in self.breaker.drain_events():
            self.owner.happened(self, event)
            for item in news(LIFECYCLE, event, jitter=self.dice.jitter()):
                self.feed(item)

    def blame(self, *, now: float, silent: bool = False) -> None:
        """Charge the breaker with one failure of this path; ``silent``: one call that got no answer, which is counted."""
        self.breaker.receive(PathFailed(), now=now)
        self.metrics.fault(now=now)
        if not silent:
            self.metrics.unanswered(FailureKind.NETWORK)
        self._tell_breaker()

    def __repr__(self) -> str:
        return f"<Transport {self.id} {self.lifecycle.state.value}>"


_UNAVAILABLE = frozenset({LifecycleState.NEW, LifecycleState.FAILED, LifecycleState.DESTROYED})
