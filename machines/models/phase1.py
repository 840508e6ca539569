"""The configuration of Phase 1 and 2 programs: times in milliseconds, names in two spellings.

``read_config`` takes it as those programs write it, ``settings_of`` says it in devpipe's own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct, structs

from devpipe.machines.errors import ConfigurationError, ModelSelectionError
from devpipe.machines.models.arguments import REQUEST_ARGUMENTS
from devpipe.machines.models.options import mistakes, unknown_name
from devpipe.machines.models.rules import show
from devpipe.machines.models.types import PREFERENCES, ModelSelectionRequest, decode

__all__ = [
    "ModelSelectionConfig",
    "OldSpelling",
    "TransportManagerConfig",
    "read_config",
    "read_request",
    "respell",
    "settings_of",
]

Milliseconds = Annotated[float, Meta(gt=0, description="a number above 0 (milliseconds)")]
#: A time that may be none at all.
Duration = Annotated[float, Meta(ge=0, description="a number, 0 or more (milliseconds)")]
Count = Annotated[int, Meta(ge=1, description="an integer, 1 or more")]
Weight = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
TransportWord = Literal["websocket", "http", "filesystem", "folder"]
CHAIN = ("websocket", "http", "folder")


class SelectionCriteria(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each term of a transport's score weighs."""

    latency_weight: Weight = 0.3
    reliability_weight: Weight = 0.4
    capability_weight: Weight = 0.2
    cost_weight: Weight = 0.1


class HttpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``compression`` is what the HTTP client and server agree on by themselves."""

    server_url: str | None = None
    timeout: Milliseconds | None = None
    enable_sse: bool = True
    max_connections: Count = 10
    keep_alive: bool = True
    compression: bool = True


class WebSocketOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``persist_messages`` must be false: nothing is kept on disk yet."""

    server_url: str | None = None
    timeout: Milliseconds | None = None
    heartbeat_interval: Milliseconds = 30000
    reconnect_delay: Milliseconds = 1000
    max_reconnect_attempts: Count = 10
    persist_messages: Literal[False] = False


class FilesystemOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``lock_timeout`` has no meaning any more: a claim is one rename, which nobody waits for."""

    devpipe_path: str | None = None
    timeout: Milliseconds | None = None
    watch_interval: Milliseconds = 500
    lock_timeout: Milliseconds = 5000
    max_queue_size: Count = 100


class TransportOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per transport. A message has one time limit over all of them, the service's ``timeout``: theirs has no effect."""

    http: HttpOptions | None = None
    websocket: WebSocketOptions | None = None
    filesystem: FilesystemOptions | None = None


class TransportManagerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Phase 2 added: how transports are chosen, and the options of each."""

    preferred: tuple[TransportWord, ...] = ()
    fallback_chain: tuple[TransportWord, ...] = ()
    fallback_enabled: bool = True
    auto_failover: bool = True
    health_check_interval: Milliseconds = 30000
    selection_criteria: SelectionCriteria | None = None
    transport_configs: TransportOptions | None = None


class ModelSelectionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Phase 1's own, with its defaults; times in milliseconds."""

    server_url: str = ""
    devpipe_path: str = ""
    monitoring_interval: Milliseconds = 30000
    fallback_enabled: bool = True
    cache_duration: Duration = 300000
    retry_attempts: Count = 3
    timeout: Milliseconds = 30000
    debug_mode: bool = False
    transport: TransportManagerConfig | None = None


@dataclass(frozen=True, slots=True)
class OldSpelling:
    """A name as it was written, and as it is written now."""

    old: str
    new: str


def read_config(
    server_url: str, devpipe_path: str, options: Mapping[str, Any]
) -> tuple[ModelSelectionConfig, tuple[OldSpelling, ...]]:
    """The configuration, and the old spellings that stood in it.

    Raises ``ConfigurationError`` that names each wrong option and what is allowed.
    """
    found: list[OldSpelling] = []
    plain = {
        "server_url": server_url,
        "devpipe_path": devpipe_path,
        **cast("dict[str, Any]", respell(options, found)),
    }
    try:
        return _at_one_place(msgspec.convert(plain, ModelSelectionConfig)), tuple(found)
    except msgspec.ValidationError as error:
        wrong = mistakes(plain, ModelSelectionConfig)
        text = wrong[0] if len(wrong) == 1 else "".join(f"\n  {sentence}" for sentence in wrong)
        raise ConfigurationError(f"the options of ModelSelectionService are not valid: {text}") from error


#: Where the options of transports name an address, and what it is called there.
_ADDRESSES = (("http", "server_url"), ("websocket", "server_url"), ("filesystem", "devpipe_path"))


