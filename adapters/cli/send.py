"""``devpipe send``: one message, and the payload of its reply."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

import devpipe
from devpipe.cli.failures import document_of, exit_code_of
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

__all__ = ["send"]

#: A command does not wait for a server that is about to start: so many refused dials of every transport are its answer.
REFUSALS = 2


@click.command(short_help="Send one message and print its reply.")
@click.argument("type")
@click.argument("payload", default="null", metavar="[JSON]")
@server_option
@profile_option
@folder_option
@token_option
@via_option
@click.option(
    "--timeout", type=Number(min=0, min_open=True), default=30.0, show_default=True, help="Seconds."
)
@json_option
@backend_option
def send(
    type: str,
    payload: str,
    server_url: str | None,
    profile: str | None,
    folder: Path | None,
    token_file: Path | None,
    via: tuple[str, ...],
    timeout: float,
    as_json: bool,
    backend: str,
) -> None:
    """Send one message of TYPE with a JSON payload, and print the payload of the reply.

    With "-" for JSON the payload is read from the standard input.

    With --json the whole reply is one document on the standard output, and an error one on the standard error: what
    went wrong in "error", the server's word for it in "code", and what is known of the message in "outcome".

    Example: devpipe send echo '{"text": "hello"}' --server http://127.0.0.1:8000
    """
    try:
        document = _read_payload(payload)
        checked_address(server_url, folder)
        pipe = devpipe.connect(
            server_url,
            profile=profile,
            folder=folder,
            token=read_token(token_file),
            transports=checked_transports(via),
            connect_timeout=timeout,
        )
        pipe.refusals = REFUSALS

        async def sending() -> devpipe.Message:
            async with pipe:
                return await pipe.send(type, document, timeout=timeout)

        reply = run(sending, backend)
    except (devpipe.DevPipeError, click.ClickException) as error:
        if as_json:
            click.echo(json.dumps(document_of(error)), err=True)
            sys.exit(exit_code_of(error))
        if isinstance(error, devpipe.AllTransportsFailed):
            error.add_note(_remedy(error, server_url, folder))
        raise
    if as_json:
        whole = {"id": reply.id, "type": reply.type, "payload": reply.payload, "via": reply.transport}
        click.echo(json.dumps(whole))
    else:
        click.echo(json.dumps(reply.payload, indent=2, ensure_ascii=False))


def _read_payload(given: str) -> Any:
    text = given
    try:
        if given == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, an integer without an end
        raise click.UsageError(f"the payload is no JSON ({error}): {text[:60]!r}") from error


def _refuse(word: str) -> NoReturn:
    """Python reads NaN and Infinity, which JSON has not: they would be sent as null."""
    raise ValueError(f"{word} is no number in JSON")


def _remedy(error: devpipe.AllTransportsFailed, server_url: str | None, folder: Path | None) -> str:
    options = {"--server": server_url, "--folder": None if folder is None else str(folder)}
    given = "".join(f" {name} {shlex.quote(value)}" for name, value in options.items() if value is not None)
    answers = error.kind in (devpipe.FailureKind.AUTH, devpipe.FailureKind.PROTOCOL)
    question = "" if answers else "is the server started? "
    return f"{question}devpipe doctor{given} tells more"
