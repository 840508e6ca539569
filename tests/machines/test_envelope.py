"""The envelope: both spellings are read, nothing that a peer sends gets past a typed error."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.errors import FailureKind, InvalidMessage, TransportError
from devpipe.machines.message import Priority
from devpipe.machines.protocols.envelope import (
    ErrorBody,
    check_type,
    decode,
    encode_payload,
    encode_push,
    encode_reply,
    encode_request,
    excerpt,
    priority_of,
    to_message,
    valid_id,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(payload=json_values, priority=st.sampled_from(Priority), expires=st.none() | st.integers(0, 2**45))
def test_a_request_comes_back_as_it_was_written(
    payload: object, priority: Priority, expires: int | None
) -> None:
    data = encode_request(
        id="p-1",
        type="écho",
        payload=encode_payload(payload, type="echo"),
        timestamp=5,
        priority=priority,
        expires_at=expires,
        session="s",
        server="v",
    )
    document = json.loads(data)
    assert document["id"] == "p-1" and document["type"] == "écho" and document["timestamp"] == 5
    envelope = decode(data)
    assert priority_of(envelope) is priority
    assert envelope.expires_at == expires and (envelope.session, envelope.server) == ("s", "v")
    assert to_message(envelope).payload == payload


def test_both_spellings_are_read_and_unknown_fields_are_ignored() -> None:
    envelope = decode(b'{"type":"response","reply_to":"a","expires_at":7,"sender":"x","success":true}')
    assert envelope.reply_to == "a" and envelope.expires_at == 7
    envelope = decode(b'{"type":"response","replyTo":"a","reply_to":"b","expiresAt":1,"expires_at":2}')
    assert envelope.reply_to == "a" and envelope.expires_at == 1


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{", b'{"id":"a"}', b'{"type":5}', b'{"type":"a","id":7}', b'{"type":"a","payload":NaN}',
        b'{"type":"a","success":"yes"}', b"\xff\xfe", b'{"type":"\xff"}', b'{"type":"a","offset":1.5}',
        b'{"type":"a","payload":' + b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:24]),
)  # fmt: skip
def test_malformed_json_and_wrong_types_and_bottomless_documents_are_protocol_errors(data: bytes) -> None:
    with pytest.raises(TransportError) as caught:
        decode(data, transport="websocket")
    assert caught.value.kind is FailureKind.PROTOCOL and caught.value.transport == "websocket"


def test_a_payload_that_is_broken_inside_is_an_error_that_names_the_message_when_it_is_read() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    envelope = decode(b'{"type":"a","id":"p-9","payload":{}}')
    message = to_message(envelope)
    message._raw = deep  # bytes that the outer document would have let through
    with pytest.raises(TransportError, match="p-9"):
        _ = message.payload


def test_a_payload_is_decoded_once_and_a_missing_one_is_none() -> None:
    message = to_message(decode(b'{"type":"a","payload":[1]}'))
    first = message.payload
    assert first == [1] and message.payload is first
    assert to_message(decode(b'{"type":"a"}')).payload is None
    assert "a" in repr(message)


class Strange:
    def __repr__(self) -> str:
        return "Strange()"


@pytest.mark.parametrize("payload", [Strange(), {1: {Strange(): 2}}, "\ud800"], ids=repr)
def test_what_is_no_json_is_refused_before_it_is_sent_and_named(payload: object) -> None:
    with pytest.raises(InvalidMessage, match="echo"):
        encode_payload(payload, type="echo", message_id="p-1")


@dataclass
class Reading:
    value: float


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (math.nan, "payload is nan, and JSON has no such number"),
        ({"a": 1, "costs": [1.5, (-math.inf, "null")]}, r"payload['costs'][1][0] is -inf"),
        ([None, {"x": {math.inf}}], "payload[1]['x'][0] is inf"),
        ([Reading(1.0), Reading(math.nan)], "payload[1]['value'] is nan"),
        ({"raw": msgspec.Raw(b"null"), "y": math.nan}, "payload['y'] is nan"),
    ],
)
def test_a_number_that_json_has_not_is_refused_with_its_place(payload: object, words: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        encode_payload(payload, type="echo")
    assert words in str(caught.value) and "'echo'" in str(caught.value)


@pytest.mark.parametrize(
    "payload", [None, [None, "null", 1.5], {"a": msgspec.Raw(b"[null]")}, Reading(1e308)]
)
def test_a_null_that_was_meant_passes(payload: object) -> None:
    assert encode_payload(payload, type="echo") == msgspec.json.encode(payload)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_a_deep_payload_with_a_null_is_written_or_refused(depth: int) -> None:
    payload: object = None
    for _ in range(depth):
        payload = [payload]
    try:
        assert encode_payload(payload, type="echo") == b"[" * depth + b"null" + b"]" * depth
    except InvalidMessage:
        assert depth > 200


def test_a_payload_without_end_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidMessage):
        encode_payload(endless, type="echo")


@pytest.mark.parametrize("type", ["", "x" * 129, "a\nb", 5])
def test_a_type_that_is_no_word_is_refused(type: str) -> None:
    with pytest.raises(InvalidMessage):
        check_type(type)


def test_a_good_type_passes() -> None:
    check_type("model-selection-request")


def test_replies_and_pushes_are_what_the_protocol_says() -> None:
    good = json.loads(encode_reply(reply_to="a", payload=b"1", timestamp=3))
    assert good == {
        "type": "response",
        "timestamp": 3,
        "id": "a",
        "replyTo": "a",
        "success": True,
        "payload": 1,
    }
    bad = json.loads(
        encode_reply(reply_to=None, timestamp=3, error=ErrorBody(code="busy", outcome="rejected"))
    )
    assert (
        bad["success"] is False
        and bad["error"] == {"code": "busy", "outcome": "rejected"}
        and "replyTo" not in bad
    )
    push = decode(encode_push(type="news", payload=b"2", timestamp=1, epoch="e", offset=4))
    position = to_message(push).position
    assert position is not None and (position.epoch, position.offset) == ("e", 4)


def test_priorities_that_nobody_knows_are_normal() -> None:
    assert priority_of(decode(b'{"type":"a","priority":"HIGH"}')) is Priority.HIGH
    assert priority_of(decode(b'{"type":"a","priority":"urgent"}')) is Priority.NORMAL
    assert priority_of(decode(b'{"type":"a","priority":3}')) is Priority.NORMAL
    assert to_message(decode(b'{"type":"a","priority":"low"}')).priority is Priority.LOW
    assert to_message(decode(b'{"type":"a","timestamp":"2025-07-01T00:00:00Z"}')).timestamp == 1751328000000
    assert to_message(decode(b'{"type":"a","timestamp":"yesterday"}')).timestamp == 0


@pytest.mark.parametrize("id", ["a", "A_b-9", "x" * 64])
def test_ids_of_letters_digits_and_two_signs_are_valid(id: str) -> None:
    assert valid_id(id)


@pytest.mark.parametrize("id", ["", "x" * 65, "a/b", "..", "a\n", "é", "a b", "a\0"])
def test_other_ids_are_not(id: str) -> None:
    assert not valid_id(id)


def test_an_excerpt_is_escaped_and_cut() -> None:
    assert excerpt(b"a\x1b[2J\xff" + b"x" * 100).endswith("'...")
    assert "\x1b" not in excerpt("\x1b")
