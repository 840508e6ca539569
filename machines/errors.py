"""Everything that devpipe raises.

DevPipeError                  outcome, safe_to_resend, message_id
├── ConfigurationError        also ValueError: a setting, an address or a name is wrong (problems: each of them)
├── InvalidMessage            also ValueError: this message cannot be put on any wire
├── DeadlineExceeded          also TimeoutError: the caller's time ran out
├── HandlerError              theirs: the handler ran and failed (code, details); outcome executed
├── RequestRefused            theirs: refused before the handler ran (code, details); outcome rejected
│   └── MessageTooLarge       ours or theirs: limit and size in bytes, and who would take it
├── TransportError            the path's: kind, retryable, transport
│   └── AllTransportsFailed   errors: one for each transport
├── ModelSelectionError       no model, or not this one: code, details, suggestions
├── CircuitOpen               the breaker admits nothing now: retry_after
├── QueueFull                 a bounded queue has no room: limit
└── PipeClosed                the pipe was closed while, or before, the call was made

``outcome`` says what is known about the message when a ``send`` ends with an error. It is the worst of
all attempts, so it may be believed without knowing how many transports were tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "AllTransportsFailed",
    "CircuitOpen",
    "ConfigurationError",
    "DeadlineExceeded",
    "DevPipeError",
    "FailureKind",
    "HandlerError",
    "InvalidMessage",
    "MessageTooLarge",
    "ModelSelectionError",
    "Outcome",
    "PipeClosed",
    "Problem",
    "QueueFull",
    "RequestRefused",
    "TransportError",
]


class Outcome(str, Enum):
    """What is known about a message whose ``send`` ended with an error, from best to worst."""

    NEVER_SENT = "never_sent"  #: its last byte was never handed over: nobody has seen it
    REJECTED = "rejected"  #: the server refused it before the handler ran
    PENDING = "pending"  #: it is durable and will still be sent: do not send it again
    MAYBE_EXECUTED = "maybe_executed"  #: it was handed over, and no answer came back
    EXECUTED = "executed"  #: the handler ran: the answer is an error, or is lost

    @property
    def severity(self) -> int:
        """Rank for combining attempts: the worst one wins."""
        return _SEVERITY[self]

    def worst(self, other: Outcome) -> Outcome:
        """The outcome to report after two attempts at the same message."""
        return self if self.severity >= other.severity else other


_SEVERITY = {outcome: rank for rank, outcome in enumerate(Outcome)}


class FailureKind(str, Enum):
    """Why a transport failed, in the original's words."""

    NETWORK = "network"
    TIMEOUT = "timeout"
    AUTH = "auth"
    PROTOCOL = "protocol"
    UNAVAILABLE = "unavailable"


