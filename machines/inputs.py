"""What an adapter tells a core. Plain data: bytes cross, sockets, tasks and callbacks never do.

Every value that a core could not know without a clock or a die comes in here: ``jitter`` is a fraction
in [0, 1) drawn by the adapter, ids and nonces are made of a prefix that the core was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from devpipe.machines.errors import FailureKind

__all__ = [
    "Alive",
    "Assess",
    "BreakerInput",
    "CallsWaiting",
    "Close",
    "Connect",
    "Destroy",
    "Disconnect",
    "Drain",
    "Drained",
    "Failed",
    "Failure",
    "FailoverInput",
    "Hold",
    "Initialize",
    "LifecycleInput",
    "LinkClosed",
    "Open",
    "Opened",
    "PathFailed",
    "PathProven",
    "Pin",
    "Proved",
    "Select",
    "Standing",
    "Suspect",
    "TransportDown",
    "TransportUp",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something on a transport failed.

    ``refused``: the other side said no at once (a refused connection), which tells a server that is down
    from a path that swallows. ``retry_after``: the server's own word on when to come back, in seconds.
    """

    kind: FailureKind
    reason: str
    refused: bool = False
    retry_after: float | None = None


# --- lifecycle -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialize:
    """The operator has configured the transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """The operator, or the manager, wants the transport up. ``jitter`` spreads the first dial too."""

    jitter: float = 0.0
    immediately: bool = False  #: the manager needs it now: skip the wait of a backoff, never that of a block


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The operator wants the transport down. It can be connected again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroy:
    """The operator is done with the transport for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The link of this generation is open. It counts as up only after a proof."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A nonce came back on the path that messages take.

    ``server``: the identity in the echo ("" if the server knows none). ``latency`` in seconds.
    """

    generation: int
    nonce: str
    server: str
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The link of this generation could not be opened, or is lost."""

    generation: int
    failure: Failure
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClosed:
    """The link of this generation has been closed at our wish: nothing of it is left."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assess:
    """The health assessment of a proven transport has changed its mind."""

    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsWaiting:
    """Calls are in flight: the oldest began ``since``; ``span`` is the shortest whole timeout of them (s).

    None means that nothing is in flight.
    """

    since: float | None
    span: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """The connection may be dead and nobody is to blame: the machine slept, another path is silent, the server is another.

    It is probed at once, and has ``answer_within`` seconds to answer.
    """

    answer_within: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """No dial before ``until`` (the shared backoff of a server that is down, or an open breaker).

    None lifts the hold.
    """

    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Take no new calls; close when those in flight have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The last call in flight has ended. For the manager, ``transport`` says where."""

    transport: str = ""


LifecycleInput: TypeAlias = (
    Initialize
    | Connect
    | Disconnect
    | Destroy
    | Opened
    | Proved
    | Failed
    | LinkClosed
    | Assess
    | CallsWaiting
    | Suspect
    | Hold
    | Drain
    | Drained
)


# --- breaker -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PathProven:
    """A dial was proven: the path works, without a message that had to try it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFailed:
    """A proven connection was lost, or the path failed otherwise: one failure, however many calls it carried."""


BreakerInput: TypeAlias = PathProven | PathFailed

# --- manager failover ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """The pipe is entered: find a transport and keep one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """The pipe is left: bring everything down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Choose anew among what is proven, whatever the hysteresis says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Use this transport and no other, by its type; None frees the choice."""

    transport: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportUp:
    """A transport was proven. ``server``: the identity in the echo ("" if it knows none).

    ``knows_us``: that server holds our session, so it is ours, whatever others are reached.
    """

    transport: str
    server: str
    knows_us: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """A probe of a transport that is up has come back."""

    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportDown:
    """A transport is not usable any more, or could not be opened.

    ``retry_at``: when it will be dialled again, None if never (it has failed, or an operator holds it).
    """

    transport: str
    failure: Failure
    retry_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the monitor knows of a transport now: its score, and whether its breaker admits messages.

    ``retry_at``: when an open breaker will admit again, None if it admits now or an operator holds it.
    """

    transport: str
    score: float
    admitted: bool
    retry_at: float | None = None


FailoverInput: TypeAlias = (
    Open | Close | Select | Pin | TransportUp | Alive | TransportDown | Standing | Drained
)
