"""How deployed peers speak, turned into our envelopes and back. Pure functions, used at the border only.

Behind the border nothing knows of dialects: what a peer without sessions says becomes an ``Envelope`` whose ``replyTo``
names what it answers, and a message of such a client becomes one with times in milliseconds and a type that has a
handler. What is an envelope of ours already comes through unchanged.

What a reply looks like there:

- HTTP: the reply itself with the ``id`` of the request, or ``{"response": {"id", "payload"}}``; another id means that
  the answer comes later on the stream.
- stream: ``type: "response"`` and the ``id`` of the request; all else is a push.
- WebSocket: ``type: "response"`` and ``replyTo``; ``health_pong`` with the ``id`` of its ``health_ping``.
- folder: ``id``, ``success``, ``payload``, ``error`` in ``response_<id>.json``, which may be half written.

``success`` may be missing everywhere, and is true then.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import msgspec

from devpipe.machines.errors import FailureKind, TransportError
from devpipe.machines.protocols.envelope import Envelope, ErrorBody, decode, encode_payload, excerpt
from devpipe.machines.protocols.timestamps import iso_text, read_time

__all__ = [
    "HANDSHAKE",
    "PONGS",
    "accepted_elsewhere",
    "adapt_request",
    "file_response",
    "handshake_payload",
    "is_whole",
    "nested_reply",
    "peer_answer",
    "peer_fields",
    "peer_refusal",
    "peer_response",
    "read_peer",
    "speaks_nested",
]

HANDSHAKE = "handshake"
#: What a client says to our pings: nothing that a handler should hear.
PONGS = frozenset({"pong", "health_pong"})
_PROBES = frozenset({"ping", "health_ping"})
_NULL = msgspec.Raw(b"null")
#: What every JSON reader has exactly; more than any time or delay.
MAX_NUMBER = 2**53


class _Said(msgspec.Struct):
    """What a deployed program may say. Nothing is expected of any field: each is looked at before it is believed."""

    id: Any = None
    type: Any = None
    payload: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    response: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    reply_to: Any = msgspec.field(name="replyTo", default=None)
    reply_to_snake: Any = msgspec.field(name="reply_to", default=None)
    success: Any = None
    error: Any = None
    timestamp: Any = None
    epoch: Any = None
    offset: Any = None


_decoder = msgspec.json.Decoder(_Said)
_encoder = msgspec.json.Encoder()


# --- a client hears a deployed server -----------------------------------------------------------------


def read_peer(data: bytes | bytearray | memoryview, *, transport: str | None = None) -> Envelope:
    """One message of a connection, a stream or a folder as an envelope of ours.

    Raises ``TransportError`` (protocol) if it is no JSON object, or neither an answer nor of any type.
    """
    said = _read(data, transport)
    envelope = _envelope(said)
    if envelope.reply_to is None and (envelope.type in ("response", "health_pong")):
        envelope.reply_to = envelope.id
    if not envelope.type:
        raise _strange("a message without a type", data, transport)
    return envelope


def peer_answer(body: bytes, *, call_id: str) -> bytes:
    """The answer to a POST as an envelope of ours: a reply, an error, or ``accepted`` where the ids differ.

    Raises ``TransportError`` (protocol) if it is no JSON object.
    """
    said = _read(body, None)
    envelope = _envelope(said)
    if call_id in (envelope.id, envelope.reply_to):
        envelope.reply_to = call_id
        if envelope.type != "accepted":
            envelope.type = "response"
        if not said.payload and said.error is None and said.success is None:
            envelope.payload = msgspec.Raw(bytes(body))  # the whole body is what the server has to say
    elif envelope.id is None and envelope.reply_to is None and envelope.success is False:
        envelope.type = (
            "response"  # refused before its id was read: the exchange itself says whose answer it is
        )
    else:
        envelope = Envelope(type="accepted", reply_to=call_id)
    return _bytes(envelope)


def peer_response(data: bytes, *, id: str) -> bytes | None:
    """A response file as an envelope of ours; None while it is not whole: its writer may be at it."""
    try:
        envelope = _envelope(_decoder.decode(data))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # half a file; if it stays like this, the call ends by its deadline
    envelope.reply_to, envelope.type = id, "response"
    return _bytes(envelope)


def peer_refusal(body: bytes, *, call_id: str) -> bytes:
    """The body of an answer with an error status as an envelope of ours: it says no, whether it says so or not.

    Raises ``TransportError`` (protocol) if it says nothing of our message or of an error: then the status is all there is.
    """
    said = _read(body, None)
    envelope = _envelope(said)
    ours = call_id in (envelope.id, envelope.reply_to)
    if not ours and (said.error is None or envelope.id is not None or envelope.reply_to is not None):
        raise _strange("no error of the server", body, None)
    envelope.type, envelope.success, envelope.error = "response", False, _error(said.error)
    envelope.reply_to = call_id if ours else None
    return _bytes(envelope)


def _read(data: bytes | bytearray | memoryview, transport: str | None) -> _Said:
    try:
        said = _decoder.decode(data)
        # nested, the inner one is the reply; anything but an object there is a field of the program's own
        if said.type is None and bytes(said.response).startswith(b"{"):
            return _decoder.decode(said.response)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:  # as in the envelope
        raise _strange(f"not a message of a deployed peer ({error})", data, transport) from error
    return said


def _envelope(said: _Said) -> Envelope:
    success = said.success if isinstance(said.success, bool) else None
    answers = _id(said.reply_to) or _id(said.reply_to_snake)
    type = said.type
    if not isinstance(type, str) or not type:
        type = "response" if answers is not None or said.id is not None else ""
    offset = said.offset
    return Envelope(
        id=_id(said.id),
        type=type,
        payload=said.payload or _NULL,
        timestamp=_time(said.timestamp),
        reply_to=answers,
        success=success,
        error=_error(said.error) if success is False else None,
        epoch=said.epoch if isinstance(said.epoch, str) else None,
        offset=offset if isinstance(offset, int) and not isinstance(offset, bool) else None,
    )


def _id(value: object) -> str | None:
    """An id: a text, or the number that some programs count with."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: object) -> float | None:
    return _number(read_time(value)) if isinstance(value, (int, float, str)) else None


