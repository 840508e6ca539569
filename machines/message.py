"""What a program sends and hears: messages, replies, gaps, priorities.

The bytes behind them are the envelope's business (``protocols/envelope.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from devpipe.machines.errors import FailureKind, TransportError

__all__ = ["Gap", "Message", "Position", "Priority"]

_decode_any = msgspec.json.Decoder().decode


class Priority(IntEnum):
    """Who goes first where messages wait. The words on the wire are the lower-case names."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a push stands: ``offset`` counts up from 1 inside one push history, the ``epoch``."""

    epoch: str
    offset: int


class Message:
    """One message as a program sees it: a request, a reply or a push.

    ``payload`` is decoded from JSON when it is first read, so that a message which is only passed on
    costs nothing; a payload that turns out to be broken raises ``TransportError`` of kind ``protocol``
    that names the message. ``timestamp`` is in milliseconds since 1970, as the sender's clock had it.
    """

    __slots__ = (
        "_payload",
        "_raw",
        "id",
        "position",
        "priority",
        "session",
        "timestamp",
        "transport",
        "type",
    )

    def __init__(
        self,
        *,
        id: str | None,
        type: str,
        raw: bytes | msgspec.Raw | None,
        timestamp: float = 0,
        priority: Priority = Priority.NORMAL,
        session: str | None = None,
        position: Position | None = None,
        transport: str | None = None,
    ) -> None:
        self.id = id
        self.type = type
        self.timestamp = timestamp
        self.priority = priority
        self.session = session
        self.position = position
        self.transport = transport
        self._raw = raw
        self._payload: Any = None

    @property
    def payload(self) -> Any:
        """The JSON value that was sent, as Python objects.

        Raises ``TransportError`` (kind ``protocol``) if the bytes are no JSON value.
        """
        if self._raw is not None:
            try:
                self._payload = _decode_any(self._raw)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise TransportError(
                    f"the payload of message {self.id!r} ({self.type!r}) is not valid JSON: {error}",
                    kind=FailureKind.PROTOCOL,
                    transport=self.transport,
                    message_id=self.id,
                ) from error
            self._raw = None
        return self._payload

    def __repr__(self) -> str:
        return f"<Message {self.type!r} id={self.id!r} transport={self.transport!r}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Some pushes may be missing here. ``after`` and ``before`` bound them, None where it is not known."""

    after: Position | None
    before: Position | None
    reason: str
