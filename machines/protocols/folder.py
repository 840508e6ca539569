"""The rules of the shared folder, without a file: which names mean what, what may be read, claimed, swept, and when a
server counts as alive.

    FOLDER/requests/request_<id>.json            written by clients
    FOLDER/clients/<client>/response_<id>.json   read, then unlinked by that client
    FOLDER/clients/<client>/push_<number>.json   the same, in order
    FOLDER/tmp/, FOLDER/claims/                  written elsewhere, then moved in: complete when the name appears
    FOLDER/server.json                           the server's beat

A name is made of an id and nothing else, and an id has no character that means anything to a file system; nothing here
normalises a path. Names that are none of these are counted and left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from devpipe.machines.protocols.envelope import valid_id

__all__ = [
    "BEAT",
    "MAX_BEAT",
    "Beat",
    "BeatWatch",
    "Scan",
    "beat_data",
    "client_of",
    "flat_draft",
    "is_flat_draft",
    "is_fresh",
    "is_message",
    "is_orphan",
    "push_name",
    "read_beat",
    "request_id",
    "request_name",
    "response_id",
    "response_name",
    "scan_client",
    "scan_requests",
]

#: The server writes a new beat this often (seconds) ...
BEAT = 1.0
#: ... and is gone when so many looks, a beat apart, saw the same one.
MISSED_BEATS = 5
#: A larger file is no beat (bytes).
MAX_BEAT = 4096
#: Entries that one scan takes; the rest is had with the next one.
MAX_ENTRIES = 10_000
MAX_DIGITS = 16


def request_name(id: str) -> str:
    """The file of a request. Raises ``ValueError`` for what is no id (ids are ours: that is our bug)."""
    return f"request_{_checked(id)}.json"


def response_name(id: str) -> str:
    """The file of a response, in its client's folder."""
    return f"response_{_checked(id)}.json"


def push_name(number: int) -> str:
    """The file of a push; its number is its place."""
    return f"push_{number}.json"


def request_id(name: str) -> str | None:
    """The id that a file in ``requests`` names, None if it is no request."""
    return _between(name, "request_")


def response_id(name: str) -> str | None:
    """The id that a response's file names, None if it is no response."""
    return _between(name, "response_")


def client_of(id: str) -> str | None:
    """The client that an id belongs to: all before its last dash."""
    client, dash, _ = id.rpartition("-")
    return client if dash and valid_id(client) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a listing holds for us: names to take, in this order, and how many mean nothing."""

    names: tuple[str, ...]
    strange: int


def scan_requests(names: Iterable[str]) -> Scan:
    """The requests of a listing, in the order of their names."""
    good: list[str] = []
    strange = 0
    for name in names:
        if request_id(name) is None:
            strange += 1
        elif len(good) < MAX_ENTRIES:
            good.append(name)
    return Scan(names=tuple(sorted(good, key=_request_order)), strange=strange)


def scan_client(names: Iterable[str]) -> Scan:
    """The responses and pushes of a client's listing: responses first, then pushes by their number."""
    responses: list[str] = []
    pushes: list[tuple[int, str]] = []
    strange = 0
    for name in names:
        if _between(name, "response_") is not None:
            responses.append(name)
        elif (number := _push_number(name)) is not None:
            pushes.append((number, name))
        else:
            strange += 1
    names = (*sorted(responses), *(name for _, name in sorted(pushes)))
    return Scan(names=tuple(names)[:MAX_ENTRIES], strange=strange)


def flat_draft(draft: str) -> str:
    """The name of a draft in a flat folder, where it lies beside the messages."""
    return f"{draft}.tmp"


def is_flat_draft(name: str) -> bool:
    """True if a client of ours has begun to write this in a flat folder."""
    return name.startswith("draft_") and name.endswith(".tmp") and valid_id(name[: -len(".tmp")])


def is_message(name: str) -> bool:
    """True if a file in a client's folder is a response or a push."""
    return _between(name, "response_") is not None or _push_number(name) is not None


def is_orphan(*, modified: float, now: float, age: float) -> bool:
    """True if something of ours was left behind so long ago that nobody can be at it; times on the wall clock.

    A time stamp of the future says nothing: clocks differ, and what is not surely old is left alone.
    """
    return 0 <= modified <= now and now - modified > age


# --- the server's beat ------------------------------------------------------------------------------


class Beat(msgspec.Struct):
    """``server.json``: which process serves this folder, and that it still does."""

    server: str
    count: int


_beats = msgspec.json.Decoder(Beat)


def beat_data(server: str, count: int) -> bytes:
    """The bytes of a beat."""
    return msgspec.json.encode(Beat(server=server, count=count))


def read_beat(data: bytes) -> Beat | None:
    """A beat, None if the bytes are none: half a file, or something else of this name."""
    try:
        return _beats.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # whoever wrote that, it is no sign of a server


def is_fresh(*, modified: float, now: float) -> bool:
    """True if a beat of that age may be a living server's; times on the clock that stamps the files.

    A time stamp of the future says nothing: then only another look can tell.
    """
    return now - modified < MISSED_BEATS * BEAT


class BeatWatch:
    """Judges a server by its beats. Only a change that was seen counts: no clock of another machine is believed."""

    def __init__(self) -> None:
        self.known = ""  #: the server that knows us, when it has said so: its beat is the right one
        self.replaced = False  #: the beat is another server's now: what the one before was asked is lost
        self._last: Beat | None = None
        self._same = 0
        self._next_look: float | None = None

    def look(self, beat: Beat | None, *, now: float) -> bool:
        """Look at the beat file; returns True if that was a sign of life. Looks less than a beat apart are free."""
        if beat is not None and (
            self._last is None or (beat.server, beat.count) != (self._last.server, self._last.count)
        ):
            before, self._last, self._same = self._last, beat, 0
            self._next_look = now + BEAT
            if before is not None and beat.server not in (before.server, self.known):
                self.replaced = True
            return before is not None and not self.replaced
        if self.due(now=now):
            # counted in looks, not in seconds: our own sleep is not the server's
            self._same += 1
            self._next_look = now + BEAT
        return False

    def due(self, *, now: float) -> bool:
        """True if a look would count: a beat has passed since the last one."""
        return self._next_look is None or now >= self._next_look

    @property
    def gone(self) -> bool:
        """So many looks, and nothing has changed."""
        return self._same > MISSED_BEATS


# --- inside -----------------------------------------------------------------------------------------


def _checked(id: str) -> str:
    if not valid_id(id):
        raise ValueError(f"{id!r} is no id")
    return id


def _between(name: str, prefix: str) -> str | None:
    if not name.startswith(prefix) or not name.endswith(".json"):
        return None
    id = name[len(prefix) : -len(".json")]
    return id if valid_id(id) else None


def _push_number(name: str) -> int | None:
    digits = _between(name, "push_")
    if digits is None or not digits.isdigit() or len(digits) > MAX_DIGITS:
        return None
    return int(digits)


def _request_order(name: str) -> tuple[int, str]:
    return (len(name), name)  # ids of one client count up: the shorter one is the older
