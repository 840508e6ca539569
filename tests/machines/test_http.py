"""What HTTP responses mean: the server's reply, a refusal, or something that stands between us and the server."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from devpipe.machines.errors import ConfigurationError, FailureKind
from devpipe.machines.protocols.envelope import decode
from devpipe.machines.protocols.http import (
    NOT_PASSED,
    Accepted,
    Answer,
    Delivered,
    Unserved,
    read_answer,
    read_retry_after,
    target_of,
)

WALL = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


URL = "http://h/wrong/devpipe/message"


def answer(
    status: int = 200,
    body: object = b"",
    content_type: str = "application/json",
    retry_after: str = "",
) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(url=URL, status=status, content_type=content_type, retry_after=retry_after, body=data)


def unserved(response: Answer) -> Unserved:
    reading = read_answer(response, call_id="p-1", wall=WALL)
    assert isinstance(reading, Unserved)
    return reading


REPLY = {"type": "response", "id": "p-1", "replyTo": "p-1", "success": True, "payload": 1}
REFUSAL = {"type": "response", "success": False, "error": {"code": "too_large", "message": "no"}}


@pytest.mark.parametrize("status", [200, 400, 409, 422, 500, 503])
@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_an_envelope_that_names_the_call_is_the_servers_reply_at_any_status(
    status: int, content_type: str
) -> None:
    response = answer(status, {**REPLY, "success": status == 200}, content_type)
    assert read_answer(response, call_id="p-1", wall=WALL) == Delivered(data=response.body)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 413, 415, 421])
def test_a_refusal_made_before_the_id_was_read_belongs_to_the_call_of_this_exchange(status: int) -> None:
    reading = read_answer(answer(status, {**REFUSAL, "timestamp": 7}), call_id="p-1", wall=WALL)
    assert isinstance(reading, Delivered)
    envelope = decode(reading.data)
    assert envelope.reply_to == "p-1" and envelope.success is False and envelope.timestamp == 7
    assert envelope.error is not None and not isinstance(envelope.error, str)
    assert envelope.error.code == "too_large"


def test_a_server_of_ours_that_has_no_such_path_is_no_server_there() -> None:
    error = {"code": "not_found", "message": "there is nothing here", "outcome": "rejected"}
    reading = unserved(answer(404, {"type": "response", "success": False, "error": error}))
    assert reading.failure.kind is FailureKind.PROTOCOL and not reading.executed
    assert "'there is nothing here'" in reading.failure.reason
    assert f"nothing of devpipe at {URL}: correct the path" in reading.failure.reason
    named = answer(404, {**REPLY, "success": False, "error": error})
    assert isinstance(read_answer(named, call_id="p-1", wall=WALL), Delivered), "a handler's own word"


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        ("text/plain; charset=utf-8", "status 409: answered text/plain, which is no devpipe message"),
        ("", "status 409: answered without a content type, which is no devpipe message"),
        ("text/\x1b[31m", r"answered text/\x1b[31m, which"),
    ],
)
def test_what_is_no_message_is_told_with_its_kind(content_type: str, words: str) -> None:
    assert words in unserved(answer(409, b"no", content_type)).failure.reason


@pytest.mark.parametrize(("error", "words"), [("broken", "broken"), (None, "no reason")])
def test_a_refusal_with_a_text_or_nothing_for_an_error_is_one_too(error: str | None, words: str) -> None:
    body = {"type": "response", "success": False, "timestamp": "yesterday", "error": error}
    reading = read_answer(answer(400, body), call_id="p-1", wall=WALL)
    assert isinstance(reading, Delivered)
    found = decode(reading.data).error
    assert found is not None and not isinstance(found, str) and words in found.message


def test_accepted_is_no_reply_yet() -> None:
    accepted = answer(202, {"type": "accepted", "replyTo": "p-1"})
    assert read_answer(accepted, call_id="p-1", wall=WALL) == Accepted(data=accepted.body)
    odd = answer(200, {"type": "accepted", "replyTo": "p-1"})
    assert isinstance(read_answer(odd, call_id="p-1", wall=WALL), Accepted)


def test_a_page_with_status_200_is_a_portal_and_no_reply() -> None:
    reading = unserved(answer(200, b"<html>Welcome to the hotel", "text/html; charset=utf-8"))
    assert reading.failure.kind is FailureKind.PROTOCOL
    assert "captive portal" in reading.failure.reason and "text/html" in reading.failure.reason
    assert reading.executed
    assert "without a content type" in unserved(answer(200, b"", "")).failure.reason


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"type":1}', b"[" * 100_000])
def test_json_that_is_no_envelope_is_no_reply(body: bytes) -> None:
    reading = unserved(answer(200, body))
    assert reading.failure.kind is FailureKind.PROTOCOL and reading.executed
    assert "not a devpipe message" in reading.failure.reason


def test_a_reply_to_another_message_is_no_reply_to_this_one() -> None:
    reading = unserved(answer(200, {**REPLY, "replyTo": "p-2"}))
    assert "another message" in reading.failure.reason
    assert reading.failure.kind is FailureKind.PROTOCOL


def test_an_echo_of_our_own_request_is_no_reply() -> None:
    reading = unserved(answer(200, {"type": "echo", "id": "p-1", "payload": 1}))
    assert "answers nothing" in reading.failure.reason


@pytest.mark.parametrize(
    ("authorized", "words"),
    [
        (False, "the server wants a token: give token= or DEVPIPE_TOKEN"),
        (True, "the server does not accept our token"),
    ],
)
def test_401_is_auth_whatever_its_body_and_says_whether_a_token_was_shown(
    authorized: bool, words: str
) -> None:
    for body in (b"", json.dumps({**REPLY, "success": False}).encode()):
        reading = unserved(replace(answer(401, body), authorized=authorized))
        assert reading.failure.kind is FailureKind.AUTH and not reading.executed
        assert reading.failure.reason == words


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    reading = unserved(answer(status, REPLY))
    assert reading.failure.kind is FailureKind.PROTOCOL and "redirect" in reading.failure.reason
    assert reading.executed is (status in (302, 303, 304))


@pytest.mark.parametrize(
    ("status", "kind", "executed", "words"),
    [
        (400, FailureKind.PROTOCOL, False, "which is no devpipe message"),
        (403, FailureKind.PROTOCOL, False, "forbidden by something before"),
        (404, FailureKind.PROTOCOL, False, f"nothing of devpipe at {URL}: correct the path in the address"),
        (405, FailureKind.PROTOCOL, False, f"nothing of devpipe at {URL}: correct the path in the address"),
        (407, FailureKind.NETWORK, False, "which is no devpipe message"),
        (408, FailureKind.TIMEOUT, False, "which is no devpipe message"),
        (409, FailureKind.PROTOCOL, True, "which is no devpipe message"),
        (413, FailureKind.PROTOCOL, False, "larger than something before"),
        (415, FailureKind.PROTOCOL, False, "which is no devpipe message"),
        (421, FailureKind.PROTOCOL, False, "host name"),
        (429, FailureKind.UNAVAILABLE, False, "which is no devpipe message"),
        (500, FailureKind.UNAVAILABLE, True, "which is no devpipe message"),
        (502, FailureKind.UNAVAILABLE, True, "which is no devpipe message"),
        (503, FailureKind.UNAVAILABLE, True, "which is no devpipe message"),
        (504, FailureKind.UNAVAILABLE, True, "which is no devpipe message"),
        (204, FailureKind.PROTOCOL, True, "portal"),
    ],
)
def test_a_page_is_judged_by_its_status(status: int, kind: FailureKind, executed: bool, words: str) -> None:
    reading = unserved(answer(status, b"<html>", "text/html", retry_after="7"))
    assert reading.failure.kind is kind
    assert reading.executed is executed is (status not in NOT_PASSED)
    assert words in reading.failure.reason and str(status) in reading.failure.reason
    assert reading.failure.retry_after == 7.0


@pytest.mark.parametrize(
    ("status", "error", "executed", "retry_after"),
    [
        (503, {"code": "closing", "message": "bye"}, False, None),
        (503, {"code": "busy", "message": "later", "retryAfter": 2.5}, False, 2.5),
        (503, {"code": "odd", "message": "?"}, True, None),
        (503, {"code": "odd", "message": "?", "outcome": "rejected"}, False, None),
        (429, {"code": "odd", "message": "?", "retryAfter": -1}, False, 0.0),
        (429, {"code": "odd", "message": "?", "retryAfter": 1e9}, False, 3600.0),
    ],
)
def test_not_now_is_a_failure_of_the_path_that_says_when_to_come_back(
    status: int, error: dict[str, object], executed: bool, retry_after: float | None
) -> None:
    reading = unserved(answer(status, {"type": "response", "success": False, "error": error}))
    assert reading.failure.kind is FailureKind.UNAVAILABLE
    assert reading.executed is executed
    assert reading.failure.retry_after == retry_after
    told = answer(status, {"type": "response", "success": False, "error": error}, retry_after="9")
    assert unserved(told).failure.retry_after == 9.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("99999999999999999999", 3600.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:07 GMT", 3600.0),
        ("Sun, 06 Nov 1994 09:50:37 +0100", 60.0),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_longer_than_an_hour(
    value: str, seconds: float | None
) -> None:
    assert read_retry_after(value, wall=WALL) == seconds


def test_an_address_leads_to_the_message_and_the_stream() -> None:
    target = target_of("http://127.0.0.1:8000", prefix="/devpipe", has_token=True)
    assert target.message == "http://127.0.0.1:8000/devpipe/message"
    assert target.stream == "http://127.0.0.1:8000/devpipe/stream"
    assert target.loopback and not target.secure
    target = target_of("https://example.org/base/", prefix="/api/v1/devpipe/", has_token=True)
    assert target.message == "https://example.org/base/api/v1/devpipe/message"
    assert target.secure and not target.loopback
    assert (
        target_of("http://example.org", prefix="/", has_token=False).message == "http://example.org/message"
    )


@pytest.mark.parametrize("host", ["localhost", "127.8.8.8", "[::1]", "app.localhost"])
def test_a_token_may_go_in_clear_text_on_this_machine(host: str) -> None:
    assert target_of(f"http://{host}:1", prefix="/d", has_token=True).loopback


@pytest.mark.parametrize(
    "host", ["example.org", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org"]
)
def test_a_token_never_goes_in_clear_text_over_the_network(host: str) -> None:
    with pytest.raises(ConfigurationError, match="clear text"):
        target_of(f"http://{host}", prefix="/d", has_token=True)


@pytest.mark.parametrize(
    "url",
    [
        "example.org",
        "ftp://example.org",
        "http://",
        "http://[::1",
        "http://x:y",
        "http://user:secret@example.org",
        "http://@example.org",
        "http://example.org/?token=secret",
        "http://example.org/#secret",
    ],
)
def test_a_wrong_address_is_refused_without_repeating_what_may_be_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        target_of(url, prefix="/d", has_token=False)
    assert "secret" not in str(caught.value)
