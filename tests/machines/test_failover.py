"""The failover of a pipe: which transport is active, and what happens when it is lost."""

from __future__ import annotations

from typing import Any

import pytest

from devpipe.machines.charts.base import IllegalTransition
from devpipe.machines.config import FailoverConfig
from devpipe.machines.effects import Activate, Dial, Doubt, HangUp, HoldDials, Retire
from devpipe.machines.errors import ConfigurationError, FailureKind
from devpipe.machines.events import (
    Event,
    Exhausted,
    ServerChanged,
    SwitchReason,
    TransportFailed,
    TransportRecovered,
    TransportSwitched,
)
from devpipe.machines.failover import DOUBT, Failover, FailoverState
from devpipe.machines.inputs import (
    Alive,
    Close,
    Drained,
    FailoverInput,
    Failure,
    Open,
    Pin,
    Select,
    Standing,
    TransportDown,
    TransportUp,
)

NAMES = ("websocket", "http", "folder")
RESET = Failure(kind=FailureKind.NETWORK, reason="reset")
REFUSED = Failure(kind=FailureKind.NETWORK, reason="refused", refused=True)


def make(**settings: object) -> Failover:
    return Failover(names=NAMES, config=FailoverConfig(**settings))  # type: ignore[arg-type]


def feed(failover: Failover, *items: FailoverInput, now: float = 0.0) -> Failover:
    for item in items:
        failover.receive(item, now=now, jitter=0.5)
    return failover


def up(name: str, server: str = "S") -> TransportUp:
    return TransportUp(transport=name, server=server)


def down(name: str, failure: Failure = RESET, retry_at: float | None = 1.0) -> TransportDown:
    return TransportDown(transport=name, failure=failure, retry_at=retry_at)


def scored(name: str, score: float, *, admitted: bool = True, retry_at: float | None = None) -> Standing:
    return Standing(transport=name, score=score, admitted=admitted, retry_at=retry_at)


def active(**settings: object) -> Failover:
    """All three proven, the WebSocket active since 0."""
    failover = feed(make(**settings), Open(), up("websocket"), up("http"), up("folder"))
    assert failover.active == "websocket"
    clear(failover)
    return failover


def clear(failover: Failover) -> None:
    failover.drain_effects()
    failover.drain_events()


def kinds(failover: Failover) -> list[type[Event]]:
    return [type(event) for event in failover.drain_events()]


def test_it_dials_all_and_takes_the_first_of_the_chain_at_once() -> None:
    failover = feed(make(), Open())
    assert failover.drain_effects() == [Dial(transport=name) for name in NAMES]
    assert failover.state is FailoverState.CONNECTING and failover.active is None
    feed(failover, up("websocket"))
    assert failover.active == "websocket" and failover.state is FailoverState.ACTIVE
    assert failover.drain_effects() == [Activate(transport="websocket")]
    assert failover.drain_events() == [
        TransportSwitched(from_=None, to="websocket", reason=SwitchReason.INITIAL)
    ]


def test_without_standbys_only_the_first_is_dialled() -> None:
    failover = feed(make(standby=False), Open())
    assert failover.drain_effects() == [Dial(transport="websocket")]


def test_without_standbys_one_that_its_breaker_holds_is_no_reason_not_to_dial_the_next() -> None:
    failover = feed(make(standby=False), Open())
    clear(failover)
    feed(failover, scored("websocket", 1.0, admitted=False), up("websocket"))
    assert Dial(transport="http") in failover.drain_effects()


def test_a_lower_one_waits_a_moment_for_a_better_one_and_is_taken_then() -> None:
    failover = feed(make(), Open(), up("http"))
    assert failover.state is FailoverState.SELECTING and failover.next_deadline() == 0.15
    failover.handle_deadline(now=0.1)
    feed(failover, up("folder"), now=0.1)
    assert failover.active is None and failover.state is FailoverState.SELECTING
    failover.handle_deadline(now=0.15)
    assert failover.active == "http" and failover.usable() == ["http", "folder"]


