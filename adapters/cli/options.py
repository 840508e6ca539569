"""The options that several commands share, and how a command runs what awaits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import click

__all__ = [
    "backend_option",
    "folder_option",
    "json_option",
    "profile_option",
    "run",
    "server_option",
    "token_option",
    "via_option",
]

T = TypeVar("T")

backend_option = click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop.",
)
server_option = click.option(
    "--server", "server_url", metavar="URL", help="The server, like http://127.0.0.1:8000."
)
folder_option = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="The shared folder."
)
token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the token (default: the variable DEVPIPE_TOKEN).",
)
profile_option = click.option(
    "--profile", metavar="NAME", help='The kind of peer: "vaultpilot" for deployed ones, else devpipe itself.'
)
via_option = click.option(
    "--via",
    multiple=True,
    metavar="TRANSPORT",
    help="Only this transport: websocket, http or folder. May be repeated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a line.")


def run(function: Callable[[], Awaitable[T]], backend: str) -> T:
    """Run it to its end in a new event loop."""
    try:
        return anyio.run(function, backend=backend)
    except LookupError as error:  # what anyio says when the package of a backend is not there
        raise click.UsageError(f"the backend {backend} is not installed: pip install {backend}") from error
