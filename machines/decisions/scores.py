"""The score of a transport: four terms from 0 to 1, weighed as the original has it, times its health."""

from __future__ import annotations

from dataclasses import dataclass

from devpipe.machines.config import SelectionWeights
from devpipe.machines.decisions.health import HealthStatus

__all__ = ["BEST", "Score", "score"]

#: No score is higher.
BEST = 1.0

#: A median latency of this many seconds is worth nothing.
WORST_LATENCY = 5.0
#: Successes that a transport without a history is given, so that one early failure does not condemn it.
HEAD_START = 4
#: What is left of a score in each health.
FACTORS = {
    HealthStatus.HEALTHY: 1.0,
    HealthStatus.DEGRADED: 0.5,
    HealthStatus.FAILING: 0.1,
    HealthStatus.DISCONNECTED: 0.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A score with its terms, as ``explain()`` prints it."""

    latency: float
    reliability: float
    capability: float
    cost: float
    factor: float
    total: float


def score(
    *,
    latency_p50: float | None,
    attempts: int,
    successes: int,
    wishes_met: float,
    cost: float,
    status: HealthStatus,
    weights: SelectionWeights,
) -> Score:
    """Compute it. ``latency_p50`` in seconds, None if nothing was measured; ``wishes_met`` and ``cost`` from 0 to 1.

    Weights that do not add up to 1 are taken in proportion.
    """
    latency = 1.0 if latency_p50 is None else max(0.0, 1.0 - latency_p50 / WORST_LATENCY)
    reliability = (successes + HEAD_START) / (attempts + HEAD_START)
    cheap = 1.0 - cost
    whole = (
        weights.latency_weight + weights.reliability_weight + weights.capability_weight + weights.cost_weight
    )
    weighed = (
        weights.latency_weight * latency
        + weights.reliability_weight * reliability
        + weights.capability_weight * wishes_met
        + weights.cost_weight * cheap
    )
    factor = FACTORS[status]
    total = factor * (weighed / whole if whole else 0.0)
    return Score(
        latency=latency,
        reliability=reliability,
        capability=wishes_met,
        cost=cheap,
        factor=factor,
        total=total,
    )
