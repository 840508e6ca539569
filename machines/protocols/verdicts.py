"""Whether a message may be sent again, with which error a call ends else, and what that says about the message."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

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
from devpipe.machines.protocols.profiles import ELSEWHERE

__all__ = [
    "Offer",
    "expired_too_early",
    "may_go_again",
    "reasons_of",
    "reply_error",
    "too_large",
    "transport_error",
]

#: Refusals that say nothing about earlier attempts of the same message.
_FRESH_REFUSALS = frozenset({"busy", "closing", "unauthorized", "expired", "too_large", "bad_message"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one transport takes: messages of so many bytes, and such as wish to be carried in realtime."""

    transport: str
    max_message_bytes: int
    supports_realtime: bool


def may_go_again(call: Call, failure: Failure, *, remembered: bool, alone: bool, most_attempts: int) -> bool:
    """After an attempt without a reply. ``remembered``: the server knows ids, so that none is run twice (promise P2).

    ``alone``: there is no other transport, and the same token would be refused again.
    """
    if call.outcome is not Outcome.NEVER_SENT and not remembered:
        return False
    if failure.kind is FailureKind.AUTH and alone:
        return False
    return call.attempts <= most_attempts


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


def reasons_of(errors: Iterable[DevPipeError]) -> str:
    """Why no transport works, one after the other; advice that is the same for several is given once."""
    advice = f": {ELSEWHERE}"
    before, last, after = "; ".join(map(str, errors)).rpartition(advice)
    return before.replace(advice, "") + last + after


def expired_too_early(call: Call, body: ErrorBody, *, now: float) -> bool:
    """The server finds that the caller's time is up, and did not run it, while there is time left by our own count."""
    return body.code == "expired" and body.outcome == Outcome.REJECTED.value and now < call.deadline


def transport_error(call: Call, failure: Failure, *, transport: str, id: str) -> TransportError:
    """The last attempt came back without a reply, and there will be no other. ``transport``, ``id``: who carried it."""
    return TransportError(
        f"{transport}: {failure.reason}",
        kind=failure.kind,
        transport=id,
        retryable=failure.kind is not FailureKind.AUTH,
        retry_after=failure.retry_after,
        outcome=call.known,
        message_id=call.id,
    )


def too_large(call: Call, offers: Collection[Offer]) -> DevPipeError:
    """No configured transport takes this call: for its size, or for what it wishes."""
    size = len(call.payload)
    if call.realtime and not any(offer.supports_realtime for offer in offers):
        return RequestRefused(
            f"message {call.id} wants realtime, and no configured transport has it",
            code="no_realtime",
            outcome=call.known,
            message_id=call.id,
        )
    best = max(offers, key=lambda offer: offer.max_message_bytes)
    return MessageTooLarge(
        f"message {call.id} has {size} bytes; the most that a configured transport takes is "
        f"{best.max_message_bytes} bytes ({best.transport})",
        size=size,
        limit=best.max_message_bytes,
        suggestion=best.transport if size <= best.max_message_bytes else None,
        outcome=call.known if call.attempts else Outcome.NEVER_SENT,
        message_id=call.id,
    )
