"""Who owns the calls that a transport carries: a pipe over all its transports, or ``SingleTransport`` for one used alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.machines.events import Event
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call, Calls
from devpipe.machines.protocols.envelope import Envelope
from devpipe.machines.protocols.session import ClientSession, HelloAnswer

if TYPE_CHECKING:
    from devpipe.adapters.transports.base import Transport

__all__ = ["Household", "Owner"]


class Owner(Protocol):
    """Who owns the calls that a transport carries. Nothing here blocks."""

    @property
    def calls(self) -> Calls:
        """Every call that is open, whatever transport it is on."""
        ...

    @property
    def session(self) -> ClientSession:
        """Who we are to the server."""
        ...

    def control_id(self) -> str:
        """An id for a message that is no call (hello, ping, attach, cancel)."""
        ...

    def replied(self, call: Call, envelope: Envelope, transport: Transport) -> None:
        """The reply to a call that was open; it is out of the table now."""
        ...

    def returned(self, call: Call, failure: Failure, transport: Transport) -> None:
        """An attempt came back without a reply. The call is still open, its attempt folded into its outcome."""
        ...

    def pushed(self, envelope: Envelope, transport: Transport) -> None:
        """A push, or another message that answers nothing."""
        ...

    def missed(self, transport: Transport, reason: str) -> None:
        """Pushes of this transport may be missing from here on, and nobody can say which."""
        ...

    def greeted(self, transport: Transport, answer: HelloAnswer) -> bool:
        """A server answered hello. True if calls may go to it under our session."""
        ...

    def became_ready(self, transport: Transport) -> None:
        """Calls may go over this transport from now on."""
        ...

    def attached(self, transport: Transport, envelope: Envelope) -> None:
        """The server's answer to ``attach``."""
        ...

    def to_blame(self, transport: Transport, *, silent: bool = False) -> bool:
        """True if a failure is this transport's own: when all fail together, it is the server.

        False also means that the verdict falls later. ``silent``: nothing came in time, that is all.
        """
        ...

    def released(self, call: Call) -> None:
        """A reply to an earlier attempt ended the call: give the present attempt's place and permit back."""
        ...

    def happened(self, transport: Transport, event: Event) -> None:
        """An event of the transport or of its breaker."""
        ...


class Household(Owner, Protocol):
    """An owner, with what its transports are made from. ``prefix`` is that of its message ids."""

    clock: Clock
    dice: Dice
    prefix: str