def test_the_better_one_that_comes_in_time_is_taken() -> None:
    failover = feed(make(), Open(), up("http"), up("websocket"))
    assert failover.active == "websocket"


def test_a_lower_one_is_taken_at_once_when_the_better_ones_have_failed_for_good() -> None:
    failover = feed(make(), Open(), down("websocket", retry_at=None), up("http"))
    assert failover.active == "http"


def test_the_one_that_was_waited_with_may_be_lost_again() -> None:
    failover = feed(make(), Open(), up("http"), down("http"))
    assert failover.state is FailoverState.CONNECTING and failover.next_deadline() is None


def test_nothing_at_all_is_said_once_and_ends_with_the_first_proof() -> None:
    failover = feed(make(), Open())
    clear(failover)
    feed(failover, down("websocket"), down("http", retry_at=3.0), down("folder", retry_at=None))
    assert failover.state is FailoverState.EXHAUSTED
    assert failover.drain_events() == [Exhausted(retry_at=1.0)]
    feed(failover, down("http", retry_at=4.0))
    assert failover.drain_events() == []
    feed(failover, up("http"))
    assert failover.active == "http" and kinds(failover) == [TransportSwitched]


def test_losing_the_active_one_is_one_failover_to_the_next_of_the_chain() -> None:
    failover = active()
    feed(failover, down("websocket"), now=10.0)
    assert failover.active == "http" and failover.state is FailoverState.ACTIVE
    assert failover.drain_effects() == [
        Dial(transport="websocket", immediately=True),
        Activate(transport="http"),
    ]
    assert failover.drain_events() == [
        TransportFailed(transport="websocket", timestamp=10.0, failure=RESET),
        TransportSwitched(from_="websocket", to="http", reason=SwitchReason.FAILOVER),
        TransportRecovered(from_="websocket", to="http"),
    ]


def test_losing_another_one_changes_nothing() -> None:
    failover = active()
    feed(failover, down("http"))
    assert failover.active == "websocket" and failover.drain_effects() == []


def test_losing_all_waits_for_whoever_comes_first_and_the_same_one_may_recover() -> None:
    failover = active()
    feed(failover, down("http"), down("folder"), down("websocket"), now=10.0)
    assert failover.active is None and failover.state is FailoverState.EXHAUSTED
    assert kinds(failover) == [TransportFailed, Exhausted]
    feed(failover, up("websocket"), now=11.0)
    assert failover.active == "websocket"
    assert failover.drain_events() == [TransportRecovered(from_="websocket", to="websocket")]


def test_a_failover_waits_for_those_that_are_still_being_dialled() -> None:
    failover = feed(make(), Open(), up("websocket"))
    clear(failover)
    feed(failover, down("websocket"))
    assert failover.state is FailoverState.FAILING_OVER and failover.active is None
    feed(failover, scored("http", 0.5))
    assert failover.state is FailoverState.FAILING_OVER
    feed(failover, up("folder"))
    assert failover.active == "folder"


def test_a_failover_in_which_the_rest_fails_too_is_exhausted() -> None:
    failover = feed(make(), Open(), up("websocket"), down("websocket"), down("http"))
    assert failover.state is FailoverState.FAILING_OVER
    feed(failover, down("folder"))
    assert failover.state is FailoverState.EXHAUSTED


def test_a_breaker_that_holds_the_active_one_moves_the_route_and_only_that() -> None:
    failover = active()
    feed(failover, scored("websocket", 1.0, admitted=False, retry_at=30.0), now=10.0)
    assert failover.active == "http" and "held by its breaker" in failover.why()
    failed = failover.drain_events()[0]
    assert isinstance(failed, TransportFailed) and "breaker" in failed.failure.reason


def test_the_way_back_waits_for_the_ejection_and_the_stay_and_retires_the_old_one() -> None:
    failover = active()
    feed(failover, down("websocket"), now=10.0)
    clear(failover)
    feed(failover, up("websocket"), now=11.0)
    assert failover.active == "http" and failover.next_deadline() == 15.0
    failover.handle_deadline(now=14.9)
    assert failover.active == "http"
    failover.handle_deadline(now=15.0)
    assert failover.active == "websocket"
    assert failover.drain_effects() == [Activate(transport="websocket"), Retire(transport="http")]
    assert failover.drain_events() == [
        TransportSwitched(from_="http", to="websocket", reason=SwitchReason.UPGRADE)
    ]
    assert failover.next_deadline() == 20.0
    failover.handle_deadline(now=20.0)
    assert failover.next_deadline() is None


