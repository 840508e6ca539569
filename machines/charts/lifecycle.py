"""The life of one transport, declared: may it be dialled, is it proven, does it still live?

An open connection is not enough: a transport is ``online`` only after a nonce went out and came back (``proving``).
Silence is failure: who does not answer a ping is lost. A lost transport waits (``backoff``); one whose dials run out,
or that opens and dies young again and again, is ``blocked`` and waits longer; one that is refused for who we are has
``failed`` and waits for the operator.

The laws:
- at most one link is open; every link that is given up is told to close;
- outside ``new``, ``ready``, ``failed`` and ``destroyed`` a deadline is armed;
- the backoff starts anew at a proof, never at an open connection.
"""

# The chart library types compound states and its own verbs only in part; the lint and the table tests hold the charts.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportOperatorIssue=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, replace

from statemachine import State

from devpipe.machines.charts.base import PureChart
from devpipe.machines.config import LifecycleConfig
from devpipe.machines.decisions.backoff import backoff_delay, blocked_delay
from devpipe.machines.effects import CloseLink, DrainLink, LoseCalls, OpenLink, SendProbe
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import Connected, Disconnected, Doubted, Reconnecting
from devpipe.machines.inputs import Failure

__all__ = ["LifecycleChart", "LifecycleContext", "LifecycleEvent", "Ping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A probe that is out: what was sent when, and by when a sign of life must have come."""

    nonce: str
    sent_at: float
    answer_by: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleContext:
    """What the rules look at. Times in seconds of the adapter's clock."""

    name: str
    config: LifecycleConfig
    nonce_prefix: str
    generation: int = 0
    nonces: int = 0
    attempt: int = 0  #: dials since the last proof
    hurried: bool = False  #: a backoff was cut short since the last proof or loss
    young_deaths: int = 0
    blocks: int = 0  #: times blocked since the last useful message
    deadline: float | None = None
    hold_until: float | None = None
    proven_at: float | None = None
    latency: float = 0.0  #: what the last echo took on its way there and back
    useful: bool = False  #: a reply or a push has come since the proof
    ping: Ping | None = None
    last_failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """What comes with an event; an input sets what it has."""

    now: float
    jitter: float = 0.5
    failure: Failure | None = None
    server: str = ""
    latency: float = 0.0
    nonce: str = ""
    immediately: bool = False
    until: float | None = None
    heard_at: float = 0.0
    quiet_from: float | None = None  #: when a ping is due, as the shell has worked it out
    answer_within: float = 0.0
    calls_wait: bool = False


_SILENT = Failure(kind=FailureKind.TIMEOUT, reason="no sign of life after a ping")


class LifecycleChart(PureChart[LifecycleContext]):
    """Events: ``initialize``, ``connect``, ``opened``, ``proved``, ``lost``, ``closed``, ``useful``, ``degrade``,
    ``recover``, ``tick``, ``suspect``, ``hold``, ``drain``, ``drained``, ``disconnect``, ``destroy``."""

    validate_trap_states = False
    OVERRIDES = frozenset({"disconnect", "destroy"})

    new = State(initial=True)
    ready = State()

    class connecting(State.Compound):
        """A dial is under way."""

        opening = State(initial=True)
        proving = State()

        opened = opening.to(proving, on="begin_proof")

    class online(State.Compound):
        """Proven."""

        probation = State(initial=True)
        healthy = State()
        degraded = State()

        useful = (
            probation.to(healthy, on="found_useful")
            | healthy.to(None, on="found_useful")
            | degraded.to(None, on="found_useful")
        )
        degrade = healthy.to(degraded) | probation.to(degraded, on="watch") | degraded.to(None)
        recover = degraded.to(healthy) | probation.to(None) | healthy.to(None)

    backoff = State()
    blocked = State()
    draining = State()
    closing = State()
    failed = State()
    destroyed = State()

    initialize = new.to(ready) | ready.to(None)

    connect = (
        backoff.from_(ready, failed, cond="held", on="wait_for_hold")
        | connecting.from_(ready, failed, closing, on="dial")
        | connecting.from_(backoff, cond="may_hurry", on=["hurry", "dial"])
        | backoff.to(None)
    )

    proved = (
        online.from_(connecting.proving, cond="ours", on="accept_proof")
        | connecting.proving.to(None)
        | online.probation.to(online.healthy, cond="ours", on="answered")
        | online.probation.to(None)
        | online.healthy.to(None, on="answered")
        | online.degraded.to(None, on="answered")
        | draining.to(None, on="answered")
    )

    lost = (
        failed.from_(connecting, online, cond="refused_for_good", on="lose")
        | blocked.from_(connecting, online, cond="not_worth_it", on=["lose", "wait_blocked"])
        | backoff.from_(connecting, online, on=["lose", "wait"])
        | ready.from_(draining, on="lose")
        | ready.from_(closing, on="forget")
    )

    tick = (
        blocked.from_(connecting, cond=["overdue", "not_worth_it"], on=["time_out", "wait_blocked"])
        | backoff.from_(connecting, cond="overdue", on=["time_out", "wait"])
        | blocked.from_(online, cond=["silent", "not_worth_it"], on=["give_up", "wait_blocked"])
        | backoff.from_(online, cond="silent", on=["give_up", "wait"])
        | ready.from_(draining, cond="silent", on="give_up")
        | online.probation.to(online.healthy, cond="probation_over", on="watch")
        | online.probation.to(None, cond="quiet", on="ping")
        | online.healthy.to(None, cond="quiet", on="ping")
        | online.degraded.to(None, cond="quiet", on="ping")
        | draining.to(None, cond="quiet", on="ping")
        | connecting.from_(backoff, blocked, cond="due", on="dial")
        | ready.from_(closing, cond="overdue", on="forget")
    )

    suspect = (
        online.probation.to(None, on="ping")
        | online.healthy.to(None, on="ping")
        | online.degraded.to(None, on="ping")
        | draining.to(None, on="ping")
    )

    hold = backoff.to(None, on="delay")

    drain = draining.from_(online, on="begin_drain") | draining.to(None)
    drained = draining.to(closing, on="close")

    disconnect = (
        closing.from_(connecting, online, draining, on="close")
        | ready.from_(backoff, blocked, failed, on="forget")
        | ready.to(None)
        | closing.to(None)
    )

    destroy = destroyed.from_(connecting, online, draining, on=["close", "forget"]) | destroyed.from_(
        new, ready, backoff, blocked, closing, failed, on="forget"
    )

    IGNORED = {
        ("blocked", "connect"): "a blocked path is tried again at its own time, not because somebody waits",
        ("opening", "connect"): "it is being dialled",
        ("proving", "connect"): "it is being dialled",
        ("probation", "connect"): "it is up",
        ("healthy", "connect"): "it is up",
        ("degraded", "connect"): "it is up",
        ("draining", "connect"): "it is being taken down; connect again when it is ready",
        ("destroyed", "destroy"): "destroying twice is fine",
        ("destroyed", "disconnect"): "there is nothing left to disconnect",
        ("destroyed", "closed"): "the link has ended, as it was told to",
        ("new", "disconnect"): "it was never connected",
    }

    closed = closing.to(ready, on="forget")

    # --- guards -------------------------------------------------------------------------------------

    def held(self, ev: LifecycleEvent) -> bool:
        """The manager, or an open breaker, wants no dial yet."""
        until = self.model.ctx.hold_until
        return until is not None and until > ev.now

    def may_hurry(self, ev: LifecycleEvent) -> bool:
        """Callers wait, and the backoff has not been cut short since the last loss."""
        return ev.immediately and not self.model.ctx.hurried and not self.held(ev)

    def ours(self, ev: LifecycleEvent) -> bool:
        """The nonce that came back is the one that is out."""
        ping = self.model.ctx.ping
        return ping is not None and ping.nonce == ev.nonce

    def refused_for_good(self, ev: LifecycleEvent) -> bool:
        """Refused for who we are: dialling again changes nothing."""
        return ev.failure is not None and ev.failure.kind is FailureKind.AUTH

    def not_worth_it(self, ev: LifecycleEvent) -> bool:
        """The dials have run out, or the path opens and dies young again and again.

        A refused connection is no sign of a blocked path: nobody listens, the server is down.
        """
        ctx = self.model.ctx
        if ev.failure is not None and ev.failure.refused:
            return False
        if ctx.proven_at is None:
            return ctx.attempt >= ctx.config.retry_attempts
        return self._died_young(ev) and ctx.young_deaths + 1 >= ctx.config.young_limit

    def overdue(self, ev: LifecycleEvent) -> bool:
        """The time for this step is up."""
        deadline = self.model.ctx.deadline
        return deadline is not None and deadline <= ev.now

    def due(self, ev: LifecycleEvent) -> bool:
        """The wait is over."""
        return self.overdue(ev)

    def silent(self, ev: LifecycleEvent) -> bool:
        """A ping is out, its time is up, and nothing has been heard since."""
        ping = self.model.ctx.ping
        return ping is not None and ping.answer_by <= ev.now and ev.heard_at <= ping.sent_at

    def quiet(self, ev: LifecycleEvent) -> bool:
        """So long nothing was heard that a ping is due."""
        return ev.quiet_from is not None and ev.quiet_from <= ev.now

    def probation_over(self, ev: LifecycleEvent) -> bool:
        """It has stood long enough."""
        return self.overdue(ev)

    # --- actions ------------------------------------------------------------------------------------

    def dial(self, ev: LifecycleEvent) -> None:
        """Open a link of a new generation."""
        ctx = self.model.ctx
        ctx = self.model.ctx = replace(
            ctx,
            generation=ctx.generation + 1,
            attempt=ctx.attempt + 1,
            deadline=ev.now + ctx.config.connect_timeout,
            proven_at=None,
            useful=False,
            ping=None,
        )
        self.model.out.append(OpenLink(generation=ctx.generation))
        self.model.out.append(Reconnecting(transport=ctx.name, attempt=ctx.attempt))

    def hurry(self, ev: LifecycleEvent) -> None:
        """Once per loss."""
        self.model.ctx = replace(self.model.ctx, hurried=True)

    def wait_for_hold(self, ev: LifecycleEvent) -> None:
        """Dial when the hold is over."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, deadline=ctx.hold_until)

    def begin_proof(self, ev: LifecycleEvent) -> None:
        """Send a nonce, and give it its time."""
        self._send_nonce(ev, within=self.model.ctx.config.proof_timeout)
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, deadline=ev.now + ctx.config.proof_timeout)

    def accept_proof(self, ev: LifecycleEvent) -> None:
        """It is up: the backoff starts anew."""
        ctx = self.model.ctx
        self.model.ctx = replace(
            ctx,
            attempt=0,
            hurried=False,
            proven_at=ev.now,
            latency=ev.latency,
            ping=None,
            deadline=ev.now + ctx.config.probation_period,
        )
        self.model.out.append(Connected(transport=ctx.name, server=ev.server, latency=ev.latency))

    def answered(self, ev: LifecycleEvent) -> None:
        """A later echo; probation is over with the first one, and its deadline with it."""
        if self.ours(ev):
            self.model.ctx = replace(self.model.ctx, latency=ev.latency, ping=None, deadline=None)

    def found_useful(self, ev: LifecycleEvent) -> None:
        """It carries what it is for: neither young deaths nor blocks count any more."""
        ctx = self.model.ctx
        self.model.ctx = replace(ctx, useful=True, young_deaths=0, blocks=0, deadline=None)

    def watch(self, ev: LifecycleEvent) -> None:
        """Nothing but silence is waited for from now on."""
        self.model.ctx = replace(self.model.ctx, deadline=None)

    def ping(self, ev: LifecycleEvent) -> None:
        """Ask for a sign of life."""
        self._send_nonce(ev, within=ev.answer_within)
        if ev.calls_wait:
            name = self.model.ctx.name
            self.model.out.append(Doubted(transport=name, answer_within=ev.answer_within))

    def lose(self, ev: LifecycleEvent) -> None:
        """The link is gone, or is given up: its calls go back to their owner."""
        failure = ev.failure or _SILENT
        ctx = self.model.ctx
        proven = ctx.proven_at is not None
        young = proven and self._died_young(ev)
        self.model.ctx = replace(
            ctx,
            young_deaths=ctx.young_deaths + 1 if young else 0 if proven else ctx.young_deaths,
            hurried=ctx.hurried and not proven,
            proven_at=None,
            ping=None,
            deadline=None,
            last_failure=failure,
        )
        self.model.out.append(LoseCalls(generation=ctx.generation, failure=failure))
        self.model.out.append(CloseLink(generation=ctx.generation, reason=failure.reason))
        self.model.out.append(Disconnected(transport=ctx.name, failure=failure, retry_at=None, proven=proven))

    def give_up(self, ev: LifecycleEvent) -> None:
        """Nothing came back after a ping."""
        self.lose(replace(ev, failure=_SILENT))

    def time_out(self, ev: LifecycleEvent) -> None:
        """The dial, or its proof, took too long."""
        proving = self.model.leaf == "proving"
        reason = "opened, but nothing came back" if proving else "the connection was not made in time"
        self.lose(replace(ev, failure=Failure(kind=FailureKind.TIMEOUT, reason=reason)))

    def wait(self, ev: LifecycleEvent) -> None:
        """A growing, jittered wait before the next dial."""
        ctx = self.model.ctx
        retry_after = None if ev.failure is None else ev.failure.retry_after
        delay = backoff_delay(
            attempt=max(0, ctx.attempt), jitter=ev.jitter, config=ctx.config, retry_after=retry_after
        )
        self._wait_until(max(ev.now + delay, ctx.hold_until or 0.0))

    def wait_blocked(self, ev: LifecycleEvent) -> None:
        """Seldom, and ever more seldom."""
        ctx = self.model.ctx
        delay = blocked_delay(times=ctx.blocks, jitter=ev.jitter, config=ctx.config)
        self.model.ctx = replace(ctx, blocks=ctx.blocks + 1, attempt=0, young_deaths=0)
        self._wait_until(max(ev.now + delay, ctx.hold_until or 0.0))

    def delay(self, ev: LifecycleEvent) -> None:
        """The hold moves the next dial back; its end brings none forward."""
        ctx = self.model.ctx
        if ctx.hold_until is not None and ctx.deadline is not None:
            self.model.ctx = replace(ctx, deadline=max(ctx.deadline, ctx.hold_until))

    def begin_drain(self, ev: LifecycleEvent) -> None:
        """Let what is in flight end; a probation that it interrupts has no deadline any more."""
        self.model.ctx = replace(self.model.ctx, deadline=None)
        self.model.out.append(DrainLink(generation=self.model.ctx.generation))

    def close(self, ev: LifecycleEvent) -> None:
        """Close the link; what is still on it goes back to its owner."""
        ctx = self.model.ctx
        failure = Failure(kind=FailureKind.UNAVAILABLE, reason="disconnected")
        self.model.out.append(LoseCalls(generation=ctx.generation, failure=failure))
        self.model.out.append(CloseLink(generation=ctx.generation, reason="disconnected"))
        self.model.out.append(Disconnected(transport=ctx.name, failure=None, retry_at=None))
        self.model.ctx = replace(
            ctx, deadline=ev.now + ctx.config.close_timeout, proven_at=None, ping=None, attempt=0
        )

    def forget(self, ev: LifecycleEvent) -> None:
        """Nothing is waited for."""
        self.model.ctx = replace(
            self.model.ctx, deadline=None, attempt=0, hurried=False, ping=None, proven_at=None
        )

    # --- helpers ------------------------------------------------------------------------------------

    def _died_young(self, ev: LifecycleEvent) -> bool:
        ctx = self.model.ctx
        return (
            ctx.proven_at is not None and not ctx.useful and ev.now - ctx.proven_at < ctx.config.young_seconds
        )

    def _send_nonce(self, ev: LifecycleEvent, *, within: float) -> None:
        ctx = self.model.ctx
        nonce = f"{ctx.nonce_prefix}{ctx.nonces + 1}"
        ping = Ping(nonce=nonce, sent_at=ev.now, answer_by=ev.now + within)
        self.model.ctx = replace(ctx, nonces=ctx.nonces + 1, ping=ping)
        self.model.out.append(SendProbe(generation=ctx.generation, nonce=nonce))

    def _wait_until(self, at: float) -> None:
        """Arm the wait, and say in the event when it ends."""
        self.model.ctx = replace(self.model.ctx, deadline=at)
        out = self.model.out
        for index, item in enumerate(out):
            if isinstance(item, Disconnected):
                out[index] = replace(item, retry_at=at)
