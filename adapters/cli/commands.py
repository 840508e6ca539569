"""The commands. ``EPILOG`` says what their exit codes mean."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import anyio
import click
from rich.console import Console

import devpipe
from devpipe.adapters.client.configuration import ENVIRONMENT_TOKEN
from devpipe.adapters.ports.dial import is_loopback
from devpipe.cli.catalogue import catalogue
from devpipe.cli.config import config
from devpipe.cli.inputs import (
    Number,
    checked_address,
    checked_transports,
    environment_token,
    load_server,
    read_token,
)

__all__ = ["main"]

T = TypeVar("T")
INTERRUPTED = 130
#: A command does not wait for a server that is about to start: so many refused dials of every transport are its answer.
REFUSALS = 2

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


EPILOG = """Exit codes: 0 done; 1 it failed; 2 wrong usage or configuration; 3 no transport works; 4 the time ran out;
5 the server refused the message, or its handler failed; 6 some transports work and some do not (doctor);
130 interrupted."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96}, epilog=EPILOG)
@click.version_option(devpipe.__version__, prog_name="devpipe")
@click.option("--debug", is_flag=True, help="Log what happens inside to the standard error.")
def cli(debug: bool) -> None:
    """One message pipe over WebSocket, HTTP and a shared folder, that keeps its word when transports break.

    Begin with "devpipe demo".
    """
    if debug:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("devpipe").setLevel(logging.DEBUG)
    else:
        # what a pipe warns of, a command says itself, once
        logging.getLogger("devpipe.pipe").setLevel(logging.ERROR)


cli.add_command(catalogue)
cli.add_command(config)


