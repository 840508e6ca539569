"""What is done to a shared folder, as programs of atomic steps: give, claim, take, withdraw, sweep.

A program is a generator. It yields one step, is sent what the file system answers (an ``OSError`` is thrown into it),
and returns what came of it. A step that was refused has not happened, except a rename, of which a network file system
may lose the answer. Between two steps anything may happen: other processes do theirs, and a killed process ends
at any of them. Whoever carries a program out decides nothing, so what is explored in a model is what runs on a disk.

The law of claiming: a claimer makes the second name ``claims/<name>`` and removes the first one. The claim is won by
whoever *removed* the first name; the second name keeps the others out meanwhile, also if its maker was killed between
the two, until it is surely old. Where files cannot have two names, the rename decides.

A claim may be swept from under a process that was frozen for longer than ``age``. Therefore the age is looked at once
more when the claim is won: what may have been swept is too old to be run, by anybody.

What these programs cannot know: whether the same id ran before. That is the server's memory of ids (``replies.py``). A
process that was frozen past the age may meet, under the name that it claimed, a repetition which another one has claimed
since: therefore only messages of a session are repeated, and a session belongs to one server.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, TypeVar, assert_never

from devpipe.machines.protocols.envelope import valid_id
from devpipe.machines.protocols.folder import is_message, is_orphan, request_id

__all__ = [
    "Answer",
    "Collected",
    "Link",
    "Linked",
    "Look",
    "Move",
    "NotAFile",
    "Place",
    "Program",
    "Read",
    "Remove",
    "Seen",
    "Step",
    "Taken",
    "Write",
    "claim",
    "collect",
    "fetch",
    "give",
    "is_ours",
    "sweep",
    "take",
    "withdraw",
]

R = TypeVar("R")


class Place(Enum):
    """The directories of a shared folder; ``HOME`` is the one of the client in question."""

    ROOT = "root"
    REQUESTS = "requests"
    CLAIMS = "claims"
    TMP = "tmp"
    HOME = "home"


class Linked(Enum):
    """What came of a second name."""

    MADE = "made"
    LOST = "lost"  #: the first name is gone, or the second one is there already
    IMPOSSIBLE = "impossible"  #: this file system knows no second names


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A look at a plain file: when it was written, and what time it is, in seconds of one clock."""

    modified: float
    now: float


class NotAFile(OSError):
    """The entry is a link, a pipe, a directory, a file with two names, or too large: it was not opened for reading."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write a new file with this content. Answer: None."""

    place: Place
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """Rename, over whatever has the new name. Answer: None."""

    source: Place
    name: str
    target: Place
    new: str


