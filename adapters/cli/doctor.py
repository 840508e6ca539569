"""``devpipe doctor``: the report of ``devpipe.diagnose`` in a terminal, as plain lines, or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import click

import devpipe
from devpipe.cli.inputs import Number, checked_address, checked_transports, read_token
from devpipe.cli.options import (
    backend_option,
    folder_option,
    json_option,
    profile_option,
    run,
    server_option,
    token_option,
    via_option,
)

__all__ = ["doctor"]

#: What the command says to a script: everything that was asked for works, a part of it, nothing.
ALL_WORK, SOME_WORK, NONE_WORKS = 0, 6, 3


@click.command(short_help="Find out which transports work here, and why not.")
@server_option
@profile_option
@folder_option
@token_option
@via_option
@click.option(
    "--timeout", type=Number(min=0, min_open=True), default=5.0, show_default=True,
    help="Seconds for each step.",
)  # fmt: skip
@json_option
@backend_option
def doctor(
    server_url: str | None,
    profile: str | None,
    folder: Path | None,
    token_file: Path | None,
    via: tuple[str, ...],
    timeout: float,
    as_json: bool,
    backend: str,
) -> None:
    """Find out which transports work here, why the others do not, and what to do about it.

    Looks at the surroundings (proxies, container, WSL, file system, clock), then tries each transport for real, all at
    once: name, connection, TLS, health, proof of data, a push, latency, the largest message. No handler is run.

    Exit code: 0 all that was asked for works, 6 some of it, 3 nothing. Warnings change nothing about it.

    Example: devpipe doctor --server http://127.0.0.1:8000 --folder .devpipe
    """
    checked_address(server_url, folder)

    async def examining() -> int:
        return await _examine(
            server_url,
            profile=profile,
            folder=folder,
            token=read_token(token_file),
            transports=checked_transports(via),
            timeout=timeout,
            as_json=as_json,
        )

    sys.exit(run(examining, backend))


async def _examine(
    server_url: str | None,
    *,
    profile: str | None,
    folder: Path | None,
    token: str | None,
    transports: list[str] | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Diagnose and print; returns the exit code."""
    from rich.console import Console

    from devpipe.cli.report import show

    console = Console(highlight=False)
    waiting: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if console.is_terminal and not as_json:
        waiting = console.status("trying every transport ...", spinner="line")  # ASCII, for every terminal
    with waiting:
        report = await devpipe.diagnose(
            server_url,
            profile=profile,
            folder=folder,
            token=token,
            transports=transports,
            timeout=timeout,
        )
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    elif console.is_terminal:
        show(report, console)
    else:
        click.echo(str(report))
    return _exit_code(report)


def _exit_code(report: devpipe.Report) -> int:
    """0 if all that was asked for works, 6 if some of it does, 3 if nothing does."""
    if report.ok:
        return ALL_WORK
    return SOME_WORK if report.working else NONE_WORKS
