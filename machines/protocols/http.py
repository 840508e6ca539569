"""What HTTP means to us: addresses and answers. Pure functions; sockets belong to the adapter.

What may have been executed: everything, once the body could have left. Not executed are statuses with which our
server, or whoever stands before it, provably did not pass the message on (``NOT_PASSED``):

- 400, 401, 403, 404, 405, 406, 407, 408, 411, 413, 414, 415, 417, 421, 426, 429, 431: the request as such is turned
  down, before anything reads its body as a message. 413 from a proxy too: it refuses by the announced length.
- 301, 307, 308: "ask elsewhere"; we never do (facts of redirects: a token would travel along).
- 302 and 303 are also what applications answer *after* they did something, and 500, 502, 503, 504 are also what a
  proxy says when the server died in the middle: not in the list.
"""

from __future__ import annotations

import calendar
import ipaddress
from dataclasses import dataclass
from email.utils import parsedate_tz
from typing import TypeAlias
from urllib.parse import urlsplit

from devpipe.machines.errors import ConfigurationError, FailureKind, TransportError
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.dialect import peer_answer, peer_refusal
from devpipe.machines.protocols.envelope import (
    MAX_REFUSAL_CHARS,
    NOT_NOW,
    Envelope,
    ErrorBody,
    decode,
    encode_reply,
    excerpt,
)
from devpipe.machines.protocols.profiles import nothing_at

__all__ = [
    "NOT_PASSED",
    "Accepted",
    "Answer",
    "Delivered",
    "Reading",
    "Target",
    "Unserved",
    "error_of",
    "is_json",
    "read_answer",
    "read_retry_after",
    "target_of",
    "unauthorized",
]

NOT_PASSED = frozenset(
    {301, 307, 308, 400, 401, 403, 404, 405, 406, 407, 408, 411, 413, 414, 415, 417, 421, 426, 429, 431}
)
#: A server's word on when to come back is believed up to this many seconds: nothing sleeps for ever.
MAX_RETRY_AFTER = 3600.0


# --- addresses ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a server is. ``loopback``: on this machine; ``secure``: reached over TLS."""

    message: str
    stream: str
    secure: bool
    loopback: bool


def target_of(
    server_url: str,
    *,
    prefix: str,
    has_token: bool,
    message_path: str = "/message",
    stream_path: str = "/stream",
) -> Target:
    """The addresses behind ``server_url`` (``http`` or ``https``, with or without a path).

    Raises ``ConfigurationError`` if it is no such address, holds credentials, or would carry a token in clear text
    off this machine.
    """
    try:
        parts = urlsplit(server_url)
        host = parts.hostname
        parts.port  # noqa: B018  (reading it is the check)
    except ValueError:  # brackets that do not close, a port that is no number
        host, parts = None, urlsplit("")
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigurationError("server_url is not allowed: give an address like http://127.0.0.1:8000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            "server_url must hold no user, password, query or fragment: give a token with token= instead"
        )
    secure, loopback = parts.scheme == "https", _is_loopback(host)
    if has_token and not secure and not loopback:
        raise ConfigurationError(
            f"a token would go to {host} in clear text: give an https address, or no token"
        )
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}{prefix.rstrip('/')}"
    return Target(message=base + message_path, stream=base + stream_path, secure=secure, loopback=loopback)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: where it leads is not ours to know
        return False