def _at_one_place(config: ModelSelectionConfig) -> ModelSelectionConfig:
    """An address that the options of a transport name is the service's, where it names none itself.

    Raises ``ConfigurationError`` if they differ.
    """
    options = None if config.transport is None else config.transport.transport_configs
    for transport, name in _ADDRESSES:
        address: str | None = getattr(getattr(options, transport, None), name, None)
        ours: str = getattr(config, name)
        if not address:
            continue
        if ours and ours.rstrip("/") != address.rstrip("/"):
            raise ConfigurationError(
                f"transport.transport_configs.{transport}.{name} = {show(address)} is not allowed beside "
                f"{name} = {show(ours)}: one service has one server and one folder"
            )
        config = structs.replace(config, **{name: ours or address})
    return config


def read_request(request: Mapping[str, object]) -> ModelSelectionRequest:
    """A request as a program has written it, in Python spelling: a name that is none is a mistake of that program.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) that names every name that is none, or all that is wrong.
    """
    strange = _strange(request, {**_REQUEST_NAMES, **_NAMES_OF_SELECT}, "")
    preferences = request.get("user_preferences")
    if isinstance(preferences, Mapping):
        names = {name: name for name in PREFERENCES}
        strange |= _strange(cast("Mapping[str, object]", preferences), names, "user_preferences.")
    if strange:
        raise ModelSelectionError(
            f"the request is not valid: {'; '.join(strange.values())}",
            code="INVALID_REQUEST",
            details={"wrong": strange},
            suggestions=(f"give only {', '.join(_REQUEST_NAMES)}",),
        )
    return decode(request, ModelSelectionRequest, what="the request")


_REQUEST_NAMES = {name: name for name in ModelSelectionRequest.__struct_fields__}
#: What the same is called where ``ModelSelector.select`` takes it.
_NAMES_OF_SELECT = {
    name: field for name, (field, _) in REQUEST_ARGUMENTS.items() if name not in _REQUEST_NAMES
}


def _strange(given: Mapping[str, object], known: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        f"{prefix}{name}": f"{prefix}{name} is no field of a request: {unknown_name(name, known)}"
        for name in given
        if known.get(name) != name
    }


def respell(value: object, found: list[OldSpelling]) -> object:
    """The same data with every key in Python spelling; what had to be changed is put into ``found``."""
    if not isinstance(value, Mapping):
        return value
    spelled: dict[str, object] = {}
    for key, inner in cast("Mapping[Any, object]", value).items():
        name = _snake(str(key))
        if name != key:
            found.append(OldSpelling(str(key), name))
        spelled[name] = respell(inner, found)
    return spelled


def _snake(name: str) -> str:
    snake = re.sub(r"(?<=[a-z0-9])([A-Z]+)", r"_\1", name).lower()
    return {"dev_pipe_path": "devpipe_path"}.get(snake, snake)


def settings_of(config: ModelSelectionConfig) -> dict[str, Any]:
    """The settings of a pipe, by dotted key; times in seconds."""
    settings: dict[str, Any] = {
        "timeout": config.timeout / 1000,
        "retry_attempts": config.retry_attempts,
        "debug": config.debug_mode,
    }
    transport = config.transport
    if transport is None:
        return settings
    settings["health_interval"] = transport.health_check_interval / 1000
    settings["failover.auto_failover"] = transport.auto_failover and transport.fallback_enabled
    settings["failover.fallback_chain"] = _chain(transport)
    for name, weight in structs.asdict(transport.selection_criteria or SelectionCriteria()).items():
        settings[f"selection.{name}"] = weight
    options = transport.transport_configs or TransportOptions()
    if options.http is not None:
        settings["http.enable_sse"] = options.http.enable_sse
        settings["http.max_connections"] = options.http.max_connections
        settings["http.keep_alive"] = options.http.keep_alive
    if options.websocket is not None:
        settings["lifecycle.heartbeat_interval"] = options.websocket.heartbeat_interval / 1000
        settings["lifecycle.backoff_initial"] = options.websocket.reconnect_delay / 1000
        settings["lifecycle.retry_attempts"] = options.websocket.max_reconnect_attempts
    if options.filesystem is not None:
        settings["folder_options.rescan_interval"] = options.filesystem.watch_interval / 1000
        settings["folder_options.queue_size"] = options.filesystem.max_queue_size
    return settings


def _chain(transport: TransportManagerConfig) -> tuple[str, ...]:
    named = [*transport.preferred, *transport.fallback_chain]
    ours = ["folder" if name == "filesystem" else name for name in named]
    return tuple(dict.fromkeys([*ours, *(() if transport.fallback_chain else CHAIN)]))
