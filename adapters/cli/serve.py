"""``devpipe serve``."""

from __future__ import annotations

from pathlib import Path

import click

import devpipe
from devpipe.adapters.client.configuration import ENVIRONMENT_TOKEN
from devpipe.cli.inputs import environment_token, load_server, read_token
from devpipe.cli.options import backend_option, folder_option, profile_option, run, token_option

__all__ = ["serve"]


@click.command(short_help="Serve over WebSocket, HTTP and a shared folder.")
@click.argument("target", required=False, metavar="[MODULE:SERVER]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
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
    from devpipe.adapters.ports.dial import is_loopback

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

    async def serving() -> None:
        await server.serve(host=host, port=port, listening=listening)

    run(serving, backend)
