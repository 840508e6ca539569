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


@click.command(short_help="Follow what is pushed and what the transports do.")
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
        else:
            click.echo(f"{datetime.now():%H:%M:%S} {line_of(data, now=anyio.current_time())}")

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


def line_of(data: dict[str, Any], *, now: float) -> str:
    """An event in words. ``now``: seconds of the pipe's clock, in which the event's own times are told."""
    words = [_words(key, value, now) for key, value in data.items() if key != "event" and value is not None]
    line = f"{data['event']:<20} {' '.join(word for word in words if word)}".rstrip()
    # whatever a peer has put into it: a terminal obeys some of what cannot be printed
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _words(key: str, value: Any, now: float) -> str:
    match key:
        case "retry_at":
            return f"retry in {max(0.0, value - now):.1f} s"
        case "latency":
            return f"latency={value * 1000:.{0 if value >= 0.01 else 1}f} ms"
        case "slept":
            return f"slept={value:.1f} s"
        case "timestamp":  # that of the line
            return ""
        case "failure":
            return f"({value['kind']}: {value['reason']})"
        case "payload":
            return f"payload={json.dumps(value, ensure_ascii=False)}"
        case "proven":
            return "" if value else "a dial failed"
        case _:
            return f"{key}={value}"
