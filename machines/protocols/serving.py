"""What the server's adapters tell the service, and what it asks of them. Paths and runs are plain numbers here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from devpipe.machines.message import Position, Priority
from devpipe.machines.protocols.envelope import ErrorBody

__all__ = [
    "Arrived",
    "CancelHandler",
    "ClosePath",
    "HandlerEnded",
    "PathClosed",
    "PathOpened",
    "Pushed",
    "RunHandler",
    "SendTo",
    "ServiceEffect",
    "ServiceInput",
    "Shutdown",
    "StreamOpened",
]


# --- inputs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PathOpened:
    """A connection, one HTTP exchange, or a client's folder. ``path`` counts from 1 and is never used again.

    ``transport`` is its type; for ``http`` one path is one exchange, for which one reply is sent.
    """

    path: int
    transport: str
    max_message_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """A client wants its stream of pushes and late replies: answered with ``ClosePath`` if it is refused.

    ``last_event_id`` is what a reconnecting client has seen last (``epoch:offset``), or "".
    """

    path: int
    session: str
    server: str
    last_event_id: str
    max_message_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One whole message, whatever its bytes are."""

    path: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PathClosed:
    """This path is gone. What runs goes on: an execution belongs to the session."""

    path: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerEnded:
    """A handler has ended: with its result as JSON, or with an error. Comes for each ``RunHandler``, once."""

    run: int
    payload: bytes = b"null"
    error: ErrorBody | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """The program pushes to every session, or to the one of this name. ``payload`` is JSON."""

    type: str
    payload: bytes
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """The server closes: nothing new runs, what runs is cancelled and answered, every path is closed."""


ServiceInput: TypeAlias = PathOpened | StreamOpened | Arrived | PathClosed | HandlerEnded | Pushed | Shutdown


# --- effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHandler:
    """Start the handler of this type; answer with ``HandlerEnded`` of this run, also after a cancel.

    ``session`` is the session's name: a digest, fit for logs, by which the program may push to it.
    """

    run: int
    type: str
    id: str | None
    session: str | None
    payload: msgspec.Raw | None
    timestamp: float
    priority: Priority
    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelHandler:
    """Nobody waits for this run any more. Its outcome has been answered; ``HandlerEnded`` is still due."""

    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTo:
    """Hand these bytes to this path.

    ``reply_to``: the id that they answer. ``position``: the place of a push. ``accepted``: they are no answer yet,
    but the word that one will come (202 on HTTP). ``error``: the code, if they are a refusal or an error.
    """

    path: int
    data: bytes
    reply_to: str | None = None
    position: Position | None = None
    accepted: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePath:
    """End this path: ``code`` in the words of WebSocket (1001 going away, 1008 policy)."""

    path: int
    code: int
    error: ErrorBody


ServiceEffect: TypeAlias = RunHandler | CancelHandler | SendTo | ClosePath
