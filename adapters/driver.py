"""The pump that all transports share: it feeds a lifecycle, carries out what that asks for, and decides nothing.

One link at a time belongs to the lifecycle's present generation; whatever an older one still says is told with its
own generation, and the machine drops it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, assert_never, cast

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.listeners import Log
from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.pump import Pump
from devpipe.adapters.transports.link import Link, LinkHost, LinkLost
from devpipe.machines.effects import CloseLink, DrainLink, LoseCalls, OpenLink, SendProbe
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import Event
from devpipe.machines.inputs import Failed, Failure, LifecycleInput, LinkClosed, Opened
from devpipe.machines.lifecycle import Lifecycle

__all__ = ["Carrier", "Driver"]

#: Saying goodbye may take this long (seconds); the path is probably gone anyway.
GOODBYE = 1.0


class Carrier(Protocol):
    """The transport around a driver: it has the calls, and knows what a probe looks like."""

    def host(self, generation: int, link: Link) -> LinkHost:
        """Who hears what the link of this generation says."""
        ...

    def probe(self, generation: int, nonce: str) -> None:
        """Send this nonce on the path that messages take."""
        ...

    def lose(self, generation: int, failure: Failure) -> None:
        """The link is gone: hand its calls back."""
        ...

    def happened(self, event: Event) -> None:
        """Something that a program may hear, and that feeds other machines."""
        ...


class Driver:
    """Drives one lifecycle. ``start`` it in a task group before anything is posted."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        make_link: Callable[[], Link],
        carrier: Carrier,
        clock: Clock,
        dice: Dice,
        logger: Log,
    ) -> None:
        self.lifecycle = lifecycle
        self.link: Link | None = None  #: open, of the present generation
        self._make_link = make_link
        self._carrier = carrier
        self._clock = clock
        self._dice = dice
        self._log = logger
        self._tasks: TaskGroup | None = None
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._pump: Pump[LifecycleInput | None] = Pump(self._handle)
        self.moved: Callable[[], None] = lambda: None  #: told after each input: a deadline may be nearer

    def start(self, tasks: TaskGroup) -> None:
        """Links run in this task group from now on."""
        self._tasks = tasks

    def post(self, item: LifecycleInput) -> None:
        """Feed one input; its effects are carried out before this returns, unless another is being handled."""
        self._pump.post(item)

    def next_deadline(self) -> float | None:
        return self.lifecycle.next_deadline()

    def handle_deadline(self, *, now: float) -> None:
        self._pump.post(None)

    @property
    def links(self) -> int:
        """Links that are not wholly gone yet."""
        return len(self._scopes)

    def _handle(self, item: LifecycleInput | None) -> None:
        now = self._clock.now()
        if item is None:
            self.lifecycle.handle_deadline(now=now, jitter=self._dice.jitter())
        else:
            self.lifecycle.receive(item, now=now)
        effects, events = self.lifecycle.drain_effects(), self.lifecycle.drain_events()
        # the news first: when lost calls are handed back, whoever owns them knows another way already
        for event in events:
            self._carrier.happened(event)
        for effect in effects:
            match effect:
                case OpenLink():
                    assert self._tasks is not None  # nobody can connect a transport that was not started
                    self._tasks.start_soon(self._carry, effect.generation)
                case SendProbe():
                    self._carrier.probe(effect.generation, effect.nonce)
                case LoseCalls():
                    self._carrier.lose(effect.generation, effect.failure)
                case CloseLink():
                    self.link = None
                    scope = self._scopes.get(effect.generation)
                    if scope is not None:
                        scope.cancel()
                    else:
                        self._pump.post(LinkClosed(generation=effect.generation))
                case DrainLink():
                    pass  # the transport looks at its calls in each sweep and answers with Drained
                case _ as never:
                    assert_never(never)
        self.moved()

    async def _carry(self, generation: int) -> None:
        """Open one link and run it until it is lost or closed; tell the machine which."""
        link = self._make_link()
        scope = self._scopes[generation] = anyio.CancelScope()
        failure: Failure | None = None
        try:
            with scope:
                if generation != self.lifecycle.generation:
                    scope.cancel()  # closed before this task ran for the first time
                await link.open(self._carrier.host(generation, link))
                if generation == self.lifecycle.generation:
                    self.link = link
                    self.post(Opened(generation=generation))
                await link.run()
                failure = Failure(kind=FailureKind.NETWORK, reason="the link ended by itself")
        except LinkLost as lost:
            failure = lost.failure
        except Exception as error:
            failure = _failure_inside(error)
            if failure is None:
                # a link's own bug is loud in the log, and must not take the other transports down
                self._log.exception("bug in the link")
                failure = Failure(kind=FailureKind.PROTOCOL, reason=f"bug in the link: {error!r}")
        finally:
            if self.link is link:
                self.link = None
            if failure is not None:  # first the news, so that others can take over, then the goodbye
                self.post(Failed(generation=generation, failure=failure, jitter=self._dice.jitter()))
            with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE):
                try:
                    await link.aclose("done" if failure is None else failure.reason)
                except Exception:  # the contract forbids it; a bug here must not take the pipe down
                    self._log.exception("bug in closing the link")
            self._scopes.pop(generation, None)
        if failure is None:
            self.post(LinkClosed(generation=generation))


def _failure_inside(error: Exception) -> Failure | None:
    """The loss that a link's own task group has wrapped into a group, if that is all there is in it."""
    if isinstance(error, LinkLost):
        return error.failure
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        failures = [_failure_inside(inner) for inner in group.exceptions]
        if None not in failures:
            return failures[0]
    return None
