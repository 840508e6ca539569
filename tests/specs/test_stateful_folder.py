"""The shared folder against its model, by chance and in every order, and that planted bugs are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from devpipe.machines.protocols.folder import request_name
from devpipe.machines.protocols.folder_steps import (
    Link,
    Linked,
    Look,
    Place,
    Program,
    Read,
    Remove,
    Taken,
    Write,
    claim,
    give,
    sweep,
    take,
    withdraw,
)
from devpipe.specs.models.folder import FolderModel
from devpipe.specs.stateful.folder import AGE, ENOUGH, LIMIT, FolderMachine, Process

#: a program of forty rules takes a hundredth of a second
SETTINGS = settings(stateful_step_count=40, max_examples=settings().max_examples // 2)
#: a bug is found or not: its smallest program is for people
HUNT = settings(SETTINGS, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
ID = "a-1"
NAME = request_name(ID)


def test_the_folder_does_what_its_model_says() -> None:
    run_state_machine_as_test(FolderMachine, settings=SETTINGS)


# --- bugs ---------------------------------------------------------------------------------------------


def takes_what_it_lost(name: str, *, age: float, limit: int) -> Program[Taken | None]:
    """The answer to the claim is not looked at."""
    yield from claim(name, place=Place.CLAIMS, new=name)
    data = yield Read(Place.CLAIMS, name, limit)
    assert isinstance(data, bytes)
    return Taken(data=data)


def reads_before_it_claims(name: str, *, age: float, limit: int) -> Program[Taken | None]:
    """What was read may be another's by the time of the claim."""
    data = yield Read(Place.REQUESTS, name, limit)
    assert isinstance(data, bytes)
    yield Link(Place.REQUESTS, name, Place.CLAIMS)
    yield Remove(Place.REQUESTS, name)
    return Taken(data=data)


def never_takes(name: str, *, age: float, limit: int) -> Program[Taken | None]:
    """Safe, and of no use."""
    yield Look(Place.REQUESTS, name)
    return None


def removes_without_a_claim(name: str, draft: str) -> Program[bool]:
    """A server may have linked it already."""
    return bool((yield Remove(Place.REQUESTS, name)))


def writes_in_place(draft: str, data: bytes, place: Place, name: str) -> Program[None]:
    """A name that shows before the file is whole."""
    yield Write(place, name, data)


def leaves_its_draft(draft: str, data: bytes, place: Place, name: str) -> Program[None]:
    """Only the sweep sees it: and it has a name that no sweep knows."""
    yield from give(draft.replace("draft_", "draft."), data, place, name)


def sweeps_what_is_young(place: Place, name: str, *, age: float) -> Program[bool]:
    return (yield from sweep(place, name, age=age / 3))


def sweeps_any_name(place: Place, name: str, *, age: float) -> Program[bool]:
    yield Look(place, name)
    return bool((yield Remove(place, name)))


def sweeps_requests(place: Place, name: str, *, age: float) -> Program[bool]:
    """What waits is swept, as if it had been claimed."""
    return bool((yield Remove(place, name))) if place is Place.REQUESTS else False


def sweeps_nothing(place: Place, name: str, *, age: float) -> Program[bool]:
    yield Look(place, name)
    return False


BUGS: list[tuple[str, Callable[..., Program[Any]]]] = [
    ("take", takes_what_it_lost),
    ("take", reads_before_it_claims),
    ("take", never_takes),
    ("withdraw", removes_without_a_claim),
    ("give", writes_in_place),
    ("give", leaves_its_draft),
    ("sweep", sweeps_what_is_young),
    ("sweep", sweeps_any_name),
    ("sweep", sweeps_requests),
    ("sweep", sweeps_nothing),
]


@pytest.mark.parametrize(("word", "bug"), BUGS, ids=[bug.__name__ for _, bug in BUGS])
def test_a_planted_bug_is_found(word: str, bug: Callable[..., Program[Any]]) -> None:
    planted = type("Planted", (FolderMachine,), {word: staticmethod(bug)})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(planted, settings=HUNT)


