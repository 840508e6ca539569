"""The memory of ids against its model, and that the machine finds bugs that were planted."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from devpipe.machines.protocols.replies import Replies, Verdict
from devpipe.specs.stateful.replies import RepliesMachine

SETTINGS = settings(stateful_step_count=40)
#: a bug is found or not: its smallest program is for people
HUNT = settings(SETTINGS, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)


def test_the_memory_of_ids_does_what_its_model_says() -> None:
    run_state_machine_as_test(RepliesMachine, settings=SETTINGS)


class ForgetsTheId(Replies):
    """A reply that makes room takes its id along: the message would run again."""

    def judge(self, id: str, digest: bytes) -> Verdict:
        verdict = super().judge(id, digest)
        return Verdict.NEW if verdict is Verdict.FORGOTTEN else verdict


class ForgetsBelowTheFloor(Replies):
    """What nobody knows any more is taken for new."""

    def judge(self, id: str, digest: bytes) -> Verdict:
        verdict = super().judge(id, digest)
        return Verdict.NEW if verdict is Verdict.UNKNOWN else verdict


class RunsWhatRuns(Replies):
    """A repeated id does not join."""

    def judge(self, id: str, digest: bytes) -> Verdict:
        verdict = super().judge(id, digest)
        return Verdict.NEW if verdict is Verdict.RUNNING else verdict


class ForgetsDigests(Replies):
    """A stored reply answers any content."""

    def judge(self, id: str, digest: bytes) -> Verdict:
        verdict = super().judge(id, digest)
        return Verdict.STORED if verdict is Verdict.REUSED and self.reply(id) is not None else verdict


class CountsNoBytes(Replies):
    """Only the number of replies is bounded."""

    def _keep(self, id: str, digest: bytes | None, data: bytes) -> None:
        self._max_bytes = 10**9
        super()._keep(id, digest, data)


class RunsWhatWasCancelled(Replies):
    """A cancel that overtakes its message is lost."""

    def block(self, id: str, data: bytes) -> None:
        pass


@pytest.mark.parametrize(
    "bug",
    [
        ForgetsTheId,
        ForgetsBelowTheFloor,
        RunsWhatRuns,
        ForgetsDigests,
        CountsNoBytes,
        RunsWhatWasCancelled,
    ],
    ids=lambda bug: bug.__name__,
)
def test_a_planted_bug_is_found(bug: type[Replies]) -> None:
    planted = type("Planted", (RepliesMachine,), {"core": bug})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(planted, settings=HUNT)
