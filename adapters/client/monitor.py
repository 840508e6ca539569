"""The health monitor: from what was counted to scores, health and admissions. It decides nothing.

It runs beside the traffic, once a second while there is some; no message waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from devpipe.adapters.ports.clock import Clock
from devpipe.adapters.transports.base import Transport
from devpipe.machines.config import PipeConfig
from devpipe.machines.decisions.health import HealthStatus, Vitals, is_healthy
from devpipe.machines.decisions.scores import Score, score
from devpipe.machines.inputs import Assess
from devpipe.machines.protocols.calls import Call

__all__ = ["Monitor", "Reading"]

#: Between two rounds while calls are in flight, and while none are (seconds).
BUSY_ROUND = 0.25
IDLE_ROUND = 5.0
#: A score that moved less than this is no news.
RESOLUTION = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one round has found out about a transport. ``assess``: news for its lifecycle, or None."""

    score: Score
    admitted: bool
    retry_at: float | None
    changed: bool
    status_changed: bool
    assess: Assess | None


class Monitor:
    """Reads the metrics of each transport."""

    def __init__(self, transports: Mapping[str, Transport], *, config: PipeConfig, clock: Clock) -> None:
        self._transports = transports
        self._config = config
        self._clock = clock
        self._last_round = clock.now() - IDLE_ROUND
        self._last: dict[str, tuple[float, bool, HealthStatus]] = {}

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

    def round(self, *, now: float) -> dict[str, Reading]:
        """One look at everything."""
        return {name: self._read(name, transport, now) for name, transport in self._transports.items()}

    def _read(self, name: str, transport: Transport, now: float) -> Reading:
        attempts, successes, p50 = transport.metrics.window(now=now)
        status = transport.lifecycle.status
        healthy = is_healthy(
            Vitals(attempts=attempts, successes=successes, latency=p50),
            was_healthy=status is not HealthStatus.DEGRADED,
        )
        assess = None
        if transport.connected and healthy is (status is HealthStatus.DEGRADED):
            assess = Assess(healthy=healthy)
        total = self.score(transport, now=now)
        admitted = transport.breaker.admits(now=now)
        before = self._last.get(name)
        changed = before is None or before[1] is not admitted or abs(before[0] - total.total) >= RESOLUTION
        if changed:
            self._last[name] = (total.total, admitted, status)
        status_changed = before is not None and before[2] is not status
        if status_changed:
            self._last[name] = (self._last[name][0], admitted, status)
        return Reading(
            score=total,
            admitted=admitted,
            retry_at=None if admitted else transport.breaker.retry_at,
            changed=changed,
            status_changed=status_changed,
            assess=assess,
        )
