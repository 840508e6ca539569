"""How well a transport is: four words for people, computed from what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["HealthStatus", "Vitals", "is_healthy"]


class HealthStatus(str, Enum):
    """The health of a transport, one for each state of its lifecycle."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILING = "failing"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What is looked at: attempts and successes of the recent past, the median latency in seconds."""

    attempts: int
    successes: int
    latency: float | None


#: Below this share of successes, or above this median latency (seconds), a transport is degraded ...
DEGRADED_SUCCESS = 0.9
DEGRADED_LATENCY = 2.0
#: ... and it is healthy again only beyond these, so that it does not flicker.
HEALTHY_SUCCESS = 0.95
HEALTHY_LATENCY = 1.5
#: Fewer attempts say nothing.
MINIMUM_ATTEMPTS = 5


def is_healthy(vitals: Vitals, *, was_healthy: bool) -> bool:
    """The assessment, with hysteresis."""
    if vitals.attempts < MINIMUM_ATTEMPTS:
        return True
    share = vitals.successes / vitals.attempts
    latency = vitals.latency or 0.0
    if was_healthy:
        return share >= DEGRADED_SUCCESS and latency <= DEGRADED_LATENCY
    return share >= HEALTHY_SUCCESS and latency <= HEALTHY_LATENCY
