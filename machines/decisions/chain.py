"""What the failover rules look at: the facts of each transport, and the order of preference among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from devpipe.machines.inputs import Failure

__all__ = ["Candidate", "better_than", "first_in_chain", "highest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One transport as the manager sees it. Times in seconds of the adapter's clock.

    ``retry_at``: when it is dialled next, or was dialled last; None if nobody will.
    ``admit_at``: when its open breaker admits again; None if it admits, or an operator holds it.
    """

    name: str
    up: bool = False
    server: str = ""
    admitted: bool = True
    admit_at: float | None = None
    score: float = 1.0
    retry_at: float | None = None
    failure: Failure | None = None
    down_since: float | None = None
    losses: int = 0  #: while it was active, in a row
    lost_at: float | None = None
    ejected_until: float | None = None

    def ejected(self, now: float) -> bool:
        """Lost lately while it was active: another one goes first."""
        return self.ejected_until is not None and now < self.ejected_until


def first_in_chain(candidates: Iterable[Candidate], *, now: float) -> Candidate | None:
    """In a failover the chain decides; one that was just lost goes last."""
    ordered = sorted(candidates, key=lambda c: c.ejected(now))  # stable: the chain's order within each
    return ordered[0] if ordered else None


def highest(candidates: Iterable[Candidate], *, lead: float) -> Candidate | None:
    """The best by score; a lead smaller than ``lead`` changes nothing, then the chain decides."""
    best: Candidate | None = None
    for candidate in candidates:
        if best is None or candidate.score - best.score >= lead:
            best = candidate
    return best


def better_than(
    active: Candidate, candidates: Iterable[Candidate], *, chain: tuple[str, ...], lead: float, now: float
) -> tuple[Candidate, bool] | None:
    """Who should take over from a healthy active transport, and whether it is for its score (else for its place)."""
    for candidate in candidates:
        if candidate.name == active.name or candidate.ejected(now):
            continue
        difference = candidate.score - active.score
        if difference >= lead:
            return candidate, True
        if difference > -lead and chain.index(candidate.name) < chain.index(active.name):
            return candidate, False
    return None
