"""What the failover of a pipe knows, and what follows from it: which transports may carry messages, which ones are to
be kept up, who should take over. Plain data and pure functions; the rules that use them stand on the chart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from devpipe.machines.config import FailoverConfig
from devpipe.machines.decisions.chain import Candidate, better_than, highest
from devpipe.machines.errors import FailureKind
from devpipe.machines.inputs import Failure

__all__ = [
    "FailoverContext",
    "allowed",
    "best_by_score",
    "elsewhere",
    "failure_of",
    "next_attempt",
    "next_upgrade",
    "server_down",
    "trusted",
    "usable",
    "wanted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverContext:
    """What the rules look at. ``candidates`` stand in the order of the chain. Times in seconds."""

    config: FailoverConfig
    candidates: tuple[Candidate, ...]
    active: str | None = None
    last_active: str | None = None  #: the one that was left or lost, until messages flow again
    failed: bool = False  #: its loss was told, and no recovery yet
    since: float = 0.0  #: when the active one took over
    reconsider_at: float | None = None  #: the end of its minimum stay
    pinned: str | None = None
    server: str | None = None  #: the process that knows our session
    upgrade_to: str | None = None
    deadline: float | None = None
    holds: int = 0  #: shared backoffs since the last proof
    hold_until: float | None = None

    def of(self, name: str | None) -> Candidate | None:
        """The facts of one transport."""
        return next((c for c in self.candidates if c.name == name), None)

    def changed(self, name: str, **facts: Any) -> FailoverContext:
        """The same, with other facts of one transport."""
        return replace(
            self,
            candidates=tuple(replace(c, **facts) if c.name == name else c for c in self.candidates),
        )


def allowed(ctx: FailoverContext) -> list[Candidate]:
    """The transports that the operator's word leaves, in the order of the chain."""
    if ctx.pinned is not None:
        return [c for c in ctx.candidates if c.name == ctx.pinned]
    if not ctx.config.auto_failover and ctx.last_active is not None:
        return [c for c in ctx.candidates if c.name == ctx.last_active]
    return list(ctx.candidates)


def elsewhere(ctx: FailoverContext, candidate: Candidate) -> bool:
    """It is proven, but reaches another server process than the one that knows our session."""
    return candidate.up and ctx.server is not None and candidate.server not in ("", ctx.server)


def usable(ctx: FailoverContext) -> list[Candidate]:
    """The transports that messages may go over: proven, admitted, reaching the server that knows us, allowed."""
    return [c for c in allowed(ctx) if c.up and c.admitted and not elsewhere(ctx, c)]


def trusted(ctx: FailoverContext) -> list[Candidate]:
    """Of these, the ones that may take over from a lost one: a standby of a server that refuses proves itself first."""
    return [c for c in usable(ctx) if c.doubted_until is None]


def wanted(ctx: FailoverContext) -> list[str]:
    """The transports that should be up, or be dialled.

    With standbys: all. Without: the active one and those before it in the chain, to which it would return; at the
    start one after the other, the next when the one before has failed; after a loss all, since callers wait.
    """
    choice = allowed(ctx)
    names = [c.name for c in choice]
    if ctx.config.standby:
        return names
    if ctx.active is not None:
        to_return = ctx.config.auto_upgrade and ctx.config.auto_failover
        return names[: names.index(ctx.active) + 1] if to_return else [ctx.active]
    if ctx.last_active is None:
        ready = usable(ctx)
        hope = (at for at, c in enumerate(choice) if c in ready or (not c.up and c.failure is None))
        return names[: next(hope, len(names)) + 1]
    return names


def next_upgrade(ctx: FailoverContext, now: float) -> tuple[Candidate, bool] | None:
    """The transport that should take over from the active one, if it may now, and whether for its score."""
    active = ctx.of(ctx.active)
    if active is None or not ctx.config.auto_upgrade or now < ctx.since + ctx.config.min_stay:
        return None
    if ctx.pinned is not None or not ctx.config.auto_failover:
        return None
    return better_than(active, usable(ctx), lead=ctx.config.lead, now=now)


def best_by_score(ctx: FailoverContext, now: float) -> str | None:
    """The best by score of those that may be active: one that was lost lately may only stay."""
    contenders = (c for c in usable(ctx) if c.name == ctx.active or not c.ejected(now))
    best = highest(contenders, lead=ctx.config.lead)
    return None if best is None else best.name


def server_down(ctx: FailoverContext) -> bool:
    """Nothing is up, and every transport that is tried was refused: it is the server, not one path."""
    tried = all(c.failure is not None and c.failure.refused for c in allowed(ctx))
    return tried and not any(c.up for c in ctx.candidates)


def next_attempt(ctx: FailoverContext) -> float | None:
    """When the first of those that are not usable is dialled again, or admitted again by its breaker."""
    times = (c.admit_at if c.up else c.retry_at for c in allowed(ctx))
    return min((at for at in times if at is not None), default=None)


def failure_of(ctx: FailoverContext, candidate: Candidate) -> Failure:
    """Why this transport, which was active, is no route any more."""
    if candidate.failure is not None:  # it is down
        return candidate.failure
    reason = (
        "it reaches another server than the one that knows our session"
        if candidate.admitted
        else "its circuit breaker is open"
    )
    return Failure(kind=FailureKind.UNAVAILABLE, reason=reason)
