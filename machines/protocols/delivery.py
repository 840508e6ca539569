"""Who gets which bytes: answers to the path that asked, pushes to the path that was named, late replies to whoever is there.

A part of the service (``service.py``): it holds the open paths and gathers the effects.
"""

from __future__ import annotations

from devpipe.machines.errors import Outcome
from devpipe.machines.message import Position
from devpipe.machines.protocols.dialect import accepted_elsewhere, nested_reply
from devpipe.machines.protocols.envelope import ErrorBody, encode_reply
from devpipe.machines.protocols.pushes import STREAM
from devpipe.machines.protocols.serving import SendTo, ServiceEffect
from devpipe.machines.protocols.sessions import ServerPath, ServerSession

__all__ = ["Delivery"]

#: What the envelope of a poll's answer may need around the messages (bytes).
POLL_ROOM = 1024


class Delivery:
    """The open paths, and what is to be sent on them."""

    def __init__(self) -> None:
        self.paths: dict[int, ServerPath] = {}
        self.effects: list[ServiceEffect] = []

    def drain(self) -> list[ServiceEffect]:
        """What was gathered, in order."""
        effects, self.effects = self.effects, []
        return effects

    # --- answers --------------------------------------------------------------------------------------

    def send(
        self, path: ServerPath, data: bytes, *, reply_to: str | None = None, error: str | None = None
    ) -> None:
        """These bytes, as they are, or as the first deployed clients want them."""
        if path.nested:
            data = nested_reply(data)
        self.effects.append(SendTo(path=path.number, data=data, reply_to=reply_to, error=error))

    def refuse(
        self,
        path: ServerPath,
        id: str | None,
        code: str,
        message: str,
        *,
        wall: int,
        outcome: Outcome = Outcome.REJECTED,
        retry_after: float | None = None,
        type: str = "response",
        payload: bytes = b"null",
    ) -> None:
        """An error that is no handler's."""
        error = ErrorBody(code=code, message=message, outcome=outcome.value, retryAfter=retry_after)
        data = encode_reply(reply_to=id, type=type, payload=payload, timestamp=wall, error=error)
        self.send(path, data, reply_to=id, error=code)

    def reply(
        self, path: ServerPath, id: str | None, data: bytes, *, wall: int, error: str | None = None
    ) -> None:
        """The reply of a handler, or the word that it does not fit: it can be had over another transport."""
        if len(data) > path.limit:
            data, error = _too_large(id, data, path.limit, wall), "reply_too_large"
        self.send(path, data, reply_to=id, error=error)

    def accepted(self, path: ServerPath, id: str | None, *, wall: int, elsewhere: bool = False) -> None:
        """The handler runs on; its reply will come. ``elsewhere``: to a client that would take this for the reply."""
        if elsewhere:
            data = accepted_elsewhere(id, timestamp=wall)
        else:
            data = encode_reply(reply_to=id, type="accepted", timestamp=wall)
        self.effects.append(SendTo(path=path.number, data=data, reply_to=id, accepted=True))

    # --- clients without a session ----------------------------------------------------------------------

    def listeners(self, *, streams: bool) -> list[ServerPath]:
        """Where they hear pushes; ``streams``: only where they hear late replies too."""
        return [p for p in self.paths.values() if p.listening and (p.transport == "stream" or not streams)]

    def broadcast(self, data: bytes, *, reply_to: str | None = None) -> None:
        """A push for all of them, or a late reply: nobody knows whose stream is whose, and ids are not guessed."""
        for path in self.listeners(streams=reply_to is not None):
            self.effects.append(SendTo(path=path.number, data=data, reply_to=reply_to))

    # --- what waits -----------------------------------------------------------------------------------

    def flush(self, session: ServerSession, *, wall: int) -> None:
        """Something new waits for this client: hand it to its stream, its push path, or its poll."""
        stream = self.paths.get(session.stream) if session.stream is not None else None
        if stream is not None and session.late:
            late, session.late = session.late, {}
            for id in late:
                data = session.replies.reply(id)
                if data is not None:  # else it has been forgotten meanwhile: repeating the id says so
                    self.reply(stream, id, data, wall=wall)
        pushes = session.pushes
        target = session.stream if pushes.target == STREAM else pushes.target
        path = self.paths.get(target) if target is not None else None
        if path is not None:
            for offset, data in pushes.since(pushes.cursor):
                pushes.cursor = offset
                position = Position(pushes.epoch, offset)
                self.effects.append(SendTo(path=path.number, data=data, position=position))
        if session.poll is not None and self.has_for_poll(self.paths[session.poll], session):
            self.answer_poll(self.paths[session.poll], wall=wall)

    def has_for_poll(self, path: ServerPath, session: ServerSession) -> bool:
        """True if the poll that is held on ``path`` can be answered now."""
        return path.poll is not None and bool(session.late or session.pushes.offset > path.poll[1])

    def answer_poll(self, path: ServerPath, *, wall: int) -> None:
        """Answer the poll that is held here, if one is, with what there is; nothing is an answer too."""
        session = path.session
        if path.poll is None or session is None:
            return
        id, after = path.poll
        path.poll = None
        session.poll = None
        room = path.limit - POLL_ROOM
        messages: list[bytes] = []
        for late in list(session.late):
            reply = session.replies.reply(late)
            if reply is not None and len(reply) > path.limit - POLL_ROOM:
                reply = _too_large(late, reply, path.limit - POLL_ROOM, wall)
            if reply is not None:
                room -= len(reply) + 1
                if room < 0:
                    break  # the next poll gets it
                messages.append(reply)
            del session.late[late]
        for _, data in session.pushes.since(after):
            room -= len(data) + 1
            if room < 0:
                break  # the same
            messages.append(data)
        payload = b'{"messages":[' + b",".join(messages) + b"]}"
        self.send(path, encode_reply(reply_to=id, payload=payload, timestamp=wall), reply_to=id)


def _too_large(id: str | None, data: bytes, limit: int, wall: int) -> bytes:
    text = f"the reply has {len(data)} bytes, this transport takes {limit}"
    error = ErrorBody(code="reply_too_large", message=text, outcome="executed")
    return encode_reply(reply_to=id, timestamp=wall, error=error)
