"""What a program gives, looked at before anything is done with it: each wrong argument by its name."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError, Problem

__all__ = ["check_arguments"]


def check_arguments(**arguments: Any) -> None:
    """Refuse what is of a wrong kind; None is always right. What it says, once it is of the right kind, is checked later.

    Raises ``ConfigurationError`` that names all that is wrong.
    """
    problems = [
        Problem(key=name, value=value, allowed=allowed, source="argument")
        for name, value in arguments.items()
        if value is not None and (allowed := _wanted(name, value)) is not None
    ]
    if problems:
        raise ConfigurationError.of(problems)


def _wanted(name: str, value: object) -> str | None:
    """What should have been given, None if this will do."""
    fits: bool
    match name:
        case "folder" | "config_file":
            fits, wanted = isinstance(value, (str, os.PathLike)), "a path, as a text or a pathlib.Path"
        case "timeout" | "connect_timeout":
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
            wanted = "a number of seconds"
        case "transports":
            fits = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
            wanted = 'a list of names, like ["http", "folder"]'
        case "settings":
            fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)  # pyright: ignore[reportUnknownVariableType]  # keys of any kind
            wanted = 'a dictionary by dotted key, like {"http.max_connections": 4}'
        case "config":
            fits, wanted = isinstance(value, PipeConfig), "a devpipe.PipeConfig"
        case "http_client":
            fits, wanted = _is_client(value), "an httpx.AsyncClient"
        case "proxy":
            fits, wanted = isinstance(value, str), "an address like http://127.0.0.1:3128"
        case "ssl_context":
            fits, wanted = isinstance(value, ssl.SSLContext), "an ssl.SSLContext"
        case _:
            raise AssertionError(name)  # we name no other
    return None if fits else wanted


def _is_client(value: object) -> bool:
    import httpx  # who gives a client has it already, and nobody else waits for it here

    return isinstance(value, httpx.AsyncClient)
