"""The stream of pushes over HTTP: what its answer means, when it is opened again, when pushes are polled instead.

The plan decides; the adapter reads. A stream that was proven and then lost is opened again after a short, growing,
spread wait. One that shows nothing in time is held back by a proxy, and one that cannot be had at all is no better:
then pushes are polled, and the stream is tried again much later.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import msgspec

from devpipe.machines.decisions.backoff import growing
from devpipe.machines.errors import FailureKind, TransportError
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.envelope import decode, encode_payload, encode_request, excerpt
from devpipe.machines.protocols.http import Answer, Unserved, error_of, is_json, read_answer

__all__ = [
    "BodyReader",
    "Poll",
    "StreamPlan",
    "StreamRefusal",
    "check_proof",
    "encode_poll",
    "read_attach",
    "read_poll",
    "read_stream_head",
]

#: A stream that has lived so long (seconds) was a good one: the next wait is short again.
STEADY = 5.0
#: Streams in a row that fail without a proof, before pushes are polled.
TRIES = 3
#: Seconds of polling after which the stream is tried again.
STREAM_AGAIN = 300.0
#: The wait before a new stream: uniform between 0 and 1 s * 1.5^n, 10 s at most; a server's wish up to 60 s.
WAIT_INITIAL, WAIT_FACTOR, WAIT_MOST, WISH_MOST = 1.0, 1.5, 10.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRefusal:
    """No stream. ``lost``: requests would be refused as well; ``for_good``: trying again soon is useless."""

    failure: Failure
    lost: bool = False
    for_good: bool = False


def read_stream_head(answer: Answer, *, wall: float) -> StreamRefusal | None:
    """What the response to the request for a stream means; None if the stream has begun."""
    status = answer.status
    if status == 200 and answer.content_type.partition(";")[0].strip().lower() == "text/event-stream":
        return None
    # 204 is the standard's word for "do not come back"
    return _refusal(answer, call_id="", wall=wall, for_good=status in (204, 404, 405, 406, 501))


def _refusal(answer: Answer, *, call_id: str, wall: float, for_good: bool = False) -> StreamRefusal:
    if is_json(answer.content_type) and _code(answer.body) == "session_unknown":
        failure = Failure(
            kind=FailureKind.UNAVAILABLE, reason="the server does not know our session any more"
        )
        return StreamRefusal(failure=failure, lost=True)
    reading = read_answer(answer, call_id=call_id, wall=wall)
    if isinstance(reading, Unserved):
        failure = reading.failure
    else:
        code = excerpt(_code(reading.data))
        failure = Failure(kind=FailureKind.UNAVAILABLE, reason=f"status {answer.status}: refused, {code}")
    return StreamRefusal(failure=failure, lost=failure.kind is FailureKind.AUTH, for_good=for_good)


def _code(body: bytes) -> str:
    try:
        return error_of(decode(body)).code
    except TransportError:  # no envelope: then it has no code either
        return ""


class _Proof(msgspec.Struct):
    nonce: str
    server: str = ""


_proof_decoder = msgspec.json.Decoder(_Proof)


def check_proof(data: bytes, *, nonce: str, server: str) -> None:
    """Raises ``TransportError`` (protocol) if this is not the proof of our nonce by our server's process."""
    try:
        proof = _proof_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # as in the envelope
        raise TransportError(
            f"the first event of the stream is no proof: {excerpt(data)}", kind=FailureKind.PROTOCOL
        ) from error
    if proof.nonce != nonce:
        raise TransportError("the stream proves a nonce that is not ours", kind=FailureKind.PROTOCOL)
    if server and proof.server != server:
        raise TransportError(
            "the stream comes from another server than the replies", kind=FailureKind.PROTOCOL
        )


# --- polls --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The answer to a poll: envelopes, the position of the last push among them; or a refusal."""

    messages: tuple[bytes, ...] = ()
    position: tuple[str, int] | None = None
    refusal: StreamRefusal | None = None


class _PollPayload(msgspec.Struct):
    messages: list[msgspec.Raw] = []


class _Attach(msgspec.Struct):
    epoch: str | None = None
    after: int = 0


_poll_decoder = msgspec.json.Decoder(_PollPayload)
_attach_decoder = msgspec.json.Decoder(_Attach)


def encode_poll(
    *, id: str, position: tuple[str, int] | None, hold: float, session: str, server: str, timestamp: int
) -> bytes:
    """The ``poll`` that asks for what came after ``position`` (None: after what ``attach`` said).

    ``hold``: seconds that the server may wait; ``timestamp`` in milliseconds.
    """
    payload: dict[str, object] = {"hold": hold}
    if position is not None:
        payload |= {"epoch": position[0], "after": position[1]}
    return encode_request(
        id=id,
        type="poll",
        payload=encode_payload(payload, type="poll"),
        timestamp=timestamp,
        session=session,
        server=server,
    )