def test_each_loss_ejects_longer_and_a_long_peace_forgives() -> None:
    failover = active()
    pauses = []
    now = 10.0
    for _ in range(3):
        feed(failover, down("websocket"), now=now)
        lost = failover.candidates[0]
        assert lost.ejected_until is not None
        pauses.append(lost.ejected_until - now)
        feed(failover, up("websocket"), now=now)
        now = max(now + 5.0, lost.ejected_until)
        failover.handle_deadline(now=now)
        assert failover.active == "websocket"
        now += 10.0
    assert pauses == [5.0, 10.0, 20.0]
    feed(failover, down("websocket"), now=now + 1000.0)
    ejected = failover.candidates[0].ejected_until
    assert ejected == now + 1005.0


def test_a_lead_in_score_moves_it_and_a_small_one_does_not() -> None:
    failover = active()
    feed(failover, scored("http", 0.95), scored("websocket", 0.9), now=6.0)
    assert failover.active == "websocket", "a lead under 0.1 changes nothing"
    feed(failover, scored("websocket", 0.8), now=7.0)
    assert failover.active == "http"
    switched = failover.drain_events()[0]
    assert isinstance(switched, TransportSwitched) and switched.reason is SwitchReason.OPTIMIZATION


def test_a_standing_is_news_if_it_changes_a_fact() -> None:
    failover = feed(active(), Standing(transport="http", score=0.5, admitted=False, retry_at=9.0))
    for score in (0.5, 0.509, 0.491):
        assert not failover.is_news(Standing(transport="http", score=score, admitted=False, retry_at=9.0)), (
            score
        )
    assert not failover.is_news(Standing(transport="pigeon", score=1.0, admitted=True))
    assert failover.is_news(Standing(transport="http", score=0.52, admitted=False, retry_at=9.0))
    assert failover.is_news(Standing(transport="http", score=0.5, admitted=False, retry_at=10.0))
    assert failover.is_news(Standing(transport="http", score=0.5, admitted=True))


def test_nothing_moves_before_the_minimum_stay_is_over() -> None:
    failover = active()
    feed(failover, scored("websocket", 0.1), now=4.0)
    assert failover.active == "websocket"
    failover.handle_deadline(now=5.0)
    assert failover.active == "http"


def test_a_pinned_pipe_is_never_upgraded() -> None:
    failover = feed(active(), Pin(transport="http"), now=1.0)
    feed(failover, scored("http", 0.1), now=60.0)
    assert failover.active == "http"


def test_auto_upgrade_can_be_switched_off() -> None:
    failover = active(auto_upgrade=False)
    feed(failover, scored("websocket", 0.1), now=60.0)
    assert failover.active == "websocket"


def test_a_pinned_pipe_and_one_without_auto_failover_never_move_to_a_better_one() -> None:
    for failover in (feed(active(), Pin(transport="websocket")), active(auto_failover=False)):
        feed(failover, scored("websocket", 0.1), now=60.0)
        failover.handle_deadline(now=61.0)
        assert failover.active == "websocket"


def test_a_chart_that_does_not_come_to_rest_is_a_bug_that_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    from devpipe.machines import failover as shell

    monkeypatch.setattr(shell, "MAX_LOOKS", 1)
    with pytest.raises(AssertionError, match="rest"):
        feed(make(), Open())


def test_a_pipe_without_auto_failover_waits_for_its_own_transport() -> None:
    failover = active(auto_failover=False)
    feed(failover, down("websocket"), now=10.0)
    assert failover.active is None and failover.state is FailoverState.EXHAUSTED
    feed(failover, scored("http", 1.0))
    assert failover.active is None
    feed(failover, up("websocket"))
    assert failover.active == "websocket"


