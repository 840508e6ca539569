"""Which transports there are. A kind of transport is a factory, found by its entry point in ``devpipe.transports``.

A factory gets a ``TransportContext`` and returns a ``Transport``, or None if the configuration does not ask for it
(no folder is given, no URL is given).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.owner import Owner
from devpipe.machines.config import LifecycleConfig, PipeConfig, with_settings
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.protocols.profiles import Profile, profile_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import httpx

    from devpipe.adapters.server.server import Server

__all__ = [
    "GROUP",
    "TokenProvider",
    "TransportContext",
    "TransportFactory",
    "build_transports",
    "transport_names",
]

GROUP = "devpipe.transports"

#: What a transport cannot do without.
_WANTS = {
    "folder": "a folder",
    "memory": "a Server of this program",
    "websocket": "a server URL, and a process that may open sockets",
}

#: Gives the token that a server wants; asked again, once, when the server refuses it.
TokenProvider: TypeAlias = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportContext:
    """What a factory may use."""

    config: PipeConfig
    owner: Owner
    clock: Clock
    dice: Dice
    prefix: str  #: of this pipe's message ids
    token: TokenProvider | None = None
    http_client: httpx.AsyncClient | None = None
    proxy: str | None = None
    ssl_context: ssl.SSLContext | None = None
    server: Server | None = None  #: one of this program, reached without a network

    @property
    def profile(self) -> Profile:
        """The kind of server that the configuration names."""
        return profile_of(self.config.profile)

    @property
    def lifecycle(self) -> LifecycleConfig:
        """Of each transport; idle ones are probed each ``health_interval``, unless the heartbeat has a setting of its own."""
        return with_settings(self.config.lifecycle, {"heartbeat_interval": self.config.health_interval})


TransportFactory: TypeAlias = Callable[[TransportContext], Transport | None]


def transport_names() -> list[str]:
    """The names of all transports that are installed, in order."""
    return sorted(_installed())


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """Read from the files of all packages, so once."""
    from importlib.metadata import entry_points  # costs as much as a package, and is only wanted here

    return {point.name: point for point in entry_points(group=GROUP)}


def build_transports(context: TransportContext, names: Iterable[str] | None) -> list[Transport]:
    """The transports of one pipe. ``names``: only these, each of which must be possible here.

    Raises ``ConfigurationError`` for a name that nothing supplies, or that the configuration rules out.
    """
    found = _installed()
    wanted = list(context.config.failover.fallback_chain if names is None else names)
    transports: list[Transport] = []
    for name in wanted:
        if name not in found:
            raise ConfigurationError(f"transport {name!r} is not known: there are {', '.join(sorted(found))}")
        transport = _factory(found[name])(context)
        if transport is not None:
            transports.append(transport)
        elif names is not None:
            raise ConfigurationError(
                f"transport {name!r} cannot work here: it wants {_WANTS.get(name, 'a server URL')}"
            )
    if not transports:
        raise ConfigurationError("no transport can work here: give a server URL, a folder, or both")
    return transports


def _factory(point: EntryPoint) -> TransportFactory:
    factory: TransportFactory = point.load()
    return factory
