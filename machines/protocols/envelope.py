"""The envelope: one JSON object per message, the same on every transport.

Spelled as deployed programs spell it (``replyTo``, ``expiresAt``); ``reply_to`` and ``expires_at`` are read
too, unknown fields are ignored. The payload stays the bytes that came until somebody reads it.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, cast

import msgspec

from devpipe.machines.errors import FailureKind, InvalidMessage, TransportError
from devpipe.machines.message import Message, Position, Priority
from devpipe.machines.protocols.timestamps import iso_text, read_time

__all__ = [
    "Envelope",
    "ErrorBody",
    "decode",
    "encode_payload",
    "encode_reply",
    "encode_request",
    "to_message",
    "MAX_ID_CHARS",
    "MAX_REFUSAL_CHARS",
    "check_type",
    "encode_push",
    "excerpt",
    "priority_of",
    "valid_id",
]

#: Ids become file names and log words: these characters, this long (facts of path traversal, section 5 row 7).
MAX_ID_CHARS = 64
_ID_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
MAX_TYPE_CHARS = 128
#: Of a peer's own words about a refusal so much is shown: there stands what to do (characters).
MAX_REFUSAL_CHARS = 200


#: Codes of refusals that mean "not now": the message is as new as before, and may go again over any transport.
NOT_NOW = frozenset({"busy", "closing"})


class ErrorBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ``error`` of a reply with ``success: false``. ``outcome`` tells a refusal from a failed handler."""

    code: str = "error"
    message: str = ""
    details: Any = None
    outcome: str | None = None
    #: seconds after which trying again may help
    retryAfter: float | None = None


class Envelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One message as it stands on the wire. Fields that a message does not have are None (an empty payload)."""

    type: str
    id: str | None = None
    #: JSON bytes, not decoded; empty if there was no payload
    payload: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    #: milliseconds since 1970, or an ISO text from deployed programs
    timestamp: float | str | None = None
    reply_to: str | None = msgspec.field(name="replyTo", default=None)
    success: bool | None = None
    error: ErrorBody | str | None = None
    priority: str | int | None = None
    expires_at: float | str | None = msgspec.field(name="expiresAt", default=None)
    #: the session, and the server process that answered its hello, where no connection says so
    session: str | None = None
    server: str | None = None
    epoch: str | None = None
    offset: int | None = None
    # the other spelling
    reply_to_snake: str | None = msgspec.field(name="reply_to", default=None)
    expires_at_snake: float | str | None = msgspec.field(name="expires_at", default=None)


_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def decode(data: bytes | bytearray | memoryview | str, *, transport: str | None = None) -> Envelope:
    """Read one envelope.

    Raises ``TransportError`` of kind ``protocol`` that says what is wrong with it, whatever the bytes are.
    """
    try:
        envelope = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        # RecursionError: a bottomless document; UnicodeDecodeError: bytes that are no UTF-8 (msgspec 0.22)
        raise TransportError(
            f"not a devpipe message ({error}): {excerpt(data)}",
            kind=FailureKind.PROTOCOL,
            transport=transport,
        ) from error
    if envelope.reply_to is None and envelope.reply_to_snake is not None:
        envelope.reply_to = envelope.reply_to_snake
    if envelope.expires_at is None and envelope.expires_at_snake is not None:
        envelope.expires_at = envelope.expires_at_snake
    return envelope


def excerpt(data: bytes | bytearray | memoryview | str, limit: int = 80) -> str:
    """The beginning of what a peer sent, escaped and cut, fit for a log line or an error."""
    head = data[: limit + 1]
    text = head if isinstance(head, str) else bytes(head).decode("utf-8", "backslashreplace")
    return repr(text[:limit]) + ("..." if len(text) > limit else "")


def valid_id(value: str) -> bool:
    """True if ``value`` may be an id: 1 to 64 letters, digits, ``_`` or ``-``."""
    return 0 < len(value) <= MAX_ID_CHARS and _ID_CHARS.issuperset(value)


def encode_payload(payload: object, *, type: str, message_id: str | None = None) -> bytes:
    """The payload as JSON bytes, made once however many transports try the message.

    Raises ``InvalidMessage`` that names the type if the payload is no JSON. Nan and infinity are none.
    """
    try:
        data = _encoder.encode(payload)
        if b"null" in data:  # which is what msgspec writes for them, without a word
            _check_finite(payload)
        return data
    except (TypeError, ValueError, RecursionError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidMessage(
            f"the payload of {type!r} cannot be written as JSON: {error}", message_id=message_id
        ) from error


def _check_finite(payload: object) -> None:
    """Raises ``ValueError`` that says where in a payload, which has been encoded, a number stands that is not finite."""
    # of what can be encoded only msgspec.Raw has no plain form; it is JSON already
    waiting: list[tuple[str, object]] = [("payload", msgspec.to_builtins(payload, enc_hook=lambda raw: None))]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{where} is {value}, and JSON has no such number")
        if isinstance(value, dict):
            members = cast("dict[object, object]", value).items()
            waiting += [(f"{where}[{key!r}]", member) for key, member in members]
        elif isinstance(value, (list, tuple)):
            items = enumerate(cast("list[object]", value))
            waiting += [(f"{where}[{at}]", item) for at, item in items]


def check_type(type: str) -> None:
    """Raises ``InvalidMessage`` if ``type`` is not 1 to 128 printable characters."""
    if not isinstance(type, str) or not 0 < len(type) <= MAX_TYPE_CHARS or not type.isprintable():
        raise InvalidMessage(f"message type {type!r}: give 1 to {MAX_TYPE_CHARS} printable characters")


def encode_request(
    *,
    id: str,
    type: str,
    payload: bytes,
    timestamp: int,
    priority: Priority = Priority.NORMAL,
    expires_at: int | None = None,
    session: str | None = None,
    server: str | None = None,
    more: bytes = b"",
    iso: bool = False,
) -> bytes:
    """The envelope of a request around a payload that is JSON already; times in milliseconds.

    ``more``: further members, as JSON that begins with a comma; ``iso``: write the timestamp as an ISO text.
    """
    parts = [
        b'{"id":"',
        id.encode(),
        b'","type":',
        _encoder.encode(type),
        b',"timestamp":',
        b'"' + iso_text(timestamp).encode() + b'"' if iso else str(timestamp).encode(),
        more,
    ]
    if priority is not Priority.NORMAL:
        parts += (b',"priority":"', priority.name.lower().encode(), b'"')
    if expires_at is not None:
        parts += (b',"expiresAt":', str(expires_at).encode())
    if session is not None:
        parts += (b',"session":"', session.encode(), b'"')
    if server is not None:
        parts += (b',"server":"', server.encode(), b'"')
    parts += (b',"payload":', payload, b"}")
    return b"".join(parts)


def encode_reply(
    *,
    reply_to: str | None,
    type: str = "response",
    payload: bytes = b"null",
    timestamp: int,
    error: ErrorBody | None = None,
) -> bytes:
    """The envelope of a reply; its own id is the request's with an ``r`` in front."""
    parts = [b'{"type":', _encoder.encode(type), b',"timestamp":', str(timestamp).encode()]
    if reply_to is not None:
        quoted = _encoder.encode(reply_to)
        parts += (b',"id":', quoted, b',"replyTo":', quoted)
    if error is None:
        parts += (b',"success":true,"payload":', payload, b"}")
    else:
        parts += (b',"success":false,"error":', _encoder.encode(error), b',"payload":', payload, b"}")
    return b"".join(parts)


def encode_push(
    *, type: str, payload: bytes, timestamp: int, epoch: str | None = None, offset: int = 0
) -> bytes:
    """The envelope of a push at a place in its history; without ``epoch``, of one that is in none."""
    parts = [b'{"type":', _encoder.encode(type), b',"timestamp":', str(timestamp).encode()]
    if epoch is not None:
        parts += (b',"epoch":', _encoder.encode(epoch), b',"offset":', str(offset).encode())
    parts += (b',"payload":', payload, b"}")
    return b"".join(parts)


def priority_of(envelope: Envelope) -> Priority:
    """The priority that a message names, ``normal`` where it names none or a strange one."""
    word = envelope.priority
    if isinstance(word, str):
        try:
            return Priority[word.upper()]
        except KeyError:  # a word of a later version: not worth refusing a message for
            return Priority.NORMAL
    return Priority.NORMAL


def to_message(envelope: Envelope, *, session: str | None = None, transport: str | None = None) -> Message:
    """The envelope as a program sees it."""
    timestamp = envelope.timestamp
    return Message(
        id=envelope.reply_to or envelope.id,
        type=envelope.type,
        raw=envelope.payload or None,
        timestamp=timestamp if isinstance(timestamp, (int, float)) else read_time(timestamp) or 0,
        priority=priority_of(envelope) if envelope.priority is not None else Priority.NORMAL,
        session=session,
        position=None
        if envelope.epoch is None or envelope.offset is None
        else Position(envelope.epoch, envelope.offset),
        transport=transport,
    )