def test_a_pin_moves_at_once_if_it_can_waits_if_it_cannot_and_frees() -> None:
    failover = active()
    feed(failover, Pin(transport="folder"), now=1.0)
    assert failover.active == "folder" and failover.pinned == "folder" and failover.usable() == ["folder"]
    assert "pinned to folder" in failover.why()
    switched = failover.drain_events()[0]
    assert isinstance(switched, TransportSwitched) and switched.reason is SwitchReason.MANUAL
    feed(failover, down("folder"), now=2.0)
    assert failover.active is None, "callers wait for the one that was asked for"
    clear(failover)
    feed(failover, Pin(transport=None), now=3.0)
    assert failover.active == "websocket"
    feed(failover, Pin(transport="folder"), now=4.0)
    assert failover.active is None and Dial(transport="folder", immediately=True) in failover.drain_effects()


def test_select_chooses_by_score_whatever_the_stay_and_stays_if_nobody_leads() -> None:
    failover = active()
    feed(failover, Select(), now=1.0)
    assert failover.active == "websocket"
    feed(failover, scored("folder", 1.0), scored("websocket", 0.5), scored("http", 0.5), Select(), now=1.0)
    assert failover.active == "folder"
    for failover in (
        feed(make(), Open(), Select()),
        feed(make(), Open(), up("http"), Select()),
        feed(make(), Open(), up("websocket"), down("websocket"), Select()),
        feed(make(), Open(), down("websocket"), down("http"), down("folder"), Select()),
    ):
        assert failover.active is None
    feed(make(), Select())


def test_closing_hangs_up_everything_and_twice_is_fine() -> None:
    for build in (
        make,
        lambda: feed(make(), Open()),
        lambda: feed(make(), Open(), up("http")),
        active,
        lambda: feed(make(), Open(), up("websocket"), down("websocket")),
        lambda: feed(make(), Open(), down("websocket"), down("http"), down("folder")),
    ):
        failover = build()
        clear(failover)
        feed(failover, Close(), Close(), Select())
        assert failover.drain_effects() == [HangUp(transport=name) for name in NAMES]
        assert failover.active is None and not failover.will_try_before(1e9)
        for name in NAMES:
            feed(failover, down(name))
        assert failover.state is FailoverState.CLOSED
        feed(failover, Close(), Select(), scored("http", 1.0))
        assert failover.state is FailoverState.CLOSED
    failover = feed(active(), Close(), scored("http", 0.5))
    assert failover.state is FailoverState.CLOSING


def test_opening_twice_is_a_bug_of_the_caller() -> None:
    failover = feed(make(), Open())
    before = failover.snapshot()
    with pytest.raises(IllegalTransition):
        feed(failover, Open())
    assert failover.snapshot() == before
    feed(make(), scored("http", 1.0))


def test_a_server_that_is_down_holds_all_dials_by_one_growing_backoff_until_the_first_proof() -> None:
    failover = feed(make(), Open())
    clear(failover)
    feed(failover, down("websocket", REFUSED), down("http", REFUSED), down("folder", REFUSED))
    assert failover.server_down
    assert failover.drain_effects() == [HoldDials(until=0.5)]
    feed(failover, down("http", REFUSED), now=0.4)
    assert failover.drain_effects() == [], "one backoff at a time"
    feed(failover, down("http", REFUSED), now=0.5)
    assert failover.drain_effects() == [HoldDials(until=0.5 + 0.75)]
    feed(failover, up("http"), now=1.0)
    assert failover.drain_effects()[0] == HoldDials(until=None)


def test_the_end_of_a_hold_starts_no_new_one_before_a_dial_was_refused_again() -> None:
    failover = feed(make(), Open(), *(down(name, REFUSED) for name in NAMES))
    clear(failover)
    assert failover.next_deadline() is None
    failover.handle_deadline(now=0.5)
    feed(failover, scored("http", 0.5), now=0.5)
    assert failover.drain_effects() == [], "or the dials that were held would be held for ever"


