"""Runs one handler, and says how it ended in the words of a reply."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from anyio.to_thread import run_sync

from devpipe.adapters.server.audit import ExecutionLog
from devpipe.machines.errors import (
    DevPipeError,
    HandlerError,
    InvalidMessage,
    ModelSelectionError,
    RequestRefused,
    TransportError,
)
from devpipe.machines.message import Message
from devpipe.machines.protocols.envelope import ErrorBody, encode_payload
from devpipe.machines.protocols.serving import RunHandler

__all__ = ["Handler", "answer"]

log = logging.getLogger("devpipe.server")

Handler: TypeAlias = Callable[[Message], Any]


async def answer(
    handler: Handler, run: RunHandler, *, audit: ExecutionLog | None, make_error_id: Callable[[], str]
) -> tuple[bytes, ErrorBody | None]:
    """Call ``handler``; returns its result as JSON, or its error. Raises nothing but cancellation."""
    message = Message(
        id=run.id,
        type=run.type,
        raw=run.payload or None,
        timestamp=run.timestamp,
        priority=run.priority,
        session=run.session,
        transport=run.transport,
    )
    try:
        message.payload  # noqa: B018  (reading it is the check)
    except TransportError as error:
        return b"null", ErrorBody(code="bad_message", message=str(error)[:300], outcome="rejected")
    started = False
    try:
        if audit is not None:
            audit.write(id=run.id, session=run.session, type=run.type, transport=run.transport)
        started = True
        if _is_async(handler):
            result = await handler(message)
        else:
            # in a list: trio refuses a thread's result that could be awaited
            [result] = await run_sync(lambda: [handler(message)], abandon_on_cancel=True)
            if inspect.isawaitable(result):
                result = await result
        return encode_payload(result, type=run.type, message_id=run.id), None
    except HandlerError as error:
        return b"null", ErrorBody(
            code=error.code, message=str(error), details=_plain(error.details), outcome="executed"
        )
    except ModelSelectionError as error:
        return b"null", ErrorBody(
            code=error.code, message=str(error), details=_selection_details(error), outcome="executed"
        )
    except RequestRefused as error:
        return b"null", ErrorBody(
            code=error.code, message=str(error), details=_plain(error.details), outcome="rejected"
        )
    except Exception as error:
        # whatever a handler raises is told as an id here, and in full in the log: nothing of it leaks out
        error_id = make_error_id()
        log.exception("handler for %r failed, error id %s, message %r", run.type, error_id, run.id)
        text = "the result is no JSON" if isinstance(error, InvalidMessage) else "the handler failed"
        if not started:
            text = "the execution log cannot be written"
        return b"null", ErrorBody(
            code="handler_error",
            message=f"{text} (error id {error_id})",
            details={"errorId": error_id},
            outcome="executed" if started else "rejected",
        )


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004  (an object whose call is a coroutine function)
    )


def _selection_details(error: ModelSelectionError) -> dict[str, object]:
    """An object, as deployed programs expect it, with what to do among the rest."""
    details = _plain(error.details)
    rest = cast("dict[str, object]", details) if isinstance(details, dict) else {"about": details}
    if details is None:
        rest = {}
    return {**rest, "suggestions": list(error.suggestions)}


def _plain(details: object) -> object:
    try:
        encode_payload(details, type="details")
    except DevPipeError:  # details are for people: what is no JSON is shown as text
        return repr(details)
    return details
