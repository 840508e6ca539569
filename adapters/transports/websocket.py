"""The WebSocket transport: a link around the sans-IO core, one reader, one writer, one write per turn of the loop."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream

from devpipe.adapters.ports.dial import Dialer, ProxyRefused, SystemDialer, environment_proxy
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.link import Capabilities, LinkHost, LinkLost, Terms
from devpipe.adapters.transports.registry import TokenProvider, TransportContext
from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.config import WebSocketConfig
from devpipe.machines.errors import ConfigurationError, FailureKind, QueueFull
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.websocket import Handshake, Phase, WebSocketClient

__all__ = ["WebSocketLink", "capabilities", "factory", "is_loopback"]

READ = 64 * 1024
#: Random bytes for masking keys are fetched in blocks of this size (bytes).
KEYS = 4096


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
    """The transport of a pipe; None without a server URL."""
    config = context.config
    url = config.server_url
    if url is None:
        return None
    return Transport(
        "websocket",
        make_link=lambda: WebSocketLink(
            url,
            config=config.websocket,
            token=context.token,
            proxy=context.proxy,
            ssl_context=context.ssl_context,
        ),
        capabilities=capabilities(config.websocket),
        owner=context.owner,
        clock=context.clock,
        dice=context.dice,
        lifecycle=config.lifecycle,
        breaker=config.breaker,
    )


class WebSocketLink:
    """One connection to ``url`` (``http``, ``https``, ``ws`` or ``wss``; the configuration has the path)."""

    def __init__(
        self,
        url: str,
        *,
        config: WebSocketConfig | None = None,
        token: TokenProvider | None = None,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        dialer: Dialer | None = None,
        fast: bool = True,
    ) -> None:
        self._config = config or WebSocketConfig()
        self.capabilities = capabilities(self._config)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
            raise ConfigurationError(f"{url!r} is no address for a WebSocket: give http://HOST:PORT")
        self._secure = parts.scheme in ("https", "wss")
        self._host = parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        self._target = parts.path.rstrip("/") + self._config.path
        self._authority = parts.netloc.rpartition("@")[2]
        if token is not None and not self._secure and not is_loopback(self._host):
            raise ConfigurationError(
                f"the token would go to {self._host} in clear text: use https, or no token"
            )
        self._token = token
        scheme = "https" if self._secure else "http"
        self._proxy = proxy if proxy is not None else environment_proxy(f"{scheme}://{self._host}")
        self._tls = (ssl_context or ssl.create_default_context()) if self._secure else None
        self._dial: Dialer = dialer or SystemDialer()
        self._fast = fast
        self._stream: ByteStream | None = None
        self._core: WebSocketClient | None = None
        self._link_host: LinkHost | None = None
        self._calls: list[Call] = []  #: taken, and not yet in a write
        self._bytes = 0
        self._control: list[bytes] = []
        self._idle: Waiter | None = None
        self._keys = b""
        self._key_at = 0

    # --- life -----------------------------------------------------------------------------------------

    async def open(self, host: LinkHost) -> None:
        self._link_host = host
        self._make_waiter: Callable[[], Waiter] = waiter_factory()
        headers: list[tuple[str, str]] = []
        if self._token is not None:
            headers.append(("Authorization", f"Bearer {await self._token()}"))
        self._stream = await self._connect()
        core = self._core = WebSocketClient(
            Handshake(host=self._authority, target=self._target, headers=tuple(headers)),
            limit=self._config.max_message_bytes,
            fragment=self._config.fragment_bytes,
            fast=self._fast,
        )
        try:
            await self._flush_core()
            while core.phase is Phase.HANDSHAKE:
                try:
                    core.receive_data(await self._stream.receive(READ))
                except anyio.EndOfStream:
                    core.receive_eof()
                await self._flush_core()
        except (anyio.BrokenResourceError, OSError) as error:
            raise LinkLost(_broken(error)) from error
        if core.closed is not None:
            raise LinkLost(core.closed)

    async def _connect(self) -> ByteStream:
        try:
            return await self._dial(self._host, self._port, tls=self._tls, proxy=self._proxy)
        except ssl.SSLError as error:
            raise LinkLost(
                Failure(
                    kind=FailureKind.PROTOCOL, reason=f"no TLS with {self._host}: {error.reason or error}"
                )
            ) from error
        except ProxyRefused as error:
            kind = FailureKind.AUTH if error.status == 407 else FailureKind.UNAVAILABLE
            raise LinkLost(Failure(kind=kind, reason=str(error))) from error
        except OSError as error:
            refused = _is_refused(error)
            words = "nobody listens there" if refused else str(error)
            raise LinkLost(
                Failure(
                    kind=FailureKind.NETWORK,
                    reason=f"cannot connect to {self._host}:{self._port}: {words}",
                    refused=refused,
                )
            ) from error

    async def run(self) -> None:
        assert self._stream is not None and self._core is not None  # the driver opens before it runs
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            await self._read(self._stream, self._core)

    async def aclose(self, reason: str) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            if self._core is not None:
                self._core.close()
                data = b"".join(self._core.data_to_send())
                if data:
                    with anyio.move_on_after(0.2):
                        await stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the path is gone: nobody hears the goodbye
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    def established(self, terms: Terms) -> None:
        pass  # the connection itself carries the session

    def explain(self) -> str:
        return f"through the proxy {urlsplit(self._proxy).hostname}" if self._proxy else ""

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        size = len(call.data)
        if self._bytes + size > self._config.max_queue_bytes:
            limit = self._config.max_queue_bytes
            raise QueueFull(f"{limit} bytes wait to be written already", limit=limit, message_id=call.id)
        self._bytes += size
        self._calls.append(call)
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.set_result(None)

    def withdraw(self, call: Call) -> None:
        if not call.handed_over and call in self._calls:
            self._calls.remove(call)
            self._bytes -= len(call.data)

    @property
    def queued(self) -> int:
        return len(self._calls)

    # --- inside ---------------------------------------------------------------------------------------

    async def _read(self, stream: ByteStream, core: WebSocketClient) -> None:
        host = self._link_host
        assert host is not None  # set by open
        deliver, heard, receive = host.deliver, host.heard, stream.receive
        while True:
            try:
                data = await receive(READ)
            except anyio.EndOfStream:
                core.receive_eof()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise LinkLost(_broken(error)) from error
            else:
                heard()
                core.receive_data(data)
            for message in core.messages():
                deliver(message)
            out = core.data_to_send()
            if core.closed is not None:
                with anyio.move_on_after(0.2):
                    await self._say(b"".join(out))
                raise LinkLost(core.closed)
            if out:
                self._control += out
                if self._idle is not None:
                    idle, self._idle = self._idle, None
                    idle.set_result(None)

    async def _write(self) -> None:
        stream, core = self._stream, self._core
        assert stream is not None and core is not None  # set by open
        while True:
            if not self._calls and not self._control:
                waiter = self._idle = self._make_waiter()
                await waiter
            batch, self._control = self._control, []
            calls, self._calls = self._calls, []
            large: list[bytes] = []
            for call in calls:
                call.handed_over = True
                frames = core.frames(call.data, self._key())
                if len(frames) == 1:
                    batch += frames
                else:
                    large += frames
            self._bytes = 0
            try:
                if batch:
                    await stream.send(b"".join(batch) if len(batch) > 1 else batch[0])
                for frame in large:  # one by one: pings pass between
                    control, self._control = self._control, []
                    await stream.send(b"".join((*control, frame)))
                    if self._link_host is not None:
                        self._link_host.heard()  # a long upload that moves is alive
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise LinkLost(_broken(error)) from error

    async def _say(self, data: bytes) -> None:
        if data and self._stream is not None:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                pass  # it has hung up before it could hear why

    async def _flush_core(self) -> None:
        assert self._core is not None and self._stream is not None  # set by open
        for data in self._core.data_to_send():
            await self._stream.send(data)

    def _key(self) -> bytes:
        at = self._key_at
        key = self._keys[at : at + 4]
        if len(key) < 4:
            self._keys, at = os.urandom(KEYS), 0
            key = self._keys[:4]
        self._key_at = at + 4
        return key


def is_loopback(host: str) -> bool:
    """True if ``host`` cannot be anywhere but on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may resolve to anywhere
        return False


def _broken(error: BaseException) -> Failure:
    cause = error.__cause__ or error
    return Failure(kind=FailureKind.NETWORK, reason=f"the connection broke: {cause or type(cause).__name__}")


def _is_refused(error: BaseException) -> bool:
    if isinstance(error, ConnectionRefusedError):
        return True
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return all(_is_refused(inner) for inner in cause.exceptions)
    return cause is not None and _is_refused(cause)
