"""A transport's lifecycle against an adversary that may do anything, at any time."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devpipe.machines.charts.base import IllegalTransition
from devpipe.machines.config import LifecycleConfig
from devpipe.machines.effects import CloseLink, LoseCalls, OpenLink, SendProbe
from devpipe.machines.errors import FailureKind
from devpipe.machines.inputs import (
    Assess,
    CallsWaiting,
    Connect,
    Destroy,
    Disconnect,
    Drain,
    Drained,
    Failed,
    Failure,
    Hold,
    Initialize,
    LinkClosed,
    Opened,
    Proved,
    Suspect,
)
from devpipe.machines.lifecycle import Lifecycle
from devpipe.specs.models.lifecycle import LinkModel

__all__ = ["LifecycleMachine"]

delays = st.sampled_from([0.0, 0.001, 0.5, 2.0, 3.0, 5.0, 10.0, 29.999, 30.0, 40.0, 700.0])
#: Few dials and few young deaths block a path, or no run is long enough to see it.
CONFIG = LifecycleConfig(retry_attempts=2, young_limit=2)
jitters = st.floats(0, 0.999)
kinds = st.sampled_from([FailureKind.NETWORK, FailureKind.TIMEOUT, FailureKind.UNAVAILABLE])


class LifecycleMachine(RuleBasedStateMachine):
    """Rules are inputs of the world, right or late; the model keeps the link that may be open."""

    #: what is tested; a planted bug takes its place
    core: ClassVar[type[Lifecycle]] = Lifecycle

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lifecycle = self.make()
        self.model = LinkModel()
        self.nonce = ""

    def make(self) -> Lifecycle:
        return self.core(name="t", config=CONFIG, nonce_prefix="n")

    def tell(self, *items: object) -> None:
        """Feed inputs; an operator's word that is illegal now must change nothing."""
        for item in items:
            before = self.lifecycle.snapshot()
            old = getattr(item, "generation", self.lifecycle.generation) != self.lifecycle.generation
            try:
                self.lifecycle.receive(item, now=self.now)  # type: ignore[arg-type]  # inputs of the rules below
            except IllegalTransition:
                assert self.lifecycle.snapshot() == before
            if old:
                assert self.lifecycle.snapshot() == replace(before, late=before.late + 1)
        self.drain()

    def drain(self) -> None:
        for effect in self.lifecycle.drain_effects():
            match effect:
                case OpenLink():
                    self.model.opened(effect.generation)
                case CloseLink():
                    self.model.closed(effect.generation)
                case SendProbe():
                    assert effect.generation == self.model.link, "a nonce goes out on the open link only"
                    self.nonce = effect.nonce
                    self.model.asked(effect.nonce)
                case LoseCalls():
                    self.model.lost(effect.generation)
                case _:
                    pass
        self.lifecycle.drain_events()

    @initialize(initialized=st.sampled_from([True, True, True, False]))
    def begin(self, initialized: bool) -> None:
        if initialized:
            self.tell(Initialize())

    @rule()
    def operator_initializes(self) -> None:
        self.tell(Initialize())

    @rule(immediately=st.booleans())
    def operator_connects(self, immediately: bool) -> None:
        self.tell(Connect(immediately=immediately))

    @rule()
    def operator_disconnects(self) -> None:
        self.tell(Disconnect())

    @rule()
    def operator_drains(self) -> None:
        self.tell(Drain())

    @precondition(lambda self: self.now > 100)  # nothing happens behind it
    @rule()
    def operator_destroys(self) -> None:
        self.tell(Destroy())

    @rule(late=st.integers(0, 2))
    def link_opens(self, late: int) -> None:
        self.tell(Opened(generation=self.lifecycle.generation - late))

    @rule(right=st.booleans(), late=st.integers(0, 1))
    def nonce_comes_back(self, right: bool, late: int) -> None:
        generation = self.lifecycle.generation - late
        nonce = self.nonce if right else "x"
        self.model.came_back(generation, nonce)
        self.tell(Proved(generation=generation, nonce=nonce, server="S", latency=0.1))

    # one by one the steps of a good connection would seldom come in their order

    @rule()
    def it_opens(self) -> None:
        self.tell(Connect())
        self.link_opens(late=0)

    @rule()
    def it_comes_up(self) -> None:
        self.it_opens()
        self.nonce_comes_back(right=True, late=0)

    @rule(kind=kinds, refused=st.booleans(), jitter=jitters, late=st.integers(0, 1))
    def link_is_lost(self, kind: FailureKind, refused: bool, jitter: float, late: int) -> None:
        failure = Failure(kind=kind, reason="x", refused=refused)
        self.tell(Failed(generation=self.lifecycle.generation - late, failure=failure, jitter=jitter))

    @rule()
    def it_is_refused_for_good(self) -> None:
        self.link_is_lost(kind=FailureKind.AUTH, refused=False, jitter=0.5, late=0)

    @rule()
    def link_has_closed(self) -> None:
        self.tell(LinkClosed(generation=self.lifecycle.generation))

    @rule(healthy=st.booleans())
    def health_changes(self, healthy: bool) -> None:
        self.tell(Assess(healthy=healthy))

    @rule(waiting=st.booleans(), span=st.sampled_from([0.3, 3.0, 30.0]))
    def calls_wait(self, waiting: bool, span: float) -> None:
        self.tell(CallsWaiting(since=self.now if waiting else None, span=span))

    @rule(until=st.none() | delays)
    def dials_are_held(self, until: float | None) -> None:
        self.tell(Hold(until=None if until is None else self.now + until))

    @rule()
    def machine_slept(self) -> None:
        self.tell(Suspect())

    @rule()
    def calls_have_ended(self) -> None:
        self.tell(Drained())

    @rule()
    def bytes_arrive(self) -> None:
        self.lifecycle.heard(now=self.now)

    @rule()
    def a_reply_arrives(self) -> None:
        self.lifecycle.useful(now=self.now)
        self.drain()

    @rule(delay=delays, jitter=jitters)
    def time_passes(self, delay: float, jitter: float) -> None:
        self.now += delay
        self.lifecycle.handle_deadline(now=self.now, jitter=jitter)
        self.drain()

    @rule(jitter=jitters)
    def time_passes_to_the_deadline(self, jitter: float) -> None:
        at = self.lifecycle.next_deadline()
        if at is not None:
            self.now = max(self.now, at)
            self.lifecycle.handle_deadline(now=self.now, jitter=jitter)
            self.drain()
            again = self.lifecycle.next_deadline()
            assert again is None or again > self.now or jitter < 1e-6, "a handled deadline came back"

    @invariant()
    def whoever_is_not_at_rest_has_a_deadline(self) -> None:
        at_rest = {"new", "ready", "failed", "destroyed"}
        assert (self.lifecycle.next_deadline() is not None) == (self.lifecycle.state.value not in at_rest)

    @invariant()
    def a_transport_is_up_only_with_an_open_link_on_which_the_nonce_came_back(self) -> None:
        if self.lifecycle.connected:
            assert self.model.link == self.lifecycle.generation
            assert self.model.proven

    @invariant()
    def a_snapshot_brings_everything_back(self) -> None:
        kept = self.lifecycle.snapshot()
        other = self.make()
        other.restore(kept)
        assert other.snapshot() == kept and other.next_deadline() == self.lifecycle.next_deadline()
