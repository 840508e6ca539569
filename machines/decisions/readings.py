"""What the monitor reads of a transport, and what of it is news for the machines."""

from __future__ import annotations

from dataclasses import dataclass

from devpipe.machines.decisions.health import HealthStatus, Vitals, is_healthy
from devpipe.machines.inputs import Assess, Standing

__all__ = ["Reading", "assessment", "standing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a transport. ``retry_at``: when its breaker admits again, None if it does, or an operator holds it."""

    transport: str
    score: float
    admitted: bool
    retry_at: float | None
    connected: bool
    status: HealthStatus
    vitals: Vitals


def standing(reading: Reading) -> Standing:
    """What it may carry, and how good it is."""
    return Standing(
        transport=reading.transport,
        score=reading.score,
        admitted=reading.admitted,
        retry_at=reading.retry_at,
    )


def assessment(reading: Reading) -> Assess | None:
    """A change of mind about the health of a proven transport, None where there is none."""
    was_healthy = reading.status is not HealthStatus.DEGRADED
    healthy = is_healthy(reading.vitals, was_healthy=was_healthy)
    if not reading.connected or healthy is was_healthy:
        return None
    return Assess(healthy=healthy)
