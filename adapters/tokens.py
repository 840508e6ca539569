"""What a token may be, and how one is asked for: one rule for the end that shows it and the end that wants it."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from devpipe.adapters.transports.link import LinkLost
from devpipe.machines.errors import ConfigurationError, FailureKind
from devpipe.machines.inputs import Failure

__all__ = ["TokenFunction", "as_provider", "ask_token", "checked_token"]

log = logging.getLogger("devpipe.token")

#: A program's own function that gives a token, async or plain: then it must not block.
TokenFunction: TypeAlias = Callable[[], Awaitable[str] | str]


def as_provider(function: TokenFunction) -> Callable[[], Awaitable[str]]:
    """The same function for whoever awaits it."""

    async def give() -> str:
        given = function()
        return await given if inspect.isawaitable(given) else given

    return give


async def ask_token(provider: Callable[[], Awaitable[str]]) -> str:
    """The token that the program's function gives.

    Raises ``LinkLost`` that names what went wrong by its type: neither it nor the log shows its words, which may hold
    a token.
    """
    try:
        token = await provider()
    except Exception as error:  # the user's function: whatever it raises, there is no token
        kind = type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)
        where = ", ".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
        log.debug("the token function raised %s at %s", kind, where)
        reason = f"the token function raised {kind}"
        raise LinkLost(Failure(kind=FailureKind.UNAVAILABLE, reason=reason)) from error
    try:
        return checked_token(token, name="what the token function gives")  # h11 would show it in its error
    except ConfigurationError as error:
        raise LinkLost(Failure(kind=FailureKind.AUTH, reason=str(error))) from error


def checked_token(token: object, *, name: str = "the token") -> str:
    """The token, if it can stand in a header as it is. ``name``: what the error calls it; it never shows the token.

    Raises ``ConfigurationError`` for what is empty, has spaces or several lines, is not ASCII, or is no text at all.
    """
    if not isinstance(token, str):
        what = f"it is of the type {type(token).__name__}"
    elif not token.strip():
        what = "it is empty"
    elif not token.isascii() or not token.isprintable() or " " in token:
        what = "it has other characters"
    else:
        return token
    raise ConfigurationError(
        f"{name} is not allowed: give a text of printable ASCII characters in one line, without spaces; {what}"
    )
