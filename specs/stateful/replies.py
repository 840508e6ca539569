"""The server's memory of ids against its model: nothing begins twice, every replay is the same, everything is bounded."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devpipe.machines.protocols.replies import Replies, Verdict, digest_of
from devpipe.specs.models.replies import ReplyModel

__all__ = ["RepliesMachine"]

PREFIXES = st.sampled_from(["a", "b"])
NUMBERS = st.integers(1, 12)
CONTENTS = st.sampled_from(["one", "two"])
DATA = st.binary(max_size=12)
LIMITS = {"max_replies": 3, "max_bytes": 20}
MAX_GAPS = 2


class RepliesMachine(RuleBasedStateMachine):
    """A client that repeats, changes, cancels and loses whatever it likes."""

    #: what is tested; a planted bug takes its place
    core: ClassVar[type[Replies]] = Replies

    def __init__(self) -> None:
        super().__init__()
        self.memory = self.core(**LIMITS, max_ranges=MAX_GAPS)
        self.model = ReplyModel(**LIMITS, max_gaps=MAX_GAPS)
        self.starts: dict[str, int] = {}
        self.first: dict[str, bytes] = {}

    @rule(prefix=PREFIXES, number=NUMBERS, content=CONTENTS)
    def arrives(self, prefix: str, number: int, content: str) -> None:
        """A message arrives, for the first time or again."""
        id, digest = f"{prefix}-{number}", digest_of("type", content.encode())
        verdict = self.memory.judge(id, digest)
        assert self.memory.judge(id, digest) is verdict, "judging has changed something"
        expected = self.model.expected(prefix, number, content)
        assert verdict.value in expected, f"{id} is {verdict.value}, and should be {expected}"
        if verdict is Verdict.UNKNOWN:
            assert number <= self.model.floor.get(prefix, 0), f"{id} is above the floor"
        if verdict is Verdict.NEW:
            self.starts[id] = self.starts.get(id, 0) + 1
            assert self.starts[id] == 1, f"{id} was started twice"
            self.memory.begin(id, digest)
            self.model.begin(prefix, number, content)
        if verdict is Verdict.STORED:
            reply = self.memory.reply(id)
            assert reply is not None and reply == self.model.reply(id)
            assert reply == self.first[id], f"{id} was answered in two ways"

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), reply=DATA)
    def ends(self, data: st.DataObject, reply: bytes) -> None:
        """A handler ends."""
        id = data.draw(st.sampled_from(sorted(self.model.running)))
        self.memory.finish(id, reply)
        self.model.finish(id, reply)
        self.first[id] = reply

    @rule(prefix=PREFIXES, number=NUMBERS, reply=DATA)
    def is_cancelled(self, prefix: str, number: int, reply: bytes) -> None:
        """A cancel overtakes its message."""
        id = f"{prefix}-{number}"
        if self.memory.judge(id, b"") is Verdict.NEW:
            self.starts[id] = self.starts.get(id, 0) + 1
            assert self.starts[id] == 1, f"{id} had begun"
            self.memory.block(id, reply)
            self.model.block(prefix, number, reply)
            self.first[id] = reply

    @rule(prefix=PREFIXES, number=NUMBERS)
    def is_used_up(self, prefix: str, number: int) -> None:
        """A ping takes a number."""
        id = f"{prefix}-{number}"
        if self.memory.judge(id, b"") is Verdict.NEW:
            self.starts[id] = self.starts.get(id, 0) + 1
            self.memory.note(id)
            self.model.note(prefix, number)

    @rule()
    def is_written_down_and_read_again(self) -> None:
        """A snapshot holds everything."""
        copy = self.core(**LIMITS, max_ranges=MAX_GAPS)
        copy.restore(self.memory.snapshot())
        assert copy.snapshot() == self.memory.snapshot()
        self.memory = copy

    @invariant()
    def is_bounded(self) -> None:
        """Never more than the limits, and exactly what the model keeps."""
        assert self.memory.stored == len(self.model.replies) <= LIMITS["max_replies"]
        kept = sum(len(data) for _, _, data in self.model.replies)
        assert self.memory.stored_bytes == kept <= LIMITS["max_bytes"]
        assert self.memory.running == len(self.model.running)
        ranges = self.memory.snapshot()[0]
        assert all(len(pairs) <= MAX_GAPS for _, (_, pairs) in ranges)
