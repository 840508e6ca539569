"""The server behind ``devpipe serve`` when no module is named: ``echo``, and model selection from a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import devpipe
from devpipe.adapters.models.model_server import ModelServer

__all__ = ["builtin_server"]


def builtin_server(
    *,
    token: str | None,
    folder: Path | None,
    execution_log: Path | None,
    catalogue: Path | None,
    preferences: Path | None,
    profile: str | None = None,
) -> devpipe.Server:
    """A server that echoes, and selects models. Raises ``ConfigurationError`` if the catalogue is wrong."""
    server = devpipe.Server(profile=profile, token=token, folder=folder, execution_log=execution_log)

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    ModelServer(server, catalogue=catalogue, preferences=preferences)
    return server
