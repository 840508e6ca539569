"""The pushes of a pipe: over which transport they come, which one is next, and what is told when some are missing."""

from __future__ import annotations

import logging

from devpipe.adapters.client.subscriptions import Subscriptions
from devpipe.adapters.listeners import Listeners
from devpipe.adapters.transports.base import Transport
from devpipe.machines.errors import TransportError
from devpipe.machines.events import GapSeen
from devpipe.machines.message import Gap, Position
from devpipe.machines.protocols.cursor import PushCursor, Verdict
from devpipe.machines.protocols.envelope import Envelope, to_message
from devpipe.machines.protocols.session import ClientSession, read_attached

__all__ = ["Pushes"]

log = logging.getLogger("devpipe.pipe")


class Pushes:
    """One session has one push path at a time: the active transport's."""

    def __init__(self, *, session: ClientSession, subscriptions: Subscriptions, listeners: Listeners) -> None:
        self.cursor = PushCursor()
        self._session = session
        self._subscriptions = subscriptions
        self._listeners = listeners
        self._path: Transport | None = None
        self._source: Transport | None = None  #: the same for a server without sessions, which asks nobody
        self._began = False  #: such a one has been heard, so that whatever follows its loss is a gap

    def begin(self, position: Position) -> None:
        """The server has told where its push history stands."""
        self.cursor.begin(position)

    def attach(self, transport: Transport | None) -> None:
        """They come over this transport from now on, if it can bring any."""
        if transport is None or not transport.ready:
            return
        if transport.terms.session is None:
            self._listen(transport)
            return
        if transport.capabilities.supports_bidirectional:
            self._path = transport
            transport.attach(self.cursor.attach())

    def _listen(self, transport: Transport) -> None:
        """Without sessions each connection gets every push: one of them is heard, and a change of it is a gap."""
        if not transport.capabilities.supports_bidirectional or self._source is transport:
            return
        self._source = transport
        if self._began:
            self._tell(Gap(after=None, before=None, reason="the server keeps no pushes for us"))
        self._began = True

    def missed(self, transport: Transport, reason: str) -> None:
        """What this transport was told may not be all."""
        if self._source is transport:
            self._tell(Gap(after=None, before=None, reason=reason))

    def detach(self, transport: Transport) -> None:
        """This transport is lost: the next one that is active attaches."""
        if self._source is transport:
            self._source = None
        if self._path is transport:
            self._path = None

    def attached(self, transport: Transport, envelope: Envelope) -> None:
        """The server's answer to ``attach``."""
        if envelope.success is False or transport is not self._path:
            return
        try:
            answer = read_attached(envelope, transport=transport.type)
        except TransportError as error:  # the next switch attaches again
            log.warning("%s", error)
            return
        gap = self.cursor.attached(
            epoch=answer.epoch, gap=answer.gap, reason="the server has no more of them"
        )
        if gap is not None:
            self._tell(gap)

    def pushed(self, envelope: Envelope, transport: Transport, active: Transport | None) -> None:
        """A push has arrived; one that is not the next is dropped, and asked for again if some are missing."""
        message = to_message(envelope, session=self._session.id, transport=transport.type)
        if message.position is not None:
            if not transport.ready:
                return  # of a session that is lost, or of a server that is not ours
            verdict = self.cursor.receive(message.position, now=transport.clock.now())
            if verdict is Verdict.DROP:
                return
            if verdict is Verdict.MISSING:
                self.attach(active)
                return
            if isinstance(verdict, Gap):
                self._tell(verdict)
        elif self._source is not None and transport is not self._source:
            return  # the same push, heard on a standby
        self._subscriptions.put(message)
        self._listeners.tell(message, "message")
        transport.listeners.tell(message, "message")

    def next_deadline(self) -> float | None:
        return self.cursor.next_deadline()

    def handle_deadline(self, active: Transport | None, *, now: float) -> None:
        """Ask again for what is still missing."""
        if self.cursor.due(now=now):
            self.attach(active)

    def session_lost(self, reason: str) -> None:
        """A new session begins: whatever was pushed meanwhile is not known."""
        self._path = None
        gap = self.cursor.lost(reason)
        if gap is not None:
            self._tell(gap)

    def _tell(self, gap: Gap) -> None:
        self._subscriptions.put(gap)
        self._listeners.tell(GapSeen(reason=gap.reason))
