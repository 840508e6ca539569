"""The calls of a pipe: which way each one goes, what becomes of one that came back, and how each one ends.

Only this room repeats a message: if nobody can have seen it, or if the server remembers ids and so cannot run it
twice. Everything here is called in the pipe's event loop and never blocks.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.transports.base import Transport
from devpipe.machines.config import PipeConfig
from devpipe.machines.decisions.backoff import backoff_delay
from devpipe.machines.decisions.budget import RetryBudget
from devpipe.machines.errors import (
    AllTransportsFailed,
    CircuitOpen,
    DeadlineExceeded,
    DevPipeError,
    FailureKind,
    MessageTooLarge,
    Outcome,
    PipeClosed,
    QueueFull,
    TransportError,
)
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import SWEEP, Call, Calls
from devpipe.machines.protocols.envelope import NOT_NOW, Envelope, ErrorBody, to_message
from devpipe.machines.protocols.session import ClientSession
from devpipe.machines.protocols.verdicts import (
    Offer,
    expired_too_early,
    may_go_again,
    reasons_of,
    reply_error,
    too_large,
    transport_error,
)

__all__ = ["Routes", "Traffic"]

log = logging.getLogger("devpipe.pipe")

#: Room for the fields around a payload, for a first look at whether it fits (the exact size is checked later).
ENVELOPE_ROOM = 512


class Routes(Protocol):
    """Who knows the ways: the manager."""

    @property
    def transports(self) -> Mapping[str, Transport]:
        """All of them, by type."""
        ...

    @property
    def active(self) -> Transport | None:
        """The default route, None while there is none."""
        ...

    def usable(self) -> list[Transport]:
        """Every transport that calls may go over now, best first."""
        ...

    def will_try_before(self, deadline: float) -> bool:
        """An attempt to get a transport up is under way, or due before ``deadline``."""
        ...

    def errors(self) -> dict[str, DevPipeError]:
        """The last failure of each transport."""
        ...

    def session_lost(self, reason: str) -> None:
        """The server has forgotten our session."""
        ...


class Traffic:
    """Starts calls, sends them on their way, and ends each exactly once."""

    def __init__(
        self, *, config: PipeConfig, routes: Routes, session: ClientSession, clock: Clock, dice: Dice
    ) -> None:
        self.calls = Calls()
        self.session = session
        self.budget = RetryBudget()
        self.nudge: Callable[[float], None] = lambda deadline: None
        self.sent = 0
        self.answered = 0
        self.resent = 0
        self._config = config
        self._routes = routes
        self._clock = clock
        self._dice = dice
        self._parked: dict[str, Call] = {}  #: wait for a way, oldest first
        self._delayed: list[tuple[float, int, Call]] = []  #: wait for their turn to be sent again
        self._delays = 0
        self._next_sweep: float | None = None

    # --- the hot path -------------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        """Enter a call and send it on its way.

        Raises, with the call ended: ``QueueFull``, ``MessageTooLarge``, ``AllTransportsFailed``.
        """
        self.calls.start(call)
        self.sent += 1
        self.budget.deposit()
        if self._next_sweep is None:
            self._next_sweep = call.started + SWEEP
            self.nudge(self._next_sweep)
        try:
            active = self._routes.active
            if active is not None and active.ready and self._fits(call, active):
                self._expiry(call, active, now=call.started)
                try:
                    active.submit(call, now=call.started)
                    return
                except (CircuitOpen, MessageTooLarge, TransportError):
                    pass  # the long way knows what else there is, and says why not
            self._dispatch(call, now=call.started)
        except BaseException:
            self.calls.finish(call.id)
            self._parked.pop(call.id, None)
            raise

    def cancelled(self, call: Call) -> None:
        """The caller has gone: free the place of the call, whatever becomes of the message."""
        if self.calls.get(call.id) is call:
            self.calls.finish(call.id)
            self._parked.pop(call.id, None)
            self.released(call)

    def released(self, call: Call) -> None:
        """Give back what the present attempt of a call holds."""
        transport = self._routes.transports.get(call.route) if call.route is not None else None
        if transport is not None:
            transport.withdraw(call)

    def replied(self, call: Call, envelope: Envelope, transport: Transport) -> None:
        """The reply has come; the call is out of the table."""
        if self._parked:
            self._parked.pop(call.id, None)
        waiter = call.owner
        if waiter.done():  # cancelled in the same turn of the loop: the reply is dropped
            return
        if envelope.success is not False:
            self.answered += 1
            waiter.set_result(to_message(envelope, session=self.session.id, transport=transport.type))
            return
        error = envelope.error
        body = (
            error if isinstance(error, ErrorBody) else ErrorBody(message=error or "the server gave no reason")
        )
        if body.code == "session_unknown":
            self._session_unknown(call, transport)
        elif (
            body.code in NOT_NOW
            and body.outcome == Outcome.REJECTED.value
            and call.attempts <= self._most_attempts
        ):
            self._not_now(call, body, transport)
        elif expired_too_early(call, body, now=self._clock.now()) and (call.attempts <= self._most_attempts):
            self._clocks_differ(call, envelope, transport)
        else:
            self.answered += 1
            waiter.set_exception(reply_error(call, body))

    # --- ways ---------------------------------------------------------------------------------------

    def _fits(self, call: Call, transport: Transport) -> bool:
        if call.realtime and not transport.capabilities.supports_realtime:
            return False
        return len(call.payload) <= transport.max_message_bytes - ENVELOPE_ROOM

    def _expiry(self, call: Call, transport: Transport, *, now: float) -> None:
        if call.expires_at is None and transport.terms.session is not None:
            remaining = call.deadline - now
            call.expires_at = int((self._clock.wall() + transport.terms.clock_offset + remaining) * 1000)

    def _dispatch(self, call: Call, *, now: float, avoid: str | None = None) -> None:
        """Find a way for a call that is not on any; park it if there will be one in time."""
        routes = self._routes
        fitting = [t for t in routes.transports.values() if self._fits(call, t)]
        if not fitting:
            raise too_large(call, self._offers())
        usable = [t for t in routes.usable() if t in fitting]
        active = routes.active
        if active in usable:
            usable.remove(active)
            usable.insert(0, active)
        elif active is None and not call.realtime and len(fitting) == len(routes.transports):
            usable = []  # a choice is being made: what goes on now goes where it says
        usable.sort(key=lambda t: t.type == avoid)
        for transport in usable:
            self._expiry(call, transport, now=now)
            try:
                transport.submit(call, now=now)
                return
            except (CircuitOpen, TransportError):
                continue  # the next one; if none takes it, it waits for what the manager decides
            except MessageTooLarge as error:
                if len(fitting) == 1:
                    raise too_large(call, self._offers()) from error
        self._park(call)

    def _park(self, call: Call) -> None:
        routes = self._routes
        if not routes.will_try_before(call.deadline):
            errors = routes.errors()
            raise AllTransportsFailed(
                f"no transport can carry message {call.id} within its {call.deadline - call.started:g} s: "
                f"{reasons_of(errors.values())}",
                errors=errors,
                outcome=call.known,
                message_id=call.id,
            )
        if call.attempts == 0 and len(self._parked) >= self._config.queue_size:
            limit = self._config.queue_size
            raise QueueFull(f"{limit} messages wait for a transport already", limit=limit, message_id=call.id)
        self._parked[call.id] = call

    def flush(self) -> None:
        """There is a way again, or another one: send what waits, the urgent first."""
        if not self._parked:
            return
        now = self._clock.now()
        waiting = sorted(self._parked.values(), key=lambda call: -call.priority)
        self._parked = {}
        for call in waiting:
            if call.id in self.calls:
                self._again(call, now=now)

    def give_up_hopeless(self) -> None:
        """No transport will be tried before these deadlines: tell their callers now."""
        now = self._clock.now()
        for call in [c for c in self._parked.values() if not self._routes.will_try_before(c.deadline)]:
            del self._parked[call.id]
            self._again(call, now=now)

    def _again(self, call: Call, *, now: float, avoid: str | None = None) -> None:
        """Dispatch, and end the call with the error if there is no way."""
        try:
            self._dispatch(call, now=now, avoid=avoid)
        except DevPipeError as error:
            self._fail(call, error)

    # --- what came back -------------------------------------------------------------------------------

    def returned(self, call: Call, failure: Failure, transport: Transport) -> None:
        """An attempt has ended without a reply: send the message again if that cannot run it twice."""
        now = self._clock.now()
        again = may_go_again(
            call,
            failure,
            remembered=self.session.remembers,
            alone=len(self._routes.transports) == 1,
            most_attempts=self._most_attempts,
        )
        if again:
            self._send_again(call, failure, transport, now=now)
        else:
            self._fail(call, transport_error(call, failure, transport=transport.type, id=transport.id))

    @property
    def _most_attempts(self) -> int:
        """Each transport once, and ``retry_attempts`` more."""
        return self._config.retry_attempts + len(self._routes.transports)

    def _offers(self) -> list[Offer]:
        return [
            Offer(
                transport=t.type,
                max_message_bytes=t.max_message_bytes,
                supports_realtime=t.capabilities.supports_realtime,
            )
            for t in self._routes.transports.values()
        ]

    def _not_now(self, call: Call, body: ErrorBody, transport: Transport) -> None:
        """The server did not take it, for now: it is as new as before, and goes again when there may be room."""
        call.handed_over = False
        call.end_attempt()
        self.calls.start(call)
        failure = Failure(
            kind=FailureKind.UNAVAILABLE,
            reason=f"{body.code}: {body.message}",
            retry_after=body.retryAfter,
        )
        call.failure = failure
        self._delay(call, self._clock.now() + self._pause(call, failure))

    def _clocks_differ(self, call: Call, envelope: Envelope, transport: Transport) -> None:
        """The server did not take it because its clock, or ours, was set meanwhile: go by what it shows now."""
        if isinstance(envelope.timestamp, (int, float)):
            transport.learn_clock(envelope.timestamp / 1000)
        call.handed_over, call.expires_at = False, None
        call.end_attempt()
        self.calls.start(call)
        self.resent += 1
        self._again(call, now=self._clock.now())

    def _send_again(self, call: Call, failure: Failure, transport: Transport, *, now: float) -> None:
        """The first time it goes another way at once, if there is one; else, and later, it waits."""
        call.failure = failure
        if call.attempts > 1 or (transport.ready and len(self._routes.usable()) <= 1):
            # in the second case the path stands, this message alone failed on it: not again in the same instant
            self._delay(call, now + self._pause(call, failure))
        else:
            self.resent += 1
            self._again(call, now=now, avoid=transport.type)

    def _pause(self, call: Call, failure: Failure) -> float:
        return backoff_delay(
            attempt=call.attempts,
            jitter=self._dice.jitter(),
            config=self._config.lifecycle,
            retry_after=failure.retry_after,
        )

    def _delay(self, call: Call, until: float) -> None:
        self._delays += 1
        heapq.heappush(self._delayed, (until, self._delays, call))

    def _session_unknown(self, call: Call, transport: Transport) -> None:
        """The server has forgotten us: it did not run this message, but an earlier attempt may have run."""
        call.handed_over = False
        call.end_attempt()
        if call.outcome is Outcome.NEVER_SENT:
            self.calls.start(call)
            self._parked[call.id] = call
        else:
            call.owner.set_exception(
                TransportError(
                    f"the server has lost the session in which message {call.id} was sent",
                    kind=FailureKind.UNAVAILABLE,
                    transport=transport.id,
                    outcome=call.outcome,
                    message_id=call.id,
                )
            )
        if call.session == self.session.id:  # else it is lost already, and the next one has begun
            self._routes.session_lost(f"{transport.type}: the server does not know our session")
        else:
            self.flush()

    def abandon_session(self, reason: str) -> None:
        """What may have been sent in the lost session ends here; what was never sent goes into the next one."""
        for call in self.calls.open_calls():
            if call.route is not None:
                self.released(call)  # it may be had back: a request that nobody has taken from the folder
            call.end_attempt()
            if call.outcome is Outcome.NEVER_SENT:
                call.expires_at = None
                self._parked[call.id] = call
                continue
            self._fail(
                call,
                TransportError(
                    f"the session was lost while message {call.id} was in flight: {reason}",
                    kind=FailureKind.UNAVAILABLE,
                    outcome=call.outcome,
                    message_id=call.id,
                ),
            )

    def _fail(self, call: Call, error: DevPipeError) -> None:
        if self.calls.get(call.id) is call:
            self.calls.finish(call.id)
        self._parked.pop(call.id, None)
        if not call.owner.done():
            call.owner.set_exception(error)

    def close(self) -> None:
        """The pipe closes: whoever still waits is told."""
        for call in self.calls.open_calls():
            known = call.known
            self.released(call)
            self._fail(call, PipeClosed("the pipe was closed", outcome=known, message_id=call.id))
        self._delayed.clear()

    # --- time -------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._next_sweep

    def _why_not_now(self, call: Call, route: str | None) -> str:
        if self._routes.usable():
            return (
                f"; it waits to be sent again: {call.failure.reason}"
                if route is None and call.failure
                else ""
            )
        return "; no transport is usable: " + "; ".join(str(e) for e in self._routes.errors().values())

    def handle_deadline(self, *, now: float) -> None:
        """One sweep: calls whose time is up, and messages whose turn to be sent again has come."""
        for call in self.calls.handle_deadline(now=now):
            self._parked.pop(call.id, None)
            known = call.known
            route = call.route
            transport = self._routes.transports.get(route) if route is not None else None
            if transport is not None:
                transport.timed_out(call, now=now)
                known = call.known
            if not call.owner.done():
                call.owner.set_exception(
                    DeadlineExceeded(
                        f"no reply to {call.type!r} ({call.id}) within {call.deadline - call.started:g} s"
                        f"{self._why_not_now(call, route)}",
                        outcome=known,
                        message_id=call.id,
                    )
                )
        due: list[Call] = []
        while self._delayed and self._delayed[0][0] <= now:
            due.append(heapq.heappop(self._delayed)[2])
        for call in due:
            if call.id not in self.calls or call.route is not None or call.id in self._parked:
                continue
            # the first resend is free; the others use the budget, and wait for it if it is empty
            if call.attempts > 1 and not self.budget.take(now=now):
                self._delay(call, self.budget.next_token(now=now))
                continue
            self.resent += 1
            self._again(call, now=now)
        self._next_sweep = now + SWEEP if self.calls or self._delayed else None

    @property
    def waiting(self) -> int:
        """Calls that wait for a way."""
        return len(self._parked)
