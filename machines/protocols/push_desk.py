"""The server's side of pushes: who listens to those of a session, over which path, and the polls that wait for one."""

from __future__ import annotations

from devpipe.machines.config import ServerConfig
from devpipe.machines.protocols.control import Attach, Poll, PushProbe
from devpipe.machines.protocols.delivery import Delivery
from devpipe.machines.protocols.envelope import Envelope, encode_payload, encode_push, encode_reply
from devpipe.machines.protocols.profiles import profile_of
from devpipe.machines.protocols.pushes import STREAM
from devpipe.machines.protocols.serving import Pushed
from devpipe.machines.protocols.sessions import ServerPath, ServerSession, Sessions
from devpipe.machines.protocols.timetable import Timetable

__all__ = ["PushDesk"]


class PushDesk:
    """Part of a ``Service``, which has found out whose message it is."""

    def __init__(self, *, config: ServerConfig, out: Delivery) -> None:
        self._config = config
        self._everybody = not profile_of(
            config.profile
        ).sessions  #: those without a session hear what goes to all
        self._out = out
        self._held: Timetable[int] = Timetable()  #: paths on which a poll is held

    # --- the common verbs -----------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When the next poll has been held long enough."""
        return self._held.next_deadline()

    def handle_deadline(self, *, now: float, wall: int) -> None:
        """Answer those with nothing."""
        while (number := self._held.pop_due(now)) is not None:
            self._out.answer_poll(self._out.paths[number], wall=wall)  # a path that has gone was disarmed

    def snapshot(self) -> tuple[tuple[int, float], ...]:
        """Plain data of everything."""
        return tuple(self._held.items())

    def restore(self, state: tuple[tuple[int, float], ...]) -> None:
        """Put it back."""
        self._held = Timetable()
        for number, at in state:
            self._held.arm(number, at)

    # --- what clients ask -------------------------------------------------------------------------------

    def probe(
        self, path: ServerPath, envelope: Envelope, probe: PushProbe, session: ServerSession, *, wall: int
    ) -> None:
        """Push the nonce back, after the answer."""
        payload = encode_payload({"nonce": probe.nonce}, type=envelope.type)
        data = encode_reply(reply_to=envelope.id, payload=payload, timestamp=wall)
        self._out.send(path, data, reply_to=envelope.id)
        session.pushes.append(envelope.type, payload, timestamp=wall)
        self._out.flush(session, wall=wall)

    def attach(
        self, path: ServerPath, envelope: Envelope, attach: Attach, session: ServerSession, *, wall: int
    ) -> None:
        """Pushes go this way from now on, from where the client says it is."""
        if not path.http:
            path.bind(session)
        pushes = session.pushes
        target = STREAM if path.http else path.number
        gap = pushes.attach(attach.number, target, epoch=attach.epoch, after=attach.after)
        place = {"epoch": pushes.epoch, "offset": pushes.offset, "gap": gap}
        data = encode_reply(
            reply_to=envelope.id, payload=encode_payload(place, type="attach"), timestamp=wall
        )
        self._out.send(path, data, reply_to=envelope.id)
        self._out.flush(session, wall=wall)

    def poll(
        self, path: ServerPath, id: str, poll: Poll, session: ServerSession, *, now: float, wall: int
    ) -> None:
        """Answer with what there is, or hold the request until there is something."""
        held = self._out.paths.get(session.poll) if session.poll is not None else None
        if held is not None:
            self._out.answer_poll(held, wall=wall)  # one at a time: the newer one is the one that is read
        path.bind(session)
        after = session.pushes.place(poll.epoch, poll.after)[0] if poll.epoch else session.pushes.attached
        path.poll = (id, after)
        session.poll = path.number
        if self._out.has_for_poll(path, session):
            self._out.answer_poll(path, wall=wall)
        else:
            self._held.arm(path.number, now + max(0.0, min(poll.hold, self._config.hold)))

    def gone(self, number: int) -> None:
        """This path is closed: nothing is held on it any more."""
        self._held.disarm(number)

    # --- what the program pushes --------------------------------------------------------------------------

    def audience(self, session: str | None, sessions: Sessions) -> int:
        """How many a push to this session, or to all, is for now."""
        paths = self._out.listeners(streams=False) if session is None and self._everybody else []
        return len(_named(session, sessions)) + len(paths)

    def pushed(self, item: Pushed, sessions: Sessions, *, wall: int) -> None:
        """To one session, or to all, connected or not."""
        for session in _named(item.session, sessions):
            session.pushes.append(item.type, item.payload, timestamp=wall)
            self._out.flush(session, wall=wall)
        if item.session is None and self._everybody:
            self._out.broadcast(encode_push(type=item.type, payload=item.payload, timestamp=wall))


def _named(name: str | None, sessions: Sessions) -> list[ServerSession]:
    """The one of this name, if it lives; without a name all."""
    return [session for session in sessions.all() if name is None or name == session.name]
