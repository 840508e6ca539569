"""What a link of one generation talks to: replies find their calls, echoes prove the path, pushes go up.

The first message on a new link is ``hello`` with a nonce; its echo is the proof of data. Until the server knows our
session nothing else goes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from devpipe.adapters.transports.link import Link, Terms
from devpipe.machines.errors import FailureKind, QueueFull, TransportError
from devpipe.machines.events import ErrorOccurred, HealthChecked
from devpipe.machines.inputs import Failure, Proved
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.dialect import HANDSHAKE, handshake_payload, read_peer
from devpipe.machines.protocols.envelope import MAX_REFUSAL_CHARS, Envelope, ErrorBody, decode, excerpt
from devpipe.machines.protocols.http import error_of
from devpipe.machines.protocols.session import HelloAnswer, read_hello

if TYPE_CHECKING:
    from devpipe.adapters.transports.base import Transport

__all__ = ["CLIENT", "Host"]

#: How we introduce ourselves.
CLIENT = "devpipe-python/0.1"
#: Probes and other control messages that may wait for an answer at once; the oldest is forgotten beyond that.
MAX_ECHOES = 64
#: Sessions in a row that may be lost on one path before anything useful has come.
MAX_RENEWALS = 2


class _Echo:
    """A control message whose answer is awaited."""

    __slots__ = ("answered", "call", "kind", "nonce", "prove", "sent_at", "session")

    def __init__(
        self, call: Call, kind: str, nonce: str, *, prove: bool, sent_at: float, session: str
    ) -> None:
        self.session = session  #: who we were when it went out
        self.call = call
        self.kind = kind
        self.nonce = nonce
        self.prove = prove  #: the lifecycle asked for it
        self.sent_at = sent_at
        self.answered = anyio.Event()


class Host:
    """The ``LinkHost`` of one generation of one transport."""

    def __init__(self, transport: Transport, generation: int, link: Link) -> None:
        self.generation = generation
        self._transport = transport
        self._link = link
        self._owner = transport.owner
        self._calls = transport.owner.calls
        self._now = transport.clock.now
        self._lifecycle = transport.lifecycle
        self._metrics = transport.metrics
        self._breaker = transport.breaker
        self._echoes: dict[str, _Echo] = {}
        self._useful = False
        self._renewals = 0  #: of the session, since something useful came
        self._profile = transport.profile
        self._decode = decode if transport.profile.sessions else read_peer
        #: the path is a connection of its own, on which the server may ask too
        self._connection = not transport.capabilities.names_session

    # --- what the link says -------------------------------------------------------------------------

    def heard(self) -> None:
        self._lifecycle.heard(now=self._now())

    def deliver(self, data: bytes | bytearray) -> None:
        metrics = self._metrics
        metrics.received += 1
        metrics.bytes_received += len(data)
        try:
            envelope = self._decode(data, transport=self._transport.type)
        except TransportError as error:
            self.trouble(Failure(kind=FailureKind.PROTOCOL, reason=str(error)))
            return
        reply_to = envelope.reply_to
        if reply_to is not None and envelope.type == "response" and self._transport.ready:
            call = self._calls.finish(reply_to)
            if call is not None:
                self._reply(call, envelope)
                return
        self._deliver_other(envelope)

    def undelivered(self, call: Call, failure: Failure) -> None:
        transport = self._transport
        echo = self._echoes.pop(call.id, None)
        if echo is not None:
            transport.last_failure = failure
            self.trouble(failure)
            echo.answered.set()
            if echo.prove or echo.kind == "hello":
                # a path that does not even carry a probe is lost, and the next dial waits its turn; one on which we could
                # not introduce ourselves would be up and of no use
                self._lose(failure)
            return
        if self._calls.get(call.id) is call and call.route == transport.type:
            transport.give_back(call, failure, now=self._now(), count=True)

    def missed(self, reason: str) -> None:
        self._owner.missed(self._transport, reason)

    def trouble(self, failure: Failure) -> None:
        transport = self._transport
        transport.metrics.troubles[failure.kind.value] += 1
        transport.happened(ErrorOccurred(transport=transport.type, failure=failure))

    # --- what the transport asks for ------------------------------------------------------------------

    def prove(self, nonce: str) -> None:
        """Send the nonce: as ``hello`` until the server knows us, as a ping afterwards."""
        if self._transport.ready:
            self._probe(nonce, prove=True)
        else:
            self.greet(nonce, prove=True)

    def greet(self, nonce: str, *, prove: bool = False) -> None:
        """Say ``hello``; it may be repeated. To a server that knows none, a probe is the greeting."""
        if not self._profile.sessions:
            if self._profile.handshake and self._connection:
                self.control(
                    HANDSHAKE, handshake_payload(session=self._transport.id, client=CLIENT)
                )  # nobody has to answer it
            self._probe(nonce, prove=prove)
            return
        payload = self._owner.session.hello(nonce, client=CLIENT)
        self._send("hello", payload, nonce, prove=prove)

    def greet_again(self, nonce: str) -> None:
        """The session is lost: introduce the next one here.

        A path on which one session after the other is lost, and nothing useful ever comes, is itself lost, so that a
        wait stands between two of them.
        """
        if self._renewals >= MAX_RENEWALS:
            self._lose(Failure(kind=FailureKind.UNAVAILABLE, reason="the server forgets us again and again"))
            return
        self._renewals += 1
        self._useful = False
        self.greet(nonce)

    def ping(self, nonce: str) -> anyio.Event:
        """Send a nonce for a health check; the event is set when it came back, or the link is gone."""
        return self._probe(nonce, prove=False)

    def attach(self, payload: object) -> None:
        """Ask for the pushes on this path; the owner hears the answer."""
        self._send("attach", payload, "", prove=False)

    def control(self, type: str, payload: object, *, id: str | None = None) -> str | None:
        """Send a message that is no call, best effort; returns its id."""
        call = self._transport.control_call(type, payload, id=id)
        try:
            self._link.submit(call)
        except QueueFull:  # courtesy only: a full queue has better things to carry
            return None
        return call.id

    def take_back(self, call: Call) -> None:
        """The link is given up: what nobody can have seen of this call is taken out of it, and is as new as before."""
        self._link.withdraw(call)

    def lost(self) -> None:
        """The link is gone: nobody waits for an echo any more."""
        echoes, self._echoes = self._echoes, {}
        for echo in echoes.values():
            echo.answered.set()

    # --- inside -----------------------------------------------------------------------------------------

    def _probe(self, nonce: str, *, prove: bool) -> anyio.Event:
        """A ping where the path is a connection; else a message that the server may not even know."""
        type = "health_ping" if self._connection else self._transport.peer.probe
        return self._send(type, {"nonce": nonce}, nonce, prove=prove)

    def _send(self, type: str, payload: object, nonce: str, *, prove: bool) -> anyio.Event:
        call = self._transport.control_call(type, payload)
        echo = self._echoes[call.id] = _Echo(
            call, type, nonce, prove=prove, sent_at=self._now(), session=self._owner.session.id
        )
        if len(self._echoes) > MAX_ECHOES:
            self._echoes.pop(next(iter(self._echoes))).answered.set()
        try:
            self._link.submit(call)
        except QueueFull as error:
            del self._echoes[call.id]
            echo.answered.set()
            self.trouble(Failure(kind=FailureKind.UNAVAILABLE, reason=str(error)))
        return echo.answered

    def _reply(self, call: Call, envelope: Envelope) -> None:
        now = self._now()
        permit, call.permit = call.permit, None
        latency = now - call.submitted
        transport = self._transport
        if permit is not None:
            if call.route == transport.type:
                self._breaker.success(permit, now=now, duration=latency)
            else:  # the reply to an earlier attempt: it says nothing about the path that the present one took
                self._release_elsewhere(call, permit)
        self._metrics.success(latency, now=now)
        if not self._useful and not _is_forgotten(envelope):
            self._found_useful(now)
        self._owner.replied(call, envelope, transport)

    def _found_useful(self, now: float) -> None:
        """Told once per session: the path does what it is for."""
        self._useful = True
        self._renewals = 0
        self._lifecycle.useful(now=now)

    def _release_elsewhere(self, call: Call, permit: object) -> None:
        call.permit = permit
        self._owner.released(call)

    def _deliver_other(self, envelope: Envelope) -> None:
        reply_to = envelope.reply_to
        if reply_to is None:
            match envelope.type:
                case "ping" if self._connection or self._profile.sessions:
                    self.control("pong", {})
                case "pong" | "accepted":
                    pass
                case "response":
                    # most likely what the server says of a message that it could not read: nobody's answer, and no push
                    body = error_of(envelope)
                    reason = (
                        f"a response that names no message: {excerpt(body.code)}, {excerpt(body.message)}"
                    )
                    self.trouble(Failure(kind=FailureKind.PROTOCOL, reason=reason))
                case "health_ping" if self._connection and envelope.id is not None:
                    self.control("health_pong", {}, id=envelope.id)
                case _:
                    if not self._useful:
                        self._found_useful(self._now())
                    self._owner.pushed(envelope, self._transport)
            return
        echo = self._echoes.pop(reply_to, None)
        if echo is not None:
            self._echoed(echo, envelope)
            return
        if not self._transport.ready:  # whoever is there has none of our calls
            self._calls.unknown_replies += 1
            return
        if envelope.type == "accepted":
            call = self._calls.get(reply_to)
            if call is not None:
                call.accepted = True
            return
        call = self._calls.take_reply(reply_to)
        if call is not None:
            self._reply(call, envelope)

    def _echoed(self, echo: _Echo, envelope: Envelope) -> None:
        transport = self._transport
        if echo.kind == "attach":
            echo.answered.set()
            self._owner.attached(transport, envelope)
            return
        latency = self._now() - echo.sent_at
        try:
            answer = self._read_answer(echo, envelope)
        except TransportError as error:
            reason = str(error)
            if envelope.success is False:  # a refusal that says nothing else, like that of our Host header
                body = error_of(envelope)
                said = excerpt(body.message, MAX_REFUSAL_CHARS)
                reason = f"the server refuses us: {excerpt(body.code)}, {said}"
            failure = Failure(kind=FailureKind.PROTOCOL, reason=reason)
            self.trouble(failure)
            echo.answered.set()
            if echo.prove:
                self._lose(failure)
            return
        if answer.server and answer.nonce != echo.nonce:
            self.trouble(Failure(kind=FailureKind.PROTOCOL, reason="an echo with a nonce that is not ours"))
            return
        code = (
            envelope.error.code if envelope.error is not None and not isinstance(envelope.error, str) else ""
        )
        if code in ("unauthorized", "closing"):
            kind = FailureKind.AUTH if code == "unauthorized" else FailureKind.UNAVAILABLE
            echo.answered.set()
            self._lose(Failure(kind=kind, reason=f"the server refuses us: {code}"))
            return
        if (
            echo.kind != "hello"
            and self._profile.sessions
            and answer.server not in ("", transport.terms.server)
        ):
            # a new process answers on the old path: nobody there has what is in flight, and no hello was said to it
            echo.answered.set()
            self._lose(Failure(kind=FailureKind.NETWORK, reason="another server answers on this path now"))
            return
        if echo.kind == "hello" or not (self._profile.sessions or transport.ready):
            self._greeted(echo, answer)
        elif answer.time is not None:
            transport.learn_clock(answer.time)
        echo.answered.set()
        if echo.prove:
            self._transport.feed(
                Proved(generation=self.generation, nonce=echo.nonce, server=answer.server, latency=latency)
            )
            transport.last_check = transport.clock.wall()
            transport.happened(HealthChecked(transport=transport.type, success=True, latency=latency))

    def _read_answer(self, echo: _Echo, envelope: Envelope) -> HelloAnswer:
        """What the server has told of itself. One without sessions tells nothing: it has answered, that is all."""
        if self._profile.sessions:
            return read_hello(envelope, transport=self._transport.type)
        return HelloAnswer(known=False, session=None, server="", nonce=echo.nonce, time=None)

    def _greeted(self, echo: _Echo, answer: HelloAnswer) -> None:
        transport = self._transport
        if echo.session != self._owner.session.id:
            return  # the answer to who we were before; who we are now has been said already
        known = self._owner.greeted(transport, answer)
        offset = 0.0 if answer.time is None else answer.time - transport.clock.wall()
        transport.terms = Terms(
            server=answer.server,
            session=self._owner.session.id if answer.known else None,
            max_message_bytes=answer.max_message_bytes,
            clock_offset=offset,
        )
        transport.ready = known
        if known:
            self._link.established(transport.terms)
            self._owner.became_ready(transport)

    def _lose(self, failure: Failure) -> None:
        self._transport.abandon(self.generation, failure)


def _is_forgotten(envelope: Envelope) -> bool:
    """True for the refusal of a server that does not know our session: it answers, but is of no use."""
    error = envelope.error
    return envelope.success is False and isinstance(error, ErrorBody) and error.code == "session_unknown"
