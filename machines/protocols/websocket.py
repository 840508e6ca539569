"""The client's side of a WebSocket, without a socket: handshake, messages, pings, close codes, limits (RFC 6455).

wsproto does the protocol. What it leaves open is decided here:

- Text only; permessage-deflate is never offered, because wsproto puts no bound on what it inflates.
- Every frame header is read before wsproto gets the frame, however the bytes are split: sizes, fragments and pings
  are counted there, so nothing is buffered that will be refused anyway.
- wsproto reports a failure that it finds itself as a ``CloseConnection`` *event* while its state is still OPEN. That
  event is answered like a close frame of the peer; otherwise the close code would never be sent.

Feed ``receive_data``; then write ``data_to_send`` and take ``messages``. When ``closed`` is set the link is over, and
what ``data_to_send`` still gives are the last words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from devpipe.machines.errors import FailureKind
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.envelope import MAX_REFUSAL_CHARS, excerpt
from devpipe.machines.protocols.http import unauthorized
from devpipe.machines.protocols.profiles import nothing_at
from devpipe.machines.protocols.websocket_fast import CONTINUE, FIN, TEXT, mask_frame, take_text_frames

__all__ = ["MAX_FRAGMENTS", "MAX_HEAD", "MAX_PINGS", "PING_WINDOW", "Handshake", "Phase", "WebSocketClient"]

#: Fragments of one message; more is a peer that wants to keep us busy.
MAX_FRAGMENTS = 1024
#: Pings within one second that are still taken for a heartbeat.
MAX_PINGS = 100
PING_WINDOW = 1.0
#: Bytes of the answer to the handshake, headers included: what h11 takes too.
MAX_HEAD = 16 * 1024
#: Characters of a peer's own words that go into an error.
MAX_WORDS = 120

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_LONGEST_HEADER = 10  #: bytes of a frame header without a mask
_SIZE_BYTES = {126: 2, 127: 8}  #: how many more bytes tell the size

_TEXT, _BINARY, _PING = 0x1, 0x2, 0x9

#: Our own words for the close codes that a peer may send.
_CLOSE_WORDS = {
    1000: "the server has closed the connection",
    1001: "the server is going away",
    1002: "the server found our frames broken",
    1003: "the server takes no such data",
    1005: "the server has closed the connection without a reason",
    1007: "the server found our text to be no UTF-8",
    1008: "the server refuses us by policy",
    1009: "a message was too large for the server",
    1011: "the server failed",
    1012: "the server restarts",
    1013: "the server has no room now",
}
_UNAVAILABLE = frozenset({1011, 1012, 1013})
_HARMLESS = frozenset({1000, 1001, 1005})


class Phase(Enum):
    """Where the connection is."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What is asked for. ``headers`` may hold an ``Authorization``, so they are never shown."""

    host: str
    target: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class WebSocketClient:
    """One connection. ``limit``: the largest message that is taken; ``fragment``: larger ones go in pieces (bytes).

    Masking keys of messages come from the caller. wsproto draws its own for what it writes itself: the key of the
    handshake, control frames, and with ``fast=False`` everything.
    """

    def __init__(
        self, handshake: Handshake, *, limit: int, fragment: int = 64 * 1024, fast: bool = True
    ) -> None:
        self.phase = Phase.HANDSHAKE
        self.closed: Failure | None = None  #: why the connection is over
        self.close_code: int | None = None  #: what was sent or heard with it
        self._address = f"{handshake.host}{handshake.target}"
        self._limit = limit
        self._fragment = fragment
        self._fast = fast
        self._authorized = any(name.lower() == "authorization" for name, _ in handshake.headers)
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._out: list[bytes] = []
        self._messages: list[bytes] = []
        self._answer = b""  #: of the handshake, as far as it has come
        # the frame that is being read
        self._header = b""  #: the part of it that has come
        self._left = 0  #: bytes of its payload that have not
        # the message that is being read
        self._unfinished = False
        self._size = 0
        self._fragments = 0
        self._parts: list[str] = []
        self._ping: Ping | None = None  #: the latest that is not answered
        self._pings = 0
        self._pings_since = 0.0
        headers = [(name.encode(), value.encode()) for name, value in handshake.headers]
        self._out.append(
            self._ws.send(Request(host=handshake.host, target=handshake.target, extra_headers=headers))
        )

    # --- out ------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """What the protocol itself has to say: write it before anything else."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)

    @property
    def has_data_to_send(self) -> bool:
        """Whether ``data_to_send`` would give anything."""
        return bool(self._out)

    def messages(self) -> list[bytes]:
        """Whole messages that have come."""
        messages, self._messages = self._messages, []
        return messages

    def pieces(self, payload: bytes) -> list[bytes]:
        """A message cut for ``frame``: at most ``fragment`` bytes each, never inside a character."""
        pieces: list[bytes] = []
        at = 0
        while len(payload) - at > self._fragment:
            end = at + self._fragment
            while payload[end] & 0xC0 == 0x80:  # the middle of a character
                end -= 1
            pieces.append(payload[at:end])
            at = end
        pieces.append(payload[at:])
        return pieces

    def frame(self, payload: bytes, key: bytes, *, first: bool = True, last: bool = True) -> bytes:
        """A frame of a text message, to be written whole; a control frame may pass between two of them.

        ``payload``: JSON as UTF-8 bytes. ``key``: four bytes that nobody can guess. ``first`` and ``last``: of its
        message; a message of one frame is both.
        """
        if self._fast:
            return mask_frame((TEXT if first else CONTINUE) | (FIN if last else 0), payload, key)
        return self._ws.send(TextMessage(data=payload.decode(), message_finished=last))

    def ping(self, payload: bytes = b"") -> None:
        """Ask for a sign of life; the frame is in ``data_to_send``."""
        if self.phase is Phase.OPEN:
            self._out.append(self._ws.send(Ping(payload=payload)))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the frame is in ``data_to_send``. Whatever comes afterwards is not read."""
        if self.phase is Phase.OPEN:
            self._out.append(self._ws.send(CloseConnection(code=code, reason=reason)))
            self.close_code = code
        self.phase = Phase.CLOSED

    # --- in -------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, *, now: float) -> None:
        """Bytes have come. Raises nothing, whatever they are."""
        at = 0
        if self.phase is Phase.HANDSHAKE:
            data = self._receive_answer(data)
        end = len(data)
        while at < end and self.phase is Phase.OPEN:
            if self._fast and not (self._left or self._header or self._unfinished):
                taken, at = take_text_frames(data, at, self._limit)
                self._messages += taken
                if at == end:
                    break
            at = self._receive_frames(data, at, now)
        if self._ping is not None and self.phase is Phase.OPEN:
            self._out.append(self._ws.send(self._ping.response()))
            self._ping = None

    def receive_eof(self) -> None:
        """The other side has closed its half. A second time, or after a close, changes nothing."""
        if self.phase is Phase.HANDSHAKE:
            self._fail(FailureKind.NETWORK, "the connection was closed during the handshake")
        elif self.phase is Phase.OPEN:
            self.close_code = 1006
            self._fail(FailureKind.NETWORK, "the connection was closed without a close frame (1006)")

    # --- the handshake ----------------------------------------------------------------------------------

    def _receive_answer(self, data: bytes) -> bytes:
        """Take the answer to the handshake; returns what comes behind it."""
        self._answer += data
        end = _END_OF_HEAD.search(self._answer)
        head = self._answer[: end.end() if end else len(self._answer)]
        if len(head) > MAX_HEAD:
            self._fail(FailureKind.PROTOCOL, f"the answer to the handshake has more than {MAX_HEAD} bytes")
            return b""
        if end is None:
            return b""
        rest, self._answer = self._answer[len(head) :], b""
        try:
            self._ws.receive_data(head)
            event = next(iter(self._ws.events()))
        except (RemoteProtocolError, UnicodeDecodeError, StopIteration) as error:
            # the second from wsproto, for headers that are no ASCII; the third: a head that says nothing
            self._fail(
                FailureKind.PROTOCOL, f"the answer to the handshake is no WebSocket's: {_words(error)}"
            )
            return b""
        if isinstance(
            event, AcceptConnection
        ):  # an extension or subprotocol that was not asked for has raised
            self.phase = Phase.OPEN
            return rest
        assert isinstance(event, RejectConnection)  # nothing else answers a request
        self._reject(event)
        return b""

    def _reject(self, refused: RejectConnection) -> None:
        status = refused.status_code
        headers = {bytes(name).lower(): bytes(value) for name, value in refused.headers}
        note = ""
        if 300 <= status < 400:
            note = " (a redirect, which is never followed)"
        elif b"html" in headers.get(b"content-type", b"").lower():
            note = " (an HTML page: a proxy, a portal or a web site has answered)"
        elif said := headers.get(b"devpipe-error", b"").decode("latin-1"):
            note = f": {excerpt(said, MAX_REFUSAL_CHARS)}"
        if status == 404:
            note += f": {nothing_at(self._address)}"
        elif status == 403 and not note:  # so a framework's refusal of a path that it has not looks, too
            note = f": it is forbidden, or there is {nothing_at(self._address)}"
        if status in (401, 403, 407):
            kind = FailureKind.AUTH
        elif status >= 500 or status in (408, 425, 429):
            kind = FailureKind.UNAVAILABLE
        else:
            kind = FailureKind.PROTOCOL
        words = f"the handshake was refused with HTTP {status}{note}"
        if status == 401:
            words = unauthorized(shown=self._authorized)
        seconds = headers.get(b"retry-after", b"")
        self._fail(
            kind,
            words,
            # seconds only: reading a date needs a clock
            retry_after=float(seconds) if seconds.isdigit() and len(seconds) <= 6 else None,
        )

    # --- frames -------------------------------------------------------------------------------------------

    def _receive_frames(self, data: bytes, at: int, now: float) -> int:
        """Let wsproto read on from ``at``; returns where it stopped: at a border, or at the end of ``data``."""
        end, refusal = self._admit(data, at, now)
        if end > at:
            self._ws.receive_data(data[at:end])
            for event in self._ws.events():
                match event:
                    case TextMessage():
                        self._parts.append(event.data)
                        if event.message_finished:
                            self._messages.append("".join(self._parts).encode())
                            self._parts = []
                    case Ping():
                        self._ping = event
                    case CloseConnection():
                        self._closed_by(event)
                        return end
                    case _:
                        pass  # a pong: any byte was a sign of life already
        if refusal is not None:
            code, words = refusal
            self._out.append(self._ws.send(CloseConnection(code=code, reason=words)))
            self.close_code = code
            self._fail(FailureKind.PROTOCOL, f"{words} (closed with {code})")
        return end

    def _admit(self, data: bytes, at: int, now: float) -> tuple[int, tuple[int, str] | None]:
        """Read frame headers from ``at`` on. How far wsproto may read, and why no further (close code, words)."""
        end = len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
            else:
                before = len(self._header)
                header = self._header + data[at : at + _LONGEST_HEADER - before]
                short = header[1] & 0x7F if len(header) > 1 else 0
                size_bytes = _SIZE_BYTES.get(short, 0)
                if len(header) < 2 + size_bytes:
                    self._header = header
                    return end, None
                self._header = b""
                size = int.from_bytes(header[2 : 2 + size_bytes], "big") if size_bytes else short
                refusal = self._judge(header[0], size, now)
                if refusal is not None:
                    return at, refusal
                at += 2 + size_bytes - before
                self._left = size
            if self._fast and not self._left:
                return at, None  # a border: perhaps the fast way is open again
        return at, None

    def _judge(self, first: int, size: int, now: float) -> tuple[int, str] | None:
        """What is wrong with a frame of this first byte and size that wsproto would take. None: nothing."""
        opcode = first & 0x0F
        if opcode == _BINARY:
            return 1003, "a binary frame: devpipe speaks text"
        if opcode == _PING:
            if now - self._pings_since >= PING_WINDOW:
                self._pings_since, self._pings = now, 0
            self._pings += 1
            if self._pings > MAX_PINGS:
                return 1008, f"more than {MAX_PINGS} pings within {PING_WINDOW:g} s"
        elif opcode <= _TEXT:
            if opcode == _TEXT:
                self._size = self._fragments = 0
            self._size += size
            self._fragments += 1
            self._unfinished = not first & FIN
            if self._size > self._limit:
                return 1009, f"a message of {self._size} bytes or more, the limit is {self._limit}"
            if self._fragments > MAX_FRAGMENTS:
                return 1009, f"a message in more than {MAX_FRAGMENTS} fragments"
        return None

    def _closed_by(self, event: CloseConnection) -> None:
        ours = self._ws.state is ConnectionState.OPEN  # wsproto's own finding, not a frame of the peer
        self._out.append(self._ws.send(event.response()))
        code = self.close_code = int(event.code)
        said = f": {event.reason[:MAX_WORDS]!r}" if event.reason else ""
        if ours:
            self._fail(FailureKind.PROTOCOL, f"the server broke the protocol{said} (closed with {code})")
            return
        words = _CLOSE_WORDS.get(code, "the server has closed the connection")
        kind = FailureKind.PROTOCOL
        if code in _UNAVAILABLE:
            kind = FailureKind.UNAVAILABLE
        elif code in _HARMLESS:
            kind = FailureKind.NETWORK
        self._fail(kind, f"{words} (close code {code}){said}")

    def _fail(self, kind: FailureKind, reason: str, *, retry_after: float | None = None) -> None:
        self.closed = Failure(kind=kind, reason=reason, retry_after=retry_after)
        self.phase = Phase.CLOSED


def _words(error: Exception) -> str:
    """A library's words about a peer's bytes, cut, and with nothing in them that a terminal would obey."""
    return ascii(str(error)[:MAX_WORDS])[1:-1]
