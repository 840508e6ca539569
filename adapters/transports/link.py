"""What a transport supplies: a small link. Everything else is shared (driver, calls, breaker, lifecycle).

A link carries envelopes. It repeats nothing, decides nothing about retries, and knows no callers: it takes
``Call`` objects, hands their bytes over, and passes every envelope that arrives to its host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call

__all__ = ["Capabilities", "Link", "LinkHost", "LinkLost", "Terms"]


class LinkLost(Exception):
    """A link could not be opened, or is lost. It stays inside the house: callers get a ``TransportError``."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind.value}: {failure.reason}")
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a kind of transport can do, before anything has been measured."""

    supports_realtime: bool
    supports_bidirectional: bool
    supports_filesystem: bool
    supports_streaming: bool
    max_message_bytes: int
    max_concurrent_connections: int
    supported_environments: tuple[str, ...] = ("linux", "macos", "windows", "container")
    #: each message names its session itself, because no connection does
    names_session: bool = False
    cost: float = field(default=0.0)
    #: a living server may need so long to answer anything here (seconds): a call in more of a hurry proves no silence
    answers_within: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a server's answer to ``hello`` has settled for one link.

    ``server``: the identity of the server's process ("" if it knows none); ``session``: the id of the session it
    knows us by, None if it has no sessions; ``max_message_bytes``: the largest message that it takes on this
    transport; ``clock_offset``: the server's clock minus ours, in seconds.
    """

    server: str = ""
    session: str | None = None
    max_message_bytes: int | None = None
    clock_offset: float = 0.0


class LinkHost(Protocol):
    """What a link may tell its transport. None of these blocks; all are called in the link's event loop."""

    def deliver(self, data: bytes | bytearray) -> None:
        """One whole envelope has arrived. Whatever the bytes are, this does not raise."""

    def heard(self) -> None:
        """Bytes arrived, or a write made progress: a sign of life."""

    def undelivered(self, call: Call, failure: Failure) -> None:
        """This call alone has failed on this link; ``call.handed_over`` says whether it may have arrived.

        ``failure.kind`` is that of the path (an HTML page, a 503, a reset): a reply of the server with
        ``success: false`` is no failure, it is delivered like every reply.
        """

    def missed(self, reason: str) -> None:
        """Pushes may be missing from here on, and nobody can say which."""

    def trouble(self, failure: Failure) -> None:
        """Something was wrong and was dealt with: counted, logged, and heard as an ``error`` event."""


class Link(Protocol):
    """One kind of path. The driver opens it, runs it, closes it; at most one at a time per transport."""

    capabilities: Capabilities

    async def open(self, host: LinkHost) -> None:
        """Make the path usable, or raise ``LinkLost``. The driver bounds the time and may cancel.

        A cancelled or failed ``open`` leaves nothing behind.
        """

    async def run(self) -> None:
        """Carry the traffic until cancelled; raises ``LinkLost`` when the path is lost. Runs after ``open``."""

    def submit(self, call: Call) -> None:
        """Take a call whose ``data`` is its envelope; set ``handed_over`` before its bytes may leave.

        Never blocks. Raises ``QueueFull`` if there is no room.
        """

    def withdraw(self, call: Call) -> None:
        """Nobody waits for this call any more: forget it if it still waits, free its slot. Never raises."""

    def established(self, terms: Terms) -> None:
        """The proof came back and the server's answer is known (called after each proof)."""

    async def aclose(self, reason: str) -> None:
        """Say goodbye where the path has a word for it; the driver bounds the time. Safe after any failure."""

    @property
    def queued(self) -> int:
        """Calls that were taken and not yet handed over."""
        ...

    def explain(self) -> str:
        """One line for ``explain()``: what this path does besides the usual (polls, buffered stream, ...); or ""."""
        ...
