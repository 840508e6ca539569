"""What is heard while a selector is open: transports that come and go, pushes, and the health that is polled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.listeners import Listeners
from devpipe.adapters.models.asking import Asking, read_answer
from devpipe.machines.errors import DevPipeError, ModelSelectionError, PipeClosed
from devpipe.machines.events import HealthUpdated, TransportFailed, TransportSwitched
from devpipe.machines.message import Gap, Message
from devpipe.machines.models.cache import ChoiceCache
from devpipe.machines.models.events import (
    ConnectionFailed,
    HealthOfModelUpdated,
    PerformanceMeasured,
    SelectorConnected,
    SelectorDisconnected,
    TransportChanged,
    TransportHealth,
)
from devpipe.machines.models.types import HealthAnswer, MetricsAnswer, ModelHealth, PerformanceMetrics, decode
from devpipe.machines.models.verdicts import is_unknown

__all__ = ["News"]

log = logging.getLogger("devpipe.models")

#: Models whose health is remembered; a server that names more is not believed.
MODELS = 10_000


class Sync(Protocol):
    """Brings the preferences here and on the server together."""

    async def __call__(self, *, anew: bool = False) -> None: ...


class News:
    """Turns what the pipe tells into what a selector tells, and keeps the health book."""

    def __init__(
        self,
        *,
        pipe: Pipe,
        asking: Asking,
        listeners: Listeners,
        cache: ChoiceCache,
        interval: float,
        sync: Sync,
    ) -> None:
        self._pipe = pipe
        self._asking = asking
        self._listeners = listeners
        self._cache = cache
        self._interval = interval
        self._sync = sync
        self._health: dict[str, ModelHealth] = {}
        self.health = MappingProxyType(self._health)
        self._connected = False
        self._anew = False
        self._due = anyio.Event()
        self._removers: list[Callable[[], None]] = []

    def start(self, tasks: TaskGroup) -> None:
        """Listen from now on."""
        table: dict[str, Callable[[Any], None]] = {
            "transport_switched": self._switched,
            "transport_recovered": self._look,
            "transport_failed": self._failed,
            "exhausted": self._look,
            "health_updated": self._transport_health,
            "server_changed": self._server_changed,
        }
        self._removers = [self._pipe.on(name, listener) for name, listener in table.items()]
        if self._pipe.active is not None or self._pipe.explain().state == "exhausted":
            self._look(None)  # it is another's, and open for long
        tasks.start_soon(self._follow_pushes)
        tasks.start_soon(self._follow_server)

    def stop(self) -> None:
        """Leave the pipe as it was: it may be another's."""
        for remove in self._removers:
            remove()

    # --- transports ---------------------------------------------------------------------------------------

    def _look(self, event: object) -> None:
        """An event arrives a little later than it happened, so the pipe itself is asked what is true now."""
        active = self._pipe.active
        if active is None:
            self._asking.patience.offline()
            if self._connected:
                self._connected = False
                self._listeners.tell(SelectorDisconnected(reason=self._asking.why()))
        else:
            self._asking.patience.online()
            if not self._connected:
                self._connected = True
                self._listeners.tell(SelectorConnected(transport=active))
                self._due.set()

    def _switched(self, event: TransportSwitched) -> None:
        self._listeners.tell(TransportChanged(from_=event.from_, to=event.to, reason=event.reason))
        self._look(event)

    def _failed(self, event: TransportFailed) -> None:
        failed = ConnectionFailed(
            transport=event.transport, timestamp=event.timestamp, reason=event.failure.reason
        )
        self._listeners.tell(failed)
        if self._pipe.active is None:  # until another takes over, or none can, which the pipe will tell
            self._asking.patience.offline()

    def _transport_health(self, event: HealthUpdated) -> None:
        self._listeners.tell(TransportHealth(transport=event.transport, status=event.status))

    def _server_changed(self, event: object) -> None:
        self._anew = True
        self._due.set()

    # --- the server ------------------------------------------------------------------------------------------

    async def _follow_server(self) -> None:
        """After each connection, and then every interval: preferences, and the health of the models."""
        every = (self._bring_preferences, self._poll)
        steps = list(every)
        while True:
            if self._anew:  # another server may know what the one before did not
                steps = list(every)
            for step in tuple(steps) if self._connected else ():
                try:
                    await step()
                except PipeClosed:
                    return  # the pipe was another's, who has closed it: whoever asks now is told so
                except ModelSelectionError as error:
                    # nobody waits for this; the next round, or the next connection, tries again
                    log.debug("the models' health or preferences are not up to date: %s", error)
                    if is_unknown(error):
                        steps.remove(step)  # an older server, which has no such message
            with anyio.move_on_after(self._interval):
                await self._due.wait()
            self._due = anyio.Event()

    async def _bring_preferences(self) -> None:
        anew, self._anew = self._anew, False
        await self._sync(anew=anew)

    async def _poll(self) -> None:
        await self.ask_health(None)

    async def ask_health(self, model_id: str | None) -> tuple[ModelHealth, ...]:
        """Poll; what has changed is told."""
        payload = {} if model_id is None else {"model_id": model_id}
        reply = await self._asking.ask("health-check-request", payload)
        found = read_answer(reply, HealthAnswer).models
        for health in found:
            self._heard(health)
        return found

    async def ask_metrics(
        self, model_id: str | None, task_type: str | None
    ) -> tuple[PerformanceMetrics, ...]:
        """Ask for what was measured."""
        asked = {"model_id": model_id, "task_type": task_type}
        payload = {key: value for key, value in asked.items() if value is not None}
        reply = await self._asking.ask("performance-metrics-request", payload)
        return read_answer(reply, MetricsAnswer).metrics

    def _heard(self, health: ModelHealth) -> None:
        known = self._health.get(health.model_id)
        if known is None and len(self._health) >= MODELS:
            return
        self._health[health.model_id] = health
        if health.status == "offline":
            self._cache.forget_model(health.model_id)
        if known is None or known.status != health.status:
            self._listeners.tell(HealthOfModelUpdated(health=health))

    # --- pushes ------------------------------------------------------------------------------------------------

    async def _follow_pushes(self) -> None:
        with self._pipe.receive() as pushes:
            async for push in pushes:
                if isinstance(push, Gap):  # a change of health may be among what is missing
                    self._due.set()
                    continue
                try:
                    self._pushed(push)
                except DevPipeError as error:
                    # a push that cannot be read harms no other: it is named, and the poll brings what it meant
                    log.warning("a push of type %r was dropped: %s", push.type, error)

    def _pushed(self, push: Message) -> None:
        kind = push.type.replace("-", "_")
        if kind == "health_update":
            self._heard(decode(push.payload, ModelHealth, what="the push health_update"))
        elif kind == "performance_metrics":
            metrics = decode(push.payload, PerformanceMetrics, what="the push performance_metrics")
            self._listeners.tell(PerformanceMeasured(metrics=metrics))
