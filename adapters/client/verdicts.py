"""With which error a call ends, and what that says about the message."""

from __future__ import annotations

from collections.abc import Mapping

from devpipe.adapters.transports.base import Transport
from devpipe.machines.errors import (
    DeadlineExceeded,
    DevPipeError,
    FailureKind,
    HandlerError,
    MessageTooLarge,
    Outcome,
    RequestRefused,
    TransportError,
)
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.envelope import ErrorBody

__all__ = ["reply_error", "too_large", "transport_error"]

#: Refusals that say nothing about earlier attempts of the same message.
_FRESH_REFUSALS = frozenset({"busy", "closing", "unauthorized", "expired", "too_large", "bad_message"})


def reply_error(call: Call, body: ErrorBody) -> DevPipeError:
    """The server answered with an error: its handler's, or a refusal."""
    text = f"{body.code}: {body.message}" if body.message else body.code
    if body.code == "expired":  # the caller's own deadline, seen by the server a moment earlier
        ran = body.outcome != Outcome.REJECTED.value
        known = Outcome.EXECUTED if ran else call.outcome.worst(Outcome.REJECTED)
        return DeadlineExceeded(text, outcome=known, message_id=call.id)
    if body.outcome == Outcome.REJECTED.value:
        outcome = call.outcome.worst(Outcome.REJECTED) if body.code in _FRESH_REFUSALS else Outcome.REJECTED
        if body.code == "forgotten":
            outcome = Outcome.MAYBE_EXECUTED
        return RequestRefused(text, code=body.code, details=body.details, outcome=outcome, message_id=call.id)
    return HandlerError(text, code=body.code, details=body.details, message_id=call.id)


def expired_too_early(call: Call, body: ErrorBody, *, now: float) -> bool:
    """The server finds that the caller's time is up, and did not run it, while there is time left by our own count."""
    return body.code == "expired" and body.outcome == Outcome.REJECTED.value and now < call.deadline


def transport_error(call: Call, failure: Failure, transport: Transport) -> TransportError:
    """The last attempt came back without a reply, and there will be no other."""
    return TransportError(
        f"{transport.type}: {failure.reason}",
        kind=failure.kind,
        transport=transport.id,
        retryable=failure.kind is not FailureKind.AUTH,
        retry_after=failure.retry_after,
        outcome=call.known,
        message_id=call.id,
    )


def too_large(call: Call, routes: Mapping[str, Transport]) -> DevPipeError:
    """No configured transport takes this call: for its size, or for what it wishes."""
    transports = routes.values()
    size = len(call.payload)
    if call.realtime and not any(t.capabilities.supports_realtime for t in transports):
        return RequestRefused(
            f"message {call.id} wants realtime, and no configured transport has it",
            code="no_realtime",
            outcome=call.known,
            message_id=call.id,
        )
    best = max(transports, key=lambda t: t.max_message_bytes)
    return MessageTooLarge(
        f"message {call.id} has {size} bytes; the most that a configured transport takes is "
        f"{best.max_message_bytes} bytes ({best.type})",
        size=size,
        limit=best.max_message_bytes,
        suggestion=best.type if size <= best.max_message_bytes else None,
        outcome=call.known if call.attempts else Outcome.NEVER_SENT,
        message_id=call.id,
    )
