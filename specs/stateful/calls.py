"""Correlation against a dictionary: replies, deadlines and cancellations in any order; each call ends once."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from devpipe.machines.protocols.calls import SWEEP, Call, Calls

__all__ = ["CallsMachine"]


class CallsMachine(RuleBasedStateMachine):
    """The model is the deadlines of the calls that have not ended."""

    #: what is tested; a planted bug takes its place
    core: ClassVar[type[Calls]] = Calls

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.calls = self.core()
        self.open: dict[str, float] = {}
        self.count = 0

    @rule(span=st.sampled_from([0.001, SWEEP, 0.3, 5.0]))
    def a_call_starts(self, span: float) -> None:
        self.count += 1
        id = f"p-{self.count}"
        self.calls.start(Call(id, "t", b"null", now=self.now, deadline=self.now + span))
        self.open[id] = self.now + span

    @rule(number=st.integers(1, 60))
    def a_reply_comes(self, number: int) -> None:
        id = f"p-{number}"
        call = self.calls.take_reply(id)
        assert (call is not None) == (id in self.open)
        self.open.pop(id, None)

    @rule(number=st.integers(1, 60))
    def a_caller_leaves(self, number: int) -> None:
        id = f"p-{number}"
        assert (self.calls.finish(id) is not None) == (self.open.pop(id, None) is not None)

    @rule(delay=st.sampled_from([0.0, 0.01, SWEEP, 1.0]))
    def time_passes(self, delay: float) -> None:
        self.now += delay
        for call in self.calls.handle_deadline(now=self.now):
            assert self.open.pop(call.id) <= self.now, "before its time"
        late = [id for id, deadline in self.open.items() if deadline + SWEEP < self.now]
        assert not late, "more than one sweep late"

    @invariant()
    def the_same_calls_are_open(self) -> None:
        assert {call.id for call in self.calls.open_calls()} == set(self.open)
        assert (self.calls.next_deadline() is None) == (not self.open)