def test_the_server_is_not_down_while_another_transport_that_may_not_be_used_is_up() -> None:
    failover = feed(active(), down("http", REFUSED), Pin(transport="http"))
    assert failover.state is FailoverState.EXHAUSTED and not failover.server_down
    assert not any(isinstance(effect, HoldDials) for effect in failover.drain_effects())


def test_one_path_that_is_not_refused_means_that_the_server_is_not_down() -> None:
    failover = feed(make(), Open(), down("websocket", REFUSED), down("http", RESET), down("folder", REFUSED))
    assert not failover.server_down and failover.next_deadline() is None


def test_another_server_is_set_aside_while_the_one_that_knows_us_is_reached() -> None:
    failover = feed(make(), Open(), up("websocket", "S"), up("http", "T"))
    assert (
        failover.elsewhere("http")
        and not failover.elsewhere("websocket")
        and not failover.elsewhere("folder")
    )
    assert failover.usable() == ["websocket"] and "another server" in failover.why()
    clear(failover)
    feed(failover, down("websocket"), now=1.0)
    assert failover.active == "http" and failover.server == "T"
    assert failover.drain_events()[0] == ServerChanged(from_="S", to="T")


def test_the_server_that_holds_our_session_is_ours_whatever_others_reach() -> None:
    failover = feed(make(), Open(), up("websocket", "old"), up("http", "old"))
    failover.drain_events()
    # both processes are new, and the first that answered has the session: nobody is left to wait for the old one
    feed(failover, TransportUp(transport="http", server="new", knows_us=True), up("websocket", "other"))
    assert failover.server == "new" and failover.usable() == ["http"]
    assert failover.elsewhere("websocket")
    assert not [event for event in failover.drain_events() if isinstance(event, ServerChanged)]


def test_a_server_without_an_identity_is_nobody_in_particular() -> None:
    failover = feed(make(), Open(), up("websocket", ""), up("http", "T"))
    assert failover.usable() == ["websocket", "http"]


def test_without_standbys_only_the_active_one_and_those_before_it_are_kept() -> None:
    failover = feed(make(standby=False), Open())
    clear(failover)
    feed(failover, down("websocket"), now=1.0)
    assert failover.drain_effects() == [Dial(transport="http")], "the next one when the one before has failed"
    feed(failover, up("http"), now=1.1)
    failover.handle_deadline(now=1.25)
    assert failover.active == "http"
    assert failover.drain_effects() == [Activate(transport="http")], "the better one is still being dialled"
    feed(failover, up("folder"), now=2.0)
    assert failover.drain_effects() == [HangUp(transport="folder")]


def test_without_standbys_a_loss_asks_everybody_and_the_rest_is_hung_up_again() -> None:
    failover = feed(make(standby=False), Open(), up("websocket"))
    clear(failover)
    feed(failover, down("websocket"), now=10.0)
    assert failover.drain_effects() == [
        Dial(transport="websocket", immediately=True),
        Dial(transport="http", immediately=True),
        Dial(transport="folder", immediately=True),
    ]
    feed(failover, up("http"), now=10.1)
    assert failover.drain_effects() == [Activate(transport="http"), HangUp(transport="folder")]


def test_without_standbys_the_old_one_is_hung_up_when_its_calls_have_ended_or_took_too_long() -> None:
    for end in ("drained", "too long", "lost", "back"):
        failover = feed(make(standby=False), Open(), up("websocket"), down("websocket"), up("http"), now=10.0)
        feed(failover, up("websocket"), now=20.0)
        assert failover.active == "websocket"
        assert failover.drain_effects()[-1] == Retire(transport="http")
        match end:
            case "drained":
                feed(failover, Drained(transport="http"), now=21.0)
            case "lost":
                feed(failover, down("http"), now=21.0)
            case "back":
                feed(failover, down("websocket", retry_at=None), now=21.0)
                assert failover.active == "http"
                feed(failover, Drained(transport="http"), now=22.0)
                assert HangUp(transport="http") not in failover.drain_effects()
                continue
            case _:
                assert failover.next_deadline() == 25.0, "the end of the stay"
                failover.handle_deadline(now=25.0)
                assert failover.next_deadline() == 50.0
                failover.handle_deadline(now=49.0)
                assert failover.drain_effects() == []
                failover.handle_deadline(now=50.0)
        assert failover.drain_effects() == [HangUp(transport="http")]
        assert failover.next_deadline() in (None, 25.0)


