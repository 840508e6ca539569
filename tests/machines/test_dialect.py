"""What deployed peers say, word by word, and what we make of it; and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.config import FolderConfig, PipeConfig, ServerConfig
from devpipe.machines.errors import ConfigurationError, TransportError
from devpipe.machines.message import Priority
from devpipe.machines.protocols.dialect import (
    accepted_elsewhere,
    adapt_request,
    file_response,
    handshake_payload,
    is_whole,
    nested_reply,
    peer_answer,
    peer_fields,
    peer_refusal,
    peer_response,
    read_peer,
    speaks_nested,
)
from devpipe.machines.protocols.envelope import (
    Envelope,
    ErrorBody,
    decode,
    encode_push,
    encode_reply,
    encode_request,
    priority_of,
    to_message,
)
from devpipe.machines.protocols.http import Accepted, Answer, Delivered, Reading, Unserved, read_answer
from devpipe.machines.protocols.profiles import DEFAULT, VAULTPILOT, profile_of


def said(**fields: Any) -> bytes:
    return json.dumps({key.rstrip("_"): value for key, value in fields.items()}).encode()


def payload(envelope: Envelope) -> Any:
    return json.loads(bytes(envelope.payload))


# --- connections and streams ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        said(type="response", id="srv-1", replyTo="c-1", payload=5),
        said(type="response", id="srv-1", reply_to="c-1", payload=5),
        said(type="response", id="c-1", payload=5),
        said(type="response", id="c-1", payload=5, success=True, error=None),
        said(id="c-1", payload=5),
        said(response={"id": "c-1", "payload": 5}),
        said(type="response", id="c-1", payload=5, success="strange", timestamp="2025-07-06T00:00:00Z"),
    ],
)
def test_every_form_of_a_reply_says_what_it_answers_and_is_a_success(data: bytes) -> None:
    envelope = read_peer(data)
    assert (envelope.type, envelope.reply_to, payload(envelope)) == ("response", "c-1", 5)
    assert envelope.success is not False and envelope.error is None


def test_a_pong_with_an_id_answers_the_ping_of_that_id_and_one_without_answers_nothing() -> None:
    assert read_peer(said(type="health_pong", id="c-2")).reply_to == "c-2"
    assert read_peer(said(type="pong", timestamp=1)).reply_to is None


def test_anything_else_is_a_push_also_with_an_id() -> None:
    envelope = read_peer(
        said(type="health_update", id="srv-7", payload={"n": 1}, timestamp="2025-07-06T00:00:00Z")
    )
    assert envelope.reply_to is None and to_message(envelope).timestamp == 1751760000000


def test_a_number_is_an_id_too_and_nothing_else_is() -> None:
    assert read_peer(said(type="x", id=17)).id == "17"
    for strange in (True, 1.5, [], {}, ""):
        assert read_peer(said(type="x", id=strange, timestamp=[])).id is None


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"nonsense", b'{"payload": 1}', b'{"type": 5}', b'{"response": 7}', b"\xff"]
)
def test_what_is_no_message_at_all_is_a_protocol_error_that_names_the_transport(data: bytes) -> None:
    with pytest.raises(TransportError) as caught:
        read_peer(data, transport="websocket")
    assert caught.value.transport == "websocket"


def test_what_we_write_ourselves_comes_through_unchanged() -> None:
    push = read_peer(encode_push(type="x", payload=b"1", timestamp=2, epoch="e", offset=3))
    assert (push.epoch, push.offset, push.reply_to) == ("e", 3, None)
    error = ErrorBody(code="busy", message="no room", outcome="rejected", retryAfter=1.0)
    reply = read_peer(encode_reply(reply_to="c-1", timestamp=2, error=error))
    assert reply.reply_to == "c-1" and reply.success is False and reply.error == error
    assert read_peer(encode_reply(reply_to="c-1", type="accepted", timestamp=2)).type == "accepted"
    assert read_peer(said(type="x", epoch=5, offset=True)).offset is None


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (None, ErrorBody(message="the server gives no reason")),
        ("too dear", ErrorBody(message="too dear")),
        (["odd"], ErrorBody(message="['odd']")),
        ({"code": "TIMEOUT"}, ErrorBody(code="TIMEOUT")),
        ({"code": 5, "message": None, "outcome": 3, "retryAfter": "x"}, ErrorBody(code="5")),
        (
            {"code": "X", "message": "m", "details": {"a": 1}, "suggestions": ["b"]},
            ErrorBody(code="X", message="m", details={"a": 1, "suggestions": ["b"]}),
        ),
        ({"details": "d", "suggestions": ["b"]}, ErrorBody(details={"details": "d", "suggestions": ["b"]})),
        ({"details": "d"}, ErrorBody(details="d")),
    ],
)
def test_an_error_keeps_its_code_details_and_suggestions_in_whatever_form_it_comes(
    error: object, body: ErrorBody
) -> None:
    assert read_peer(said(type="response", id="c-1", success=False, error=error)).error == body


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "type", "payload", "response", "replyTo", "success", "error", "timestamp", "code", "details",
                 "suggestions", "epoch", "offset", "retryAfter"]
            ),
            inner,
            max_size=6,
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_no_json_of_a_peer_raises_anything_but_a_protocol_error(document: Any) -> None:
    data = json.dumps(document).encode()
    for read in (
        lambda: decode(peer_answer(data, call_id="c-1")),
        lambda: decode(peer_refusal(data, call_id="c-1")),
        lambda: read_peer(data),
        lambda: decode(peer_response(data, id="c-1") or b'{"type":"x"}'),
    ):
        try:
            assert isinstance(read(), Envelope)
        except TransportError:
            pass  # the one way to say no


# --- answers over HTTP ------------------------------------------------------------------------------------


def reading(body: bytes, status: int = 200) -> Reading:
    answer = Answer(
        url="http://h/m", status=status, content_type="application/json", retry_after="", body=body
    )
    return read_answer(answer, call_id="c-1", wall=0.0, foreign=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (said(id="c-1", payload=5), 5),
        (said(id="c-1", payload=5, type="model_selection_response"), 5),
        (said(id="srv-1", replyTo="c-1", payload=5), 5),
        (said(response={"id": "c-1", "payload": 5}), 5),
        (said(id="c-1", selected="x"), {"id": "c-1", "selected": "x"}),
        (said(id="c-1", success=True), None),
    ],
)
def test_an_answer_under_our_id_is_the_reply_nested_or_not_and_with_or_without_success(
    body: bytes, expected: object
) -> None:
    read = reading(body)
    assert isinstance(read, Delivered)
    envelope = decode(read.data)
    assert (envelope.type, envelope.reply_to, payload(envelope)) == ("response", "c-1", expected)
    assert envelope.success is not False


@pytest.mark.parametrize(
    "body", [said(id="srv-1"), said(status="queued"), said(id="srv-1", success=False), b"{}"]
)
def test_another_id_means_that_the_answer_comes_later(body: bytes) -> None:
    read = reading(body)
    assert isinstance(read, Accepted)
    assert decode(read.data).reply_to == "c-1" and decode(read.data).type == "accepted"


def test_a_status_202_with_the_reply_in_it_is_the_reply_all_the_same() -> None:
    assert isinstance(reading(said(id="c-1", payload=1), 202), Delivered)


def test_our_own_word_that_a_reply_will_come_is_understood_too() -> None:
    assert isinstance(reading(encode_reply(reply_to="c-1", type="accepted", timestamp=1)), Accepted)


def test_an_error_under_our_id_or_under_none_is_the_answer_of_this_exchange() -> None:
    for body in (said(id="c-1", success=False, error="no"), said(success=False, error="no")):
        read = reading(body)
        assert isinstance(read, Delivered)
        assert decode(read.data).success is False


def test_an_error_status_is_an_error_even_if_the_body_forgets_to_say_so() -> None:
    read = reading(said(id="c-1", error={"code": "INVALID_REQUEST"}), 400)
    assert isinstance(read, Delivered)
    error = decode(read.data).error
    assert isinstance(error, ErrorBody) and error.code == "INVALID_REQUEST"
    assert isinstance(reading(said(error="no"), 400), Delivered)
    busy = reading(said(error="no"), 503)
    assert isinstance(busy, Unserved) and busy.executed


@pytest.mark.parametrize("body", [b"[]", said(detail="Not Found"), said(id="srv-9", error="another's")])
def test_an_error_status_with_nothing_for_us_is_judged_by_the_status(body: bytes) -> None:
    read = reading(body, 404)
    assert isinstance(read, Unserved)
    assert not read.executed and "nothing of devpipe at http://h/m" in read.failure.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": 10**400},
        {"timestamp": -1e300},
        {"offset": 10**400},
        {"payload": 10**400},
        {"response": None},
    ],
)
def test_a_number_that_nobody_can_count_with_costs_no_reply(fields: dict[str, Any]) -> None:
    body = said(id="c-1", **{"payload": 5, **fields})
    assert isinstance(reading(body), Delivered)
    envelope = decode(peer_answer(body, call_id="c-1"))
    assert (envelope.reply_to, envelope.timestamp) == ("c-1", None)
    assert payload(envelope) == {"payload": 5, **fields}["payload"]
    assert payload(read_peer(body)) == payload(envelope)


def test_a_refusal_that_answers_somebody_else_is_not_the_answer_of_this_exchange() -> None:
    mine = decode(peer_answer(b'{"success":false,"error":"no"}', call_id="c-1"))
    assert (mine.type, mine.success) == ("response", False)
    other = decode(peer_answer(b'{"replyTo":"c-9","success":false,"error":"no"}', call_id="c-1"))
    assert (other.type, other.reply_to, other.success) == ("accepted", "c-1", None)


@pytest.mark.parametrize("later", [10**400, 1e300, "soon"])
def test_an_error_is_an_error_whenever_its_server_says_to_come_back(later: Any) -> None:
    error = {"code": "busy", "message": "later", "retryAfter": later}
    for data in (
        peer_answer(said(id="c-1", success=False, error=error), call_id="c-1"),
        peer_refusal(said(id="c-1", success=False, error=error), call_id="c-1"),
        peer_response(said(success=False, error=error), id="c-1"),
    ):
        assert data is not None
        assert decode(data).error == ErrorBody(code="busy", message="later")


def test_an_answer_that_is_no_object_is_no_answer() -> None:
    assert isinstance(reading(b"[1]"), Unserved)


# --- response files -----------------------------------------------------------------------------------------


def test_a_response_file_is_a_reply_when_it_is_whole_and_nothing_until_then() -> None:
    text = said(id="c-1", success=True, payload={"a": "é"}, error=None)
    for cut in range(len(text)):
        assert peer_response(text[:cut], id="c-1") is None
    whole = peer_response(text, id="c-1")
    assert whole is not None
    assert decode(whole).reply_to == "c-1" and payload(decode(whole)) == {"a": "é"}


def test_a_response_file_with_an_error_is_a_failed_reply() -> None:
    data = peer_response(said(id="c-1", success=False, payload=None, error="broken"), id="c-1")
    assert data is not None
    assert decode(data).success is False and decode(data).error == ErrorBody(message="broken")


# --- what we say ----------------------------------------------------------------------------------------------


def test_a_request_names_sender_and_recipient_and_with_iso_times_its_expiry() -> None:
    more = peer_fields(sender="vaultpilot-plugin", recipient="evo", expires_at=30_000, iso=True)
    request = json.loads(encode_request(id="c-1", type="x", payload=b"1", timestamp=0, more=more, iso=True))
    assert request == {
        "id": "c-1", "type": "x", "timestamp": "1970-01-01T00:00:00.000Z", "sender": "vaultpilot-plugin",
        "recipient": "evo", "expires_at": "1970-01-01T00:00:30.000Z", "payload": 1,
    }  # fmt: skip
    assert peer_fields(sender="", recipient="", expires_at=30_000, iso=False) == b""
    assert peer_fields(sender="", recipient="", expires_at=None, iso=True) == b""


def test_a_handshake_says_who_is_there() -> None:
    told = handshake_payload(session="s", client="devpipe-python/0.1")
    assert told == {
        "sessionId": "s", "client": "devpipe-python", "version": "0.1", "capabilities": ["request", "push"],
    }  # fmt: skip


# --- a server hears --------------------------------------------------------------------------------------------


def adapted(*types: str, wall: int = 1000, **fields: Any) -> Envelope:
    envelope = decode(said(**fields))
    adapt_request(envelope, types=types, wall=wall)
    return envelope


def test_both_spellings_of_a_type_find_its_handler_and_a_handler_of_that_very_name_comes_first() -> None:
    assert (
        adapted("model-selection-request", type="model_selection_request").type == "model-selection-request"
    )
    assert (
        adapted("model_selection_request", type="model-selection-request").type == "model_selection_request"
    )
    assert adapted("a_b", "a-b", type="a-b").type == "a-b"
    assert adapted("a_b", type="nothing").type == "nothing"


def test_times_of_both_forms_are_milliseconds_and_an_expiry_is_a_span_of_the_clients_clock() -> None:
    iso = adapted(
        "x", type="x", timestamp="2001-01-01T00:00:00Z", expires_at="2001-01-01T00:00:30Z", priority="high"
    )
    assert iso.timestamp == 978307200000 and iso.expires_at == 31_000
    assert priority_of(iso) is Priority.HIGH
    assert adapted("x", type="x", expires_at=50).expires_at == 50
    assert adapted("x", type="x", timestamp=40, expires_at="never").expires_at is None


def test_a_ping_may_carry_anything() -> None:
    assert bytes(adapted(type="ping", payload="hello?").payload) == b"null"
    assert bytes(adapted(type="health_ping", payload={"nonce": "n"}).payload) == b'{"nonce": "n"}'
    assert bytes(adapted(type="ping").payload) == b"null"


def test_the_first_clients_are_known_by_their_iso_times() -> None:
    assert speaks_nested(decode(said(type="x", timestamp="2025-07-06T00:00:00Z")))
    assert not speaks_nested(decode(said(type="x", timestamp=1)))


# --- a server answers ------------------------------------------------------------------------------------------


def test_a_nested_reply_is_there_for_both_kinds_of_client() -> None:
    reply = json.loads(nested_reply(encode_reply(reply_to="c-1", payload=b"5", timestamp=1)))
    assert reply["id"] == reply["response"]["id"] == "c-1"
    assert reply["payload"] == reply["response"]["payload"] == 5


def test_the_word_that_a_reply_will_come_has_any_id_but_the_requests() -> None:
    told = json.loads(accepted_elsewhere("c-1", timestamp=5))
    assert told["id"] not in ("c-1", None) and told["type"] != "response" and "replyTo" not in told


def test_a_request_file_is_whole_when_it_is_json_and_nothing_is_made_of_a_half() -> None:
    text = json.dumps({"id": "c-1", "payload": {"a": [1, 2]}}, indent=2).encode()
    assert is_whole(text)
    assert not any(is_whole(text[:cut]) for cut in range(len(text)))
    assert not is_whole(b"[" * 100_000) and not is_whole(b'"\xff"')


def test_a_response_file_always_has_its_four_fields() -> None:
    good = json.loads(file_response(encode_reply(reply_to="c-1", payload=b"5", timestamp=1), id="c-1"))
    assert (good["id"], good["success"], good["payload"], good["error"]) == ("c-1", True, 5, None)
    error = ErrorBody(code="X", message="m")
    bad = json.loads(file_response(encode_reply(reply_to=None, timestamp=1, error=error), id="c-1"))
    assert (bad["id"], bad["success"], bad["payload"], bad["error"]["code"]) == ("c-1", False, None, "X")
    bare = json.loads(file_response(b'{"type":"response"}', id="c-1"))
    assert (bare["success"], bare["payload"]) == (True, None)


# --- profiles -----------------------------------------------------------------------------------------------------


def test_a_profile_sets_what_nobody_has_set_and_an_unknown_one_lists_those_there_are() -> None:
    assert profile_of("default") is DEFAULT and profile_of("vaultpilot") is VAULTPILOT
    with pytest.raises(ConfigurationError, match="vaultpilot"):
        profile_of("vp")
    config = ServerConfig(hold=5.0, health_path="/alive").with_profile("vaultpilot")
    assert (config.profile, config.prefix, config.hold) == ("vaultpilot", "/api/v1/devpipe", 5.0)
    assert config.health_path == "/alive" and config.websocket_paths == ("/ws/agent", "/devpipe/ws")


def test_every_setting_of_a_profile_is_one_and_is_allowed() -> None:
    from dataclasses import fields, replace

    for profile in (DEFAULT, VAULTPILOT):
        replace(ServerConfig(), **profile.server)  # type: ignore[arg-type]  # what is wrong is said by the tree
        replace(FolderConfig(), **profile.folder)  # type: ignore[arg-type]  # as above
        pipe = PipeConfig(folder="x")
        for key, value in profile.pipe.items():
            group, _, name = key.rpartition(".")
            tree = getattr(pipe, group) if group else pipe
            assert name in {f.name for f in fields(tree)}
            replace(tree, **{name: value})


def test_folder_names_and_paths_are_checked() -> None:
    for wrong in ("", "..", "a/b", "a\\b", "a\0"):
        with pytest.raises(ConfigurationError, match=r"folder_options\.tmp"):
            FolderConfig(tmp=wrong)
    with pytest.raises(ConfigurationError, match="four different"):
        FolderConfig(tmp="claims")
    with pytest.raises(ConfigurationError, match="websocket_paths"):
        ServerConfig(websocket_paths=("ws",))
    for names in ("pipe.test", ("http://pipe.test",), ("pipe.test:8000",), ("[::1",), ("",), ("é",), (5,)):
        with pytest.raises(ConfigurationError, match="allowed_hosts"):
            ServerConfig(allowed_hosts=names)  # type: ignore[arg-type]  # what is wrong is said by the tree
    assert ServerConfig(allowed_hosts=("*", "[::1]", "pipe.test")).allowed_hosts[1] == "[::1]"
    with pytest.raises(ConfigurationError, match="error_status"):
        ServerConfig(error_status=302)
    with pytest.raises(ConfigurationError, match="profile"):
        PipeConfig(folder="x", profile="strange")
