"""The health monitor: from what was counted to readings. What of them is news, the machines decide.

It runs beside the traffic, four times a second while there is some; no message waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from devpipe.adapters.ports.clock import Clock
from devpipe.adapters.transports.base import Transport
from devpipe.machines.config import PipeConfig
from devpipe.machines.decisions.health import Vitals
from devpipe.machines.decisions.readings import Reading
from devpipe.machines.decisions.scores import Score, score
from devpipe.machines.protocols.calls import Call

__all__ = ["Monitor"]

#: Between two rounds while calls are in flight, and while none are (seconds).
BUSY_ROUND = 0.25
IDLE_ROUND = 5.0


class Monitor:
    """Reads the metrics of each transport."""

    def __init__(self, transports: Mapping[str, Transport], *, config: PipeConfig, clock: Clock) -> None:
        self._transports = transports
        self._config = config
        self._clock = clock
        self._last_round = clock.now() - IDLE_ROUND

    def next_deadline(self, *, busy: bool) -> float:
        """When the next round is due."""
        return self._last_round + (BUSY_ROUND if busy else IDLE_ROUND)

    def due(self, *, now: float, busy: bool) -> bool:
        """True if a round is due; then the next one is planned."""
        if now < self.next_deadline(busy=busy):
            return False
        self._last_round = now
        return True

    def watch_silence(self, calls: list[Call], *, now: float) -> None:
        """Tell each transport which calls wait on it, so that silence is noticed."""
        waiting: dict[str, list[Call]] = {}
        for call in calls:
            if call.route is not None:
                waiting.setdefault(call.route, []).append(call)
        for name, transport in self._transports.items():
            transport.watch_silence(waiting.get(name, []), now=now)

    def score(self, transport: Transport, *, now: float) -> Score:
        """The score now, with its terms."""
        attempts, successes, p50 = transport.metrics.window(now=now)
        static = transport.capabilities
        wishes = (static.supports_realtime, static.supports_bidirectional, static.supports_streaming)
        return score(
            latency_p50=p50,
            attempts=attempts,
            successes=successes,
            wishes_met=sum(wishes) / len(wishes),
            cost=static.cost,
            status=transport.lifecycle.status,
            weights=self._config.selection,
        )

    def round(self, *, now: float) -> list[Reading]:
        """One look at everything."""
        return [self._read(transport, now) for transport in self._transports.values()]

    def _read(self, transport: Transport, now: float) -> Reading:
        attempts, successes, p50 = transport.metrics.window(now=now)
        admitted = transport.breaker.admits(now=now)
        return Reading(
            transport=transport.type,
            score=self.score(transport, now=now).total,
            admitted=admitted,
            retry_at=None if admitted else transport.breaker.retry_at,
            connected=transport.connected,
            status=transport.lifecycle.status,
            vitals=Vitals(attempts=attempts, successes=successes, latency=p50),
        )