# --- answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP response to ``url``: status, the two headers that matter ("" if absent), and the whole decoded body.

    ``authorized``: the request has shown a token.
    """

    url: str
    status: int
    content_type: str
    retry_after: str
    body: bytes
    authorized: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The server's reply to the call: an envelope that names it, success or not."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The handler still runs; the reply comes on the stream, in a poll, or when the id is repeated."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """No reply of the server. ``executed``: the message may have reached it all the same."""

    failure: Failure
    executed: bool


Reading: TypeAlias = Delivered | Accepted | Unserved


def read_answer(answer: Answer, *, call_id: str, wall: float, foreign: bool = False) -> Reading:
    """What a response to a message means. ``wall``: seconds since 1970, for a ``Retry-After`` that is a date.

    ``foreign``: it is a deployed server's, in its own dialect.

    A 401 is always ``Unserved`` (auth), whatever its body: the caller may have a newer token.
    """
    status = answer.status
    if status == 401:
        words = unauthorized(shown=answer.authorized)
        return Unserved(failure=Failure(kind=FailureKind.AUTH, reason=words), executed=False)
    if 300 <= status < 400:
        return _unserved(answer, FailureKind.PROTOCOL, "a redirect, which is never followed", wall=wall)
    if not is_json(answer.content_type):
        return _strange(answer, wall=wall)
    body = answer.body
    try:
        if foreign and status < 300:
            body = peer_answer(body, call_id=call_id)
        elif foreign:
            body = peer_refusal(body, call_id=call_id)
        envelope = decode(body)
    except TransportError as broken:
        return _strange(answer, wall=wall, words=str(broken))
    if envelope.reply_to == call_id:
        if (status == 202 and not foreign) or envelope.type == "accepted":
            return Accepted(data=body)
        return Delivered(data=body)
    if envelope.reply_to is not None:
        words = f"a reply to another message: {excerpt(envelope.reply_to)}"
        return _unserved(answer, FailureKind.PROTOCOL, words, wall=wall)
    if envelope.success is False:
        error = error_of(envelope)
        if status >= 500 or status == 429:
            return _not_now(answer, error, wall=wall)
        if status == 404 and error.code == "not_found":  # a server of ours, and none of its paths
            return _strange(answer, wall=wall, words=excerpt(error.message))
        # refused before its id was read: the exchange itself says whose answer this is
        timestamp = envelope.timestamp
        return Delivered(
            data=encode_reply(
                reply_to=call_id,
                timestamp=int(timestamp) if isinstance(timestamp, (int, float)) else 0,
                error=error,
            )
        )
    return _strange(answer, wall=wall, words="a message that answers nothing")


def unauthorized(*, shown: bool) -> str:
    """What a 401 says to the user, on POST, stream and WebSocket. ``shown``: the request has shown a token."""
    if shown:
        return "the server does not accept our token"
    return "the server wants a token: give token= or DEVPIPE_TOKEN"


def error_of(envelope: Envelope) -> ErrorBody:
    """The error of a refusal, also where a server gives only a text, or nothing."""
    error = envelope.error
    if isinstance(error, ErrorBody):
        return error
    return ErrorBody(message=error or "the server gives no reason")


def _not_now(answer: Answer, error: ErrorBody, *, wall: float) -> Unserved:
    rejected = error.outcome == "rejected" or error.code in NOT_NOW or answer.status in NOT_PASSED
    retry_after = read_retry_after(answer.retry_after, wall=wall)
    if retry_after is None and error.retryAfter is not None:
        retry_after = min(MAX_RETRY_AFTER, max(0.0, error.retryAfter))
    return Unserved(
        failure=Failure(
            kind=FailureKind.UNAVAILABLE,
            reason=f"status {answer.status}, {excerpt(error.code)}: {excerpt(error.message, MAX_REFUSAL_CHARS)}",
            retry_after=retry_after,
        ),
        executed=not rejected,
    )


def _strange(answer: Answer, *, wall: float, words: str = "") -> Unserved:
    """An answer that is no envelope, judged by its status."""
    status = answer.status
    if not words:
        page = answer.content_type.partition(";")[0].strip()[:80]
        words = f"answered {excerpt(page)[1:-1] or 'without a content type'}, which is no devpipe message"
        if 200 <= status < 300:
            words += ": something between us and the server answers (a captive portal, a login page?)"
    match status:
        case 403:
            words = f"forbidden by something before the server ({words})"
        case 404 | 405:
            words = f"{words}: {nothing_at(answer.url)}"
        case 413:
            words = f"the message is larger than something before the server takes ({words})"
        case 421:
            words = f"this server does not serve our host name ({words})"
        case _:
            pass
    if status == 429 or status >= 500:
        kind = FailureKind.UNAVAILABLE
    elif status == 408:
        kind = FailureKind.TIMEOUT
    elif status == 407:
        kind = FailureKind.NETWORK  # a proxy's business, not our server's: never final
    else:
        kind = FailureKind.PROTOCOL
    return _unserved(answer, kind, words, wall=wall)


def _unserved(answer: Answer, kind: FailureKind, words: str, *, wall: float) -> Unserved:
    return Unserved(
        failure=Failure(
            kind=kind,
            reason=f"status {answer.status}: {words}",
            retry_after=read_retry_after(answer.retry_after, wall=wall),
        ),
        executed=answer.status not in NOT_PASSED,
    )


def is_json(content_type: str) -> bool:
    """True for ``application/json`` and its kin."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def read_retry_after(value: str, *, wall: float) -> float | None:
    """``Retry-After`` in seconds from now, 0 to one hour; None if it is absent or makes no sense."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(MAX_RETRY_AFTER, float(value[:10]))
    parsed = parsedate_tz(value) if value else None
    if parsed is None:
        return None
    try:
        at = calendar.timegm((*parsed[:6], 0, 1, 0)) - (parsed[9] or 0)
    except (ValueError, OverflowError):  # a month 13, a year 0
        return None
    return min(MAX_RETRY_AFTER, max(0.0, at - wall))
