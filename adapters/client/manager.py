"""The manager: it feeds the three machines with each other's news by the table of ``machines/wiring.py``, carries out
what the failover machine asks for, and keeps the session and the pushes of its pipe.

It owns the transports and everything that runs for them; all of it happens in the one event loop of the pipe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import assert_never

from anyio.abc import TaskGroup

from devpipe.adapters.alarm import Alarm
from devpipe.adapters.client.monitor import Monitor
from devpipe.adapters.client.pushes import Pushes
from devpipe.adapters.client.subscriptions import Subscriptions
from devpipe.adapters.client.traffic import Traffic
from devpipe.adapters.listeners import Listeners
from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.pump import Pump
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.owner import Household
from devpipe.machines.breaker import BreakerState
from devpipe.machines.config import PipeConfig
from devpipe.machines.decisions.blame import Blame
from devpipe.machines.decisions.health import HealthStatus
from devpipe.machines.decisions.readings import Reading
from devpipe.machines.effects import Activate, Dial, Doubt, FailoverEffect, HangUp, HoldDials, Retire
from devpipe.machines.errors import DevPipeError, FailureKind, TransportError
from devpipe.machines.events import (
    Disconnected,
    Event,
    Exhausted,
    HealthUpdated,
    ResumedFromSleep,
    ServerChanged,
    TransportFailed,
    TransportRecovered,
    TransportSwitched,
)
from devpipe.machines.failover import Failover
from devpipe.machines.inputs import (
    Close,
    Drained,
    FailoverInput,
    Failure,
    Open,
    Pin,
    Select,
    TransportUp,
)
from devpipe.machines.protocols.calls import Call, Calls
from devpipe.machines.protocols.envelope import Envelope
from devpipe.machines.protocols.session import ClientSession, HelloAnswer
from devpipe.machines.wiring import FAILOVER, LIFECYCLE, MONITOR, OTHERS, news

__all__ = ["EVENTS", "Manager"]

log = logging.getLogger("devpipe.pipe")

#: The names of a pipe's events, for ``on``.
EVENTS = frozenset(
    {
        "transport_switched",
        "transport_failed",
        "transport_recovered",
        "exhausted",
        "health_updated",
        "breaker_changed",
        "server_changed",
        "gap",
        "resumed",
        "connected",
        "disconnected",
        "reconnecting",
        "error",
        "health_check",
        "message",
    }
)
#: Characters of a session id: 22 of 6 bits are more than the 128 random bits that the protocol asks for.
SESSION_CHARS = 22


class Manager:
    """Everything of one pipe behind its face. ``listeners``: those of the pipe, who hear ``EVENTS``."""

    def __init__(
        self,
        *,
        config: PipeConfig,
        make_transports: Callable[[Household], Iterable[Transport]],
        clock: Clock,
        dice: Dice,
        prefix: str,
        listeners: Listeners,
    ) -> None:
        self.config = config
        self.clock = clock
        self.dice = dice
        self.prefix = prefix
        self.session = ClientSession(dice.token(SESSION_CHARS))
        self.subscriptions = Subscriptions(limit=config.push_queue_size)
        self.listeners = listeners
        self.pushes = Pushes(session=self.session, subscriptions=self.subscriptions, listeners=self.listeners)
        self.traffic = Traffic(config=config, routes=self, session=self.session, clock=clock, dice=dice)
        self.transports: dict[str, Transport] = {t.type: t for t in make_transports(self)}
        chain = [name for name in config.failover.fallback_chain if name in self.transports]
        chain += [name for name in self.transports if name not in chain]
        self.failover = Failover(names=tuple(chain), config=config.failover)
        self.monitor = Monitor(self.transports, config=config, clock=clock)
        self.alarm = Alarm(clock, slept=self._resumed)
        self.traffic.nudge = self.alarm.nudge
        self.changed: Callable[[], None] = lambda: None  #: told when the active transport may have changed
        self._active: Transport | None = None
        self._pump: Pump[FailoverInput | None] = Pump(self._handle)
        self._controls = 0
        self._retiring: set[str] = set()
        self._blame = Blame(alone=len(self.transports) == 1)
        self._statuses = dict.fromkeys(self.transports, HealthStatus.DISCONNECTED)  #: as they were told last

    # --- life -----------------------------------------------------------------------------------------

    def start(self, tasks: TaskGroup) -> None:
        """Begin to look for a transport; everything runs in ``tasks``."""
        self.listeners.start(tasks)
        for transport in self.transports.values():
            transport.driver.moved = self.alarm.nudge
            transport.start(tasks)
            self.alarm.watch(transport)
        self.alarm.watch(self.traffic)
        self.alarm.watch(self)
        tasks.start_soon(self.alarm.run)
        self.post(Open())

    def close(self) -> None:
        """Bring everything down; ``gone`` tells when."""
        self.traffic.close()
        self.post(Close())
        self.subscriptions.finish()

    @property
    def gone(self) -> bool:
        """Nothing of any transport is left."""
        return all(transport.gone for transport in self.transports.values())

    # --- what the traffic asks (Routes) -------------------------------------------------------------------

    @property
    def active(self) -> Transport | None:
        """The default route."""
        return self._active

    @property
    def calls(self) -> Calls:
        """Every call of this pipe, whatever transport it is on."""
        return self.traffic.calls

    def usable(self) -> list[Transport]:
        """Every transport that calls may go over now, best first; a pinned pipe has one at most."""
        now = self.clock.now()
        names = self.failover.usable()
        ready = [self.transports[name] for name in names if self.transports[name].ready]
        return [t for t in ready if t.breaker.admits(now=now)]

    def will_try_before(self, deadline: float) -> bool:
        """An attempt to get a transport up is under way, or due before ``deadline``."""
        return self.failover.will_try_before(deadline) or any(
            t.connected and not t.ready for t in self.transports.values()
        )

    def errors(self) -> dict[str, DevPipeError]:
        """The last failure of each transport, as errors."""
        errors: dict[str, DevPipeError] = {}
        for name, transport in self.transports.items():
            failure = transport.last_failure or transport.lifecycle.last_failure
            text = (
                f"{name}: {transport.lifecycle.explain()}" if failure is None else f"{name}: {failure.reason}"
            )
            errors[name] = TransportError(
                text,
                kind=FailureKind.UNAVAILABLE if failure is None else failure.kind,
                transport=transport.id,
                retryable=failure is None or failure.kind is not FailureKind.AUTH,
            )
        return errors

    # --- the failover machine -----------------------------------------------------------------------------

    def post(self, item: FailoverInput) -> None:
        """Feed the failover machine; what it asks for is done before this returns."""
        self._pump.post(item)

    def select(self) -> None:
        """Choose anew among what is proven."""
        self._look(now=self.clock.now())
        self.post(Select())

    def pin(self, name: str | None) -> None:
        """Use this transport only, or free the choice with None."""
        self.post(Pin(transport=name))

    def _handle(self, item: FailoverInput | None) -> None:
        now = self.clock.now()
        if item is None:
            self.failover.handle_deadline(now=now, jitter=self.dice.jitter())
        else:
            self.failover.receive(item, now=now, jitter=self.dice.jitter())
        effects, events = self.failover.drain_effects(), self.failover.drain_events()
        for event in events:
            if isinstance(event, ServerChanged) and event.to != self.session.server:
                self._new_session(f"the server is another one now ({event.to})")
        for effect in effects:
            self._carry_out(effect)
        if self.failover.active is None:
            self._active = None  # lost, or left for a pin whose transport is not up yet
        for event in events:
            self._announce(event)
        self.alarm.nudge()

    def _carry_out(self, effect: FailoverEffect) -> None:
        match effect:
            case Activate():
                self._activate(self.transports[effect.transport])
            case Retire():
                self._retiring.add(effect.transport)
            case Dial() | HangUp() | Doubt():
                self._feed(self.transports[effect.transport], effect)
            case HoldDials():
                for transport in self.transports.values():
                    self._feed(transport, effect)
            case _ as never:
                assert_never(never)

    def _feed(self, transport: Transport, output: FailoverEffect | Reading) -> None:
        """What the failover machine asks for, or the monitor has read, is news to the lifecycle, as the table has it."""
        for item in news(LIFECYCLE, output, jitter=self.dice.jitter()):
            transport.feed(item)

    def _activate(self, transport: Transport) -> None:
        self._active = transport
        self.pushes.attach(self._active)
        self.traffic.flush()
        self.changed()

    def _announce(self, event: Event) -> None:
        match event:
            case TransportSwitched():
                log.info(
                    "messages go over %s now (%s); before: %s. %s",
                    event.to,
                    event.reason.value,
                    event.from_ or "none",
                    self.failover.why(),
                )
            case TransportFailed():
                log.info("%s was lost: %s", event.transport, event.failure.reason)
            case TransportRecovered():
                self.traffic.flush()
            case Exhausted():
                log.warning("no transport is usable now: %s", "; ".join(map(str, self.errors().values())))
                self.traffic.give_up_hopeless()
            case _:
                pass
        self.listeners.tell(event)
        self.changed()

    # --- what transports tell (Owner) -----------------------------------------------------------------------

    def control_id(self) -> str:
        self._controls += 1
        return f"{self.prefix}-c{self._controls}"

    def replied(self, call: Call, envelope: Envelope, transport: Transport) -> None:
        self.traffic.replied(call, envelope, transport)

    def returned(self, call: Call, failure: Failure, transport: Transport) -> None:
        self.traffic.returned(call, failure, transport)

    def released(self, call: Call) -> None:
        self.traffic.released(call)

    def to_blame(self, transport: Transport, *, silent: bool = False) -> bool:
        probing = transport.breaker.state is not BreakerState.CLOSED
        return self._blame.failed(transport.type, now=self.clock.now(), probing=probing, silent=silent)

    def happened(self, transport: Transport, event: Event) -> None:
        if isinstance(event, Disconnected):
            if transport is self._active:
                self._active = None  # nobody may take this way before the machine has chosen
            self.pushes.detach(transport)
        for item in news(OTHERS, event, jitter=self.dice.jitter()):
            for other in self.transports.values():
                if other is not transport:
                    other.feed(item)
        if any(news(MONITOR, event, jitter=0.0)):
            self._look(now=self.clock.now())
        for item in news(FAILOVER, event, jitter=self.dice.jitter()):
            if isinstance(item, TransportUp) and transport.ready:
                item = replace(item, knows_us=item.server == self.session.server)
            self.post(item)
        self._tell_health(transport)
        self.listeners.tell(event)
        self.changed()

    def greeted(self, transport: Transport, answer: HelloAnswer) -> bool:
        if not answer.server:
            return True  # a server that knows no sessions: calls go out, and none is repeated
        if not answer.known and answer.server == self.session.server and answer.server:
            self._new_session("the server has forgotten our session")
            return False
        if self.session.server not in (None, answer.server):
            # the process that knows us may be gone, and the paths on which its answers are awaited may not know it yet
            for other in self.transports.values():
                if other is not transport and other.terms.server == self.session.server:
                    other.suspect()
        known = self.session.answered(answer)
        if known and answer.push is not None:
            self.pushes.begin(answer.push)
        if transport.connected:  # it may reach another process than when it was proven
            self.post(TransportUp(transport=transport.type, server=answer.server, knows_us=known))
        return known

    def became_ready(self, transport: Transport) -> None:
        """The server knows our session on this transport: calls may go over it."""
        if transport is self._active:
            self.pushes.attach(self._active)
        self.traffic.flush()
        self.changed()

    # --- the session -------------------------------------------------------------------------------------------

    def session_lost(self, reason: str) -> None:
        self._new_session(reason)

    def _new_session(self, reason: str) -> None:
        log.warning("a new session begins: %s", reason)
        self.traffic.abandon_session(reason)
        self.session.renew(self.dice.token(SESSION_CHARS))
        self.pushes.session_lost(reason)
        for transport in self.transports.values():
            transport.renew()

    def attached(self, transport: Transport, envelope: Envelope) -> None:
        self.pushes.attached(transport, envelope)

    def missed(self, transport: Transport, reason: str) -> None:
        self.pushes.missed(transport, reason)

    def pushed(self, envelope: Envelope, transport: Transport) -> None:
        self.pushes.pushed(envelope, transport, self._active)

    # --- time -------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        deadlines = [
            self.failover.next_deadline(),
            self.monitor.next_deadline(busy=bool(self.calls)),
            self._blame.next_deadline(),
            self.pushes.next_deadline(),
        ]
        return min((at for at in deadlines if at is not None), default=None)

    def handle_deadline(self, *, now: float) -> None:
        at = self.failover.next_deadline()
        if at is not None and at <= now:
            self._pump.post(None)
        self.pushes.handle_deadline(self._active, now=now)
        paths = {name: transport.witness for name, transport in self.transports.items()}
        for charge in self._blame.verdicts(paths, now=now):
            self.transports[charge.transport].blame(now=now, silent=charge.silent)
        if self.monitor.due(now=now, busy=bool(self.calls)):
            self._look(now=now)
            self._finish_draining()

    def _look(self, *, now: float) -> None:
        """The monitor's round: health to the lifecycles, scores and admissions to the failover."""
        self.monitor.watch_silence(self.calls.open_calls(), now=now)
        for reading in self.monitor.round(now=now):
            transport = self.transports[reading.transport]
            self._feed(transport, reading)
            self._tell_health(transport)
            for item in news(FAILOVER, reading, jitter=self.dice.jitter()):
                if self.failover.is_news(item):
                    self.post(item)

    def _tell_health(self, transport: Transport) -> None:
        status = transport.lifecycle.status
        before, self._statuses[transport.type] = self._statuses[transport.type], status
        if before is not status:
            self._announce(HealthUpdated(transport=transport.type, status=status.value))

    def _finish_draining(self) -> None:
        for transport in self.transports.values():
            transport.finish_draining()
        for name in [n for n in self._retiring if self.transports[n].in_flight == 0]:
            self._retiring.discard(name)
            self.post(Drained(transport=name))

    def _resumed(self, slept: float) -> None:
        log.info("the machine slept for %.1f s: every connection is probed", slept)
        self._announce(ResumedFromSleep(slept=slept))
        for transport in self.transports.values():
            transport.suspect()
