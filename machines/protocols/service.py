"""The server without sockets, files or handlers: which message runs what, and who gets which reply and push.

One ``Service`` serves every transport. The law is: *what is not remembered is refused*. A message that names a session
is run only by the process that knows that session, and an id is run once; an execution belongs to its session, so a
lost path cancels nothing and every path that asked gets the reply. Only ``cancel`` or a deadline ends a handler.

Feed ``receive``, carry out ``drain_effects``, call ``handle_deadline`` when ``next_deadline`` has come.

Its parts: ``sessions.py`` what is held of clients, ``executions.py`` what runs, ``push_desk.py`` who listens to pushes,
``delivery.py`` who gets which bytes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, assert_never

import msgspec

from devpipe.machines.config import ServerConfig
from devpipe.machines.errors import TransportError
from devpipe.machines.protocols.control import (
    Attach,
    Cancel,
    Control,
    Hello,
    Poll,
    Probe,
    PushProbe,
    hello_payload,
    read_control,
)
from devpipe.machines.protocols.delivery import Delivery
from devpipe.machines.protocols.dialect import HANDSHAKE, PONGS, adapt_request, speaks_nested
from devpipe.machines.protocols.envelope import (
    MAX_ID_CHARS,
    Envelope,
    ErrorBody,
    decode,
    encode_reply,
)
from devpipe.machines.protocols.executions import BUSY_FOR, Executions
from devpipe.machines.protocols.profiles import profile_of
from devpipe.machines.protocols.push_desk import PushDesk
from devpipe.machines.protocols.serving import (
    Arrived,
    ClosePath,
    HandlerEnded,
    PathClosed,
    PathOpened,
    Pushed,
    ServiceEffect,
    ServiceInput,
    Shutdown,
    StreamOpened,
)
from devpipe.machines.protocols.sessions import ServerPath, Sessions

__all__ = ["MAX_BAD_MESSAGES", "Service"]

#: A connection is closed after so many messages that could not be read: it does not speak our language.
MAX_BAD_MESSAGES = 100

#: What deployed clients say that is no request.
SMALL_TALK = PONGS | {HANDSHAKE}

CLOSING = ErrorBody(code="closing", message="the server is going away", outcome="rejected")


class Service:
    """All sessions of one server process.

    ``identity``: random per process; ``epochs``: random, what the epochs of push histories begin with; ``types``: what
    has a handler, read at each message.
    """

    def __init__(self, *, config: ServerConfig, identity: str, epochs: str, types: Collection[str]) -> None:
        self.config = config
        self.identity = identity
        self.bad_messages = 0  #: that could not be read, over all paths
        self._profile = profile_of(config.profile)
        self._types = types
        self._sessions = Sessions(config, epochs)
        self._out = Delivery()
        self._executions = Executions(config=config, types=types, out=self._out)
        self._desk = PushDesk(config=config, out=self._out)
        self._closing = False

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._sessions)

    @property
    def running(self) -> int:
        """How many handlers run."""
        return len(self._executions)

    def audience(self, session: str | None = None) -> int:
        """For how many sessions a push would be now: those of this name (one, or none), without a name all.

        Connections of clients that know no sessions count among all of them, where the profile has such.
        """
        return self._desk.audience(session, self._sessions)

    # --- the common verbs -----------------------------------------------------------------------------

    def receive(self, item: ServiceInput, *, now: float, wall: int) -> None:
        """Take one input; ``wall`` in milliseconds since 1970. Whatever a peer sent, this does not raise."""
        match item:
            case Arrived():
                self._arrived(item, now=now, wall=wall)
            case HandlerEnded():
                self._executions.ended(item, wall=wall)
            case PathOpened():
                self._path_opened(item)
            case PathClosed():
                self._path_closed(item.path)
            case StreamOpened():
                self._stream_opened(item, now=now, wall=wall)
            case Pushed():
                self._desk.pushed(item, self._sessions, wall=wall)
            case Shutdown():
                self._shutdown(wall=wall)
            case _ as never:
                assert_never(never)

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` wants to be called."""
        times = (self._executions.next_deadline(), self._desk.next_deadline(), self._sessions.next_deadline())
        return min((at for at in times if at is not None), default=None)

    def handle_deadline(self, *, now: float, wall: int) -> None:
        """Announce calls that take long, answer held requests, end handlers that hang, forget idle sessions."""
        self._executions.handle_deadline(now=now, wall=wall)
        self._desk.handle_deadline(now=now, wall=wall)
        self._sessions.forget_idle(now=now)

    def drain_effects(self) -> list[ServiceEffect]:
        """What the adapters are to do now, in order."""
        return self._out.drain()

    def drain_events(self) -> list[object]:
        """A service tells its program nothing but what its handlers are given."""
        return []

    def snapshot(self) -> tuple[Any, ...]:
        """Plain data of everything; drain the effects first."""
        return (
            self._sessions.snapshot(),
            tuple(
                (
                    p.number,
                    p.transport,
                    p.limit,
                    p.session.id if p.session else None,
                    p.poll,
                    p.bad,
                    p.listening,
                    p.nested,
                )
                for p in self._out.paths.values()
            ),
            self._executions.snapshot(),
            self._desk.snapshot(),
            self._closing,
            self.bad_messages,
        )

    def restore(self, state: tuple[Any, ...]) -> None:
        """Put a snapshot back into a service of the same configuration and identity."""
        sessions, paths, executions, held, self._closing, self.bad_messages = state
        self._sessions.restore(sessions)
        self._out.paths.clear()
        for number, transport, limit, session, poll, bad, listening, nested in paths:
            path = self._out.paths[number] = ServerPath(number, transport, limit)
            path.session = None if session is None else self._sessions.get(session)
            path.poll, path.bad, path.listening, path.nested = poll, bad, listening, nested
        self._executions.restore(executions, self._sessions)
        self._desk.restore(held)

    # --- paths ----------------------------------------------------------------------------------------

    def _path_opened(self, item: PathOpened) -> None:
        path = self._out.paths[item.path] = ServerPath(item.path, item.transport, item.max_message_bytes)
        if self._closing and not path.http:  # an exchange is refused in words, as the answer to its message
            self._close_path(path, 1001, CLOSING)

    def _path_closed(self, number: int) -> None:
        path = self._out.paths.pop(number, None)
        if path is not None:
            path.unbind()
            self._desk.gone(number)

    def _close_path(self, path: ServerPath, code: int, error: ErrorBody) -> None:
        self._path_closed(path.number)
        self._out.effects.append(ClosePath(path=path.number, code=code, error=error))

    def _stream_opened(self, item: StreamOpened, *, now: float, wall: int) -> None:
        path = self._out.paths[item.path] = ServerPath(item.path, "stream", item.max_message_bytes)
        if not (item.session or self._profile.sessions or self._closing):
            path.listening = True
            return
        session = self._sessions.get(item.session)
        if session is None or item.server != self.identity or self._closing:
            code = "closing" if self._closing else "session_unknown"
            error = ErrorBody(code=code, message="say hello first", outcome="rejected")
            self._close_path(path, 1008, error)
            return
        self._sessions.touch(session, now=now)
        older = self._out.paths.get(session.stream) if session.stream is not None else None
        if older is not None:
            text = "a newer stream of this session is open"
            self._close_path(older, 1000, ErrorBody(code="replaced", message=text))
        path.bind(session)
        session.stream = item.path
        epoch, colon, seen = item.last_event_id.rpartition(":")
        if colon and epoch == session.pushes.epoch and seen.isascii() and seen.isdigit() and len(seen) < 17:
            session.pushes.cursor = session.pushes.place(epoch, int(seen))[0]
        self._out.flush(session, wall=wall)

    def _shutdown(self, *, wall: int) -> None:
        self._closing = True
        self._executions.end_all(wall=wall)
        for path in list(self._out.paths.values()):
            self._out.answer_poll(path, wall=wall)
            self._close_path(path, 1001, CLOSING)

    # --- messages -------------------------------------------------------------------------------------

    def _arrived(self, item: Arrived, *, now: float, wall: int) -> None:
        path = self._out.paths.get(item.path)
        if path is None:
            return  # its path has been closed meanwhile: nobody could be answered
        try:
            envelope = decode(item.data)
        except TransportError as error:
            self._bad(path, None, str(error)[:300], wall=wall)
            return
        if not self._profile.sessions:
            self._adapt(path, envelope, wall=wall)
        try:
            control = read_control(envelope)
        except msgspec.ValidationError as error:
            self._bad(path, envelope.id, f"{envelope.type}: {error}"[:300], wall=wall)
            return
        if envelope.id is not None and len(envelope.id) > MAX_ID_CHARS:
            self._bad(path, None, f"an id has at most {MAX_ID_CHARS} characters", wall=wall)
        elif self._closing:
            self._out.refuse(path, envelope.id, "closing", "the server is going away", wall=wall)
        else:
            self._dispatch(path, envelope, control, now=now, wall=wall)

    def _adapt(self, path: ServerPath, envelope: Envelope, *, wall: int) -> None:
        """A deployed client's message becomes one of ours; what it is told is told in its own way."""
        path.nested = path.http and speaks_nested(envelope)
        if path.transport == "websocket" and path.session is None:
            path.listening = True  # until it says hello
        adapt_request(envelope, types=self._types, wall=wall)

    def _bad(self, path: ServerPath, id: str | None, message: str, *, wall: int) -> None:
        self.bad_messages += 1
        path.bad += 1
        self._out.refuse(path, id, "bad_message", message, wall=wall)
        if path.bad >= MAX_BAD_MESSAGES:
            text = f"{path.bad} messages could not be read"
            self._close_path(path, 1008, ErrorBody(code="bad_message", message=text))

    def _dispatch(
        self, path: ServerPath, envelope: Envelope, control: Control | None, *, now: float, wall: int
    ) -> None:
        if isinstance(control, Hello):  # the one message that may name a session that is not known
            self._hello(path, envelope, control, now=now, wall=wall)
            return
        session = path.session
        if session is not None and self._sessions.get(session.id) is not session:
            path.unbind()  # a client of the folder that was silent for too long
            self._unknown_session(path, envelope.id, wall=wall)
            return
        if envelope.session is not None:
            session = self._sessions.get(envelope.session)
            if session is None or envelope.server != self.identity:
                if isinstance(control, Probe):
                    session = None  # a probe asks who is there, and gets its answer from anybody
                else:
                    self._unknown_session(path, envelope.id, wall=wall)
                    return
        if session is not None:
            self._sessions.touch(session, now=now)
            if control is not None and envelope.id is not None:
                session.replies.note(envelope.id)
        match control:
            case None if not self._profile.sessions and envelope.type in SMALL_TALK - set(self._types):
                if self._once(path) or envelope.type == HANDSHAKE:
                    data = encode_reply(reply_to=envelope.id, timestamp=wall)
                    self._out.send(path, data, reply_to=envelope.id)
            case None:
                self._executions.request(path, envelope, session, now=now, wall=wall)
            case Probe():
                self._probe(path, envelope, control, wall=wall)
            case PushProbe() if session is not None:
                self._desk.probe(path, envelope, control, session, wall=wall)
            case Attach() if session is not None:
                self._desk.attach(path, envelope, control, session, wall=wall)
            case Poll() if session is not None:
                if envelope.id is None or not path.http:
                    self._bad(path, envelope.id, "a poll has an id and comes over HTTP", wall=wall)
                else:
                    self._desk.poll(path, envelope.id, control, session, now=now, wall=wall)
            case PushProbe() | Attach() | Poll():
                self._unknown_session(path, envelope.id, wall=wall)
            case Cancel():
                if session is not None:
                    self._executions.cancel(session, control.id, wall=wall)
                if path.http or path.transport == "folder":
                    # an exchange wants an answer, whatever was asked; and a file is kept until it is answered
                    data = encode_reply(reply_to=envelope.id, timestamp=wall)
                    self._out.send(path, data, reply_to=envelope.id)
            case _ as never:
                assert_never(never)

    def _once(self, path: ServerPath) -> bool:
        """True if this path is one exchange: HTTP, or one request of a deployed client in a folder."""
        return path.http or (path.transport == "folder" and not self._profile.sessions)

    def _unknown_session(self, path: ServerPath, id: str | None, *, wall: int) -> None:
        self._out.refuse(path, id, "session_unknown", "this server does not know the session", wall=wall)

    def _hello(self, path: ServerPath, envelope: Envelope, hello: Hello, *, now: float, wall: int) -> None:
        if hello.protocol != 1:
            text = f"protocol {hello.protocol} is not spoken here, protocol 1 is"
            self._out.refuse(path, envelope.id, "bad_message", text, wall=wall)
            return
        session = self._sessions.get(hello.session)
        known = session is not None
        if session is None and not hello.resume:
            session = self._sessions.create(hello.session, now=now)
            if session is None:
                text = "the server has no room for another session"
                self._out.refuse(path, envelope.id, "busy", text, wall=wall, retry_after=BUSY_FOR)
                return
        if session is None:
            payload = hello_payload(server=self.identity, nonce=hello.nonce, time=wall)
            self._out.refuse(
                path,
                envelope.id,
                "session_unknown",
                "begin a new session",
                wall=wall,
                type="hello",
                payload=payload,
            )
            return
        self._sessions.touch(session, now=now)
        if envelope.id is not None:
            session.replies.note(envelope.id)
        if not path.http:
            path.bind(session)
        payload = hello_payload(
            server=self.identity,
            nonce=hello.nonce,
            time=wall,
            session=hello.session,
            resumed=known,
            limit=path.limit,
            push=(session.pushes.epoch, session.pushes.offset),
        )
        data = encode_reply(reply_to=envelope.id, type="hello", payload=payload, timestamp=wall)
        self._out.send(path, data, reply_to=envelope.id)

    def _probe(self, path: ServerPath, envelope: Envelope, probe: Probe, *, wall: int) -> None:
        type = "health_pong" if envelope.type == "health_ping" else "pong"
        payload = hello_payload(server=self.identity, nonce=probe.nonce, time=wall)
        data = encode_reply(reply_to=envelope.id, type=type, payload=payload, timestamp=wall)
        self._out.send(path, data, reply_to=envelope.id)