def test_without_standbys_and_upgrades_nothing_but_the_active_one_is_kept() -> None:
    failover = feed(make(standby=False, auto_upgrade=False), Open(), down("websocket"), up("http"))
    failover.handle_deadline(now=0.15)
    assert failover.active == "http" and failover.drain_effects()[-1] == HangUp(transport="websocket")


def test_with_standbys_nothing_is_hung_up() -> None:
    failover = feed(active(), scored("websocket", 0.1), now=10.0)
    clear(failover)
    feed(failover, Drained(transport="websocket"), Pin(transport="folder"), now=11.0)
    assert not any(isinstance(effect, HangUp) for effect in failover.drain_effects())


def test_one_that_has_failed_for_good_is_dialled_again_only_at_the_operators_word() -> None:
    failover = feed(active(), down("folder", retry_at=None))
    clear(failover)
    feed(failover, down("websocket"), now=10.0)
    assert Dial(transport="folder", immediately=True) not in failover.drain_effects()
    feed(failover, Pin(transport="folder"), now=11.0)
    assert failover.drain_effects() == [Dial(transport="folder", immediately=True)]
    assert failover.will_try_before(12.0)


def test_a_choice_that_is_freed_dials_those_that_nobody_dialled() -> None:
    failover = feed(make(), Pin(transport="folder"), Open())
    assert failover.drain_effects() == [Dial(transport="folder", immediately=True)]
    feed(failover, up("folder"))
    assert failover.active == "folder"
    clear(failover)
    feed(failover, Pin(transport=None))
    assert failover.drain_effects() == [Dial(transport="websocket"), Dial(transport="http")]
    exhausted = feed(make(), Pin(transport="folder"), Open(), down("folder", retry_at=None))
    assert exhausted.state is FailoverState.EXHAUSTED and not exhausted.will_try_before(1e9)
    clear(exhausted)
    feed(exhausted, Pin(transport=None))
    assert exhausted.drain_effects() == [Dial(transport="websocket"), Dial(transport="http")]


def test_a_pin_that_hurries_a_waiting_transport_leaves_its_facts_alone() -> None:
    failover = feed(active(), down("http", retry_at=9.0), now=1.0)
    clear(failover)
    feed(failover, Pin(transport="http"), now=2.0)
    assert Dial(transport="http", immediately=True) in failover.drain_effects()
    assert failover.candidates[1].retry_at == 9.0 and failover.state is FailoverState.EXHAUSTED


def test_a_pin_is_refused_if_unknown_and_changes_nothing_once_the_pipe_is_left() -> None:
    failover = active()
    before = failover.snapshot()
    with pytest.raises(ConfigurationError, match="websocket, http, folder"):
        feed(failover, Pin(transport="pigeon"))
    assert failover.snapshot() == before
    feed(failover, Close())
    clear(failover)
    feed(failover, Pin(transport="http"))
    assert failover.drain_effects() == [] and failover.pinned is None


def test_a_pin_moves_without_a_failure_and_lets_the_old_one_end_what_it_carries() -> None:
    failover = feed(active(), Pin(transport="folder"), now=1.0)
    assert failover.drain_effects() == [Activate(transport="folder"), Retire(transport="websocket")]
    assert kinds(failover) == [TransportSwitched]
    feed(failover, down("http"), Pin(transport="http"), now=2.0)
    assert failover.active is None
    feed(failover, up("http"), now=3.0)
    assert failover.active == "http"
    assert kinds(failover) == [Exhausted, TransportSwitched], "nothing was lost, so nothing recovers"


def test_a_pin_to_a_transport_that_reaches_another_server_is_obeyed_with_a_new_session() -> None:
    failover = feed(make(), Open(), up("websocket", "S"), up("http", "T"))
    clear(failover)
    feed(failover, Pin(transport="http"))
    assert failover.active == "http" and failover.server == "T"
    assert kinds(failover) == [ServerChanged, TransportSwitched]


