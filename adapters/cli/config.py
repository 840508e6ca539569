"""``devpipe config``: what is set, where it came from, and all that is wrong."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import devpipe

__all__ = ["config"]

WIDTH = 80
#: Where the second and the third column begin.
VALUE, ORIGIN = 34, 56


@click.group()
def config() -> None:
    """Show the settings of a pipe."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print one document of JSON.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="The configuration file (default: DEVPIPE_CONFIG, else the one that is found).",
)  # fmt: skip
def show(as_json: bool, file: Path | None) -> None:
    """Print each setting with where it came from.

    Strongest first: DEVPIPE_* variables, a file, defaults. The file is devpipe.toml, or [tool.devpipe] in
    pyproject.toml, in the nearest directory from here upwards that has one. If anything is wrong, all of it is said, and
    the exit code is 2.
    """
    settings = devpipe.load_settings(file=file)
    if as_json:
        click.echo(json.dumps(as_document(settings)))
    elif not settings.problems:
        # who reads along has a width, whoever takes it line by line (grep) has not
        for line in as_table(settings, width=WIDTH if sys.stdout.isatty() else None):
            click.echo(line)
    if settings.problems:
        raise devpipe.ConfigurationError.of(settings.problems)


def as_document(settings: devpipe.Settings) -> dict[str, Any]:
    """Plain data. A token is only said to be there."""
    return {
        "file": None if settings.file is None else str(settings.file),
        "token": settings.token,
        "settings": {
            setting.key: {"value": setting.value, **dataclasses.asdict(setting.origin)}
            for setting in settings.settings
        },
        "left_alone": list(settings.left_alone),
        "problems": [
            {"key": p.key, "source": p.source, "allowed": p.allowed, "meant": p.meant, "text": str(p)}
            for p in settings.problems
        ],
    }


def as_table(settings: devpipe.Settings, *, width: int | None) -> Iterator[str]:
    """Three columns in ``width``, where what does not fit goes on in the next line; None: a line for each setting."""
    yield f"file: {settings.file or 'none'}"
    if settings.left_alone:
        yield from _folded(
            "", f"ignored, no settings: {', '.join(settings.left_alone)}", indent=2, width=width
        )
    yield ""
    token = ("set, not shown", "DEVPIPE_TOKEN") if settings.token else ("-", "default")
    yield from _row("token", *token, width=width)
    for setting in settings.settings:
        yield from _row(setting.key, _value(setting.value), _origin(setting.origin), width=width)


def _row(key: str, value: str, origin: str, *, width: int | None) -> Iterator[str]:
    head = f"{key:<{VALUE - 1}} "
    if width is None or (len(value) < ORIGIN - VALUE and len(origin) <= width - ORIGIN):
        yield f"{head}{value:<{ORIGIN - VALUE - 1}} {origin}"
        return
    yield from _folded(head, value, indent=VALUE, width=width)
    yield from _folded(" " * VALUE, origin, indent=VALUE, width=width)


def _folded(head: str, text: str, *, indent: int, width: int | None) -> Iterator[str]:
    if width is None:
        yield head + text
        return
    room = width - len(head)
    yield head + text[:room]
    rest, room = text[room:], width - indent
    for start in range(0, len(rest), room):
        yield " " * indent + rest[start : start + room]


def _value(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # parts of any kind
        case _:
            return str(value)


def _origin(origin: devpipe.Origin) -> str:
    match origin.kind:
        case "environment":
            return str(origin.name)
        case "file":  # its path stands above the table
            name = Path(str(origin.name)).name
            return name if origin.line is None else f"{name}:{origin.line}"
        case _:
            return origin.kind
