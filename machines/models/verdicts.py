"""What the end of a selection means: an answer that stands, or a silence that something may stand in for.

A server that refuses (`BUDGET_EXCEEDED`, `NO_HEALTHY_MODELS`, `INVALID_REQUEST`) has answered: nothing stands in for
that. A server that cannot be reached, that fails, or that answers with what is no response, has not.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from devpipe.machines.errors import (
    AllTransportsFailed,
    DeadlineExceeded,
    DevPipeError,
    HandlerError,
    ModelSelectionError,
    RequestRefused,
)

__all__ = ["ANSWERS", "as_selection_error", "is_answer", "is_unknown", "selects_none"]

#: Codes with which a server has answered, if not with a model.
ANSWERS = frozenset({"NO_HEALTHY_MODELS", "BUDGET_EXCEEDED", "INVALID_REQUEST"})

_HELP = {
    "TIMEOUT": (
        "give more time: timeout=, or the preference timeout_preference",
        "enable the fallback: fallback_enabled=True",
    ),
    "SERVICE_UNAVAILABLE": (
        "see what each transport says: print(models.explain())",
        "enable the fallback: fallback_enabled=True",
    ),
}


def is_answer(error: ModelSelectionError) -> bool:
    """True if the server has answered with this error, so that nothing may stand in for it."""
    return error.code in ANSWERS


def is_unknown(error: ModelSelectionError) -> bool:
    """True if the server has no such message: an older one."""
    return isinstance(error.__cause__, RequestRefused) and error.__cause__.code == "unknown_type"


def selects_none(error: ModelSelectionError, *, server: str) -> ModelSelectionError:
    """The same error of a server that has no such message as a selection: it names the server, and what to do."""
    remedy = "start it with devpipe serve --catalogue FILE"
    return ModelSelectionError(
        f"the server at {server} selects no models ({error}): {remedy}",
        code=error.code,
        details=error.details,
        suggestions=(remedy,),
        outcome=error.outcome,
        message_id=error.message_id,
    )


def as_selection_error(error: DevPipeError) -> ModelSelectionError:
    """The same error in the words of model selection: ``code``, ``details`` and ``suggestions``."""
    if isinstance(error, ModelSelectionError):
        return error
    code = "SERVICE_UNAVAILABLE"
    details: object = None
    suggestions: tuple[str, ...] = ()
    if isinstance(error, (HandlerError, RequestRefused)):
        details = error.details
        suggestions = _suggestions(details)
        if error.code in ModelSelectionError.CODES:
            code = error.code
        else:
            details = {"code": error.code, "details": details}
    elif isinstance(error, AllTransportsFailed):
        details = {"transports": {name: str(cause) for name, cause in error.errors.items()}}
    elif isinstance(error, DeadlineExceeded):
        code = "TIMEOUT"
    return ModelSelectionError(
        str(error),
        code=code,
        details=details,
        suggestions=suggestions or _HELP.get(code, ()),
        outcome=error.outcome,
        message_id=error.message_id,
    )


class _Help(Struct):
    suggestions: tuple[str, ...] = ()


def _suggestions(details: object) -> tuple[str, ...]:
    try:
        return msgspec.convert(details, _Help).suggestions
    except msgspec.ValidationError:  # another server's details are its own affair
        return ()