def main() -> NoReturn:
    """Run a command and leave with its exit code."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except devpipe.DevPipeError as error:
        code = _show(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    else:
        code = 0
    sys.exit(code)


def _show(error: devpipe.DevPipeError) -> int:
    known = "" if error.outcome is None else f" [{error.outcome.value}]"
    click.echo(f"devpipe: {error}{known}", err=True)
    if isinstance(error, devpipe.AllTransportsFailed):
        for inner in error.errors.values():
            if str(inner) not in str(error):
                click.echo(f"  {inner}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"devpipe: {note}", err=True)
    match error:
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


def _remedy(error: devpipe.AllTransportsFailed, server_url: str | None, folder: Path | None) -> str:
    options = {"--server": server_url, "--folder": None if folder is None else str(folder)}
    given = "".join(f" {name} {shlex.quote(value)}" for name, value in options.items() if value is not None)
    question = "" if error.kind is devpipe.FailureKind.AUTH else "is the server started? "
    return f"{question}devpipe doctor{given} tells more"


def _run(function: Callable[[], Awaitable[T]], backend: str) -> T:
    try:
        return anyio.run(function, backend=backend)
    except LookupError as error:  # what anyio says when the package of a backend is not there
        raise click.UsageError(f"the backend {backend} is not installed: pip install {backend}") from error


def _refuse(word: str) -> NoReturn:
    """Python reads NaN and Infinity, which JSON has not: they would be sent as null."""
    raise ValueError(f"{word} is no number in JSON")


@cli.command(short_help="Serve over WebSocket, HTTP and a shared folder.")
@click.argument("target", required=False, metavar="[MODULE:SERVER]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8000, show_default=True, help="The port; 0 takes a free one.")
@folder_option
@profile_option
@backend_option
@token_option
@click.option(
    "--execution-log", type=click.Path(path_type=Path, dir_okay=False),
    help="Write a line of JSON here before each handler starts.",
)  # fmt: skip
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The models to choose from, TOML or JSON; read again when it changes (default: an example).",
)
@click.option(
    "--preferences",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep users' preferences in this SQLite file (default: in memory).",
)
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="A name by which clients may call this server, like pipe.example.org or 192.0.2.7, beside that of --host, "
    'localhost and 127.0.0.1 (allowed_hosts of a ServerConfig); "*" is any. Others get HTTP 421. May be repeated.',
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def serve(
    target: str | None,
    host: str,
    port: int,
    folder: Path | None,
    profile: str | None,
    backend: str,
    token_file: Path | None,
    execution_log: Path | None,
    catalogue: Path | None,
    preferences: Path | None,
    allowed_hosts: tuple[str, ...],
    quiet: bool,
) -> None:
    """Serve over WebSocket, HTTP and, with --folder, a shared folder.

    MODULE:SERVER names a devpipe.Server in a module of yours; with --catalogue it selects models, too. Without it the
    built-in handlers answer: "echo", and model selection. Ctrl-C ends it cleanly.
    """
    token = read_token(token_file)
    if target is None:
        from devpipe.cli.builtin import builtin_server

        server = builtin_server(
            token=token,
            folder=folder,
            execution_log=execution_log,
            catalogue=catalogue,
            preferences=preferences,
            profile=profile,
        )
    else:
        server = load_server(target)
        server.configure(profile=profile, token=token, folder=folder, execution_log=execution_log)
        if catalogue is not None:
            from devpipe.adapters.models.model_server import ModelServer

            ModelServer(server, catalogue=catalogue, preferences=preferences)
        elif preferences is not None:
            raise click.UsageError("--preferences with MODULE:SERVER wants --catalogue, too")
    if server.token is None:
        server.configure(token=environment_token())
    if server.token is None and not is_loopback(host):
        raise click.UsageError(
            f"--host {host} can be reached from other machines: give --token-file (or {ENVIRONMENT_TOKEN}), "
            "or listen at 127.0.0.1"
        )
    server.configure(allowed_hosts=allowed_hosts)

    def listening(url: str) -> None:
        if quiet:
            return
        click.echo(f"devpipe serves at {url}" + (f" and in {folder}" if folder else ""))
        if host in ("0.0.0.0", "::") and server.hosts <= set(devpipe.ServerConfig().allowed_hosts):
            click.echo("devpipe: only localhost is allowed as Host: name others with --allow-host", err=True)

    async def run() -> None:
        await server.serve(host=host, port=port, listening=listening)

    _run(run, backend)


@cli.command(short_help="Send one message and print its reply.")
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

    Example: devpipe send echo '{"text": "hello"}' --server http://127.0.0.1:8000
    """
    try:
        document = json.loads(payload, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or an integer without an end
        raise click.UsageError(f"the payload is no JSON ({error}): {payload[:60]!r}") from error
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

    async def run() -> None:
        async with pipe:
            reply = await pipe.send(type, document, timeout=timeout)
            if as_json:
                click.echo(
                    json.dumps(
                        {"id": reply.id, "type": reply.type, "payload": reply.payload, "via": reply.transport}
                    )
                )
            else:
                click.echo(json.dumps(reply.payload, indent=2, ensure_ascii=False))

    try:
        _run(run, backend)
    except devpipe.AllTransportsFailed as error:
        error.add_note(_remedy(error, server_url, folder))
        raise


@cli.command(short_help="Follow what is pushed and what the transports do.")
@server_option
@profile_option
@folder_option
@token_option
@via_option
@json_option
@backend_option
def watch(
    server_url: str | None,
    profile: str | None,
    folder: Path | None,
    token_file: Path | None,
    via: tuple[str, ...],
    as_json: bool,
    backend: str,
) -> None:
    """Open a pipe and follow what is pushed and what the transports do, until Ctrl-C."""
    checked_address(server_url, folder)

    async def run() -> None:
        from devpipe.cli.watching import follow

        pipe = devpipe.connect(
            server_url,
            profile=profile,
            folder=folder,
            token=read_token(token_file),
            transports=checked_transports(via),
            wait=False,
        )
        await follow(pipe, as_json=as_json)

    _run(run, backend)


@cli.command(short_help="Find out which transports work here, and why not.")
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
    from devpipe.cli.doctor import examine

    checked_address(server_url, folder)

    async def run() -> int:
        return await examine(
            server_url,
            profile=profile,
            folder=folder,
            token=read_token(token_file),
            transports=checked_transports(via),
            timeout=timeout,
            as_json=as_json,
        )

    sys.exit(_run(run, backend))


@cli.command(short_help="Print the diagrams of the machines.")
@click.option(
    "--svg", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Draw them as SVG into DIR (wants graphviz).",
)  # fmt: skip
@click.option(
    "--write", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write the texts."
)
@click.argument("names", nargs=-1)
def diagrams(svg: Path | None, write: Path | None, names: tuple[str, ...]) -> None:
    """Print the diagrams of the machines, as Mermaid, drawn from the classes that run.

    NAMES: breaker, lifecycle, failover, machines (default: all).
    """
    from devpipe.specs import render

    drawn = render.mermaid_documents()
    for name in names:
        if name not in drawn:
            raise click.UsageError(f"no machine is called {name!r}: there are {', '.join(drawn)}")
    chosen = {name: text for name, text in drawn.items() if not names or name in names}
    if svg is not None:
        for path in render.write_svg(svg, list(chosen)):
            click.echo(str(path))
    elif write is not None:
        for path in render.write_documents(write):
            click.echo(str(path))
    else:
        for name, text in chosen.items():
            click.echo(f"%% {name}\n{text}")


@cli.command(short_help="Break every transport of a pipe, and see it hold.")
@click.option("--seconds", type=Number(1, 3600), default=22.0, show_default=True, help="Length of the play.")
@click.option("--rate", type=Number(1, 5000), default=300.0, show_default=True, help="Requests a second.")
@json_option
@backend_option
def demo(seconds: float, rate: float, as_json: bool, backend: str) -> None:
    """Break every transport of a pipe in use, for real, and count that nothing is lost or done twice.

    Exit code 0 only if every request ended exactly once and no server process executed an id twice.
    """
    from devpipe.cli.demo import run_demo
    from devpipe.cli.screen import Screen, summary_lines

    console = Console(highlight=False)

    async def run() -> dict[str, Any]:
        return await run_demo(Screen(console, quiet=as_json), seconds=seconds, rate=rate)

    summary = _run(run, backend)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        for name, value in summary_lines(summary):
            console.print(f"{name:>32}  {value}", soft_wrap=True)
        console.print("[bold green]all is well[/]" if summary["ok"] else "[bold red]a promise was broken[/]")
    if not summary["ok"]:
        sys.exit(1)