def test_the_active_ones_new_server_is_ours_whatever_others_reach() -> None:
    failover = feed(make(), Open(), down("websocket"), up("http", "S"))
    failover.handle_deadline(now=1.0)
    feed(failover, up("websocket", "T"), now=2.0)
    assert failover.active == "http" and failover.elsewhere("websocket")
    clear(failover)
    feed(failover, up("http", "U"), now=3.0)
    assert failover.active == "http" and failover.server == "U" and kinds(failover) == [ServerChanged]


def test_an_active_one_that_moves_to_another_server_is_left_while_ours_is_reached() -> None:
    failover = active()
    feed(failover, up("websocket", "T"), now=10.0)
    assert failover.active == "http"
    failed = failover.drain_events()[0]
    assert isinstance(failed, TransportFailed) and "another server" in failed.failure.reason


def test_nothing_usable_is_exhausted_even_if_one_stands_at_another_server() -> None:
    failover = feed(make(), Open(), up("websocket", "S"), up("http", "T"), down("folder", retry_at=9.0))
    clear(failover)
    feed(failover, scored("websocket", 1.0, admitted=False, retry_at=5.0), now=1.0)
    assert failover.state is FailoverState.EXHAUSTED
    assert failover.drain_events()[-1] == Exhausted(retry_at=5.0)
    assert not failover.will_try_before(4.0) and failover.will_try_before(5.0)


def test_the_first_one_after_nothing_is_the_initial_one() -> None:
    failover = feed(make(), Open(), *(down(name) for name in NAMES))
    clear(failover)
    feed(failover, up("folder"), now=3.0)
    assert failover.drain_events() == [
        TransportSwitched(from_=None, to="folder", reason=SwitchReason.INITIAL)
    ]


def test_select_does_not_go_back_to_one_that_was_lost_lately_and_may_stay_with_it() -> None:
    failover = feed(active(), down("websocket"), up("websocket"), Select(), now=10.0)
    assert failover.active == "http"
    failover = feed(make(), Open(), up("websocket"), down("websocket"), up("websocket"), up("http"), now=10.0)
    feed(failover, Select(), now=11.0)
    assert failover.active == "websocket", "the only one came back: there is no reason to leave it again"


def test_three_scores_that_each_lead_the_next_by_too_little_do_not_go_round() -> None:
    failover = active()
    feed(failover, scored("websocket", 0.8), scored("http", 0.86), scored("folder", 0.92))
    moves = []
    for step in range(1, 20):
        failover.handle_deadline(now=step * 5.0)
        feed(failover, scored("http", 0.86), now=step * 5.0)
        moves.append(failover.active)
    assert moves == ["folder"] * 19


def test_it_knows_whether_somebody_will_try_before_a_deadline() -> None:
    assert make().will_try_before(0.0)
    failover = feed(make(), Open())
    assert failover.will_try_before(5.0), "they are being dialled"
    feed(
        failover, down("websocket", retry_at=8.0), down("http", retry_at=None), down("folder", retry_at=None)
    )
    assert not failover.will_try_before(5.0) and failover.will_try_before(8.0)
    feed(failover, up("http"), scored("http", 1.0, admitted=False, retry_at=30.0))
    assert failover.will_try_before(30.0)


