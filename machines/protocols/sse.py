"""Server-sent events, both ways, by the WHATWG text ("9.2 Server-sent events"); bytes in at any cut.

Data stays bytes: an event of ours is one envelope, and bytes go to the JSON decoder as they came. Splitting bytes
before decoding them is the same as the other way round, because CR, LF, colon and space are ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpipe.machines.errors import FailureKind, InvalidMessage, TransportError

__all__ = ["MAX_RETRY_DIGITS", "SseEvent", "SseParser", "encode_comment", "encode_event"]

_BOM = b"\xef\xbb\xbf"
#: ``retry`` with more digits (over eleven days of milliseconds) is a mistake, and is ignored like other mistakes.
MAX_RETRY_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class SseEvent:
    """One event. ``data``: its lines joined by LF, as bytes. ``last_event_id``: the id that stood when it ended."""

    data: bytes
    type: str = "message"
    last_event_id: str = ""

    @property
    def text(self) -> str:
        """The data as text; bytes that are no UTF-8 become U+FFFD, as the standard has it."""
        return self.data.decode("utf-8", "replace")


class SseParser:
    """Reads one stream. Make a new one for each connection; ``last_event_id`` and ``retry`` outlive it in the caller.

    ``max_line_bytes`` bounds a line without its end, ``max_event_bytes`` the data of an event (a line end counts
    one byte). Memory is bounded by both.
    """

    def __init__(self, *, max_line_bytes: int, max_event_bytes: int, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id  #: of the last block that was not cut off
        self.retry: int | None = None  #: the server's wish for the reconnection time, in milliseconds
        self._max_line = max_line_bytes
        self._max_event = max_event_bytes
        self._error: str | None = None
        self._events: list[SseEvent] = []
        self._start: bytes | None = b""  #: bytes before it is known whether the stream begins with a BOM
        self._after_cr = False
        self._tail: list[bytes] = []  #: pieces of a line whose end has not come
        self._tail_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._type = b""
        self._id = last_event_id

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they came; events that are complete wait in ``drain_events``.

        Raises ``TransportError`` (protocol) when a limit is passed, and again on each later call: nothing after that
        can be trusted. Events that were complete before it can still be drained.
        """
        if self._error is not None:
            raise TransportError(self._error, kind=FailureKind.PROTOCOL)
        if self._start is not None:
            chunk = self._start + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._start = chunk
                return
            self._start = None
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr or b"\r" in chunk:  # rare: made plain first, so that the usual case has one split
            if self._after_cr and chunk:
                self._after_cr = False
                chunk = chunk.removeprefix(b"\n")
            self._after_cr = self._after_cr or chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        last = lines.pop()
        if lines and self._tail:
            lines[0] = b"".join((*self._tail, lines[0]))
            self._tail.clear()
            self._tail_size = 0
        for line in lines:
            if len(line) > self._max_line:
                self._fail(f"a line of the event stream is longer than {self._max_line} bytes")
            if line:
                self._take_line(line)
            else:
                self._end_block()
        if last:
            self._tail.append(last)
            self._tail_size += len(last)
            if self._tail_size > self._max_line:
                self._fail(f"a line of the event stream is longer than {self._max_line} bytes")

    def drain_events(self) -> list[SseEvent]:
        """What is complete, in order. A block that the end of the stream cuts off never is."""
        events, self._events = self._events, []
        return events

    def _take_line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b" ", 5) else line[5:]
            self._take_data(value)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._take_data(value)
            case b"event":
                self._type = value
            case b"id":
                if b"\0" not in value:
                    self._id = value.decode("utf-8", "replace")
            case b"retry":
                digits = value.lstrip(b"0") or value[:1]
                if value.isdigit() and len(digits) <= MAX_RETRY_DIGITS:
                    self.retry = int(digits)
            case _:
                pass  # a comment (no name), or a field that the standard does not have: ignored

    def _take_data(self, value: bytes) -> None:
        self._data.append(value)
        self._data_size += len(value) + 1
        if self._data_size > self._max_event + 1:
            self._fail(f"an event of the event stream is larger than {self._max_event} bytes")

    def _end_block(self) -> None:
        self.last_event_id = self._id
        if self._data:
            self._events.append(
                SseEvent(
                    data=self._data[0] if len(self._data) == 1 else b"\n".join(self._data),
                    type=self._type.decode("utf-8", "replace") or "message",
                    last_event_id=self._id,
                )
            )
            self._data = []
            self._data_size = 0
        self._type = b""

    def _fail(self, words: str) -> None:
        self._error = words
        self._tail.clear()
        self._data.clear()
        raise TransportError(words, kind=FailureKind.PROTOCOL)


def encode_event(
    data: bytes | str, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """One event as bytes. CR, LF and CRLF in ``data`` all come out as LF at the other end.

    ``retry`` in milliseconds. Raises ``InvalidMessage`` if ``event`` or ``id`` hold CR, LF or NUL (they would become
    fields of their own, or be ignored), or if a text cannot be written as UTF-8.
    """
    lines: list[bytes] = []
    if event is not None:
        lines.append(b"event: " + _word(event, "event"))
    if id is not None:
        lines.append(b"id: " + _word(id, "id"))
    if retry is not None:
        if retry < 0:
            raise InvalidMessage(f"retry = {retry} is not allowed: give milliseconds")
        lines.append(b"retry: %d" % retry)
    body = _utf8(data, "data") if isinstance(data, str) else data
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines.extend(b"data: " + line for line in body.split(b"\n"))
    return b"\n".join(lines) + b"\n\n"


def encode_comment(text: str = "") -> bytes:
    """A line that says nothing, to keep proxies and clients sure that the stream lives."""
    return b": " + _word(text, "comment") + b"\n\n"


def _word(text: str, field: str) -> bytes:
    if any(bad in text for bad in "\r\n\0"):
        raise InvalidMessage(f"{field} = {text[:80]!r} is not allowed: it holds CR, LF or NUL")
    return _utf8(text, field)


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InvalidMessage(f"{field} cannot be written as UTF-8: {error}") from error
