"""The stream's plan: when it is opened again, when pushes are polled; and what its answers mean."""

from __future__ import annotations

import json
import zlib

import pytest

from devpipe.machines.errors import FailureKind, TransportError
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.envelope import decode
from devpipe.machines.protocols.http import Answer
from devpipe.machines.protocols.http_stream import (
    STEADY,
    STREAM_AGAIN,
    BodyReader,
    StreamPlan,
    check_proof,
    encode_poll,
    read_attach,
    read_poll,
    read_stream_head,
)

BROKEN = Failure(kind=FailureKind.NETWORK, reason="broken")


def answer(status: int = 200, body: object = b"", content_type: str = "application/json") -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(url="http://h/s", status=status, content_type=content_type, retry_after="", body=data)


def refusal_of(code: str) -> dict[str, object]:
    return {"type": "response", "success": False, "error": {"code": code, "message": "no"}}


def test_a_stream_that_was_proven_and_lost_is_opened_again_after_a_growing_wait() -> None:
    plan = StreamPlan()
    waits: list[float] = []
    for _ in range(12):
        plan.proved(now=0.0)
        waits.append(plan.ended(BROKEN, now=STEADY - 0.1, jitter=1.0))
    assert waits[:3] == [1.0, 1.5, 2.25] and waits[-1] == 10.0
    assert not plan.polls(now=0.0) and plan.why == ""
    plan.proved(now=0.0)
    assert plan.ended(BROKEN, now=STEADY, jitter=0.5) == 0.5


def test_a_servers_wish_for_the_wait_wins_within_reason() -> None:
    plan = StreamPlan()
    assert plan.ended(BROKEN, now=0.0, jitter=0.0, retry_ms=2000) == 2.0
    plan.proved(now=0.0)
    assert plan.ended(BROKEN, now=0.0, jitter=0.0, retry_ms=10**8) == 60.0
    told = Failure(kind=FailureKind.UNAVAILABLE, reason="busy", retry_after=7.0)
    assert plan.ended(told, now=0.0, jitter=0.0) == 7.0


def test_three_streams_without_a_proof_and_pushes_are_polled_until_later() -> None:
    plan = StreamPlan()
    for _ in range(2):
        plan.ended(BROKEN, now=0.0, jitter=0.0)
        assert not plan.polls(now=0.0)
    assert plan.ended(BROKEN, now=0.0, jitter=1.0) == 0.0
    assert plan.polls(now=0.0) and plan.why == "broken"
    assert plan.polls(now=STREAM_AGAIN - 0.1)
    assert not plan.polls(now=STREAM_AGAIN)  # one more try
    plan.ended(BROKEN, now=STREAM_AGAIN, jitter=0.0)
    assert plan.polls(now=STREAM_AGAIN)


def test_with_a_server_that_knows_no_polls_the_stream_is_tried_again_for_ever() -> None:
    plan = StreamPlan(polling=False)
    waits = [plan.ended(BROKEN, now=0.0, jitter=1.0) for _ in range(12)]
    assert waits[:3] == [1.0, 1.5, 2.25] and waits[-1] == 10.0
    assert not plan.polls(now=0.0) and plan.why == "broken"
    assert plan.ended(BROKEN, now=0.0, jitter=1.0, for_good=True) == STREAM_AGAIN
    plan.proved(now=0.0)
    assert plan.why == ""
    assert plan.ended(BROKEN, now=STEADY, jitter=1.0) == 1.0


def test_a_proof_ends_the_polling_and_its_count() -> None:
    plan = StreamPlan()
    plan.held_back(now=0.0, seconds=5.0)
    assert plan.polls(now=0.0) and "5 s" in plan.why
    assert not plan.polls(now=STREAM_AGAIN)
    plan.proved(now=STREAM_AGAIN)
    assert plan.why == ""
    plan.ended(BROKEN, now=STREAM_AGAIN, jitter=0.0)
    assert not plan.polls(now=STREAM_AGAIN)


