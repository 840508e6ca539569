"""What the server holds of its clients: paths, sessions, and what runs for them. Plain data; the service decides."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from itertools import islice
from typing import Any

from devpipe.machines.config import ServerConfig
from devpipe.machines.protocols.pushes import Pushes
from devpipe.machines.protocols.replies import Replies

__all__ = ["MAX_LATE", "Run", "ServerPath", "ServerSession", "Sessions", "session_name"]

#: Late replies that wait for one client's stream or poll; older ones are had by repeating the id.
MAX_LATE = 1000
#: Where there is no room, so many of the sessions that were used longest ago are looked at for one that is idle.
SCAN = 64


def session_name(session: str) -> str:
    """What may be shown of a session: a digest, never the secret id."""
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


class ServerPath:
    """One way to a client, while it is open."""

    __slots__ = ("bad", "http", "limit", "listening", "nested", "number", "poll", "session", "transport")

    def __init__(self, number: int, transport: str, limit: int) -> None:
        self.number = number
        self.transport = transport
        self.limit = limit  #: of one message, in bytes
        self.http = transport == "http"
        self.session: ServerSession | None = (
            None  #: bound by hello, by the stream's headers, or by a held poll
        )
        self.poll: tuple[str, int] | None = None  #: the id of the poll that is held here, and its place
        self.bad = 0  #: messages that could not be read
        self.listening = False  #: a client without a session hears all pushes here
        self.nested = False  #: it looks for its reply inside ``response``

    def bind(self, session: ServerSession) -> None:
        """This way leads to that client."""
        if self.session is not session:
            self.unbind()
            self.session, self.listening = session, False
            if self.transport != "folder":  # a folder tells nobody that its client has gone
                session.paths.add(self.number)

    def unbind(self) -> None:
        """It leads to nobody any more."""
        session = self.session
        if session is not None:
            self.session = None
            session.paths.discard(self.number)
            session.pushes.drop_path(self.number)
            if session.stream == self.number:
                session.stream = None
            if session.poll == self.number:
                session.poll = None


class ServerSession:
    """One client. It outlives its paths."""

    __slots__ = ("id", "late", "name", "paths", "poll", "pushes", "replies", "stream", "used_at")

    def __init__(self, id: str, epoch: str, config: ServerConfig, now: float) -> None:
        self.id = id
        self.name = session_name(id)
        self.replies = Replies(max_replies=config.max_replies, max_bytes=config.max_reply_bytes)
        self.pushes = Pushes(epoch, max_pushes=config.max_pushes, max_bytes=config.max_push_bytes)
        self.paths: set[int] = set()
        self.stream: int | None = None
        self.poll: int | None = None  #: the path on which a poll is held
        self.late: dict[str, None] = {}  #: ids whose replies nobody was there to take, oldest first
        self.used_at = now

    @property
    def idle(self) -> bool:
        """Nobody is connected, and nothing runs."""
        return not self.paths and not self.replies.running

    def add_late(self, id: str) -> None:
        """The reply to this id waits in memory for a stream or a poll."""
        self.late[id] = None
        if len(self.late) > MAX_LATE:
            del self.late[next(iter(self.late))]


class Run:
    """A handler that runs. ``answered``: its outcome was told before it ended (cancelled, out of time)."""

    __slots__ = ("accept_at", "answered", "asked", "end_at", "expires", "id", "session")

    def __init__(
        self, session: ServerSession | None, id: str | None, *, accept_at: float, end_at: float, expires: bool
    ) -> None:
        self.session = session
        self.id = id
        self.asked: dict[int, float | None] = {}  #: who wants the reply; until when, where it is held (HTTP)
        self.accept_at: float | None = accept_at
        self.end_at = end_at
        self.expires = expires  #: ``end_at`` is the caller's deadline, not the handler's limit
        self.answered = False

    def due(self) -> float:
        """When something is to be done about it."""
        due = self.end_at
        if self.accept_at is not None and self.accept_at < due:
            due = self.accept_at
        for until in self.asked.values():
            if until is not None and until < due:
                due = until
        return due


class Sessions:
    """The table of sessions, bounded by count and by time; the one used longest ago stands first."""

    def __init__(self, config: ServerConfig, epochs: str) -> None:
        self._config = config
        self._epochs = epochs
        self._epoch_count = 0
        self._by_id: OrderedDict[str, ServerSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id: str) -> ServerSession | None:
        """The session of this id, if it is known."""
        return self._by_id.get(id)

    def all(self) -> list[ServerSession]:
        """Every session."""
        return list(self._by_id.values())

    def touch(self, session: ServerSession, *, now: float) -> None:
        """It was used."""
        session.used_at = now
        self._by_id.move_to_end(session.id)

    def create(self, id: str, *, now: float) -> ServerSession | None:
        """A new session, for which an idle one may have to go; None if there is no room."""
        if len(self._by_id) >= self._config.max_sessions:
            idle = next((s for s in islice(self._by_id.values(), SCAN) if s.idle), None)
            if idle is None:
                return None
            del self._by_id[idle.id]
        self._epoch_count += 1
        session = ServerSession(id, f"{self._epochs}{self._epoch_count}", self._config, now)
        self._by_id[id] = session
        return session

    def next_deadline(self) -> float | None:
        """When the session that was used longest ago has been idle for too long."""
        oldest = next(iter(self._by_id.values()), None)
        return None if oldest is None else oldest.used_at + self._config.session_ttl

    def forget_idle(self, *, now: float) -> None:
        """Forget the sessions that nobody has used for so long; one that is connected, or runs something, is used."""
        while (at := self.next_deadline()) is not None and at <= now:
            oldest = next(iter(self._by_id.values()))
            if oldest.idle:
                del self._by_id[oldest.id]
            else:
                self.touch(oldest, now=now)

    def snapshot(self) -> tuple[Any, ...]:
        """Plain data of every session."""
        return (
            self._epoch_count,
            tuple(
                (
                    s.id,
                    s.used_at,
                    tuple(sorted(s.paths)),
                    s.stream,
                    s.poll,
                    tuple(s.late),
                    s.replies.snapshot(),
                    s.pushes.snapshot(),
                )
                for s in self._by_id.values()
            ),
        )

    def restore(self, state: tuple[Any, ...]) -> None:
        """Put a snapshot back."""
        self._epoch_count, sessions = state
        self._by_id.clear()
        for id, used_at, paths, stream, poll, late, replies, pushes in sessions:
            session = self._by_id[id] = ServerSession(id, "", self._config, used_at)
            session.paths = set(paths)
            session.stream, session.poll = stream, poll
            session.late = dict.fromkeys(late)
            session.replies.restore(replies)
            session.pushes.restore(pushes)
