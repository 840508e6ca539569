"""``pipe.explain()``: why messages go the way they go, as data that prints well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpipe.machines.decisions.scores import BEST, Score

if TYPE_CHECKING:
    from devpipe.adapters.client.manager import Manager
    from devpipe.adapters.transports.base import Transport

__all__ = ["Explanation", "TransportExplanation", "explain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportExplanation:
    """One transport. Times in seconds; ``next_attempt_in`` is None if no dial is planned."""

    name: str
    id: str
    state: str
    status: str
    breaker: str
    score: float
    terms: Score
    latency_p50: float | None
    next_attempt_in: float | None
    last_failure: str | None
    note: str  #: what it does besides the usual, or why it is set aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The whole pipe. ``would_change``: what would make another transport active."""

    active: str | None
    state: str
    server: str | None
    session: bool
    profile: str
    pinned: str | None
    transports: tuple[TransportExplanation, ...]
    would_change: str

    def __str__(self) -> str:
        head = f"active: {self.active or 'none'} ({self.state})" + (
            f", pinned to {self.pinned}" if self.pinned else ""
        )
        foreign = self.profile != "default"
        server = self.server or (f"of the profile {self.profile}" if foreign else "unknown")
        if self.session:
            session = "yes, lost calls are sent again"
        else:
            why = "the peer has no sessions, so " if foreign else ""
            session = f"no, {why}a call in flight on a lost transport ends with maybe_executed"
        lines = [head, f"server: {server}; sessions: {session}"]
        for t in self.transports:
            terms = t.terms
            latency = "-" if t.latency_p50 is None else f"{t.latency_p50 * 1000:.1f} ms"
            lines.append(
                f"{'>' if t.name == self.active else ' '} {t.name:<10} {t.state}, breaker {t.breaker}"
            )
            lines.append(
                f"    score {t.score:.2f} = {terms.factor:g} x (latency {terms.latency:.2f}, "
                f"reliability {terms.reliability:.2f}, capability {terms.capability:.2f}, "
                f"cost {terms.cost:.2f}); p50 {latency}"
            )
            if t.last_failure is not None:
                lines.append(f"    last failure: {t.last_failure}")
            if t.next_attempt_in is not None:
                lines.append(f"    next attempt in {t.next_attempt_in:.1f} s")
            if t.note:
                lines.append(f"    {t.note}")
        lines.append(f"would change it: {self.would_change}")
        return "\n".join(lines)


def explain(manager: Manager) -> Explanation:
    """Gather it."""
    failover = manager.failover
    return Explanation(
        active=failover.active,
        state=failover.state.value,
        server=manager.session.server,
        session=manager.session.remembers,
        profile=manager.config.profile,
        pinned=failover.pinned,
        transports=tuple(_transport(manager, manager.transports[name]) for name in failover.names),
        would_change=_would_change(manager),
    )


def _transport(manager: Manager, transport: Transport) -> TransportExplanation:
    now = manager.clock.now()
    terms = manager.monitor.score(transport, now=now)
    failure = transport.last_failure or transport.lifecycle.last_failure
    retry_at = transport.lifecycle.retry_at
    link = transport.driver.link
    note = "" if link is None else link.explain()
    if manager.failover.elsewhere(transport.type):
        note = "set aside: it reaches another server than the one that knows our session"
    return TransportExplanation(
        name=transport.type,
        id=transport.id,
        state=transport.lifecycle.state.value,
        status=transport.lifecycle.status.value,
        breaker=transport.breaker.state.value,
        score=terms.total,
        terms=terms,
        latency_p50=transport.metrics.window(now=now)[2],
        next_attempt_in=None if retry_at is None else max(0.0, retry_at - now),
        last_failure=None if failure is None else failure.reason,
        note=note,
    )


def _would_change(manager: Manager) -> str:
    failover = manager.failover
    if failover.pinned is not None:
        return f"use(None) frees the choice from {failover.pinned}"
    if failover.active is None:
        return "the first transport that is proven"
    now = manager.clock.now()
    active = manager.transports[failover.active]
    standing = manager.monitor.score(active, now=now).total
    lead = failover.config.lead
    position = failover.names.index(failover.active)
    better = failover.names[:position]
    words = [f"the loss of {failover.active}"]
    if standing + lead <= BEST:
        words.append(f"another transport with a score of {standing + lead:.2f} or more")
    else:
        words[0] += " (no score can beat it)"
    if better:
        words.append(f"{' or '.join(better)} proven again, within {lead:g} of its score")
    return ", or ".join(words)
