"""Server-sent events: the WHATWG rules at every cut of the bytes, the limits, and the way there and back."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import FailureKind, InvalidMessage, TransportError
from devpipe.machines.protocols.sse import SseEvent, SseParser, encode_comment, encode_event

#: The parse cases of the web platform tests, where somebody has put them beside the project.
WEB_PLATFORM_TESTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "wpt_eventsource.json"


@dataclass(frozen=True)
class Case:
    name: str
    body: bytes
    events: tuple[tuple[str, str, str], ...]  #: type, data, last event id
    retry: int | None = None


def message(data: str, id: str = "") -> tuple[str, str, str]:
    return ("message", data, id)


OWN = (
    Case("nothing", b"", ()),
    Case("only line ends", b"\n\r\n\r\n\n", ()),
    Case("one line of data", b"data: x\n\n", (message("x"),)),
    Case("lines are joined", b"data: a\ndata: b\n\n", (message("a\nb"),)),
    Case("empty data is an event", b"data\n\n", (message(""),)),
    Case("two empty lines of data", b"data\ndata:\n\n", (message("\n"),)),
    Case("no data is no event", b"event: x\nid: 1\n\ndata: y\n\n", (message("y", "1"),)),
    Case("a type lasts for its block", b"event: t\ndata: 1\n\ndata: 2\n\n", (("t", "1", ""), message("2"))),
    Case("an empty type is the usual one", b"event: t\nevent:\ndata: 1\n\n", (message("1"),)),
    Case("one space goes", b"data:a\ndata: b\ndata:  c\ndata:\td\n\n", (message("a\nb\n c\n\td"),)),
    Case("comments say nothing", b": hello\n:\ndata: x\n:data: y\n\n", (message("x"),)),
    Case(
        "unknown fields say nothing", b"Data: a\n data: b\nxdata: c\ndata : d\ndata: e\n\n", (message("e"),)
    ),
    Case("colons in data stay", b"data: a:b: c\n\n", (message("a:b: c"),)),
    Case(
        "all line ends", b"data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\r", (message("a\nb\nc"), message("d"))
    ),
    Case("CR LF CR LF is one blank line", b"data: a\r\n\r\ndata: b\r\n\r\n", (message("a"), message("b"))),
    Case("a block cut off by the end", b"data: a\n\ndata: b\n", (message("a"),)),
    Case("a block cut off in its line", b"data: a\n\ndata: b", (message("a"),)),
    Case("a CR may be the end", b"data: a\r\r", (message("a"),)),
    Case("an id sticks", b"id: 7\ndata: a\n\ndata: b\n\n", (message("a", "7"), message("b", "7"))),
    Case(
        "an id without a colon resets",
        b"id: 7\ndata: a\n\nid\ndata: b\n\n",
        (message("a", "7"), message("b")),
    ),
    Case("an id with NUL is ignored", b"id: 7\nid: 8\x009\ndata: a\n\n", (message("a", "7"),)),
    Case("an id needs no data", b"id: 7\n\ndata: a\n\n", (message("a", "7"),)),
    Case("retry is digits", b"retry: 1000x\nretry: 03000\nretry: -1\nretry:\n\n", (), 3000),
    Case("retry of zeros", b"retry: 0000\n\n", (), 0),
    Case("retry counts at once", b"retry: 20", (), None),
    Case("retry beyond reason is ignored", b"retry: 5\nretry: " + b"9" * 5000 + b"\n", (), 5),
    Case("one BOM goes", b"\xef\xbb\xbfdata: a\n\n", (message("a"),)),
    Case("the second BOM does not", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", (message("b"),)),
    Case("half a BOM is none", b"\xef\xbbdata: a\n\ndata: b\n\n", (message("b"),)),
    Case("bad UTF-8 is replaced", b"data: \xff\xc3\n\n", (message("\ufffd\ufffd"),)),
    Case("UTF-8 across lines", "data: é€😀\n\n".encode(), (message("é€😀"),)),
)


def foreign() -> tuple[Case, ...]:
    if not WEB_PLATFORM_TESTS.exists():  # the own cases cover the same rules
        return ()
    return tuple(
        Case(
            case["name"],
            base64.b64decode(case["body_b64"]),
            tuple((event["type"], event["data"], event["last_event_id"]) for event in case["events"]),
            case["retry"],
        )
        for case in json.loads(WEB_PLATFORM_TESTS.read_text())["parse"]
    )


def parse(pieces: list[bytes]) -> tuple[tuple[tuple[str, str, str], ...], int | None]:
    parser = SseParser(max_line_bytes=10_000, max_event_bytes=10_000)
    for piece in pieces:
        parser.feed(piece)
    return tuple(
        (event.type, event.text, event.last_event_id) for event in parser.drain_events()
    ), parser.retry


@pytest.mark.parametrize("case", OWN + foreign(), ids=lambda case: case.name)
def test_a_stream_means_the_same_at_every_chunk_size_and_every_single_cut(case: Case) -> None:
    body = case.body
    expected = (case.events, case.retry)
    for size in range(1, min(len(body), 300) + 2):
        assert parse([body[i : i + size] for i in range(0, len(body), size)]) == expected, size
    for cut in range(min(len(body), 1500) + 1):
        assert parse([body[:cut], body[cut:]]) == expected, cut


def test_there_are_own_cases_for_everything() -> None:
    assert len(OWN) == len({case.name for case in OWN}) >= 30


def test_an_id_of_a_block_that_was_cut_off_does_not_count() -> None:
    parser = SseParser(max_line_bytes=100, max_event_bytes=100, last_event_id="5")
    parser.feed(b"id: 6\ndata: x\n")
    assert parser.last_event_id == "5"
    parser.feed(b"\n")
    assert parser.last_event_id == "6"


def test_an_id_from_before_the_reconnect_stands_until_another_comes() -> None:
    parser = SseParser(max_line_bytes=100, max_event_bytes=100, last_event_id="5")
    parser.feed(b"data: x\n\n")
    assert parser.drain_events() == [SseEvent(data=b"x", last_event_id="5")]
    assert parser.drain_events() == []


def test_an_endless_line_is_an_error_and_costs_no_more_than_the_limit() -> None:
    parser = SseParser(max_line_bytes=1000, max_event_bytes=10_000)
    parser.feed(b"data: good\n\n" + b"x" * 900)
    with pytest.raises(TransportError, match="longer than 1000 bytes") as caught:
        for _ in range(200):
            parser.feed(b"x")
    assert caught.value.kind is FailureKind.PROTOCOL
    assert [event.data for event in parser.drain_events()] == [b"good"]
    with pytest.raises(TransportError, match="longer than 1000 bytes"):
        parser.feed(b"data: more\n\n")
    assert parser.drain_events() == []


def test_a_line_that_is_too_long_but_whole_is_an_error_too() -> None:
    parser = SseParser(max_line_bytes=10, max_event_bytes=100)
    parser.feed(b"data: 1234\n\n")
    with pytest.raises(TransportError, match="longer than 10 bytes"):
        parser.feed(b"data: 12345\n\n")


def test_an_endless_event_is_an_error_even_when_its_lines_are_empty() -> None:
    parser = SseParser(max_line_bytes=100, max_event_bytes=10)
    parser.feed(b"data: 1234567890\n\n")
    assert [event.data for event in parser.drain_events()] == [b"1234567890"]
    with pytest.raises(TransportError, match="larger than 10 bytes"):
        parser.feed(b"data\n" * 12)


def test_any_number_of_events_may_be_as_large_as_one() -> None:
    parser = SseParser(max_line_bytes=100, max_event_bytes=10)
    for _ in range(5):
        parser.feed(b"data: 12345\ndata: 6789\n\n")
    assert [event.data for event in parser.drain_events()] == [b"12345\n6789"] * 5


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
words = texts.map(lambda text: text.replace("\r", "").replace("\n", "").replace("\0", ""))


@given(
    st.lists(
        st.tuples(texts, st.none() | words, st.none() | words, st.none() | st.integers(0, 10**9 - 1)),
        max_size=5,
    ),
    st.integers(1, 64),
)
def test_what_was_encoded_comes_back(
    events: list[tuple[str, str | None, str | None, int | None]], size: int
) -> None:
    body = b""
    expected: list[tuple[str, str, str]] = []
    id, retry = "", None
    for data, type, new_id, new_retry in events:
        body += encode_comment("still here") + encode_event(data, event=type, id=new_id, retry=new_retry)
        id = id if new_id is None else new_id
        retry = retry if new_retry is None else new_retry
        expected.append((type or "message", data.replace("\r\n", "\n").replace("\r", "\n"), id))
    parser = SseParser(max_line_bytes=2000, max_event_bytes=2000)
    for start in range(0, len(body), size):
        parser.feed(body[start : start + size])
    found = [(event.type, event.text, event.last_event_id) for event in parser.drain_events()]
    assert found == expected
    assert parser.retry == retry


@given(st.binary(max_size=300).filter(lambda data: b"\r" not in data))
def test_bytes_come_back_as_they_are(data: bytes) -> None:
    parser = SseParser(max_line_bytes=1000, max_event_bytes=1000)
    parser.feed(encode_event(data))
    assert [event.data for event in parser.drain_events()] == [data]


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_an_event_or_id_that_would_break_out_of_its_field_is_refused(bad: str) -> None:
    with pytest.raises(InvalidMessage, match="id = "):
        encode_event("x", id=bad)
    with pytest.raises(InvalidMessage, match="event = "):
        encode_event("x", event=bad)
    with pytest.raises(InvalidMessage, match="comment = "):
        encode_comment(bad)


def test_every_line_end_in_data_becomes_a_line_of_its_own() -> None:
    assert encode_event("a\rb\r\nc\nd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert (
        encode_event(b"a\rb", event="t", id="", retry=5) == b"event: t\nid: \nretry: 5\ndata: a\ndata: b\n\n"
    )


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="UTF-8"):
        encode_event("\ud800")
    with pytest.raises(InvalidMessage, match="retry"):
        encode_event("x", retry=-1)
