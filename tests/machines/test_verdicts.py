"""Whether a message may be sent again, and with which error it ends else."""

from __future__ import annotations

import pytest

from devpipe.machines.errors import (
    DeadlineExceeded,
    FailureKind,
    HandlerError,
    MessageTooLarge,
    Outcome,
    RequestRefused,
)
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import ErrorBody
from devpipe.machines.protocols.verdicts import Offer, may_go_again, reply_error, too_large, transport_error

RESET = Failure(kind=FailureKind.NETWORK, reason="reset", retry_after=3.0)
AUTH = Failure(kind=FailureKind.AUTH, reason="401")
SMALL = Offer(transport="websocket", max_message_bytes=100, supports_realtime=True)
LARGE = Offer(transport="http", max_message_bytes=1000, supports_realtime=False)


def tried(*, times: int = 1, seen: bool = True, payload: bytes = b"null", realtime: bool = False) -> Call:
    call = Call("c-1", "echo", payload, now=0.0, deadline=30.0, realtime=realtime)
    for _ in range(times):
        call.begin_attempt("http", b"", now=0.0)
        call.handed_over = seen
        call.end_attempt()
    return call


def again(call: Call, failure: Failure = RESET, *, remembered: bool = True, alone: bool = False) -> bool:
    return may_go_again(call, failure, remembered=remembered, alone=alone, most_attempts=3)


def test_what_may_have_been_seen_goes_again_only_to_a_server_that_remembers() -> None:
    assert again(tried()) and again(tried(seen=False), remembered=False)
    assert not again(tried(), remembered=False)


def test_attempts_are_bounded() -> None:
    assert again(tried(times=3)) and not again(tried(times=4))


def test_a_refused_token_is_not_shown_again_on_the_only_path() -> None:
    assert again(tried(), AUTH) and not again(tried(), AUTH, alone=True)
    assert again(tried(), RESET, alone=True)


def test_the_last_failure_becomes_an_error_that_says_what_is_known() -> None:
    error = transport_error(tried(), RESET, transport="http", id="http-3f9a1c")
    assert str(error) == "http: reset" and error.transport == "http-3f9a1c"
    assert (error.outcome, error.message_id) == (Outcome.MAYBE_EXECUTED, "c-1")
    assert error.retryable and error.retry_after == 3.0
    assert not transport_error(tried(seen=False), AUTH, transport="http", id="h").retryable


@pytest.mark.parametrize(
    ("body", "seen", "kind", "outcome"),
    [
        (ErrorBody(code="expired", outcome="rejected"), False, DeadlineExceeded, Outcome.REJECTED),
        (ErrorBody(code="expired", outcome="rejected"), True, DeadlineExceeded, Outcome.MAYBE_EXECUTED),
        (ErrorBody(code="expired"), False, DeadlineExceeded, Outcome.EXECUTED),
        (ErrorBody(code="busy", outcome="rejected"), True, RequestRefused, Outcome.MAYBE_EXECUTED),
        (ErrorBody(code="unknown_type", outcome="rejected"), True, RequestRefused, Outcome.REJECTED),
        (ErrorBody(code="forgotten", outcome="rejected"), False, RequestRefused, Outcome.MAYBE_EXECUTED),
        (ErrorBody(code="handler_error", message="x"), False, HandlerError, Outcome.EXECUTED),
    ],
)
def test_an_answer_with_an_error_says_whether_the_handler_ran(
    body: ErrorBody, seen: bool, kind: type[Exception], outcome: Outcome
) -> None:
    error = reply_error(tried(seen=seen), body)
    assert type(error) is kind and error.outcome is outcome
    assert str(error) == (f"{body.code}: {body.message}" if body.message else body.code)


def test_a_message_that_nobody_takes_names_the_limit_and_who_would_take_it() -> None:
    error = too_large(tried(times=0, payload=b"x" * 1001), [SMALL, LARGE])
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit, error.suggestion) == (1001, 1000, None)
    assert error.outcome is Outcome.NEVER_SENT and "(http)" in str(error)
    wished = too_large(tried(times=0, payload=b"x" * 500, realtime=True), [SMALL, LARGE])
    assert isinstance(wished, MessageTooLarge) and wished.suggestion == "http"
    assert too_large(tried(payload=b"x" * 1001), [LARGE]).outcome is Outcome.MAYBE_EXECUTED


def test_a_wish_that_no_transport_has_is_refused_by_name() -> None:
    error = too_large(tried(times=0, realtime=True), [LARGE])
    assert isinstance(error, RequestRefused) and error.code == "no_realtime"
