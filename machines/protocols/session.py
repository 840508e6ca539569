"""The client's half of a session: who we are to a server, and whether it still knows us.

One pipe is one session. The id is the client's choice, secret, and bound to the server *process* that answered the
first ``hello``: a process that does not know it has no memory of what we sent, so it must not be given a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from devpipe.machines.errors import FailureKind, TransportError
from devpipe.machines.message import Position
from devpipe.machines.protocols.envelope import Envelope

__all__ = ["PROTOCOL_VERSION", "AttachAnswer", "ClientSession", "HelloAnswer", "read_attached", "read_hello"]

PROTOCOL_VERSION = 1


class _Limits(msgspec.Struct, rename="camel"):
    max_message_bytes: int | None = None


class _Push(msgspec.Struct):
    epoch: str
    offset: int


class _HelloPayload(msgspec.Struct):
    server: str = ""
    nonce: str = ""
    session: str | None = None
    resumed: bool = False
    time: float | None = None
    limits: _Limits = msgspec.field(default_factory=_Limits)
    push: _Push | None = None


_hello_decoder = msgspec.json.Decoder(_HelloPayload)


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAnswer:
    """What a server said to ``hello`` or to a ping.

    ``known``: it knows this ``session`` now. ``server``: its process ("" if it knows none). ``time``: its clock in
    seconds, None if it did not say. ``push``: where its push history stands.
    """

    known: bool
    session: str | None
    server: str
    nonce: str
    time: float | None
    max_message_bytes: int | None = None
    push: Position | None = None


def _payload(envelope: Envelope, transport: str) -> _HelloPayload:
    if not envelope.payload:
        return _HelloPayload()
    try:
        return _hello_decoder.decode(envelope.payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TransportError(
            f"the answer to {envelope.type!r} cannot be read: {error}",
            kind=FailureKind.PROTOCOL,
            transport=transport,
            message_id=envelope.reply_to,
        ) from error


def read_hello(envelope: Envelope, *, transport: str) -> HelloAnswer:
    """Read the answer to ``hello`` or to a ping. Raises ``TransportError`` (protocol) if it makes no sense."""
    payload = _payload(envelope, transport)
    return HelloAnswer(
        known=envelope.success is not False and payload.session is not None,
        session=payload.session,
        server=payload.server,
        nonce=payload.nonce,
        time=None if payload.time is None else payload.time / 1000,
        max_message_bytes=payload.limits.max_message_bytes,
        push=None if payload.push is None else Position(payload.push.epoch, payload.push.offset),
    )


class ClientSession:
    """The session of one pipe, over all its transports."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.server: str | None = None  #: the process that knows us; None before the first answer
        self.remembers = False  #: that server answers repeats from memory, so a message may be sent again

    def hello(self, nonce: str, *, client: str) -> dict[str, object]:
        """The payload of ``hello`` on any transport."""
        return {
            "protocol": PROTOCOL_VERSION,
            "session": self.id,
            "resume": self.server is not None,
            "nonce": nonce,
            "client": client,
        }

    def answered(self, answer: HelloAnswer) -> bool:
        """A server has answered. True if it knows us, so that messages may go to it."""
        if not answer.known or answer.session != self.id:
            return False  # or it is the late answer to a hello of a session before this one
        if self.server is None:
            self.server = answer.server
            self.remembers = bool(answer.server)
        return answer.server == self.server

    def renew(self, id: str) -> None:
        """The server that knew us is gone: be somebody new to the next one."""
        self.id = id
        self.server = None
        self.remembers = False


class AttachAnswer(msgspec.Struct):
    """What a server said to ``attach``: where its push history ends, and whether some cannot be had any more."""

    epoch: str
    offset: int
    gap: bool = False


_attach_decoder = msgspec.json.Decoder(AttachAnswer)


def read_attached(envelope: Envelope, *, transport: str) -> AttachAnswer:
    """Read the answer to ``attach``. Raises ``TransportError`` (protocol) if it makes no sense."""
    try:
        return _attach_decoder.decode(envelope.payload or b"null")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TransportError(
            f"the answer to 'attach' cannot be read: {error}",
            kind=FailureKind.PROTOCOL,
            transport=transport,
            message_id=envelope.reply_to,
        ) from error
