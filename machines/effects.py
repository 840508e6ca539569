"""What a core asks an adapter to do. First the machine has moved, then these are carried out.

There is no timer effect: time has one mechanism, ``next_deadline()`` and ``handle_deadline(now=...)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from devpipe.machines.inputs import Failure

__all__ = [
    "Activate",
    "CloseLink",
    "Dial",
    "Doubt",
    "DrainLink",
    "Effect",
    "FailoverEffect",
    "HangUp",
    "HoldDials",
    "LifecycleEffect",
    "LoseCalls",
    "OpenLink",
    "Retire",
    "SendProbe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLink:
    """Open a link; answer with ``Opened`` or ``Failed`` of this generation."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendProbe:
    """Send this nonce on the path that messages take; answer with ``Proved`` when it comes back."""

    generation: int
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseCalls:
    """The link of this generation is gone: hand its calls back to whoever owns them."""

    generation: int
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainLink:
    """Tell with ``Drained`` when no call of this generation is in flight any more."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseLink:
    """Close the link of this generation, and answer with ``LinkClosed`` when nothing of it is left."""

    generation: int
    reason: str


LifecycleEffect: TypeAlias = OpenLink | SendProbe | LoseCalls | DrainLink | CloseLink


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Bring this transport up (its own lifecycle decides how often and when).

    ``immediately``: callers are waiting for it, so a backoff may be cut short once.
    """

    transport: str
    immediately: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """Bring this transport down."""

    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """New messages go this way from now on, and waiting ones too."""

    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """This transport was active: let what it carries end, answer with ``Drained`` of this transport."""

    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Probe this transport at once: its server refuses connections elsewhere."""

    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldDials:
    """The server itself is down: no transport dials before ``until``. None lifts the hold."""

    until: float | None


FailoverEffect: TypeAlias = Dial | HangUp | Activate | Retire | Doubt | HoldDials

Effect: TypeAlias = LifecycleEffect | FailoverEffect
