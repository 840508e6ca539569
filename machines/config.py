"""The configuration tree: frozen, validated when made, with the original's names in Python spelling.

Durations are floats in seconds, sizes are integers in bytes. Wrong values raise ``ConfigurationError``, all those of
one class at once, each with its key, its value and what is allowed; where a value came from (an argument, the
environment, a file) is added by whoever read it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from devpipe.machines.errors import ConfigurationError, Problem
from devpipe.machines.protocols.profiles import PROFILES, profile_of

__all__ = [
    "BreakerConfig",
    "FailoverConfig",
    "FolderConfig",
    "HttpConfig",
    "LifecycleConfig",
    "PeerConfig",
    "PipeConfig",
    "SelectionWeights",
    "ServerConfig",
    "WebSocketConfig",
    "with_settings",
]

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB


class _Table:
    """Checks the fields of one object and raises what is wrong with them, all at once, when it is left.

    ``name`` stands before the keys: the table's place in the tree.
    """

    def __init__(self, name: str, of: object) -> None:
        self._prefix = f"{name}." if name else ""
        self._of = of
        self._problems: list[Problem] = []

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None and self._problems:
            raise ConfigurationError.of(self._problems)

    def check(self, ok: bool, key: str, allowed: str) -> None:
        if not ok:
            problem = Problem(key=f"{self._prefix}{key}", value=getattr(self._of, key), allowed=allowed)
            self._problems.append(problem)

    def refuse(self, problem: Problem) -> None:
        self._problems.append(problem)

    def positive(self, *keys: str) -> None:
        for key in keys:
            value = getattr(self._of, key)
            self.check(_is_number(value) and 0 < value < float("inf"), key, "a number above 0")

    def count(self, *keys: str, least: int = 1) -> None:
        for key in keys:
            value = getattr(self._of, key)
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
            self.check(is_count, key, f"an integer of at least {least}")

    def share(self, *keys: str) -> None:
        for key in keys:
            value = getattr(self._of, key)
            self.check(_is_number(value) and 0 <= value <= 1, key, "a number from 0 to 1")

    def path(self, *keys: str) -> None:
        for key in keys:
            self.check(_is_path(getattr(self._of, key)), key, "a path that begins with / and has no query")

    def file_name(self, *keys: str) -> None:
        for key in keys:
            value = getattr(self._of, key)
            is_name = isinstance(value, str) and value not in ("", ".", "..")
            plain = is_name and not any(c in value for c in "/\\\0")
            self.check(plain, key, "the name of a folder, not a path")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/") and not any(c in value for c in " ?#\r\n")


def _is_host(value: object) -> bool:
    """A name as it stands in ``Host``, without the port."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return False
    if value.startswith("["):
        return value.endswith("]")
    return value != "" and not any(c in value for c in ":/@ ,?#")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a circuit breaker opens, and how it finds out that it may close.

    It opens after ``failure_threshold`` failures inside ``monitoring_period`` seconds, or, where they are
    configured, when ``failure_rate`` or ``slow_call_rate`` (shares of 1) is reached over at least
    ``minimum_calls`` calls of the same period; a call is slow from ``slow_call_seconds`` on.
    After ``reset_timeout`` seconds it leases ``half_open_max_calls`` permits; ``half_open_successes``
    successes close it. A leased permit that has not come back after ``permit_timeout`` seconds is a failure.
    """

    failure_threshold: int = 5
    monitoring_period: float = 10.0
    reset_timeout: float = 30.0
    half_open_max_calls: int = 1
    half_open_successes: int = 1
    permit_timeout: float = 30.0
    failure_rate: float | None = None
    slow_call_rate: float | None = None
    slow_call_seconds: float = 10.0
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        with _Table("breaker", self) as table:
            table.count("failure_threshold", "half_open_max_calls", "half_open_successes", "minimum_calls")
            table.positive("monitoring_period", "reset_timeout", "permit_timeout", "slow_call_seconds")
            for key in ("failure_rate", "slow_call_rate"):
                if getattr(self, key) is not None:
                    table.share(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleConfig:
    """How a transport dials, proves itself, notices silence, and waits before it dials again (seconds)."""

    connect_timeout: float = 10.0
    proof_timeout: float = 5.0
    retry_attempts: int = 3  #: dials without a proof before the transport counts as blocked
    backoff_initial: float = 1.0
    backoff_factor: float = 1.5
    backoff_max: float = 10.0
    blocked_initial: float = 30.0
    blocked_max: float = 600.0
    young_seconds: float = 5.0  #: lost so soon after its proof, with no useful message: it died young
    young_limit: int = 3
    probation_period: float = 5.0
    silence_ping: float = 3.0  #: a call has waited so long without a sign of life: ping
    silence_answer: float = 2.0  #: and so long the ping may stay unanswered
    heartbeat_interval: float = 30.0
    heartbeat_answer: float = 5.0
    close_timeout: float = 2.0

    def __post_init__(self) -> None:
        with _Table("lifecycle", self) as table:
            for key in self.__slots__:
                if key in ("retry_attempts", "young_limit"):
                    table.count(key)
                else:
                    table.positive(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionWeights:
    """How much each term of a transport's score weighs (the original's selection criteria)."""

    latency_weight: float = 0.3
    reliability_weight: float = 0.4
    capability_weight: float = 0.2
    cost_weight: float = 0.1

    def __post_init__(self) -> None:
        with _Table("selection", self) as table:
            table.share(*self.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverConfig:
    """When the active transport changes (seconds, and score differences from 0 to 1)."""

    fallback_chain: tuple[str, ...] = ("websocket", "http", "folder")
    auto_failover: bool = True
    auto_upgrade: bool = True
    standby: bool = True  #: keep the transports that are not active connected and proven
    preference_delay: float = 0.15  #: at the start, wait so long for a better one in the chain
    min_stay: float = 5.0
    lead: float = 0.1  #: a lead in score under this changes nothing
    ejection_initial: float = 5.0
    ejection_max: float = 300.0
    forgiven_after: float = 300.0  #: so long without a loss, and the ejection starts small again
    drain_timeout: float = 30.0
    hold_initial: float = 1.0  #: the shared backoff when the server itself is down
    hold_factor: float = 1.5
    hold_max: float = 10.0

    def __post_init__(self) -> None:
        with _Table("failover", self) as table:
            table.check(
                isinstance(self.fallback_chain, tuple)
                and len(set(self.fallback_chain)) == len(self.fallback_chain) > 0,
                "fallback_chain",
                "the types of transports, each once, best first",
            )
            table.positive(
                "preference_delay", "min_stay", "ejection_initial", "ejection_max", "forgiven_after"
            )
            table.positive("drain_timeout", "hold_initial", "hold_factor", "hold_max")
            table.share("lead")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketConfig:
    """The WebSocket transport. ``max_message_bytes`` bounds what is sent and what is taken."""

    path: str = "/devpipe/ws"
    max_message_bytes: int = 1 * MIB
    max_queue_bytes: int = 16 * MIB  #: bytes that wait to be written; more is refused with QueueFull
    fragment_bytes: int = 64 * KIB  #: larger messages go in pieces of this size, so that pings pass between
    fast_path: bool = True  #: False leaves every frame to wsproto and every byte to anyio
    cost: float = 0.1

    def __post_init__(self) -> None:
        with _Table("websocket", self) as table:
            table.path("path")
            table.count("max_message_bytes", "max_queue_bytes")
            table.count("fragment_bytes", least=126)
            table.share("cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The HTTP transport: requests over ``max_connections``, pushes over a stream of its own."""

    prefix: str = "/devpipe"
    message_path: str = "/message"  #: below the prefix, like the next
    stream_path: str = "/stream"
    health_path: str = "/health"
    enable_sse: bool = True
    max_connections: int = 10
    keep_alive: bool = True
    max_message_bytes: int = 10 * MIB
    queue_size: int = 1000
    stream_proof_timeout: float = 5.0  #: no first event on the stream by then: a proxy buffers it, so poll
    poll_hold: float = 20.0
    cost: float = 0.2

    def __post_init__(self) -> None:
        with _Table("http", self) as table:
            table.path("prefix", "message_path", "stream_path", "health_path")
            table.count("max_connections", "max_message_bytes", "queue_size")
            table.positive("stream_proof_timeout", "poll_hold")
            table.share("cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig:
    """The shared folder. ``rescan_interval``: how often the listing, which is the truth, is read (seconds).

    ``flat``: everything lies in one folder, as deployed programs have it: no clients, no pushes, no beat. The four names
    are those of the folders inside; a flat one has ``tmp`` and ``claims`` of the server only.
    """

    max_message_bytes: int = 10 * MIB
    flat: bool = False
    requests: str = "requests"
    clients: str = "clients"
    tmp: str = "tmp"
    claims: str = "claims"
    queue_size: int = 1000  #: requests written and not yet answered
    rescan_interval: float = 1.0
    polling: bool = False  #: for network file systems, where no notification arrives
    durability: str = "none"  #: none | file | full: which fsyncs stand between a write and its name
    orphan_age: float = 3600.0  #: leftovers are swept when they are older, and a request is not run (seconds)
    request_max_age: float = 300.0  #: in a flat folder, an older request is not run any more
    allow_shared: bool = False  #: take a folder that others may write
    cost: float = 0.3

    def __post_init__(self) -> None:
        names = ("requests", "clients", "tmp", "claims")
        with _Table("folder_options", self) as table:
            table.count("max_message_bytes", "queue_size")
            table.positive("rescan_interval", "orphan_age", "request_max_age")
            table.check(self.durability in ("none", "file", "full"), "durability", "none, file or full")
            table.file_name(*names)
            table.check(
                len({getattr(self, name) for name in names}) == len(names),
                "requests",
                "four different names for requests, clients, tmp and claims",
            )
            table.share("cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """What a deployed peer is told in each message. Read only with a profile without sessions.

    ``iso_timestamps``: write times as ISO texts, with ``expires_at``, as the first programs do; else milliseconds.
    ``probe``: the type of the message that proves a path which is no connection: any reply or error under its id will do.
    """

    sender: str = ""
    recipient: str = ""
    iso_timestamps: bool = False
    probe: str = "health_ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeConfig:
    """Everything about one pipe.

    ``profile``: the kind of peer, by its name (``protocols/profiles.py``); its settings are the loader's business.
    ``timeout`` is the default time a ``send`` may take; ``connect_timeout`` how long ``connect`` waits for the
    first proven transport; ``health_interval`` how often each idle transport is probed, unless
    ``lifecycle.heartbeat_interval`` says otherwise; all in seconds. ``debug``: everything that happens is logged, whatever
    the level of the logger ``devpipe`` is.
    """

    server_url: str | None = None
    folder: str | None = None
    profile: str = "default"
    timeout: float = 30.0
    retry_attempts: int = 3
    connect_timeout: float = 10.0
    close_timeout: float = 2.0
    health_interval: float = 30.0
    queue_size: int = 1000  #: messages that wait for a transport; more is refused with QueueFull
    push_queue_size: int = 1000  #: pushes that wait for one receive(); more becomes a Gap there
    debug: bool = False
    websocket: WebSocketConfig = field(default_factory=WebSocketConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    folder_options: FolderConfig = field(default_factory=FolderConfig)
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    failover: FailoverConfig = field(default_factory=FailoverConfig)
    selection: SelectionWeights = field(default_factory=SelectionWeights)
    peer: PeerConfig = field(default_factory=PeerConfig)

    def __post_init__(self) -> None:
        with _Table("", self) as table:
            table.check(self.profile in PROFILES, "profile", f"one of {', '.join(PROFILES)}")
            table.positive("timeout", "connect_timeout", "close_timeout", "health_interval")
            table.count("retry_attempts", "queue_size", "push_queue_size")
            if self.server_url is None and self.folder is None:
                table.refuse(
                    Problem(
                        key="server_url",
                        value=None,
                        allowed="server_url, folder, or both",
                        text="neither server_url nor folder is given: give one of them, or both",
                    )
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything about one server. ``hold`` and ``accept_after`` in seconds; limits in counts and bytes.

    ``health_path`` is there beside ``prefix``/health. ``websocket_paths``: where a socket may be had, ``prefix``/ws if
    none is named. ``allowed_hosts``: the names by which clients call it, without a port (a page that rebinds its name is
    refused so); ``"*"`` is any. ``profile``: the kind of clients; ``with_profile`` sets the rest of it.
    """

    profile: str = "default"
    prefix: str = "/devpipe"
    message_path: str = "/message"  #: below the prefix, like the next
    stream_path: str = "/stream"
    health_path: str = "/health"
    websocket_paths: tuple[str, ...] = ()
    max_message_bytes: int = 10 * MIB
    websocket_max_message_bytes: int = 1 * MIB
    hold: float = 20.0  #: a POST is answered with 202 after so long, and its reply comes on the stream
    accept_after: float = 1.0  #: a call that runs longer is announced with ``accepted``
    keep_alive: float = 10.0  #: a comment on an idle stream that often, a beat in the folder too
    handler_timeout: float = 300.0
    max_sessions: int = 10_000
    max_replies: int = 1000  #: replies remembered per session
    max_reply_bytes: int = 16 * MIB  #: and their bytes, per session
    max_pushes: int = 1000  #: pushes remembered per session
    max_push_bytes: int = 4 * MIB
    max_running: int = 1000  #: handlers that run at once, over all sessions
    max_streams: int = 1000
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    allowed_origins: tuple[str, ...] = ()
    error_status: int = 200  #: of a handler's error over HTTP; some clients look at nothing but the status
    session_ttl: float = 3600.0  #: a session nobody has used for so long is forgotten, and then refused

    def __post_init__(self) -> None:
        with _Table("server", self) as table:
            table.check(self.profile in PROFILES, "profile", f"one of {', '.join(PROFILES)}")
            table.path("prefix", "message_path", "stream_path", "health_path")
            status = self.error_status
            allowed = isinstance(status, int) and (status == 200 or 400 <= status <= 599)
            table.check(allowed, "error_status", "200, or a status from 400 to 599")
            hosts: object = self.allowed_hosts
            named = isinstance(hosts, (tuple, list)) and all(_is_host(host) for host in hosts)
            table.check(
                named, "allowed_hosts", 'names like pipe.example.org, 192.0.2.7 or [::1], or "*" for any'
            )
            for path in self.websocket_paths:
                table.check(_is_path(path), "websocket_paths", "paths that begin with / and have no query")
            table.count("max_message_bytes", "websocket_max_message_bytes", "max_sessions", "max_replies")
            table.count("max_reply_bytes", "max_pushes", "max_push_bytes", "max_running", "max_streams")
            table.positive("hold", "accept_after", "keep_alive", "handler_timeout", "session_ttl")

    def with_profile(self, name: str) -> ServerConfig:
        """The same with the settings of a profile, where they still have their defaults. Raises ``ConfigurationError``."""
        return with_settings(replace(self, profile=name), profile_of(name).server)


def with_settings(config: T, settings: Mapping[str, object]) -> T:
    """``config`` with these settings, except those that somebody has changed from their default already."""
    defaults = {f.name: f.default for f in fields(config)}  # type: ignore[arg-type]  # a tree of dataclasses
    changes = {key: value for key, value in settings.items() if getattr(config, key) == defaults[key]}
    return replace(config, **changes)  # type: ignore[type-var]  # as above
