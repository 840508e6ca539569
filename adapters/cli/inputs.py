"""What people type: read, checked, and refused in the command line's own words."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import click

import devpipe
from devpipe.adapters.client.configuration import ENVIRONMENT_TOKEN
from devpipe.adapters.tokens import checked_token
from devpipe.adapters.transports.registry import transport_names

__all__ = [
    "Number",
    "checked_address",
    "checked_transports",
    "environment_token",
    "load_server",
    "read_token",
]

log = logging.getLogger("devpipe.cli")

#: A file with a token is no larger: a wrong name leads to a device or a dump (bytes).
MAX_TOKEN = 64 * 1024


class Number(click.FloatRange):
    """A number in a range. That of click lets NaN pass every bound, and infinity where there is none."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def read_token(file: Path | None) -> str | None:
    """The token in a file, None without one. What stands there may be a secret, and is not shown."""
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TOKEN + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise click.UsageError(f"the token in {str(file)!r} cannot be read: {why}") from None
    if len(data) > MAX_TOKEN:
        raise click.UsageError(f"the token in {str(file)!r} is larger than {MAX_TOKEN:,} bytes")
    return checked_token(text.strip(), name=f"the token in {str(file)!r}")


def environment_token() -> str | None:
    """The token in ``DEVPIPE_TOKEN``, None without one."""
    token = os.environ.get(ENVIRONMENT_TOKEN)
    return checked_token(token, name=f"the token in {ENVIRONMENT_TOKEN}") if token else None


def checked_address(server_url: str | None, folder: Path | None) -> None:
    """Refuse a command without any address: neither an option nor a setting gives one."""
    if server_url is not None or folder is not None:
        return
    settings = devpipe.load_settings()
    if settings.problems:
        return  # they are said, all of them, when the pipe is made
    if settings["server_url"].value is None and settings["folder"].value is None:
        raise click.UsageError(
            "no server is named: give --server URL, --folder DIR, or both "
            "(or DEVPIPE_SERVER_URL, DEVPIPE_FOLDER, or a devpipe.toml)"
        )


def checked_transports(via: tuple[str, ...]) -> list[str] | None:
    """The transports of ``--via``, None for all. ``memory`` is no way between two programs."""
    known = [name for name in transport_names() if name != "memory"]
    for name in via:
        if name not in known:
            raise click.UsageError(f"--via {name}: there is no such transport, but {', '.join(known)}")
    return list(dict.fromkeys(via)) or None


def load_server(target: str) -> devpipe.Server:
    """The server that ``MODULE:SERVER`` names."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise click.UsageError(f"{target!r}: give MODULE:SERVER, like myapp.pipe:server")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of others may raise anything when it is imported
        log.debug("%r cannot be loaded", target, exc_info=True)
        raise click.UsageError(
            f"{target!r} cannot be loaded: {type(error).__name__}: {error} (devpipe --debug shows where)"
        ) from error
    if not isinstance(found, devpipe.Server):
        raise click.UsageError(f"{target!r} is no devpipe.Server but a {type(found).__name__}")
    return found
