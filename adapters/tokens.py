"""What a token may be: one rule for the end that shows it and the end that wants it."""

from __future__ import annotations

from devpipe.machines.errors import ConfigurationError

__all__ = ["checked_token"]


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
