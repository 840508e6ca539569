"""What runs: which request may start a handler, who waits for it, and what is told when it ends.

A part of the service (``service.py``). Two tables must not be confused: a session's ``replies`` remember every id that
ever ran, ``_runs`` is what runs now. A handler whose outcome was told early (cancelled, out of time) keeps its run
until it has really ended, so that ``max_running`` bounds what is alive.

What this core cannot know: whether a cancelled handler had done its work already. Its outcome is ``executed``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, assert_never

from devpipe.machines.config import ServerConfig
from devpipe.machines.errors import Outcome
from devpipe.machines.protocols.delivery import Delivery
from devpipe.machines.protocols.envelope import Envelope, ErrorBody, encode_reply, excerpt, priority_of
from devpipe.machines.protocols.profiles import profile_of
from devpipe.machines.protocols.replies import Verdict, digest_of
from devpipe.machines.protocols.serving import CancelHandler, HandlerEnded, RunHandler
from devpipe.machines.protocols.sessions import Run, ServerPath, ServerSession, Sessions
from devpipe.machines.protocols.timetable import Timetable

__all__ = ["BUSY_FOR", "MAX_ASKED", "Executions"]

#: Paths that may wait for one reply; each further one takes the place of the first.
MAX_ASKED = 16
#: Types that the refusal of an unknown one lists.
MAX_LISTED = 20
#: Seconds after which a refusal for want of room may have passed.
BUSY_FOR = 1.0


class Executions:
    """The handlers that run. ``types``: what has a handler, read at each message."""

    def __init__(self, *, config: ServerConfig, types: Collection[str], out: Delivery) -> None:
        self._config = config
        self._types = types
        self._out = out
        self._sessions = profile_of(config.profile).sessions  #: clients without one are not what was expected
        self._runs: dict[int, Run] = {}
        self._by_id: dict[tuple[str, str], int] = {}  #: (session, id) of what runs and is not answered
        self._count = 0
        self._due: Timetable[int] = Timetable()

    def __len__(self) -> int:
        """How many handlers are alive."""
        return len(self._runs)

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` wants to be called."""
        return self._due.next_deadline()

    def handle_deadline(self, *, now: float, wall: int) -> None:
        """Announce handlers that take long, answer requests that are held, end what is out of time."""
        while (number := self._due.pop_due(now)) is not None:
            self._run_due(number, now=now, wall=wall)

    def end_all(self, *, wall: int) -> None:
        """The server closes."""
        for number, run in list(self._runs.items()):
            self._end_early(number, run, "closing", "the server is going away", wall=wall)

    def snapshot(self) -> tuple[Any, ...]:
        """Plain data of everything."""
        return (
            tuple(
                (
                    number,
                    run.session.id if run.session else None,
                    run.id,
                    tuple(run.asked.items()),
                    run.accept_at,
                    run.end_at,
                    run.expires,
                    run.answered,
                )
                for number, run in self._runs.items()
            ),
            tuple(self._by_id.items()),
            tuple(self._due.items()),
            self._count,
        )

    def restore(self, state: tuple[Any, ...], sessions: Sessions) -> None:
        """Put a snapshot back, after the sessions that it names."""
        runs, by_id, due, self._count = state
        self._runs.clear()
        for number, session, id, asked, accept_at, end_at, expires, answered in runs:
            owner = None if session is None else sessions.get(session)
            run = self._runs[number] = Run(owner, id, accept_at=0.0, end_at=end_at, expires=expires)
            run.asked, run.accept_at, run.answered = dict(asked), accept_at, answered
        self._by_id = dict(by_id)
        self._due = Timetable()
        for number, at in due:
            self._due.arm(number, at)

    # --- requests -------------------------------------------------------------------------------------

    def request(
        self, path: ServerPath, envelope: Envelope, session: ServerSession | None, *, now: float, wall: int
    ) -> None:
        """Run this message, or answer it from memory, or refuse it."""
        id = envelope.id
        if session is None:
            if self._admit(path, envelope, wall=wall):
                self._run(path, envelope, None, now=now, wall=wall)
            return
        if id is None:
            self._out.refuse(path, None, "bad_message", "a message of a session has an id", wall=wall)
            return
        digest = digest_of(envelope.type, envelope.payload)
        match session.replies.judge(id, digest):
            case Verdict.NEW:
                # only now: what has run is answered from memory, even if its time is up meanwhile
                if self._admit(path, envelope, wall=wall):
                    session.replies.begin(id, digest)
                    self._run(path, envelope, session, now=now, wall=wall)
            case Verdict.RUNNING:
                self._join(path, session, id, now=now)
            case Verdict.STORED:
                data = session.replies.reply(id)
                assert data is not None  # that is what the verdict says
                session.late.pop(id, None)
                self._out.reply(path, id, data, wall=wall)
            case Verdict.FORGOTTEN:
                text = "it ran; its reply is not remembered"
                self._out.refuse(path, id, "forgotten", text, wall=wall, outcome=Outcome.EXECUTED)
            case Verdict.UNKNOWN:
                text = "nobody knows any more whether it ran"
                self._out.refuse(path, id, "forgotten", text, wall=wall)
            case Verdict.REUSED:
                text = "this id had another type or payload"
                self._out.refuse(path, id, "id_reused", text, wall=wall)
            case Verdict.MALFORMED:
                text = f"{excerpt(id)} is no id of a session: give a prefix of the pipe, a dash and a number"
                self._out.refuse(path, id, "bad_message", text, wall=wall)
            case _ as never:
                assert_never(never)

    def _admit(self, path: ServerPath, envelope: Envelope, *, wall: int) -> bool:
        """True if this message may run now; else it has been refused, and is as new as before."""
        expires = _expiry(envelope)
        if expires is not None and expires < wall:
            self._out.refuse(path, envelope.id, "expired", "its time was up before it came", wall=wall)
        elif envelope.type not in self._types:
            known = ", ".join(sorted(self._types)[:MAX_LISTED]) or "none"
            text = f"no handler for {excerpt(envelope.type)}; there are: {known}"
            self._out.refuse(path, envelope.id, "unknown_type", text, wall=wall)
        elif len(self._runs) >= self._config.max_running:
            text = f"{self._config.max_running} handlers run already"
            self._out.refuse(path, envelope.id, "busy", text, wall=wall, retry_after=BUSY_FOR)
        else:
            return True
        return False

    def _run(
        self, path: ServerPath, envelope: Envelope, session: ServerSession | None, *, now: float, wall: int
    ) -> None:
        self._count += 1
        number, id = self._count, envelope.id
        end_at, expires = now + self._config.handler_timeout, _expiry(envelope)
        by_caller = expires is not None and now + (expires - wall) / 1000 < end_at
        if expires is not None and by_caller:
            end_at = now + (expires - wall) / 1000
        run = self._runs[number] = Run(
            session, id, accept_at=now + self._config.accept_after, end_at=end_at, expires=by_caller
        )
        run.asked[path.number] = self._hold_until(path, session, now=now)
        if session is not None and id is not None:
            self._by_id[(session.id, id)] = number
        self._due.arm(number, run.due())
        timestamp = envelope.timestamp
        self._out.effects.append(
            RunHandler(
                run=number,
                type=envelope.type,
                id=id,
                session=None if session is None else session.name,
                payload=envelope.payload,
                timestamp=timestamp if isinstance(timestamp, (int, float)) else 0,
                priority=priority_of(envelope),
                transport=path.transport,
            )
        )

    def _hold_until(self, path: ServerPath, session: ServerSession | None, *, now: float) -> float | None:
        # a client without a session could never have the reply after a 202: it waits for as long as it likes,
        # unless its kind has streams on which replies of others are heard too
        return now + self._config.hold if path.http and (session is not None or not self._sessions) else None

    def _join(self, path: ServerPath, session: ServerSession, id: str, *, now: float) -> None:
        number = self._by_id[(session.id, id)]
        run = self._runs[number]
        if path.number not in run.asked:
            if len(run.asked) >= MAX_ASKED:
                del run.asked[next(iter(run.asked))]
            run.asked[path.number] = self._hold_until(path, session, now=now)
            self._due.arm(number, run.due())

    def cancel(self, session: ServerSession, id: str, *, wall: int) -> None:
        """Nobody waits for this id any more: end what runs, and never run what is still on its way."""
        number = self._by_id.get((session.id, id))
        if number is not None:
            self._end_early(number, self._runs[number], "cancelled", "its caller has gone", wall=wall)
        elif session.replies.judge(id, b"") is Verdict.NEW:
            error = ErrorBody(code="cancelled", message="its caller has gone", outcome="rejected")
            session.replies.block(id, encode_reply(reply_to=id, timestamp=wall, error=error))

    # --- handlers -------------------------------------------------------------------------------------

    def ended(self, item: HandlerEnded, *, wall: int) -> None:
        """A handler has ended."""
        run = self._runs.pop(item.run, None)
        if run is not None:
            self._due.disarm(item.run)
            if not run.answered:
                self._answer(run, item.payload, item.error, wall=wall)

    def _end_early(self, number: int, run: Run, code: str, message: str, *, wall: int) -> None:
        """Nobody waits for this handler any more, or it runs for too long: tell its outcome, and cancel it."""
        if not run.answered:
            run.answered = True
            self._due.disarm(number)
            self._out.effects.append(CancelHandler(run=number))
            error = ErrorBody(code=code, message=message, outcome="executed")
            self._answer(run, b"null", error, wall=wall)

    def _run_due(self, number: int, *, now: float, wall: int) -> None:
        run = self._runs[number]  # a run that has ended was disarmed
        if run.end_at <= now:
            if run.expires:
                self._end_early(number, run, "expired", "its time was up while it ran", wall=wall)
            else:
                text = f"the handler ran for {self._config.handler_timeout:g} s"
                self._end_early(number, run, "handler_timeout", text, wall=wall)
            return
        if run.accept_at is not None and run.accept_at <= now:
            run.accept_at = None
            self._announce(run, wall=wall)
        for asked, until in list(run.asked.items()):
            if until is not None and until <= now:
                alone = run.session is None
                if alone and (run.id is None or not self._out.listeners(streams=True)):
                    run.asked[asked] = (
                        None  # nobody would hear the reply later: it is held for as long as it takes
                    )
                    continue
                del run.asked[asked]
                path = self._out.paths.get(asked)
                if path is not None:
                    self._out.accepted(path, run.id, wall=wall, elsewhere=alone)
        self._due.arm(number, run.due())

    def _announce(self, run: Run, *, wall: int) -> None:
        if run.session is None and not self._sessions:
            return  # such a client would take it for the reply
        stream = None if run.session is None else run.session.stream
        told: set[int] = set()
        for asked in run.asked:
            path = self._out.paths.get(asked)
            if path is not None and path.http and stream is not None:
                path = self._out.paths.get(stream)  # the exchange itself has one answer, and this is not it
            if path is not None and path.transport not in ("http", "folder") and path.number not in told:
                told.add(path.number)
                self._out.accepted(path, run.id, wall=wall)

    def _answer(self, run: Run, payload: bytes, error: ErrorBody | None, *, wall: int) -> None:
        session, id = run.session, run.id
        data = encode_reply(reply_to=id, payload=payload, timestamp=wall, error=error)
        if session is not None and id is not None:
            del self._by_id[(session.id, id)]
            session.replies.finish(id, data)
        sent = False
        for asked in run.asked:
            path = self._out.paths.get(asked)
            if path is not None:
                self._out.reply(path, id, data, wall=wall, error=None if error is None else error.code)
                sent = True
        if not sent and id is not None:
            if session is not None:
                session.add_late(id)
                self._out.flush(session, wall=wall)
            else:
                self._out.broadcast(data, reply_to=id)


def _expiry(envelope: Envelope) -> float | None:
    """``expiresAt`` in milliseconds; a text of deployed programs says nothing that could be compared."""
    expires = envelope.expires_at
    return expires if isinstance(expires, (int, float)) else None
