"""The rules of the shared folder: names, order, age, and the server's beat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.protocols import folder
from devpipe.machines.protocols.folder import (
    BEAT,
    MISSED_BEATS,
    Beat,
    BeatWatch,
    beat_data,
    client_of,
    flat_draft,
    is_flat_draft,
    is_fresh,
    is_orphan,
    push_name,
    read_beat,
    request_id,
    request_name,
    response_id,
    response_name,
    scan_client,
    scan_requests,
)


def test_names_are_made_of_ids_and_read_back() -> None:
    assert request_name("abc-1") == "request_abc-1.json" and request_id("request_abc-1.json") == "abc-1"
    assert response_name("abc-1") == "response_abc-1.json" and push_name(7) == "push_7.json"
    assert response_id("response_abc-1.json") == "abc-1" and response_id("request_abc-1.json") is None
    assert client_of("abc-1") == "abc" and client_of("a-b-1") == "a-b"
    assert client_of("abc") is None and client_of("-1") is None


@given(st.text(max_size=80))
def test_no_name_outside_the_folder_can_be_made_of_any_id(id: str) -> None:
    try:
        name = request_name(id)
    except ValueError:
        assert request_id(f"request_{id}.json") is None
        return
    assert "/" not in name and "\\" not in name and "\0" not in name and not name.startswith(".")
    assert request_id(name) == id


@pytest.mark.parametrize("id", ["../../x", "a/b", "", "a" * 65, "a\nb", "CON.", "é", "a\0b"])
def test_ids_that_mean_something_to_a_file_system_are_refused(id: str) -> None:
    with pytest.raises(ValueError, match="is no id"):
        response_name(id)


def test_a_listing_is_read_in_order_and_strange_entries_are_counted() -> None:
    names = ["request_a-10.json", "request_a-9.json", "x", "request_.json", "request_a-1.tmp"]
    scan = scan_requests(names)
    assert scan.names == ("request_a-9.json", "request_a-10.json") and scan.strange == 3
    names = [
        "push_10.json",
        "response_a-1.json",
        "push_9.json",
        "push_x.json",
        "push_" + "1" * 20 + ".json",
        "y",
    ]
    scan = scan_client(names)
    assert scan.names == ("response_a-1.json", "push_9.json", "push_10.json") and scan.strange == 3


def test_one_scan_takes_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_ENTRIES", 3)
    assert len(scan_requests(f"request_a-{n}.json" for n in range(9)).names) == 3
    assert len(scan_client(f"push_{n}.json" for n in range(9)).names) == 3


def test_a_draft_in_a_flat_folder_is_known_by_its_name() -> None:
    assert is_flat_draft(flat_draft("draft_0a"))
    assert not any(map(is_flat_draft, ["draft_0a", "notes.tmp", "draft_ö.tmp", "draft_.tmp.json"]))


def test_only_what_is_surely_old_is_an_orphan() -> None:
    assert is_orphan(modified=0.0, now=100.0, age=99.0)
    assert not is_orphan(modified=1.0, now=100.0, age=99.0)
    assert not is_orphan(modified=200.0, now=100.0, age=1.0), "a time stamp of the future says nothing"


def test_a_beat_is_read_back_and_anything_else_is_none() -> None:
    assert read_beat(beat_data("S", 4)) == Beat(server="S", count=4)
    for data in (b"", b"{", b"[]", b"\xff", b'{"server": 1}', b"[" * 100_000):
        assert read_beat(data) is None


def test_a_server_lives_while_its_beat_changes_and_is_gone_after_so_many_looks() -> None:
    watch = BeatWatch()
    now = 0.0
    assert watch.due(now=now)
    assert not watch.look(Beat(server="S", count=1), now=now), "the first look is no change"
    assert not watch.due(now=now)
    for count in range(2, 5):
        now += BEAT
        assert watch.look(Beat(server="S", count=count), now=now)
    for _ in range(MISSED_BEATS):
        now += BEAT
        assert not watch.look(Beat(server="S", count=4), now=now)
        watch.look(Beat(server="S", count=4), now=now)
        watch.look(None, now=now)
        assert not watch.gone, "looks less than a beat apart are free"
    watch.look(None, now=now + BEAT)
    assert watch.gone
    assert watch.look(Beat(server="S", count=5), now=now + 2 * BEAT) and not watch.gone
    assert not watch.replaced


def test_the_beat_of_another_server_is_no_sign_of_life_of_the_one_before() -> None:
    watch = BeatWatch()
    watch.look(Beat(server="S", count=1), now=0.0)
    assert not watch.replaced, "whoever is seen first is the server"
    assert not watch.look(Beat(server="T", count=1), now=BEAT) and watch.replaced


def test_the_beat_of_the_server_that_answered_is_no_other_ones_although_an_old_one_was_seen_first() -> None:
    watch = BeatWatch()
    watch.look(Beat(server="S", count=1), now=0.0)
    watch.known = "T"
    assert watch.look(Beat(server="T", count=1), now=BEAT) and not watch.replaced


def test_a_beat_is_fresh_until_a_living_server_would_have_written_others() -> None:
    assert is_fresh(modified=100.0, now=100.0 + (MISSED_BEATS - 1) * BEAT)
    assert not is_fresh(modified=100.0, now=100.0 + MISSED_BEATS * BEAT)
    assert is_fresh(modified=200.0, now=100.0), "a time stamp of the future says nothing"


def test_our_own_sleep_is_not_the_servers() -> None:
    watch = BeatWatch()
    watch.look(Beat(server="S", count=1), now=0.0)
    watch.look(Beat(server="S", count=1), now=3600.0)
    assert not watch.gone
