"""Whose fault a failure is: that of the path, or of the server behind all paths."""

from __future__ import annotations

import pytest

from devpipe.machines.decisions import blame as room
from devpipe.machines.decisions.blame import PATIENCE, Blame, Charge, Witness

LOST = Witness(proven_at=None, heard_at=9.0)
STOOD = Witness(proven_at=1.0, heard_at=10.5)


def accused(*, silent: bool = False) -> Blame:
    """HTTP has failed at 10."""
    blame = Blame(alone=False)
    assert not blame.failed("http", now=10.0, probing=False, silent=silent)
    return blame


def test_alone_or_under_judgement_a_failure_is_charged_at_once() -> None:
    assert Blame(alone=True).failed("http", now=0.0, probing=False)
    among = Blame(alone=False)
    assert among.failed("http", now=0.0, probing=True) and among.next_deadline() is None


@pytest.mark.parametrize("silent", [True, False])
def test_a_failure_is_the_paths_own_if_another_one_lived_through_it(silent: bool) -> None:
    charge = Charge(transport="http", at=10.0, silent=silent)
    paths = {"http": LOST, "folder": LOST, "websocket": STOOD}
    assert accused(silent=silent).verdicts(paths, now=12.0) == [charge]


@pytest.mark.parametrize(
    "other",
    [
        LOST,
        Witness(proven_at=1.0, heard_at=10.0),  # as silent as the accused
        Witness(proven_at=10.2, heard_at=10.5),  # it came back with the server
        Witness(proven_at=None, heard_at=10.5),  # it went with it
    ],
)
def test_where_no_other_path_lived_through_it_nobody_is_charged(other: Witness) -> None:
    assert accused().verdicts({"http": LOST, "websocket": other}, now=12.0) == []


def test_a_path_that_only_said_nothing_and_goes_on_was_slow() -> None:
    paths = {"http": STOOD, "websocket": STOOD}
    assert accused(silent=True).verdicts(paths, now=12.0) == []
    assert len(accused().verdicts(paths, now=12.0)) == 1, "one that broke is heard again, too"


def test_its_own_life_is_no_other_paths() -> None:
    assert accused().verdicts({"http": STOOD, "folder": LOST}, now=12.0) == []


def test_each_failure_is_judged_in_its_turn_and_once() -> None:
    blame = accused()
    blame.failed("http", now=11.0, probing=False)
    paths = {"http": LOST, "websocket": STOOD}
    assert blame.next_deadline() == 10.0 + PATIENCE
    assert blame.verdicts(paths, now=11.9) == []
    assert [charge.at for charge in blame.verdicts(paths, now=12.0)] == [10.0]
    assert blame.next_deadline() == 11.0 + PATIENCE
    assert blame.verdicts(paths, now=20.0) == [], "nobody was heard after the second failure"
    assert blame.next_deadline() is None


def test_failures_that_wait_for_a_verdict_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_CHARGES", 2)
    blame = accused()
    for _ in range(5):
        blame.failed("http", now=10.0, probing=False)
    assert len(blame.verdicts({"http": LOST, "websocket": STOOD}, now=12.0)) == 2
