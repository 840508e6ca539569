"""The client's side of a WebSocket, without a socket: handshake, messages, pings, close codes, limits (RFC 6455).

wsproto does the protocol. What it leaves open is decided here: text only, sizes checked before anything is buffered,
pings answered once per read, and the close code of a failure really sent (wsproto reports a failure that it finds as a
``CloseConnection`` event while its state is still OPEN, so it is answered in that state too).

Feed ``receive_data``; then write ``data_to_send`` and take ``messages``; when ``closed`` is set, the link is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from devpipe.machines.errors import FailureKind
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.websocket_fast import mask_text_frame, take_text_frames

__all__ = ["Handshake", "Phase", "WebSocketClient"]

#: Fragments of one message; more is a peer that wants to keep us busy.
MAX_FRAGMENTS = 1024
#: Pings in one read that are still taken for a heartbeat.
MAX_PINGS = 100
#: Bytes of a refused handshake's body that are kept for the error.
MAX_REFUSAL = 2048
#: wsproto is fed at most so much at once, so that it never builds more events than that.
FEED = 64 * 1024


class Phase(Enum):
    """Where the connection is."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What is asked for. ``headers`` may hold an ``Authorization``; it is never shown."""

    host: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()


class WebSocketClient:
    """One connection. ``limit``: the largest message that is taken, in bytes."""

    def __init__(
        self, handshake: Handshake, *, limit: int, fragment: int = 64 * 1024, fast: bool = True
    ) -> None:
        self.phase = Phase.HANDSHAKE
        self.closed: Failure | None = None  #: why the connection is over
        self.close_code: int | None = None
        self._limit = limit
        self._fragment = fragment
        self._fast = fast
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._out: list[bytes] = []
        self._messages: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._fragments = 0
        self._refusal = b""
        self._refused: RejectConnection | None = None
        self._partial = False  #: wsproto holds a part of a frame or of a message
        self._tail = b""
        headers = [(name.encode(), value.encode()) for name, value in handshake.headers]
        self._out.append(
            self._ws.send(Request(host=handshake.host, target=handshake.target, extra_headers=headers))
        )

    # --- out ------------------------------------------------------------------------------------------

    def data_to_send(self) -> list[bytes]:
        """Bytes to write now, in order."""
        out, self._out = self._out, []
        return out

    def messages(self) -> list[bytes]:
        """Whole messages that have come."""
        messages, self._messages = self._messages, []
        return messages

    def frames(self, payload: bytes, key: bytes) -> list[bytes]:
        """The frames of one text message, each to be written whole; large ones come in pieces so that pings may
        pass between. ``key``: four random bytes."""
        if self._fast and len(payload) <= self._fragment:
            return [mask_text_frame(payload, key)]
        text = payload.decode()
        pieces = [text[i : i + self._fragment] for i in range(0, len(text), self._fragment)] or [""]
        last = len(pieces) - 1
        return [
            self._ws.send(TextMessage(data=piece, message_finished=index == last))
            for index, piece in enumerate(pieces)
        ]

    def ping(self, payload: bytes = b"") -> bytes:
        """A protocol ping."""
        return self._ws.send(Ping(payload=payload))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the frame is in ``data_to_send``."""
        if self.phase is Phase.OPEN and self._ws.state is ConnectionState.OPEN:
            self._out.append(self._ws.send(CloseConnection(code=code, reason=reason)))
        self.phase = Phase.CLOSED

    # --- in -------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Bytes have come. Raises nothing, whatever they are."""
        if self.phase is Phase.CLOSED:
            return
        if self._fast and self.phase is Phase.OPEN and not self._partial:
            data = self._tail + data if self._tail else data
            taken, data = take_text_frames(data, self._limit)
            self._tail = b""
            self._messages += taken
            if not data:
                return
        for start in range(0, len(data), FEED):
            if self.closed is None:
                self._feed(data[start : start + FEED])

    def receive_eof(self) -> None:
        """The other side has closed its half."""
        if self.closed is None:
            if self.phase is Phase.HANDSHAKE:
                self._fail(FailureKind.NETWORK, "the connection was closed during the handshake")
            else:
                self._fail(FailureKind.NETWORK, "the connection was closed without a close frame (1006)")

    # --- inside ---------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        announced = _announced(data) if self.phase is Phase.OPEN and not self._partial else 0
        if announced > self._limit:
            self._close_with(1009, f"a frame of {announced} bytes, the limit is {self._limit}")
            return
        try:
            self._ws.receive_data(data)
            events = list(self._ws.events())
        except RemoteProtocolError as error:
            if self.phase is Phase.HANDSHAKE:
                self._fail(FailureKind.PROTOCOL, f"the answer to the handshake is no WebSocket: {error}")
            else:
                self._close_with(1002, f"broken protocol: {error}")
            return
        except LocalProtocolError:  # bytes after a close: nothing of them counts
            return
        pings: list[Ping] = []
        for event in events:
            match event:
                case AcceptConnection():
                    self._accept(event)
                case RejectConnection():
                    self._refused = event
                    if not event.has_body:
                        self._reject()
                case RejectData():
                    self._refusal = (self._refusal + bytes(event.data))[:MAX_REFUSAL]
                    if event.body_finished:
                        self._reject()
                case TextMessage():
                    self._text(event)
                case BytesMessage():
                    self._close_with(1003, "a binary frame: devpipe speaks text")
                case Ping():
                    pings.append(event)
                case Pong():
                    pass  # any byte was a sign of life already
                case CloseConnection():
                    self._closed_by_peer(event)
                case _:
                    pass
            if self.closed is not None:
                return
        if pings:
            if len(pings) > MAX_PINGS:
                self._close_with(1008, "a flood of pings")
            else:
                self._out.append(self._ws.send(pings[-1].response()))
        self._partial = self._holds_part()

    def _holds_part(self) -> bool:
        if self._parts:
            return True
        proto = getattr(self._ws, "_connection", None)
        decoder = getattr(getattr(proto, "_proto", None), "_frame_decoder", None)
        buffer = getattr(getattr(decoder, "buffer", None), "_buffer", None)
        # unknown insides of another wsproto: then it always holds something, and the fast way stays shut
        return True if buffer is None else len(buffer) > 0 or getattr(decoder, "header", None) is not None

    def _accept(self, event: AcceptConnection) -> None:
        if event.extensions or event.subprotocol:
            self._close_with(1002, "the server chose an extension or subprotocol that was not offered")
            return
        self.phase = Phase.OPEN

    def _reject(self) -> None:
        refused = self._refused
        assert refused is not None  # set by the event before
        status = refused.status_code
        headers = {bytes(k).lower(): bytes(v) for k, v in refused.headers}
        retry_after = headers.get(b"retry-after", b"").decode("latin-1")
        after = float(retry_after) if retry_after.isdigit() else None
        kind = FailureKind.UNAVAILABLE if status >= 500 or status in (408, 425, 429) else FailureKind.PROTOCOL
        if status in (401, 407):
            kind = FailureKind.AUTH
        html = b"html" in headers.get(b"content-type", b"")
        page = " (an HTML page: a proxy or a portal answered)" if html else ""
        if 300 <= status < 400:
            page = " (a redirect, which is never followed)"
        self._fail(kind, f"the handshake was refused with HTTP {status}{page}", retry_after=after)

    def _text(self, event: Message[str]) -> None:
        piece = event.data.encode()
        self._size += len(piece)
        self._fragments += event.frame_finished
        if self._size > self._limit:
            self._close_with(1009, f"a message of more than {self._limit} bytes")
            return
        if self._fragments > MAX_FRAGMENTS:
            self._close_with(1008, f"a message in more than {MAX_FRAGMENTS} fragments")
            return
        self._parts.append(piece)
        if event.message_finished:
            self._messages.append(b"".join(self._parts))
            self._parts, self._size, self._fragments = [], 0, 0

    def _closed_by_peer(self, event: CloseConnection) -> None:
        if self._ws.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._out.append(self._ws.send(event.response()))
        self.close_code = int(event.code)
        words = {1001: "the server is going away", 1008: "the server refuses us by policy"}
        text = words.get(self.close_code, "closed")
        reason = f": {event.reason[:120]!r}" if event.reason else ""
        kind = FailureKind.NETWORK if self.close_code in (1000, 1001, 1006, 1012) else FailureKind.PROTOCOL
        self._fail(kind, f"{text} (close code {self.close_code}){reason}")

    def _close_with(self, code: int, reason: str) -> None:
        if self._ws.state is ConnectionState.OPEN:
            self._out.append(self._ws.send(CloseConnection(code=code, reason=reason[:100])))
        self.close_code = code
        self._fail(FailureKind.PROTOCOL, f"{reason} (closed with {code})")

    def _fail(self, kind: FailureKind, reason: str, *, retry_after: float | None = None) -> None:
        self.closed = Failure(kind=kind, reason=reason, retry_after=retry_after)
        self.phase = Phase.CLOSED


def _announced(data: bytes) -> int:
    """The payload size that the frame header at the beginning of ``data`` announces, 0 if it is not all there."""
    if len(data) < 2:
        return 0
    size = data[1] & 0x7F
    if size == 126:
        return int.from_bytes(data[2:4], "big") if len(data) >= 4 else 0
    if size == 127:
        return int.from_bytes(data[2:10], "big") if len(data) >= 10 else 0
    return size
