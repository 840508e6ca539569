"""``connect``: from an address to a pipe."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from devpipe.adapters.arguments import check_arguments
from devpipe.adapters.client.configuration import ENVIRONMENT_TOKEN, MEMORY, address_problem, load_config
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.client.single import SingleTransport
from devpipe.adapters.tokens import TokenFunction, as_provider, checked_token
from devpipe.adapters.transports.registry import TokenProvider, TransportContext, build_transports
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

    from devpipe.adapters.server.server import Server
    from devpipe.adapters.transports.base import Transport
    from devpipe.adapters.transports.owner import Household

__all__ = ["ChoiceOptions", "PipeOptions", "SingleOptions", "connect", "connect_single"]


def connect(
    server_url: str | Server | None = None,
    *,
    profile: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    token: str | TokenFunction | None = None,
    transports: Iterable[str] | None = None,
    wait: bool = True,
    timeout: float | None = None,
    connect_timeout: float | None = None,
    auto_failover: bool | None = None,
    http_client: httpx.AsyncClient | None = None,
    proxy: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    settings: Mapping[str, Any] | None = None,
    config: PipeConfig | None = None,
    config_file: str | os.PathLike[str] | None = None,
) -> Pipe:
    """A pipe to a server: ``async with devpipe.connect("http://127.0.0.1:8000", folder=".devpipe") as pipe``.

    ``server_url``: ``http`` or ``https``; without one the pipe has the folder alone. A running ``Server`` of this program
    is reached without a network (the transport ``memory``): for tests, and for embedding. ``profile``: the kind of server
    (``"vaultpilot"``: a deployed one, with its own paths and dialect, and without sessions). ``folder``: the shared folder;
    without one there is no folder transport. ``token``: a text, or a function that gives one, async or plain (it must not
    block); ``DEVPIPE_TOKEN`` if neither. ``transports``: only these. ``wait=False`` enters before any transport is proven.
    ``timeout`` is for each send, ``connect_timeout`` for entering, both in seconds. ``settings``: anything else of the
    configuration, by dotted key (``{"http.max_connections": 4}``); what is not given here comes from ``DEVPIPE_*``
    variables, then from ``config_file`` (default: the one that is found, see ``load_settings``). ``config`` takes the
    whole tree as it is instead.

    Raises ``ConfigurationError`` that names all that is wrong. Nothing happens before the pipe is entered.
    """
    check_arguments(
        folder=folder,
        transports=transports,
        timeout=timeout,
        connect_timeout=connect_timeout,
        http_client=http_client,
        proxy=proxy,
        ssl_context=ssl_context,
        settings=settings,
        config=config,
        config_file=config_file,
    )
    inside = None if server_url is None or isinstance(server_url, str) else _inside(server_url)
    if config is None:
        named = {
            "server_url": MEMORY if inside is not None else server_url,
            "profile": profile,
            "folder": None if folder is None else os.fspath(folder),
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "failover.auto_failover": auto_failover,
        }
        given = {key: value for key, value in named.items() if value is not None}
        config = load_config({**(settings or {}), **given}, file=config_file)
    elif profile is not None and profile != config.profile:
        raise ConfigurationError(
            f"profile = {profile!r} is not allowed beside config: make the config with it"
        )
    if inside is not None:  # there is no address to dial
        chain = replace(config.failover, fallback_chain=("memory", "folder"))
        config = replace(config, failover=chain)
    elif config.server_url is not None:
        problem = address_problem(config.server_url)
        if problem is not None:
            raise ConfigurationError.of([problem])
    provider = _provider(token)
    names = None if transports is None else list(transports)

    def make_transports(owner: Household) -> list[Transport]:
        context = TransportContext(
            config=config,
            owner=owner,
            clock=owner.clock,
            dice=owner.dice,
            prefix=owner.prefix,
            token=provider,
            http_client=http_client,
            proxy=proxy,
            ssl_context=ssl_context,
            server=inside,
        )
        return build_transports(context, names)

    return Pipe(config, make_transports, wait=wait)


class TransportOptions(TypedDict, total=False):
    """The keywords of ``connect`` that make sense for any number of transports, but for the token."""

    profile: str | None
    folder: str | os.PathLike[str] | None
    timeout: float | None
    connect_timeout: float | None
    http_client: httpx.AsyncClient | None
    proxy: str | None
    ssl_context: ssl.SSLContext | None
    settings: Mapping[str, Any] | None
    config: PipeConfig | None
    config_file: str | os.PathLike[str] | None


class SingleOptions(TransportOptions, total=False):
    """For one transport."""

    token: str | TokenFunction | None


class ChoiceOptions(TransportOptions, total=False):
    """For several, where somebody chooses."""

    transports: Iterable[str] | None
    auto_failover: bool | None


class PipeOptions(ChoiceOptions, total=False):
    """For a whole pipe."""

    token: str | TokenFunction | None


def connect_single(
    transport: str, server_url: str | Server | None = None, **options: Unpack[SingleOptions]
) -> SingleTransport:
    """One transport alone, without a manager: ``async with devpipe.connect_single("http", url) as http``.

    ``transport``: ``websocket``, ``http``, ``folder``, ``memory`` or one that is installed. The rest, and what is raised,
    as for ``connect``. It chooses nothing, waits for nothing and sends nothing again: that is what a pipe is for.
    """
    pipe = connect(server_url, transports=[transport], wait=False, **options)
    return SingleTransport(pipe.config, lambda owner: next(iter(pipe.make_transports(owner))))


def _inside(server: object) -> Server:
    from devpipe.adapters.server.server import Server

    if not isinstance(server, Server):
        raise ConfigurationError(
            f"server_url = {server!r} is not allowed: give an address like http://127.0.0.1:8000, or a devpipe.Server"
        )
    return server


def _provider(token: str | TokenFunction | None) -> TokenProvider | None:
    name = "the token"
    if token is None:
        token = os.environ.get(ENVIRONMENT_TOKEN) or None
        name = f"the token in the environment variable {ENVIRONMENT_TOKEN}"
    if token is None:
        return None
    if callable(token):
        return as_provider(token)
    text = checked_token(token, name=name)

    return as_provider(lambda: text)
