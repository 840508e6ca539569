"""``devpipe watch``: what is pushed and what the transports do, a line each."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import click

import devpipe
from devpipe.cli.inputs import checked_address, checked_transports, read_token
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

__all__ = ["watch"]

_EVENTS = (
    "transport_switched",
    "transport_failed",
    "transport_recovered",
    "exhausted",
    "breaker_changed",
    "health_updated",
    "server_changed",
    "connected",
    "disconnected",
    "error",
    "resumed",
)


@click.command()
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

    async def watching() -> None:
        pipe = devpipe.connect(
            server_url,
            profile=profile,
            folder=folder,
            token=read_token(token_file),
            transports=checked_transports(via),
            wait=False,
        )
        await _follow(pipe, as_json=as_json)

    run(watching, backend)


async def _follow(pipe: devpipe.Pipe, *, as_json: bool) -> None:
    """Print until cancelled."""

    def show(data: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(data, default=str))
            return
        name = data.pop("event")
        words = " ".join(f"{key}={value}" for key, value in data.items() if value is not None)
        click.echo(f"{datetime.now():%H:%M:%S} {name:<20} {words}")

    async with pipe:
        for name in _EVENTS:
            pipe.on(name, lambda event: show(event.as_dict()))
        async for item in pipe.receive():
            if isinstance(item, devpipe.Gap):
                show({"event": "gap", "reason": item.reason, "after": item.after, "before": item.before})
            else:
                show(
                    {"event": "push", "type": item.type, "payload": item.payload, "transport": item.transport}
                )
        await anyio.sleep_forever()
