"""``devpipe watch``: what is pushed and what the transports do, a line each."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import anyio
import click

import devpipe

__all__ = ["follow"]

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


async def follow(pipe: devpipe.Pipe, *, as_json: bool) -> None:
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
