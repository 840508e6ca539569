"""The WebSocket transport: a link around the sans-IO core and a wire. Bytes are fed, drained and counted here.

All that is submitted in one turn of the loop goes out in one write. A call is marked ``handed_over`` when the frame
that completes it is taken for a write, and not before: until then it is certain that it was never sent.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import quote, urlsplit

import anyio

from devpipe.adapters.environment import supports_websockets
from devpipe.adapters.ports.dial import (
    Dialer,
    ProxyRefused,
    SystemDialer,
    environment_proxy,
    is_loopback,
    split_proxy,
    system_trust,
)
from devpipe.adapters.tokens import ask_token
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.link import Capabilities, LinkHost, LinkLost, Terms
from devpipe.adapters.transports.registry import TokenProvider, TransportContext
from devpipe.adapters.waiter import in_trio
from devpipe.adapters.wire import StreamWire, Wire, dial_protocol
from devpipe.machines.config import WebSocketConfig
from devpipe.machines.errors import ConfigurationError, FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.websocket import Handshake, Phase, WebSocketClient

__all__ = ["WebSocketLink", "capabilities", "factory"]

#: Random bytes for masking keys are fetched in blocks of this size (bytes).
KEYS = 4096
#: Our last words may take this long to be heard (seconds).
LINGER = 0.5


def capabilities(config: WebSocketConfig) -> Capabilities:
    """What a WebSocket can do."""
    return Capabilities(
        supports_realtime=True,
        supports_bidirectional=True,
        supports_filesystem=False,
        supports_streaming=True,
        max_message_bytes=config.max_message_bytes,
        max_concurrent_connections=1,
        cost=config.cost,
    )


def factory(context: TransportContext) -> Transport | None:
    """The transport of a pipe; None without a server URL, or without sockets. Raises ``ConfigurationError``."""
    config = context.config
    url = config.server_url
    if url is None or not supports_websockets():
        return None

    def make_link() -> WebSocketLink:
        return WebSocketLink(
            url,
            config=config.websocket,
            token=context.token,
            proxy=context.proxy,
            ssl_context=context.ssl_context,
            now=context.clock.now,
            fast=config.websocket.fast_path,
        )

    make_link()  # what is configured wrong is said now, not at the first connect
    return Transport(
        "websocket",
        make_link=make_link,
        capabilities=capabilities(config.websocket),
        owner=context.owner,
        clock=context.clock,
        dice=context.dice,
        lifecycle=context.lifecycle,
        breaker=config.breaker,
        profile=context.profile,
        peer=config.peer,
    )


class WebSocketLink:
    """One connection to ``url`` (``http``, ``https``, ``ws`` or ``wss``; the configuration has the path).

    ``token`` is asked at each ``open``, and once more if the server refuses what it gave. ``proxy``: an HTTP CONNECT
    proxy; None means what the environment says. ``ssl_context``: None means what the system trusts. ``now``: the
    clock, in seconds; None means that of the event loop. ``fast=False`` leaves every frame to wsproto and every byte
    to anyio.

    Raises ``ConfigurationError`` for an address that is none, and for a token that would leave this machine in clear
    text.
    """

    def __init__(
        self,
        url: str,
        *,
        config: WebSocketConfig | None = None,
        token: TokenProvider | None = None,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        dialer: Dialer | None = None,
        now: Callable[[], float] | None = None,
        fast: bool = True,
    ) -> None:
        self._config = config = config or WebSocketConfig()
        self.capabilities = capabilities(config)
        self._secure, self._host, self._port, self._authority, base = _split(url)
        self._target = quote(base + config.path, safe="/%:@!$&'()*+,;=~-._?")
        scheme = "https" if self._secure else "http"
        self._proxy = proxy or environment_proxy(scheme, self._host, self._port)
        way = [self._host]
        if self._proxy is not None:
            way.append(split_proxy(self._proxy).hostname or "")
        if token is not None and not self._secure:
            for host in way:
                if not is_loopback(host):
                    raise ConfigurationError(
                        f"the token would go to {host} in clear text: use https, or no token"
                    )
        self._token = token
        self._tls = (ssl_context or system_trust()) if self._secure else None
        # a dialer that was given knows the only way there is; TLS and tunnels are anyio's business
        self._direct = fast and dialer is None and self._tls is None and self._proxy is None
        self._dial: Dialer = dialer or SystemDialer()
        self._now = now or anyio.current_time
        self._fast = fast
        self._wire: Wire | None = None
        self._core: WebSocketClient | None = None
        self._link_host: LinkHost | None = None
        self._calls: dict[Call, None] = {}  #: taken, and not yet in a write; a dictionary to withdraw from
        self._bytes = 0  #: of these
        self._large: Call | None = None  #: this one goes out in fragments now
        self._fragments: Iterator[tuple[bytes, bool]] = iter(())
        self._keys = b""
        self._key_at = 0

    # --- life -----------------------------------------------------------------------------------------

    async def open(self, host: LinkHost) -> None:
        self._link_host = host
        token = await self._ask_token()
        try:
            failure = await self._shake_hands(token)
            if failure is not None and failure.kind is FailureKind.AUTH and token is not None:
                fresh = await self._ask_token()
                if fresh != token:  # the old one had run out
                    failure = await self._shake_hands(fresh)
        except BaseException:
            await self._hang_up()
            raise
        if failure is not None:
            await self._hang_up()
            raise LinkLost(failure)

    async def run(self) -> None:
        wire, core = self._wire, self._core
        assert wire is not None  # the driver opens before it runs
        assert core is not None  # made with the wire
        self._deliver()  # what came right behind the handshake
        try:
            if core.closed is None:
                await wire.run(self)
        except OSError as error:
            raise LinkLost(
                Failure(kind=FailureKind.NETWORK, reason=f"the connection broke: {_words(error)}")
            ) from error
        core.receive_eof()
        assert core.closed is not None  # a wire ends because of it, or by the end that was just told
        raise LinkLost(core.closed)

    async def aclose(self, reason: str) -> None:
        wire, self._wire = self._wire, None
        if wire is None:
            return
        assert self._core is not None  # made with the wire
        self._core.close()
        # between two fragments a close frame is allowed
        await wire.aclose(self._core.data_to_send(), linger=LINGER)

    def established(self, terms: Terms) -> None:
        pass  # the connection itself carries the session

    def explain(self) -> str:
        return f"through the proxy {split_proxy(self._proxy).hostname}" if self._proxy else ""

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        size = self._bytes + len(call.data)
        limit = self._config.max_queue_bytes
        if size > limit:
            raise QueueFull(f"{limit} bytes wait to be written already", limit=limit, message_id=call.id)
        self._bytes = size
        self._calls[call] = None
        if self._wire is not None:
            self._wire.wake()

    def withdraw(self, call: Call) -> None:
        if call in self._calls:
            del self._calls[call]
            self._bytes -= len(call.data)
        elif call is self._large:
            # The start of a JSON object is no JSON: whoever gets it cannot take it for the message, which therefore
            # was never sent. The frame that ends it has to come, or nothing else could.
            self._large = None
            self._bytes -= len(call.data)
            self._fragments = iter([(b"", True)])

    @property
    def queued(self) -> int:
        return len(self._calls) + (self._large is not None)

    # --- what the wire asks and tells (WireUser) ----------------------------------------------------------

    def received(self, data: bytes) -> None:
        host, core, wire = self._link_host, self._core, self._wire
        assert host is not None  # all three: it runs
        assert core is not None
        assert wire is not None
        host.heard()
        core.receive_data(data, now=self._now())
        self._deliver()
        if core.closed is not None:
            wire.stop()
        elif core.has_data_to_send:
            wire.wake()

    def take(self) -> bytes:
        core = self._core
        assert core is not None  # it runs
        control = core.data_to_send()
        fragment = next(self._fragments, None)
        if fragment is not None:
            return control + self._take_fragment(core, *fragment)
        calls = self._calls
        if not calls:
            return control
        frame, limit, keys, at = core.frame, self._config.fragment_bytes, self._keys, self._key_at
        frames = [control] if control else []
        size = 0
        for call in list(calls):
            length = len(call.data)
            if length > limit:
                if not frames:
                    return self._start_large(core, call)
                break  # in the next write
            if at >= len(keys):
                keys, at = os.urandom(KEYS), 0
            frames.append(frame(call.data, keys[at : at + 4]))
            at += 4
            call.handed_over = True
            del calls[call]
            size += length
            if size >= limit:
                break
        self._bytes -= size
        self._keys, self._key_at = keys, at
        return b"".join(frames) if len(frames) > 1 else frames[0]

    def progressed(self) -> None:
        assert self._link_host is not None  # set by open
        self._link_host.heard()  # a long upload that moves is alive

    # --- inside ---------------------------------------------------------------------------------------

    async def _ask_token(self) -> str | None:
        return None if self._token is None else await ask_token(self._token)

    async def _shake_hands(self, token: str | None) -> Failure | None:
        """Connect and ask for a WebSocket; why there is none. The driver bounds the time."""
        await self._hang_up()
        core = self._core = WebSocketClient(
            Handshake(
                host=self._authority,
                target=self._target,
                headers=() if token is None else (("Authorization", f"Bearer {token}"),),
            ),
            limit=self._config.max_message_bytes,
            fragment=self._config.fragment_bytes,
            fast=self._fast,
        )
        try:
            wire = self._wire = await self._connect()
        except OSError as error:
            return self._cannot_connect(error)
        try:
            await wire.send(core.data_to_send())
            while core.phase is Phase.HANDSHAKE:
                data = await wire.receive()
                if data:
                    core.receive_data(data, now=self._now())
                else:
                    core.receive_eof()
        except OSError as error:
            reason = f"the connection broke during the handshake: {_words(error)}"
            return Failure(kind=FailureKind.NETWORK, reason=reason)
        return core.closed

    async def _connect(self) -> Wire:
        if self._direct and not in_trio():
            return await dial_protocol(self._host, self._port)
        return StreamWire(await self._dial(self._host, self._port, tls=self._tls, proxy=self._proxy))

    def _cannot_connect(self, error: OSError) -> Failure:
        where = f"{self._host}:{self._port}"
        if isinstance(error, ssl.SSLError):
            return Failure(kind=FailureKind.PROTOCOL, reason=f"no TLS with {where}: {_words(error)}")
        if isinstance(error, ProxyRefused):
            kind = FailureKind.AUTH if error.status == 407 else FailureKind.UNAVAILABLE
            return Failure(kind=kind, reason=f"no way to {where}: {error}")
        if isinstance(error, TimeoutError):
            return Failure(kind=FailureKind.TIMEOUT, reason=f"no answer from {where}: {_words(error)}")
        refused = _is_refused(error)
        words = "nobody listens there" if refused else _words(error)
        way = "" if self._proxy is None else " through the proxy"
        return Failure(
            kind=FailureKind.NETWORK,
            reason=f"cannot connect to {where}{way}: {words}",
            refused=refused and self._proxy is None,  # a proxy that is down says nothing about the server
        )

    async def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None and self._core is not None:
            await wire.aclose(self._core.data_to_send(), linger=LINGER)

    def _deliver(self) -> None:
        host, core = self._link_host, self._core
        assert host is not None  # both: set by open
        assert core is not None
        deliver = host.deliver
        for message in core.messages():
            deliver(message)

    def _start_large(self, core: WebSocketClient, call: Call) -> bytes:
        del self._calls[call]
        self._large = call
        first, *others = core.pieces(call.data)
        self._fragments = iter([(piece, piece is others[-1]) for piece in others])
        return core.frame(first, self._key(), first=True, last=False)

    def _take_fragment(self, core: WebSocketClient, piece: bytes, last: bool) -> bytes:
        call = self._large
        if last and call is not None:
            call.handed_over = True
            self._large = None
            self._bytes -= len(call.data)
        return core.frame(piece, self._key(), first=False, last=last)

    def _key(self) -> bytes:
        at = self._key_at
        if at >= len(self._keys):
            self._keys, at = os.urandom(KEYS), 0
        self._key_at = at + 4
        return self._keys[at : at + 4]


def _split(url: str) -> tuple[bool, str, int, str, str]:
    """Secure, host, port, authority and path of an address. Raises ``ConfigurationError``, which shows no password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        parts.netloc.encode("idna")
    except ValueError:  # UnicodeError is one
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in ("http", "https", "ws", "wss")
        or not parts.hostname
        or not parts.netloc.isprintable()
        or " " in parts.netloc
    ):
        shown = url.rpartition("@")[2]
        raise ConfigurationError(
            f"{shown!r} is no address for a WebSocket: give one like http://127.0.0.1:8000 (or https, ws, wss)"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            f"the address of {parts.hostname} must hold no user, password, query or fragment: use a token"
        )
    secure = parts.scheme in ("https", "wss")
    return secure, parts.hostname, port or (443 if secure else 80), parts.netloc, parts.path.rstrip("/")


def _words(error: OSError) -> str:
    """What the system says about an error."""
    return error.strerror or str(error) or type(error).__name__


def _is_refused(error: BaseException) -> bool:
    """True if every address of the host has refused the connection."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(_is_refused(inner) for inner in group.exceptions)
    if isinstance(error, ConnectionRefusedError):
        return True
    return error.__cause__ is not None and _is_refused(error.__cause__)