def _number(value: object) -> float | None:
    """A number, if it is one that we can count with: JSON's integers have no end."""
    return value if isinstance(value, (int, float)) and abs(value) <= MAX_NUMBER else None


def _error(error: object) -> ErrorBody:
    """An error in any of its forms: nothing, a text, or ``code``, ``message``, ``details``, ``suggestions``."""
    if error is None:
        return ErrorBody(message="the server gives no reason")
    if not isinstance(error, dict):
        return ErrorBody(message=str(error))
    fields = cast("dict[str, Any]", error)
    details, suggestions = fields.get("details"), fields.get("suggestions")
    if suggestions is not None:
        details = {
            **(details if isinstance(details, dict) else {"details": details}),
            "suggestions": suggestions,
        }
    outcome, retry_after = fields.get("outcome"), _number(fields.get("retryAfter"))
    return ErrorBody(
        code=str(fields.get("code") or "error"),
        message=str(fields.get("message") or ""),
        details=details,
        outcome=outcome if isinstance(outcome, str) else None,
        retryAfter=None if retry_after is None else float(retry_after),
    )


def _bytes(envelope: Envelope) -> bytes:
    if not envelope.payload:
        envelope.payload = _NULL  # an empty one would leave a hole in the document
    return _encoder.encode(envelope)


def _strange(what: str, data: bytes | bytearray | memoryview, transport: str | None) -> TransportError:
    return TransportError(f"{what}: {excerpt(data)}", kind=FailureKind.PROTOCOL, transport=transport)


# --- a client speaks to a deployed server -------------------------------------------------------------


def peer_fields(*, sender: str, recipient: str, expires_at: int | None, iso: bool) -> bytes:
    """Further members of a request: who speaks to whom, and, to programs with ISO times, until when it is wanted.

    Programs with times in milliseconds have no expiry, and this machine's clock is not theirs.
    """
    parts: list[bytes] = []
    if sender:
        parts.append(b',"sender":' + _encoder.encode(sender))
    if recipient:
        parts.append(b',"recipient":' + _encoder.encode(recipient))
    if iso and expires_at is not None:
        parts.append(b',"expires_at":"' + iso_text(expires_at).encode() + b'"')
    return b"".join(parts)


def handshake_payload(*, session: str, client: str) -> dict[str, object]:
    """What a connection begins with."""
    name, _, version = client.partition("/")
    return {
        "sessionId": session,
        "client": name,
        "version": version,
        "capabilities": ["request", "push"],
    }


# --- a server hears deployed clients ------------------------------------------------------------------


def adapt_request(envelope: Envelope, *, types: Collection[str], wall: int) -> None:
    """Make a client's message one of ours, in place: its times, its type's spelling. ``wall`` in milliseconds.

    An expiry is in the client's clock, and so is the time at which it was sent: what counts is the span between them.
    """
    sent = read_time(envelope.timestamp)
    expires = read_time(envelope.expires_at)
    envelope.timestamp = sent
    envelope.expires_at = expires if expires is None or sent is None else wall + expires - sent
    if envelope.type in _PROBES and not bytes(envelope.payload).startswith(b"{"):
        envelope.payload = _NULL
    elif envelope.type not in types:
        for spelled in (envelope.type.replace("_", "-"), envelope.type.replace("-", "_")):
            if spelled in types:
                envelope.type = spelled


def speaks_nested(envelope: Envelope) -> bool:
    """True if this client is one of the first ones, which look for their reply in ``response``. They write ISO times."""
    return isinstance(envelope.timestamp, str)


# --- a server speaks to deployed clients --------------------------------------------------------------


def nested_reply(data: bytes) -> bytes:
    """A reply that both kinds of client understand: itself, and inside ``response``."""
    return b'{"response":' + data + b"," + data[1:]


def accepted_elsewhere(id: str | None, *, timestamp: int) -> bytes:
    """The answer to a POST whose reply will come on the stream: any id but the request's."""
    fields = {"id": f"accepted-{id}", "type": "accepted", "timestamp": timestamp, "payload": None}
    return encode_payload(fields, type="accepted")


def is_whole(data: bytes) -> bool:
    """True if a request file holds a whole JSON document. Anything else may be the half of one."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False  # or it never will be one: whoever looks again has an end to that
    return True


def file_response(data: bytes, *, id: str) -> bytes:
    """A reply as a response file holds it: ``id``, ``success``, ``payload`` and ``error``, all of them always."""
    reply = decode(data)
    fields = {
        "id": id,
        "type": "response",
        "replyTo": id,
        "success": reply.success is not False,
        "payload": reply.payload or _NULL,
        "error": reply.error,
        "timestamp": reply.timestamp,
    }
    return _encoder.encode(fields)