def read_poll(answer: Answer, *, call_id: str, wall: float) -> Poll:
    """What a response to a poll means. Raises ``TransportError`` (protocol) if its envelopes cannot be read."""
    reading = read_answer(answer, call_id=call_id, wall=wall)
    if isinstance(reading, Unserved):
        return Poll(refusal=_refusal(answer, call_id=call_id, wall=wall))
    envelope = decode(reading.data)
    if envelope.success is False:
        return Poll(refusal=_refusal(answer, call_id=call_id, wall=wall))
    position: tuple[str, int] | None = None
    try:
        payload = _poll_decoder.decode(envelope.payload or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # as in the envelope
        raise TransportError(
            f"the answer to a poll cannot be read: {error}", kind=FailureKind.PROTOCOL
        ) from error
    messages = tuple(bytes(raw) for raw in payload.messages)
    for message in messages:
        push = decode(message)
        if push.epoch is not None and push.offset is not None:
            position = (push.epoch, push.offset)
    return Poll(messages=messages, position=position)


def read_attach(payload: bytes) -> tuple[str, int] | None:
    """The position that an ``attach`` of ours names, None if it has none yet."""
    attach = _attach_decoder.decode(payload)
    return None if attach.epoch is None else (attach.epoch, attach.after)


# --- the plan -----------------------------------------------------------------------------------------


class StreamPlan:
    """Whether to open the stream or to poll, and after which wait. ``polling=False``: the server knows no polls."""

    def __init__(self, *, polling: bool = True) -> None:
        self._polling = polling
        self.why = ""  #: why pushes are polled, "" while they are not
        self._polls_until: float | None = None
        self._proven_at: float | None = None
        self._losses = 0
        self._unproven = 0

    def polls(self, *, now: float) -> bool:
        """True while pushes are polled."""
        if self._polls_until is not None and now >= self._polls_until:
            self._polls_until = None
            self._unproven = TRIES - 1  # one try, then polls again
        return self._polls_until is not None

    def proved(self, *, now: float) -> None:
        """The first event came, with our nonce."""
        self.why = ""
        self._unproven = 0
        self._proven_at = now

    def held_back(self, *, now: float, seconds: float) -> None:
        """Nothing came in time: somebody buffers."""
        self._poll(f"nothing came on the stream within {seconds:g} s, something buffers it", now=now)

    def ended(
        self,
        failure: Failure,
        *,
        now: float,
        jitter: float,
        for_good: bool = False,
        retry_ms: int | None = None,
    ) -> float:
        """The stream, or the attempt to open one, is over. Returns the seconds until the next step."""
        proven_at, self._proven_at = self._proven_at, None
        if not self._polling:
            self.why = failure.reason
            if for_good:
                return STREAM_AGAIN
        elif proven_at is None:
            self._unproven += 1
            if for_good or self._unproven >= TRIES:
                self._poll(failure.reason, now=now)
                return 0.0
        if proven_at is not None and now - proven_at >= STEADY:
            self._losses = 0
        return self._wait(failure, jitter=jitter, retry_ms=retry_ms)

    def poll_failed(self, failure: Failure, *, jitter: float) -> float:
        """A poll came back without an answer. Returns the seconds until the next one."""
        return self._wait(failure, jitter=jitter, retry_ms=None)

    def polled(self) -> None:
        """A poll was answered."""
        self._losses = 0

    def _wait(self, failure: Failure, *, jitter: float, retry_ms: int | None) -> float:
        bound = growing(count=self._losses, initial=WAIT_INITIAL, factor=WAIT_FACTOR, most=WAIT_MOST)
        self._losses += 1
        wish = 0.0 if retry_ms is None else min(WISH_MOST, retry_ms / 1000)
        return max(jitter * bound, wish, failure.retry_after or 0.0)

    def _poll(self, why: str, *, now: float) -> None:
        self.why = why
        self._proven_at = None
        self._losses = 0
        self._polls_until = now + STREAM_AGAIN


class BodyReader:
    """Takes a response's body as it comes off the wire and stops at ``limit`` bytes, *after* unpacking.

    We ask for no compression; a box on the way that compresses all the same is understood if it uses gzip or
    deflate, once. The unpacker never makes more than ``limit`` bytes, so a bomb costs no more than a large reply.
    ``encoding``: the ``Content-Encoding``. Raises ``TransportError`` (protocol).
    """

    def __init__(self, *, limit: int, encoding: str = "") -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._unpack = None
        word = encoding.strip().lower()
        if word in ("gzip", "x-gzip", "deflate"):
            self._unpack = zlib.decompressobj(47)  # 32 + 15: the header tells gzip from zlib
        elif word not in ("", "identity"):
            raise TransportError(
                f"an encoding that nobody asked for: {excerpt(encoding)}", kind=FailureKind.PROTOCOL
            )

    def unpack(self, chunk: bytes) -> bytes:
        """The plain bytes of one chunk, at most ``limit``."""
        if self._unpack is None:
            return chunk
        try:
            plain = self._unpack.decompress(chunk, self._limit + 1)
        except zlib.error as error:
            raise TransportError(
                f"the body cannot be unpacked: {error}", kind=FailureKind.PROTOCOL
            ) from error
        if len(plain) > self._limit:
            raise self._too_large()
        return plain

    def feed(self, chunk: bytes) -> None:
        """Take one chunk of a body that is kept whole."""
        plain = self.unpack(chunk)
        self._size += len(plain)
        if self._size > self._limit:
            self._parts.clear()
            raise self._too_large()
        self._parts.append(plain)

    def finish(self) -> bytes:
        """The whole body. Raises ``TransportError`` (network) if a packed one was cut off."""
        if self._unpack is not None and self._size and not self._unpack.eof:
            raise TransportError("the packed body was cut off", kind=FailureKind.NETWORK)
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _too_large(self) -> TransportError:
        return TransportError(f"the body is larger than {self._limit} bytes", kind=FailureKind.PROTOCOL)
