"""The server without sockets, files or handlers: which message runs what, and who gets which reply and push.

One ``Service`` serves every transport. The law is: *what is not remembered is refused*. A message that names a session
is run only by the process that knows that session, and an id is run once; an execution belongs to its session, so a
lost path cancels nothing and every path that asked gets the reply.

Feed ``receive``, carry out ``drain_effects``, call ``handle_deadline`` when ``next_deadline`` has come.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import assert_never

import msgspec

from devpipe.machines.config import ServerConfig
from devpipe.machines.errors import TransportError
from devpipe.machines.message import Position
from devpipe.machines.protocols.control import (
    Attach,
    Cancel,
    Hello,
    Poll,
    Probe,
    hello_payload,
    read_control,
)
from devpipe.machines.protocols.envelope import (
    Envelope,
    ErrorBody,
    decode,
    encode_payload,
    encode_reply,
    priority_of,
)
from devpipe.machines.protocols.pushes import STREAM, Pushes
from devpipe.machines.protocols.replies import Replies, Verdict, digest_of
from devpipe.machines.protocols.serving import (
    Arrived,
    CancelHandler,
    ClosePath,
    HandlerEnded,
    PathClosed,
    PathOpened,
    Pushed,
    RunHandler,
    SendTo,
    ServiceEffect,
    ServiceInput,
    Shutdown,
    StreamOpened,
)

__all__ = ["Service", "session_name"]

#: Late replies that wait for one client's stream or poll; older ones are had by repeating the id.
MAX_LATE = 1000


def session_name(session: str) -> str:
    """What may be shown of a session: a digest, never the secret id."""
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


class _Path:
    __slots__ = ("http", "limit", "number", "polls", "session", "transport")

    def __init__(self, number: int, transport: str, limit: int) -> None:
        self.number = number
        self.transport = transport
        self.limit = limit
        self.http = transport == "http"
        self.session: _Session | None = None  #: bound by hello, where a path is a connection
        self.polls: tuple[str, int] | None = None  #: the id of a poll that is held here, and its place


class _Session:
    __slots__ = ("id", "late", "name", "poll", "pushes", "replies", "stream", "used_at")

    def __init__(self, id: str, epoch: str, config: ServerConfig, now: float) -> None:
        self.id = id
        self.name = session_name(id)
        self.replies = Replies(max_replies=config.max_replies, max_bytes=config.max_reply_bytes)
        self.pushes = Pushes(epoch, max_pushes=config.max_pushes, max_bytes=config.max_push_bytes)
        self.stream: int | None = None
        self.poll: int | None = None  #: the path on which a poll is held
        self.late: list[bytes] = []
        self.used_at = now


class _Run:
    __slots__ = ("accepted", "asked", "cancelled", "id", "session")

    def __init__(self, session: _Session | None, id: str | None, path: int) -> None:
        self.session = session
        self.id = id
        self.asked: list[int] = [path]
        self.accepted = False
        self.cancelled = False


class Service:
    """All sessions of one server process. ``identity``: random per process; ``epochs``: random prefix of epochs."""

    def __init__(self, *, config: ServerConfig, identity: str, epochs: str) -> None:
        self.config = config
        self.identity = identity
        self._epochs = epochs
        self._epoch_count = 0
        self._paths: dict[int, _Path] = {}
        self._sessions: dict[str, _Session] = {}
        self._runs: dict[int, _Run] = {}
        self._by_id: dict[tuple[str, str], int] = {}  #: (session, id) of what runs
        self._run_count = 0
        self._effects: list[ServiceEffect] = []
        self._deadlines: list[tuple[float, int, str, int, int]] = []
        self._deadline_count = 0
        self._closing = False
        self.bad_messages = 0

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._sessions)

    @property
    def running(self) -> int:
        """How many handlers run."""
        return len(self._runs)

    # --- the common verbs -----------------------------------------------------------------------------

    def receive(self, item: ServiceInput, *, now: float, wall: int) -> None:
        """Take one input; ``wall`` in milliseconds since 1970. Whatever a peer sent, this does not raise."""
        match item:
            case PathOpened():
                self._paths[item.path] = _Path(item.path, item.transport, item.max_message_bytes)
            case StreamOpened():
                self._open_stream(item, now=now)
            case Arrived():
                self._arrived(item, now=now, wall=wall)
            case PathClosed():
                self._path_closed(item.path)
            case HandlerEnded():
                self._handler_ended(item, wall=wall)
            case Pushed():
                self._pushed(item, wall=wall)
            case Shutdown():
                self._shutdown()
            case _ as never:
                assert_never(never)

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` wants to be called."""
        return self._deadlines[0][0] if self._deadlines else None

    def handle_deadline(self, *, now: float, wall: int) -> None:
        """Announce calls that take long, answer held requests, end handlers that hang, forget idle sessions."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, kind, run, path = heapq.heappop(self._deadlines)
            match kind:
                case "accept":
                    self._announce(run, wall=wall)
                case "hold":
                    self._answer_held(run, path, wall=wall)
                case "poll":
                    self._answer_poll(path, wall=wall)
                case "handler":
                    self._handler_timed_out(run, wall=wall)
                case _:
                    self._forget_idle(now)

    def drain_effects(self) -> list[ServiceEffect]:
        """What the adapters are to do now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def drain_events(self) -> list[object]:
        """A service tells its program nothing but what its handlers are given."""
        return []

    # --- paths ----------------------------------------------------------------------------------------

    def _open_stream(self, item: StreamOpened, *, now: float) -> None:
        session = self._sessions.get(item.session)
        if session is None or item.server != self.identity:
            error = ErrorBody(code="session_unknown", message="say hello first", outcome="rejected")
            self._effects.append(ClosePath(path=item.path, code=1008, error=error))
            return
        path = self._paths[item.path] = _Path(item.path, "stream", item.max_message_bytes)
        path.session = session
        session.used_at = now
        if session.stream is not None:
            error = ErrorBody(code="replaced", message="a newer stream of this session is open")
            self._effects.append(ClosePath(path=session.stream, code=1000, error=error))
            self._paths.pop(session.stream, None)
        session.stream = item.path
        for data in session.late:
            self._effects.append(SendTo(path=item.path, data=data))
        session.late.clear()
        self._deliver_pushes(session)

    def _path_closed(self, number: int) -> None:
        path = self._paths.pop(number, None)
        if path is None:
            return
        session = path.session
        if session is not None:
            session.pushes.drop_path(number)
            if session.stream == number:
                session.stream = None
            if session.poll == number:
                session.poll = None

    def _shutdown(self) -> None:
        self._closing = True
        for run in list(self._runs):
            self._effects.append(CancelHandler(run=run))
        error = ErrorBody(code="closing", message="the server is going away", outcome="rejected")
        for path in list(self._paths):
            self._effects.append(ClosePath(path=path, code=1001, error=error))
        self._paths.clear()

    # --- messages -------------------------------------------------------------------------------------

    def _arrived(self, item: Arrived, *, now: float, wall: int) -> None:
        path = self._paths.get(item.path)
        if path is None:
            return  # its path has been closed meanwhile: nobody could be answered
        try:
            envelope = decode(item.data)
        except TransportError as error:
            self.bad_messages += 1
            self._refuse(path, None, "bad_message", str(error)[:300], wall=wall)
            return
        if self._closing:
            self._refuse(path, envelope.id, "closing", "the server is going away", wall=wall)
            return
        try:
            control = read_control(envelope)
        except msgspec.ValidationError as error:
            self._refuse(path, envelope.id, "bad_message", f"{envelope.type}: {error}", wall=wall)
            return
        if control is None:
            self._request(path, envelope, now=now, wall=wall)
            return
        match control:
            case Hello():
                self._hello(path, envelope, control, now=now, wall=wall)
            case Probe():
                self._probe(path, envelope, control, wall=wall)
            case Attach():
                self._attach(path, envelope, control, now=now, wall=wall)
            case Poll():
                self._poll(path, envelope, control, now=now, wall=wall)
            case Cancel():
                self._cancel(path, envelope, control, now=now, wall=wall)
            case _ as never:
                assert_never(never)

    def _hello(self, path: _Path, envelope: Envelope, hello: Hello, *, now: float, wall: int) -> None:
        session = self._sessions.get(hello.session)
        if session is None and not hello.resume:
            session = self._new_session(hello.session, now)
        known = session is not None
        payload = hello_payload(
            server=self.identity,
            nonce=hello.nonce,
            time=wall,
            session=hello.session if known else None,
            resumed=known and hello.resume,
            limit=path.limit,
            push=None if session is None else (session.pushes.epoch, session.pushes.offset),
        )
        error = None
        if session is None:
            error = ErrorBody(code="session_unknown", message="begin a new session", outcome="rejected")
        else:
            session.used_at = now
            if not path.http:
                path.session = session
        data = encode_reply(reply_to=envelope.id, type="hello", payload=payload, timestamp=wall, error=error)
        self._send(path, data, reply_to=envelope.id, error=None if error is None else error.code)

    def _new_session(self, id: str, now: float) -> _Session:
        if len(self._sessions) >= self.config.max_sessions:
            oldest = min(self._sessions.values(), key=lambda s: s.used_at)
            del self._sessions[oldest.id]
        self._epoch_count += 1
        session = self._sessions[id] = _Session(id, f"{self._epochs}{self._epoch_count}", self.config, now)
        if len(self._sessions) == 1:
            self._arm(now + self.config.session_ttl, "sessions")
        return session

    def _probe(self, path: _Path, envelope: Envelope, probe: Probe, *, wall: int) -> None:
        type = "health_pong" if envelope.type == "health_ping" else "pong"
        payload = hello_payload(server=self.identity, nonce=probe.nonce, time=wall)
        data = encode_reply(reply_to=envelope.id, type=type, payload=payload, timestamp=wall)
        self._send(path, data, reply_to=envelope.id)

    def _session_of(self, path: _Path, envelope: Envelope, *, now: float, wall: int) -> _Session | None | str:
        """The session of a message, None for one without, or the code of its refusal."""
        if envelope.session is None:
            session = path.session
            if session is not None and self._sessions.get(session.id) is not session:
                return "session_unknown"
        else:
            session = self._sessions.get(envelope.session)
            if session is None or envelope.server != self.identity:
                return "session_unknown"
        if session is not None:
            session.used_at = now
        return session

    def _request(self, path: _Path, envelope: Envelope, *, now: float, wall: int) -> None:
        session = self._session_of(path, envelope, now=now, wall=wall)
        id = envelope.id
        if isinstance(session, str):
            self._refuse(path, id, session, "the server does not know this session", wall=wall)
            return
        if isinstance(envelope.expires_at, (int, float)) and envelope.expires_at < wall:
            self._refuse(path, id, "expired", "its time was up before it came", wall=wall)
            return
        if session is None:
            self._run(path, envelope, None, now=now, wall=wall)
            return
        if id is None:
            self._refuse(path, None, "bad_message", "a message of a session has an id", wall=wall)
            return
        digest = digest_of(envelope.type, envelope.payload)
        match session.replies.judge(id, digest):
            case Verdict.NEW:
                if len(self._runs) >= self.config.max_running:
                    body = ErrorBody(
                        code="busy", message="too many handlers run", outcome="rejected", retryAfter=1.0
                    )
                    self._refuse_with(path, id, body, wall=wall)
                    return
                session.replies.begin(id, digest)
                self._run(path, envelope, session, now=now, wall=wall)
            case Verdict.RUNNING:
                run = self._by_id[(session.id, id)]
                if path.number not in self._runs[run].asked:
                    self._runs[run].asked.append(path.number)
                    if path.http:
                        self._arm(now + self.config.hold, "hold", run, path.number)
            case Verdict.STORED:
                data = session.replies.reply(id)
                if data is not None:
                    self._send_reply(path, id, data, wall=wall)
            case Verdict.FORGOTTEN:
                body = ErrorBody(code="forgotten", message="it ran; its reply is gone", outcome="executed")
                self._refuse_with(path, id, body, wall=wall)
            case Verdict.UNKNOWN:
                self._refuse(path, id, "forgotten", "nobody knows any more whether it ran", wall=wall)
            case Verdict.REUSED:
                self._refuse(path, id, "id_reused", "this id had another type or payload", wall=wall)
            case Verdict.MALFORMED:
                self._refuse(path, id, "bad_message", f"{id!r} is no id of a session", wall=wall)

    def _run(
        self, path: _Path, envelope: Envelope, session: _Session | None, *, now: float, wall: int
    ) -> None:
        if session is None and len(self._runs) >= self.config.max_running:
            body = ErrorBody(code="busy", message="too many handlers run", outcome="rejected", retryAfter=1.0)
            self._refuse_with(path, envelope.id, body, wall=wall)
            return
        self._run_count += 1
        number = self._run_count
        self._runs[number] = _Run(session, envelope.id, path.number)
        if session is not None and envelope.id is not None:
            self._by_id[(session.id, envelope.id)] = number
        timestamp = envelope.timestamp
        self._effects.append(
            RunHandler(
                run=number,
                type=envelope.type,
                id=envelope.id,
                session=None if session is None else session.name,
                payload=envelope.payload,
                timestamp=timestamp if isinstance(timestamp, (int, float)) else 0,
                priority=priority_of(envelope),
                transport=path.transport,
            )
        )
        self._arm(now + self.config.accept_after, "accept", number)
        self._arm(now + self.config.handler_timeout, "handler", number)
        if path.http:
            self._arm(now + self.config.hold, "hold", number, path.number)

    def _cancel(self, path: _Path, envelope: Envelope, cancel: Cancel, *, now: float, wall: int) -> None:
        session = self._session_of(path, envelope, now=now, wall=wall)
        if isinstance(session, _Session):
            error = ErrorBody(code="cancelled", message="the caller has gone", outcome="rejected")
            refusal = encode_reply(reply_to=cancel.id, timestamp=wall, error=error)
            run = self._by_id.get((session.id, cancel.id))
            if run is not None:
                self._runs[run].cancelled = True
                self._effects.append(CancelHandler(run=run))
            elif session.replies.judge(cancel.id, b"") is Verdict.NEW:
                session.replies.block(cancel.id, refusal)
        if path.http:
            payload = encode_payload({}, type="cancel")
            self._send(path, encode_reply(reply_to=envelope.id, payload=payload, timestamp=wall))

    # --- handlers -------------------------------------------------------------------------------------

    def _handler_ended(self, item: HandlerEnded, *, wall: int) -> None:
        run = self._runs.pop(item.run, None)
        if run is None:
            return  # it was answered when its time ran out
        self._answer(run, item.payload, item.error, wall=wall)

    def _handler_timed_out(self, number: int, *, wall: int) -> None:
        run = self._runs.pop(number, None)
        if run is not None:
            self._effects.append(CancelHandler(run=number))
            seconds = self.config.handler_timeout
            error = ErrorBody(
                code="handler_timeout", message=f"the handler ran for {seconds:g} s", outcome="executed"
            )
            self._answer(run, b"null", error, wall=wall)

    def _answer(self, run: _Run, payload: bytes, error: ErrorBody | None, *, wall: int) -> None:
        session, id = run.session, run.id
        data = encode_reply(reply_to=id, payload=payload, timestamp=wall, error=error)
        if session is not None and id is not None:
            self._by_id.pop((session.id, id), None)
            session.replies.finish(id, data)
        sent = False
        for number in run.asked:
            path = self._paths.get(number)
            if path is not None:
                self._send_reply(path, id, data, wall=wall, error=None if error is None else error.code)
                sent = True
        if not sent and session is not None:
            self._send_late(session, id, data, wall=wall)

    def _send_reply(
        self, path: _Path, id: str | None, data: bytes, *, wall: int, error: str | None = None
    ) -> None:
        if len(data) > path.limit:
            text = f"the reply has {len(data)} bytes, this transport takes {path.limit}"
            body = ErrorBody(code="reply_too_large", message=text, outcome="executed")
            data = encode_reply(reply_to=id, timestamp=wall, error=body)
            error = body.code
        self._send(path, data, reply_to=id, error=error)

    def _send_late(self, session: _Session, id: str | None, data: bytes, *, wall: int) -> None:
        """Nobody who asked is connected any more: the stream, the poll, or the repeated id gets it."""
        if session.stream is not None and session.stream in self._paths:
            self._send_reply(self._paths[session.stream], id, data, wall=wall)
            return
        session.late.append(data)
        del session.late[:-MAX_LATE]
        if session.poll is not None:
            self._answer_poll(session.poll, wall=wall)

    def _announce(self, number: int, *, wall: int) -> None:
        run = self._runs.get(number)
        if run is None or run.accepted:
            return
        run.accepted = True
        data = encode_reply(reply_to=run.id, type="accepted", timestamp=wall)
        for asked in run.asked:
            path = self._paths.get(asked)
            if path is not None and not path.http and path.transport != "folder":
                self._effects.append(SendTo(path=asked, data=data, reply_to=run.id, accepted=True))

    def _answer_held(self, number: int, asked: int, *, wall: int) -> None:
        run, path = self._runs.get(number), self._paths.get(asked)
        if run is not None and path is not None and asked in run.asked:
            run.asked.remove(asked)
            data = encode_reply(reply_to=run.id, type="accepted", timestamp=wall)
            self._effects.append(SendTo(path=asked, data=data, reply_to=run.id, accepted=True))

    # --- pushes ---------------------------------------------------------------------------------------

    def _pushed(self, item: Pushed, *, wall: int) -> None:
        for session in list(self._sessions.values()):
            if item.session is None or item.session == session.name:
                session.pushes.append(item.type, item.payload, timestamp=wall)
                self._deliver_pushes(session)
                if session.poll is not None:
                    self._answer_poll(session.poll, wall=wall)

    def _deliver_pushes(self, session: _Session) -> None:
        pushes = session.pushes
        target = session.stream if pushes.target == STREAM else pushes.target
        path = self._paths.get(target) if target is not None else None
        if path is None or session.poll is not None:
            return
        for offset, data in pushes.since(pushes.cursor):
            pushes.cursor = offset
            if len(data) <= path.limit:
                self._effects.append(
                    SendTo(path=path.number, data=data, position=Position(pushes.epoch, offset))
                )

    def _attach(self, path: _Path, envelope: Envelope, attach: Attach, *, now: float, wall: int) -> None:
        session = self._session_of(path, envelope, now=now, wall=wall)
        if not isinstance(session, _Session):
            self._refuse(path, envelope.id, "session_unknown", "attach wants a session", wall=wall)
            return
        target = STREAM if path.http else path.number
        if path.session is None and not path.http:
            path.session = session
        gap = session.pushes.attach(attach.number, target, epoch=attach.epoch, after=attach.after)
        payload = encode_payload(
            {"epoch": session.pushes.epoch, "offset": session.pushes.offset, "gap": gap}, type="attach"
        )
        data = encode_reply(reply_to=envelope.id, payload=payload, timestamp=wall)
        self._send(path, data, reply_to=envelope.id)
        self._deliver_pushes(session)

    def _poll(self, path: _Path, envelope: Envelope, poll: Poll, *, now: float, wall: int) -> None:
        session = self._session_of(path, envelope, now=now, wall=wall)
        if not isinstance(session, _Session) or envelope.id is None:
            self._refuse(path, envelope.id, "session_unknown", "poll wants a session", wall=wall)
            return
        path.session = session
        path.polls = (envelope.id, session.pushes.place(poll.epoch, poll.after)[0])
        if session.poll is not None and session.poll != path.number:
            self._answer_poll(session.poll, wall=wall)
        session.poll = path.number
        if session.late or session.pushes.since(path.polls[1]):
            self._answer_poll(path.number, wall=wall)
        else:
            self._arm(now + min(poll.hold, self.config.hold), "poll", 0, path.number)

    def _answer_poll(self, number: int, *, wall: int) -> None:
        path = self._paths.get(number)
        session = None if path is None else path.session
        if path is None or session is None or path.polls is None:
            return
        id, after = path.polls
        path.polls = None
        if session.poll == number:
            session.poll = None
        messages, room = [], path.limit - 1024
        for data in (*session.late, *(data for _, data in session.pushes.since(after))):
            room -= len(data) + 1
            if room < 0:
                break  # the rest is had with the next poll
            messages.append(data)
        del session.late[: len(messages)]
        payload = b'{"messages":[' + b",".join(messages) + b"]}"
        self._send(path, encode_reply(reply_to=id, payload=payload, timestamp=wall), reply_to=id)

    # --- help -----------------------------------------------------------------------------------------

    def _refuse(self, path: _Path, id: str | None, code: str, message: str, *, wall: int) -> None:
        self._refuse_with(path, id, ErrorBody(code=code, message=message, outcome="rejected"), wall=wall)

    def _refuse_with(self, path: _Path, id: str | None, body: ErrorBody, *, wall: int) -> None:
        data = encode_reply(reply_to=id, timestamp=wall, error=body)
        self._send(path, data, reply_to=id, error=body.code)

    def _send(
        self, path: _Path, data: bytes, *, reply_to: str | None = None, error: str | None = None
    ) -> None:
        self._effects.append(SendTo(path=path.number, data=data, reply_to=reply_to, error=error))

    def _arm(self, at: float, kind: str, run: int = 0, path: int = 0) -> None:
        self._deadline_count += 1
        heapq.heappush(self._deadlines, (at, self._deadline_count, kind, run, path))

    def _forget_idle(self, now: float) -> None:
        ttl = self.config.session_ttl
        for session in [s for s in self._sessions.values() if now - s.used_at >= ttl]:
            if not any(p.session is session for p in self._paths.values()) and not session.replies.running:
                del self._sessions[session.id]
        if self._sessions:
            self._arm(now + ttl / 4, "sessions")