# --- every order --------------------------------------------------------------------------------------


class Race:
    """Two servers want one request while its client takes it back. ``late``: one has stood still in the middle of its
    claim, for so long that the claim is swept. ``victim`` is killed when it has done so many steps.
    """

    def __init__(
        self,
        *,
        take: Callable[..., Program[Taken | None]] = take,
        late: bool = False,
        victim: str = "",
        at: int = 0,
    ) -> None:
        self.model = FolderModel(age=AGE, links=True)
        self.people = {name: Process(name, self.model) for name in ("s1", "s2", "a", "sweeper")}
        self.runs = 0
        self.withdrawn = False
        self._victim, self._left = victim, at
        client = self.people["a"]
        client.begin(give("draft_1", b"request", Place.REQUESTS, NAME))
        client.run(ENOUGH)
        for name in ("s1", "s2"):
            self.people[name].begin(take(NAME, age=AGE, limit=LIMIT), then=self.took(name))
        client.begin(withdraw(NAME, "draft_2"), then=self.took_back)
        if late:
            self.people["s1"].run(1)
            self.model.now += AGE + 1
            self.people["sweeper"].begin(sweep(Place.CLAIMS, NAME, age=AGE))

    def took(self, name: str) -> Callable[[Taken | None], None]:
        def then(taken: Taken | None) -> None:
            if taken is not None and taken.data is not None:
                self.model.ran(name, taken.data)
                self.runs += 1

        return then

    def took_back(self, won: bool) -> None:
        self.withdrawn = won
        if won:
            self.model.disown(b"request")

    def busy(self) -> list[str]:
        return [name for name, process in self.people.items() if process.busy]

    def step(self, name: str) -> None:
        if name == self._victim and self._left == 0:
            self.people[name].kill()
            return
        self._left -= name == self._victim
        self.people[name].run(1)


def every_order(make: Callable[[], Race]) -> Iterator[Race]:
    """Each race that can happen when at every step any of those who are not done may be the next."""
    prefixes: list[tuple[str, ...]] = [()]
    while prefixes:
        prefix = prefixes.pop()
        race = make()
        for name in prefix:
            race.step(name)
        prefixes += [(*prefix, name) for name in race.busy()]
        if not race.busy():
            yield race


def test_in_every_order_a_request_is_run_by_one_or_withdrawn_by_its_client() -> None:
    races = list(every_order(Race))
    assert len(races) > 40
    assert all(race.runs == (0 if race.withdrawn else 1) for race in races)
    assert {race.withdrawn for race in races} == {True, False}


@pytest.mark.parametrize("victim", ["s1", "s2", "a"])
@pytest.mark.parametrize("at", range(4))
def test_whoever_is_killed_at_whichever_step_a_request_is_run_once_at_most(victim: str, at: int) -> None:
    races = list(every_order(lambda: Race(victim=victim, at=at)))
    assert len(races) > 30
    assert all(race.runs + race.withdrawn <= 1 for race in races)
    assert any(race.runs for race in races) and any(race.withdrawn or victim == "a" for race in races)


def test_in_every_order_what_was_swept_from_its_claimer_is_run_by_nobody() -> None:
    races = list(every_order(lambda: Race(late=True)))
    assert len(races) > 40
    assert all(race.runs == 0 for race in races)


def test_a_claim_that_is_won_by_its_second_name_is_found_in_some_order() -> None:
    def wins_by_the_second_name(name: str, *, age: float, limit: int) -> Program[Taken | None]:
        if (yield Link(Place.REQUESTS, name, Place.CLAIMS)) is not Linked.MADE:
            return None
        yield Remove(Place.REQUESTS, name)
        data = yield Read(Place.CLAIMS, name, limit)
        assert isinstance(data, bytes)
        return Taken(data=data)

    with pytest.raises(AssertionError, match="which was run|was run twice"):
        list(every_order(lambda: Race(take=wins_by_the_second_name, late=True)))
