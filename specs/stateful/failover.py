"""The failover against a world in which anything is lost, proven, held, pinned and scored in any order."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from devpipe.machines.effects import Activate, Dial, HangUp
from devpipe.machines.errors import FailureKind
from devpipe.machines.events import TransportFailed, TransportSwitched
from devpipe.machines.failover import Failover, FailoverState
from devpipe.machines.inputs import (
    Close,
    FailoverInput,
    Failure,
    Open,
    Pin,
    Select,
    Standing,
    TransportDown,
    TransportUp,
)
from devpipe.specs.models.failover import FailoverModel

__all__ = ["FailoverMachine"]

NAMES = ("websocket", "http", "folder")
names = st.sampled_from(NAMES)
servers = st.sampled_from(["S", "S", "S", "T"])
delays = st.sampled_from([0.0, 0.15, 1.0, 5.0, 10.0, 301.0])


class FailoverMachine(RuleBasedStateMachine):
    """Every rule is news; the invariants hold after each."""

    #: what is tested; a planted bug takes its place
    core: ClassVar[type[Failover]] = Failover

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.failover = self.core(names=NAMES)
        self.model = FailoverModel(NAMES)
        self.told: str | None = None

    def tell(self, item: FailoverInput | None) -> None:
        """Feed one input and look at what comes out."""
        if item is None:
            self.failover.handle_deadline(now=self.now, jitter=0.5)
        else:
            self.failover.receive(item, now=self.now, jitter=0.5)
        switches = 0
        for event in self.failover.drain_events():
            if isinstance(event, TransportSwitched):
                switches += 1
                assert event.from_ != event.to
                self.told = event.to
            assert not isinstance(event, TransportFailed) or event.transport in NAMES
        for effect in self.failover.drain_effects():
            if isinstance(effect, Activate):
                assert effect.transport == self.failover.active
        assert switches <= 1, "several failures at once are one failover"

    @initialize()
    def open(self) -> None:
        self.tell(Open())

    @rule(name=names, server=servers)
    def a_transport_is_proven(self, name: str, server: str) -> None:
        self.model.up[name] = server
        self.tell(TransportUp(transport=name, server=server))

    @rule(name=names, refused=st.booleans(), later=st.none() | delays)
    def a_transport_is_lost(self, name: str, refused: bool, later: float | None) -> None:
        self.model.up.pop(name, None)
        failure = Failure(kind=FailureKind.NETWORK, reason="x", refused=refused)
        retry_at = None if later is None else self.now + later
        self.tell(TransportDown(transport=name, failure=failure, retry_at=retry_at))

    @rule(name=names, score=st.sampled_from([0.0, 0.5, 0.55, 0.95, 1.0]), admitted=st.booleans())
    def a_transport_is_judged(self, name: str, score: float, admitted: bool) -> None:
        self.model.held = self.model.held - {name} if admitted else self.model.held | {name}
        self.tell(Standing(transport=name, score=score, admitted=admitted, retry_at=self.now + 1))

    @rule(name=st.none() | names)
    def the_operator_pins(self, name: str | None) -> None:
        self.model.pinned = name
        self.tell(Pin(transport=name))

    @rule()
    def the_operator_selects(self) -> None:
        self.tell(Select())

    @rule(delay=delays)
    def time_passes(self, delay: float) -> None:
        self.now += delay
        self.tell(None)

    @rule()
    def time_passes_to_the_deadline(self) -> None:
        at = self.failover.next_deadline()
        if at is not None:
            self.now = max(self.now, at)
            self.tell(None)
            again = self.failover.next_deadline()
            assert again is None or again > self.now, "a handled deadline came back"

    def teardown(self) -> None:
        """It is left: everything is hung up, and when nothing is up any more it has closed."""
        self.failover.receive(Close(), now=self.now)
        self.failover.drain_events()
        assert {e.transport for e in self.failover.drain_effects() if isinstance(e, HangUp)} == set(NAMES)
        gone = Failure(kind=FailureKind.NETWORK, reason="hung up")
        for name in NAMES:
            self.failover.receive(TransportDown(transport=name, failure=gone, retry_at=None), now=self.now)
        assert self.failover.state is FailoverState.CLOSED and self.failover.active is None
        assert not [e for e in self.failover.drain_effects() if isinstance(e, (Activate, Dial))]

    @invariant()
    def active_is_proven_admitted_and_allowed_or_none(self) -> None:
        active = self.failover.active
        assert active is None or active in self.model.candidates()

    @invariant()
    def what_is_usable_reaches_one_server(self) -> None:
        reached = {self.model.up[name] for name in self.failover.usable()}
        assert len(reached) <= 1

    @invariant()
    def whoever_could_work_is_used_soon(self) -> None:
        # with all on one server nothing may stand idle, but for the moment in which a better one is waited for
        candidates = self.model.candidates()
        if candidates and len({self.model.up[name] for name in self.model.up}) == 1:
            assert self.failover.active is not None or self.failover.next_deadline() is not None

    @invariant()
    def the_last_switch_is_the_truth(self) -> None:
        assert self.failover.active in (None, self.told)

    @invariant()
    def a_snapshot_brings_everything_back(self) -> None:
        kept = self.failover.snapshot()
        other = self.core(names=NAMES)
        other.restore(kept)
        assert other.snapshot() == kept and other.next_deadline() == self.failover.next_deadline()