def test_only_attempts_in_a_row_without_a_proof_count() -> None:
    plan = StreamPlan()
    for _ in range(3):
        for _ in range(2):
            plan.ended(BROKEN, now=0.0, jitter=0.0)
            assert not plan.polls(now=0.0)
        plan.proved(now=0.0)
        plan.ended(BROKEN, now=0.0, jitter=0.0)
        assert not plan.polls(now=0.0)


def test_no_stream_for_good_is_polled_at_once() -> None:
    plan = StreamPlan()
    plan.ended(BROKEN, now=0.0, jitter=0.0, for_good=True)
    assert plan.polls(now=0.0)


def test_polls_that_fail_wait_longer_and_one_answer_forgives() -> None:
    plan = StreamPlan()
    assert [plan.poll_failed(BROKEN, jitter=1.0) for _ in range(3)] == [1.0, 1.5, 2.25]
    plan.polled()
    assert plan.poll_failed(BROKEN, jitter=1.0) == 1.0


def test_only_200_with_the_right_type_is_a_stream() -> None:
    assert read_stream_head(answer(content_type="text/event-stream; charset=utf-8"), wall=0.0) is None
    page = read_stream_head(answer(content_type="text/html"), wall=0.0)
    assert page is not None and page.failure.kind is FailureKind.PROTOCOL
    assert not page.lost and not page.for_good


@pytest.mark.parametrize("status", [204, 404, 405, 406, 501])
def test_these_statuses_say_that_there_is_no_stream(status: int) -> None:
    found = read_stream_head(answer(status, content_type="text/html"), wall=0.0)
    assert found is not None and found.for_good and not found.lost


def test_a_forgotten_session_and_a_refused_token_concern_the_whole_link() -> None:
    gone = read_stream_head(answer(409, refusal_of("session_unknown")), wall=0.0)
    assert gone is not None and gone.lost and gone.failure.kind is FailureKind.UNAVAILABLE
    auth = read_stream_head(answer(401), wall=0.0)
    assert auth is not None and auth.lost and auth.failure.kind is FailureKind.AUTH


def test_another_refusal_of_the_server_names_its_code() -> None:
    found = read_stream_head(answer(403, refusal_of("forbidden")), wall=0.0)
    assert found is not None and not found.lost and "forbidden" in found.failure.reason
    broken = read_stream_head(answer(409, b"{"), wall=0.0)
    assert broken is not None and not broken.lost


def test_the_proof_is_our_nonce_from_our_server() -> None:
    check_proof(b'{"nonce":"n","server":"s"}', nonce="n", server="s")
    check_proof(b'{"nonce":"n"}', nonce="n", server="")
    for data, words in (
        (b'{"nonce":"x","server":"s"}', "not ours"),
        (b'{"nonce":"n","server":"t"}', "another server"),
        (b"", "no proof"),
        (b"\xff", "no proof"),
        (b"[" * 100_000, "no proof"),
    ):
        with pytest.raises(TransportError, match=words):
            check_proof(data, nonce="n", server="s")


def test_a_poll_names_its_position_if_there_is_one() -> None:
    first = decode(encode_poll(id="p-1", position=None, hold=20.0, session="s", server="v", timestamp=5))
    assert (first.type, first.id, first.session, first.server) == ("poll", "p-1", "s", "v")
    assert first.payload is not None and json.loads(bytes(first.payload)) == {"hold": 20.0}
    later = decode(encode_poll(id="p-2", position=("e", 3), hold=1.0, session="s", server="v", timestamp=5))
    assert later.payload is not None
    assert json.loads(bytes(later.payload)) == {"hold": 1.0, "epoch": "e", "after": 3}


def poll_reply(**fields: object) -> dict[str, object]:
    return {"type": "response", "replyTo": "p-1", "success": True, **fields}


