"""Named profiles of peers: what ``profile="vaultpilot"`` sets, all at once.

A profile is two things: defaults for the configuration (prefix, paths, folder names), which every argument, variable
and file still overrides, and flags that say how the peer speaks (``dialect.py`` has the words). ``specs/profiles.md``
is the table for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from devpipe.machines.errors import ConfigurationError

__all__ = ["DEFAULT", "ELSEWHERE", "PROFILES", "VAULTPILOT", "Profile", "nothing_at", "profile_of"]

Settings = Mapping[str, object]


def _settings(**values: object) -> Settings:
    return MappingProxyType({key.replace("__", "."): value for key, value in values.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one kind of peer is reached, and how it speaks.

    ``pipe``, ``server``, ``folder``: defaults of ``PipeConfig`` (by dotted key), ``ServerConfig`` and the server's
    ``FolderConfig``. ``sessions``: it speaks the session protocol; without it there is no ``hello``, no nonce, no stored
    reply, and nothing that may have been sent is sent again. ``handshake``: a connection begins with a ``handshake``
    message.
    """

    name: str
    sessions: bool = True
    handshake: bool = False
    pipe: Settings = field(default_factory=_settings)
    server: Settings = field(default_factory=_settings)
    folder: Settings = field(default_factory=_settings)


#: What to do where something answers and has nothing at our paths.
ELSEWHERE = (
    "correct the path in the address (a mounted server is at its mount path, like /pipe), or http.prefix and "
    "websocket.path; for a server from before devpipe, profile='vaultpilot'"
)

#: The protocol of ``specs/protocol.md``.
DEFAULT = Profile(name="default")

#: Deployed VaultPilot clients and servers.
VAULTPILOT = Profile(
    name="vaultpilot",
    sessions=False,
    handshake=True,
    pipe=_settings(
        http__prefix="/api/v1/devpipe",
        websocket__path="/ws/agent",
        folder_options__flat=True,
        folder_options__rescan_interval=0.5,
        # such a server looks every half second too: an answer within the 2 s of a silent connection is luck
        lifecycle__silence_answer=5.0,
        peer__sender="vaultpilot-plugin",
        peer__recipient="evoagentx-backend",
        peer__probe="health_check_request",
    ),
    server=_settings(
        prefix="/api/v1/devpipe",
        health_path="/status",
        websocket_paths=("/ws/agent", "/devpipe/ws"),
    ),
    folder=_settings(flat=True, rescan_interval=0.5),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (DEFAULT, VAULTPILOT)})


def nothing_at(address: str) -> str:
    """What to say where something answers and has nothing at ``address``."""
    return f"nothing of devpipe at {address}: {ELSEWHERE}"


def profile_of(name: str) -> Profile:
    """The profile of this name. Raises ``ConfigurationError`` that lists the names there are."""
    profile = PROFILES.get(name)
    if profile is None:
        names = ", ".join(PROFILES)
        raise ConfigurationError(f"profile = {name!r} is not allowed: give one of {names}")
    return profile
