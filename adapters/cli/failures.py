"""How a command that has failed says so: in words for people, in a document for programs, and in its exit code."""

from __future__ import annotations

from typing import Any

import click

import devpipe

__all__ = ["document_of", "exit_code_of", "show"]


def exit_code_of(error: devpipe.DevPipeError | click.ClickException) -> int:
    """The exit code; ``EPILOG`` in ``commands.py`` says what each means."""
    match error:
        case click.ClickException():
            return error.exit_code
        case devpipe.ConfigurationError() | devpipe.InvalidMessage():
            return 2
        case devpipe.AllTransportsFailed():
            return 3
        case devpipe.DeadlineExceeded():
            return 4
        case devpipe.RequestRefused() | devpipe.HandlerError():
            return 5
        case _:
            return 1


def show(error: devpipe.DevPipeError) -> None:
    """Write it to the standard error, and its notes."""
    known = "" if error.outcome is None else f" [{error.outcome.value}]"
    click.echo(f"devpipe: {error}{known}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"devpipe: {note}", err=True)


def document_of(error: devpipe.DevPipeError | click.ClickException) -> dict[str, Any]:
    """Plain data, fit for JSON. ``code`` and ``details`` are the server's or the handler's words, None without any."""
    if isinstance(error, click.ClickException):
        return {"error": error.format_message(), "type": type(error).__name__, "code": None, "outcome": None}
    return {
        "error": str(error),
        "type": type(error).__name__,
        "code": getattr(error, "code", None),
        "details": getattr(error, "details", None),
        "outcome": None if error.outcome is None else error.outcome.value,
        "safe_to_resend": error.safe_to_resend,
        "id": error.message_id,
    }