class DevPipeError(Exception):
    """Root of every error of ours.

    ``outcome``: what is known about the message, or None if the error is not about a message.
    ``message_id``: the id under which the message went, or would have gone, over every transport.
    """

    outcome: Outcome | None = None

    def __init__(self, text: str, *, outcome: Outcome | None = None, message_id: str | None = None) -> None:
        super().__init__(text)
        self.message_id = message_id
        if outcome is not None:
            self.outcome = outcome

    @property
    def safe_to_resend(self) -> bool:
        """True if sending the same request again cannot run it twice."""
        return self.outcome in (None, Outcome.NEVER_SENT, Outcome.REJECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One setting that is wrong; printed, it is a sentence.

    ``key``: the dotted name of the setting, or what was given in place of one. ``value``: what was given, None where it
    is not to be shown. ``source``: where it came from, in words, None if nobody said. ``allowed``: what may be given.
    ``meant``: the name that is probably meant, where the name is wrong. ``text``: the sentence, where it is another one
    than "key = value is not allowed".
    """

    key: str
    value: object
    allowed: str
    source: str | None = None
    meant: str | None = None
    text: str | None = None

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        origin = "" if self.source is None else f" from {self.source}"
        return f"{self.key} = {self.value!r}{origin} is not allowed: give {self.allowed}"


class ConfigurationError(DevPipeError, ValueError):
    """Something is set up wrongly. The text names the key, the value, where it came from and what is allowed.

    ``problems``: each wrong setting, where settings were read; all of them are said at once.
    """

    def __init__(self, text: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> ConfigurationError:
        """The error that says all these, a line each."""
        if len(problems) == 1:
            return cls(str(problems[0]), problems=problems)
        lines = "".join(f"\n  {problem}" for problem in problems)
        return cls(f"{len(problems)} settings are wrong:{lines}", problems=problems)


class InvalidMessage(DevPipeError, ValueError):
    """The message cannot be encoded as JSON, or breaks a rule of the envelope. Nothing was sent."""

    outcome = Outcome.NEVER_SENT


class DeadlineExceeded(DevPipeError, TimeoutError):
    """The reply did not come within the caller's ``timeout``; ``outcome`` says what is known."""


class HandlerError(DevPipeError):
    """The server's handler ran and failed. ``code`` and ``details`` are the server's words."""

    outcome = Outcome.EXECUTED

    def __init__(
        self,
        text: str,
        *,
        code: str,
        details: object = None,
        outcome: Outcome | None = None,
        message_id: str | None = None,
    ) -> None:
        super().__init__(text, outcome=outcome, message_id=message_id)
        self.code = code
        self.details = details


class RequestRefused(DevPipeError):
    """The server refused the message before any handler ran. ``code`` says why."""

    outcome = Outcome.REJECTED

    def __init__(
        self,
        text: str,
        *,
        code: str,
        details: object = None,
        outcome: Outcome | None = None,
        message_id: str | None = None,
    ) -> None:
        super().__init__(text, outcome=outcome, message_id=message_id)
        self.code = code
        self.details = details


class MessageTooLarge(RequestRefused):
    """The message is larger than the transport, or every transport, takes.

    ``size`` and ``limit`` in bytes; ``suggestion`` names the transport that would take it, or None.
    """

    def __init__(
        self,
        text: str,
        *,
        size: int,
        limit: int,
        suggestion: str | None = None,
        outcome: Outcome | None = None,
        message_id: str | None = None,
    ) -> None:
        super().__init__(text, code="too_large", outcome=outcome, message_id=message_id)
        self.size = size
        self.limit = limit
        self.suggestion = suggestion


class TransportError(DevPipeError):
    """A transport failed. ``transport`` is its id; ``retryable`` says whether trying again may help."""

    def __init__(
        self,
        text: str,
        *,
        kind: FailureKind,
        transport: str | None = None,
        retryable: bool = True,
        retry_after: float | None = None,
        outcome: Outcome | None = None,
        message_id: str | None = None,
    ) -> None:
        super().__init__(text, outcome=outcome, message_id=message_id)
        self.kind = kind
        self.transport = transport
        self.retryable = retryable
        self.retry_after = retry_after


class AllTransportsFailed(TransportError):
    """No transport can carry the message before its deadline. ``errors`` has the last one of each."""

    def __init__(
        self,
        text: str,
        *,
        errors: Mapping[str, DevPipeError],
        outcome: Outcome | None = None,
        message_id: str | None = None,
    ) -> None:
        kinds = {error.kind for error in errors.values() if isinstance(error, TransportError)}
        super().__init__(
            text,
            kind=kinds.pop() if len(kinds) == 1 else FailureKind.UNAVAILABLE,
            outcome=outcome,
            message_id=message_id,
        )
        self.errors = dict(errors)


class ModelSelectionError(DevPipeError):
    """No model was selected. ``code``: one of ``CODES`` (in specs/models.md); ``suggestions``: what to do, in words."""

    CODES = ("NO_HEALTHY_MODELS", "BUDGET_EXCEEDED", "TIMEOUT", "INVALID_REQUEST", "SERVICE_UNAVAILABLE")

    def __init__(
        self,
        text: str,
        *,
        code: str,
        details: object = None,
        suggestions: tuple[str, ...] = (),
        outcome: Outcome | None = None,
        message_id: str | None = None,
    ) -> None:
        super().__init__(text, outcome=outcome, message_id=message_id)
        self.code = code
        self.details = details
        self.suggestions = suggestions


class CircuitOpen(DevPipeError):
    """The circuit breaker admits nothing now; ``retry_after`` is in seconds, None if an operator holds it."""

    outcome = Outcome.NEVER_SENT

    def __init__(self, text: str, *, retry_after: float | None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class QueueFull(DevPipeError):
    """A bounded queue has no room for this message; ``limit`` is its size in messages or bytes."""

    outcome = Outcome.NEVER_SENT

    def __init__(self, text: str, *, limit: int, message_id: str | None = None) -> None:
        super().__init__(text, message_id=message_id)
        self.limit = limit


class PipeClosed(DevPipeError):
    """The pipe, or the transport used alone, is closed."""