@dataclass(frozen=True, slots=True)
class Link:
    """Give a file of ``source`` a second name, the same one, in ``target``. Answer: ``Linked``."""

    source: Place
    name: str
    target: Place


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a name. Answer: True if it was there."""

    place: Place
    name: str


@dataclass(frozen=True, slots=True)
class Read:
    """Read a whole file of at most ``limit`` bytes. Answer: its bytes; ``NotAFile`` for what will never be read."""

    place: Place
    name: str
    limit: int


@dataclass(frozen=True, slots=True)
class Look:
    """Ask for the age of a file. Answer: ``Seen``, None if it is gone or no plain file."""

    place: Place
    name: str


Step: TypeAlias = Write | Move | Link | Remove | Read | Look
Answer: TypeAlias = bool | bytes | Linked | Seen | None
Program: TypeAlias = Generator[Step, Answer, R]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A request that is ours: its bytes, None if it was too old to be run and is removed."""

    data: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was given to a client. ``left``: why the file is still there; it is not to be collected again."""

    data: bytes
    left: OSError | None = None


# --- giving and fetching ------------------------------------------------------------------------------


def give(draft: str, data: bytes, place: Place, name: str) -> Program[None]:
    """Put a whole file in its place by way of ``tmp``. Raises ``OSError`` with nothing left behind."""
    yield Write(Place.TMP, draft, data)
    try:
        yield Move(Place.TMP, draft, place, name)
    except OSError:
        if (yield Remove(Place.TMP, draft)):
            raise
        # it has gone where it should: the answer was lost, and whoever says that it was never sent would be wrong


def collect(name: str, *, limit: int) -> Program[Collected]:
    """Read what was given to a client, then remove it. Raises ``OSError`` if it cannot be read."""
    data = yield Read(Place.HOME, name, limit)
    assert isinstance(data, bytes)  # the answer of this step
    try:
        yield Remove(Place.HOME, name)
    except OSError as error:  # an answer is one although it cannot be removed
        return Collected(data=data, left=error)
    return Collected(data=data)


# --- claiming -----------------------------------------------------------------------------------------


def claim(name: str, *, place: Place, new: str) -> Program[Place | None]:
    """Take a request away from all others. Returns where it is now, None if it is another's.

    It is in ``claims`` under its own name; or in ``place`` as ``new`` where files have one name only.
    """
    match (yield Link(Place.REQUESTS, name, Place.CLAIMS)):
        case Linked.MADE:
            try:
                won = yield Remove(Place.REQUESTS, name)
            except OSError:
                yield Remove(Place.CLAIMS, name)  # else nobody could claim it, and we neither
                raise
            # whoever loses here was frozen for so long that its claim was swept: the file there is not its own
            return Place.CLAIMS if won else None
        case Linked.IMPOSSIBLE:
            try:
                yield Move(Place.REQUESTS, name, place, new)
            except FileNotFoundError:
                return None  # somebody else has it
            return place
        case _:
            return None


def take(name: str, *, age: float, limit: int) -> Program[Taken | None]:
    """A server takes a request of at most ``limit`` bytes; None if it is another's.

    ``age``: what is older is removed, and not run (seconds).

    Raises ``OSError`` as ``claim`` and ``fetch`` do.
    """
    if (yield from claim(name, place=Place.CLAIMS, new=name)) is None:
        return None
    return (yield from fetch(name, age=age, limit=limit))


def fetch(name: str, *, age: float, limit: int) -> Program[Taken]:
    """A server reads what it has claimed; ``age`` and ``limit`` as above.

    Raises ``NotAFile`` for what will never be read, which is removed, and ``OSError`` if it cannot be read now: it stays
    claimed, and may be fetched again.
    """
    seen = yield Look(Place.CLAIMS, name)
    if isinstance(seen, Seen) and is_orphan(modified=seen.modified, now=seen.now, age=age):
        yield Remove(Place.CLAIMS, name)
        return Taken(data=None)
    try:
        data = yield Read(Place.CLAIMS, name, limit)
    except NotAFile:
        yield Remove(Place.CLAIMS, name)
        raise
    assert isinstance(data, bytes)  # the answer of this step
    return Taken(data=data)


def withdraw(name: str, draft: str) -> Program[bool]:
    """A client takes its request back: True if nobody has seen it, or will.

    ``draft``: where it is put if it has to be renamed. A claim of its server may have the name in ``claims``: of the same
    message, sent before.
    """
    place = yield from claim(name, place=Place.TMP, new=draft)
    if place is None:
        return False
    yield Remove(place, draft if place is Place.TMP else name)
    return True


# --- sweeping -----------------------------------------------------------------------------------------


def is_ours(place: Place, name: str) -> bool:
    """True if a name may be swept from this place when it is old: it is one that our programs leave there."""
    match place:
        case Place.CLAIMS:
            return request_id(name) is not None
        case Place.TMP:
            return name.startswith("draft_") and valid_id(name)
        case Place.HOME:
            return is_message(name)
        case Place.REQUESTS | Place.ROOT:
            return False  # a request waits for its server; too old, it is taken and not run
        case _ as never:
            assert_never(never)


def sweep(place: Place, name: str, *, age: float) -> Program[bool]:
    """Remove what was left behind, if it is ours and surely old; True if it is gone by that."""
    if not is_ours(place, name):
        return False
    seen = yield Look(place, name)
    if not isinstance(seen, Seen) or not is_orphan(modified=seen.modified, now=seen.now, age=age):
        return False
    return bool((yield Remove(place, name)))
