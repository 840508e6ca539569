"""What the failover rules look at: the facts of each transport, and the order of preference among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from devpipe.machines.inputs import Failure

__all__ = ["Candidate", "better_than", "first_in_chain", "highest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One transport as the manager sees it. Times in seconds of the adapter's clock.

    ``asked``: it was told to dial and not to hang up since: its own lifecycle keeps trying.
    ``retry_at``: when it is dialled next, or was dialled last; None if nobody will.
    ``admit_at``: when its open breaker admits again; None if it admits, or an operator holds it.
    ``doubted_until``: the server's own door is shut elsewhere, and this path has shown no life since; a probe is out.
    ``drain_by``: no standbys are wanted, it is not active any more, and it is hung up then at the latest.
    """

    name: str
    asked: bool = False
    up: bool = False
    server: str = ""
    admitted: bool = True
    admit_at: float | None = None
    score: float = 1.0
    retry_at: float | None = None
    failure: Failure | None = None
    failed_at: float | None = None
    doubted_until: float | None = None
    drain_by: float | None = None
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
    active: Candidate, candidates: Iterable[Candidate], *, lead: float, now: float
) -> tuple[Candidate, bool] | None:
    """Who should take over from a healthy active transport, and whether it is for its score (else for its place).

    The target is one and the same whoever is active. Pairwise comparison would go in circles: with 0.80, 0.85 and
    0.90 each one is "better" than another, because a lead that is too small leaves the choice to the chain.
    """
    ordered = [c for c in candidates if c.name == active.name or not c.ejected(now)]
    best = highest(ordered, lead=lead)
    if best is None or best.name == active.name:
        return None
    difference = best.score - active.score
    if difference >= lead:
        return best, True
    earlier = next(c.name for c in ordered if c.name in (best.name, active.name)) == best.name
    return (best, False) if earlier and difference > -lead else None