def test_the_answer_to_a_poll_is_envelopes_and_where_they_end() -> None:
    push = {"type": "news", "epoch": "e", "offset": 4, "payload": 1}
    late = {"type": "response", "replyTo": "p-0", "success": True, "payload": 2}
    reply = answer(body=poll_reply(payload={"messages": [push, late]}))
    poll = read_poll(reply, call_id="p-1", wall=0.0)
    assert poll.refusal is None and poll.position == ("e", 4)
    assert [json.loads(message) for message in poll.messages] == [push, late]
    assert read_poll(answer(body=poll_reply()), call_id="p-1", wall=0.0).messages == ()


@pytest.mark.parametrize("payload", [[], {"messages": 1}, {"messages": [{"no": "type"}]}])
def test_a_poll_whose_answer_cannot_be_read_is_an_error(payload: object) -> None:
    with pytest.raises(TransportError):
        read_poll(answer(body=poll_reply(payload=payload)), call_id="p-1", wall=0.0)


def test_a_refused_poll_says_why_and_whether_the_link_is_lost() -> None:
    error = {"code": "unknown_type", "message": "poll?"}
    refused = read_poll(answer(body=poll_reply(success=False, error=error)), call_id="p-1", wall=0.0)
    assert refused.refusal is not None and not refused.refusal.lost
    assert "unknown_type" in refused.refusal.failure.reason
    gone = read_poll(answer(409, refusal_of("session_unknown")), call_id="p-1", wall=0.0)
    assert gone.refusal is not None and gone.refusal.lost
    page = read_poll(answer(502, content_type="text/html"), call_id="p-1", wall=0.0)
    assert page.refusal is not None and not page.refusal.lost


def test_an_attach_names_a_position_or_none() -> None:
    assert read_attach(b'{"number":1,"epoch":"e","after":9}') == ("e", 9)
    assert read_attach(b'{"number":1,"epoch":null,"after":0}') is None


def test_a_body_comes_out_as_it_went_in() -> None:
    reader = BodyReader(limit=10)
    reader.feed(b"12345")
    reader.feed(b"67890")
    assert reader.finish() == b"1234567890"
    one = BodyReader(limit=10, encoding="Identity")
    one.feed(b"x")
    assert one.finish() == b"x"
    assert BodyReader(limit=10, encoding="gzip").finish() == b""


def test_a_body_beyond_the_limit_is_an_error() -> None:
    reader = BodyReader(limit=10)
    reader.feed(b"1234567890")
    with pytest.raises(TransportError, match="larger than 10 bytes"):
        reader.feed(b"x")


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"), [("gzip", gzipped(b"x" * 99)), ("deflate", zlib.compress(b"x" * 99))]
)
def test_a_packed_body_is_understood_at_any_cut(encoding: str, packed: bytes) -> None:
    for cut in range(len(packed) + 1):
        reader = BodyReader(limit=99, encoding=encoding)
        reader.feed(packed[:cut])
        reader.feed(packed[cut:])
        assert reader.finish() == b"x" * 99


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = gzipped(bytes(50_000_000))
    reader = BodyReader(limit=100_000, encoding="gzip")
    with pytest.raises(TransportError, match="larger than 100000 bytes"):
        reader.feed(bomb)
    with pytest.raises(TransportError, match="larger than 100000 bytes"):
        BodyReader(limit=100_000, encoding="gzip").unpack(bomb)
    slowly = BodyReader(limit=100_000, encoding="gzip")
    with pytest.raises(TransportError, match="larger than 100000 bytes"):
        for start in range(0, len(bomb), 50):
            slowly.feed(bomb[start : start + 50])


def test_a_packed_body_that_is_broken_or_cut_off_is_an_error() -> None:
    with pytest.raises(TransportError, match="unpacked"):
        BodyReader(limit=10, encoding="gzip").feed(b"nonsense")
    cut = BodyReader(limit=100, encoding="gzip")
    cut.feed(gzipped(b"hello")[:-9])
    with pytest.raises(TransportError, match="cut off"):
        cut.finish()


def test_an_encoding_that_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(TransportError, match="br"):
        BodyReader(limit=10, encoding="br")
    with pytest.raises(TransportError, match="gzip, gzip"):
        BodyReader(limit=10, encoding="gzip, gzip")