def test_an_upgrade_is_rolled_back_when_it_is_not_better_any_more() -> None:
    # inside one look the candidate is proven, so the state shows only between looks of a chart driven by hand
    from devpipe.machines import failover as shell
    from devpipe.machines.charts.base import Cell
    from devpipe.machines.charts.failover import FailoverContext, FailoverEvent
    from devpipe.machines.decisions.chain import Candidate

    up_ = {"up": True, "asked": True, "server": "S"}
    context = FailoverContext(
        config=FailoverConfig(),
        candidates=(Candidate(name="websocket", **up_), Candidate(name="http", **up_)),  # type: ignore[arg-type]
        active="http",
        server="S",
        since=0.0,
    )
    ev = FailoverEvent(now=10.0)

    def upgrading() -> tuple[Cell[FailoverContext], Any]:
        cell = Cell(context, state="active")
        chart = shell.FailoverChart(cell)
        chart.step("look", ev)
        assert cell.leaf == "upgrading" and cell.ctx.upgrade_to == "websocket" and cell.ctx.active == "http"
        return cell, chart

    cell, chart = upgrading()
    cell.ctx = cell.ctx.changed("websocket", up=False)
    chart.step("look", ev)
    assert cell.leaf == "active" and cell.ctx.active == "http" and cell.ctx.upgrade_to is None
    cell, chart = upgrading()
    cell.ctx = cell.ctx.changed("http", up=False, failure=RESET)
    chart.step("look", ev)
    assert cell.leaf == "failing_over"
    cell, chart = upgrading()
    chart.step("select", ev)
    assert cell.leaf == "upgrading" and cell.ctx.active == "http"
    cell, chart = upgrading()
    chart.step("close", ev)
    assert cell.leaf == "closing"


def test_a_snapshot_is_plain_data_and_brings_everything_back() -> None:
    failover = active()
    kept = failover.snapshot()
    hash(kept)
    feed(failover, down("websocket"))
    failover.restore(kept)
    assert failover.active == "websocket" and failover.snapshot() == kept and failover.drain_events() == []
    assert "scores" in failover.why()
    feed(failover, down("folder"))
    assert "down (reset)" in failover.why()


def refused_on_two_paths() -> Failover:
    """The socket broke, HTTP took over, and where both led nobody listens any more; the folder still seems to be up."""
    failover = feed(active(), down("websocket"), now=10.0)
    assert failover.active == "http"
    clear(failover)
    return feed(failover, down("http", REFUSED), now=10.1)


def test_a_server_that_refuses_where_it_was_reached_is_looked_for_elsewhere_before_anybody_moves_there() -> (
    None
):
    failover = refused_on_two_paths()
    assert (failover.active, failover.state) == (None, FailoverState.FAILING_OVER)
    assert Doubt(transport="folder") in failover.drain_effects()
    assert failover.will_try_before(11.0), "calls wait for the verdict"
    feed(failover, Alive(transport="folder"), now=10.2)
    assert failover.active == "folder", "the server lives: only its door is shut"


def test_a_restart_moves_nobody_to_a_path_that_is_dead() -> None:
    failover = refused_on_two_paths()
    feed(failover, down("folder"), now=12.1)
    assert failover.state is FailoverState.EXHAUSTED
    feed(failover, up("websocket", "T"), now=13.0)
    assert (failover.active, failover.server) == ("websocket", "T")
    assert [e.to for e in failover.drain_events() if isinstance(e, TransportSwitched)] == ["websocket"]


def test_a_doubt_ends_by_itself() -> None:
    failover = refused_on_two_paths()
    assert failover.next_deadline() == 10.1 + DOUBT
    failover.handle_deadline(now=10.1 + DOUBT)
    assert failover.active == "folder"


def test_a_doubted_path_that_is_proven_anew_is_trusted() -> None:
    assert feed(refused_on_two_paths(), up("folder"), now=10.2).active == "folder"


def test_only_a_door_through_which_our_server_was_reached_says_something_of_it() -> None:
    failover = feed(make(), Open(), up("http"), up("folder"), down("websocket", REFUSED))
    assert not [e for e in failover.drain_effects() if isinstance(e, Doubt)], "it was never reached there"
    failover = feed(active(), down("http"), now=10.0)
    assert not [e for e in failover.drain_effects() if isinstance(e, Doubt)], "a reset is no refusal"
    feed(failover, down("http", REFUSED), down("http", REFUSED), now=10.5)
    assert [e for e in failover.drain_effects() if isinstance(e, Doubt)] == [
        Doubt(transport="websocket"),
        Doubt(transport="folder"),
    ], "each is probed once"
    assert failover.active == "websocket", "who carries messages goes on"


def test_it_shows_its_transports_and_where_it_is() -> None:
    assert repr(make()) == "<Failover of websocket, http, folder idle>"
    assert repr(active()) == "<Failover of websocket, http, folder active>"
