"""How a byte stream to a server is made: TCP, TLS, and through an HTTP CONNECT proxy."""

from __future__ import annotations

import base64
import functools
import ipaddress
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from devpipe.machines.errors import ConfigurationError

__all__ = ["Dialer", "ProxyRefused", "SystemDialer", "environment_proxy", "is_loopback", "system_trust"]


class ProxyRefused(OSError):
    """The proxy did not let us through; ``status`` is its answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy refused the tunnel with HTTP {status}")
        self.status = status


class Dialer(Protocol):
    """Makes byte streams."""

    async def __call__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, proxy: str | None
    ) -> ByteStream:
        """A connected stream; raises ``OSError`` (``ssl.SSLError`` is one). A cancelled call leaves nothing open."""
        ...


class SystemDialer:
    """The operating system's sockets, through anyio."""

    async def __call__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, proxy: str | None
    ) -> ByteStream:
        if proxy is None:
            stream: ByteStream = await anyio.connect_tcp(host, port)
        else:
            stream = await _tunnel(split_proxy(proxy), host, port)
        return stream if tls is None else await _wrap(stream, host, tls)


async def _wrap(stream: ByteStream, host: str, tls: ssl.SSLContext) -> ByteStream:
    """TLS over ``stream``, which is closed if that fails. A missing close alert is no error: WebSocket has its own."""
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=tls, standard_compatible=False)
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        await anyio.aclose_forcefully(stream)
        raise OSError(f"{host} hung up in the TLS handshake") from error
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise


async def _tunnel(proxy: SplitResult, host: str, port: int) -> ByteStream:
    """A stream to ``host`` by CONNECT. Of the proxy's answer h11 takes 16 KiB; the caller bounds the time."""
    assert proxy.hostname is not None  # split_proxy refuses others
    secure = proxy.scheme == "https"
    stream: ByteStream = await anyio.connect_tcp(proxy.hostname, proxy.port or (443 if secure else 80))
    if secure:
        stream = await _wrap(stream, proxy.hostname, system_trust())
    try:
        await _connect(stream, proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except (h11.RemoteProtocolError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        await anyio.aclose_forcefully(stream)
        raise OSError(f"the proxy {proxy.hostname} does not answer as one: {type(error).__name__}") from error
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise
    return stream


async def _connect(stream: ByteStream, proxy: SplitResult, target: str) -> None:
    headers = [("Host", target)]
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers.append(("Proxy-Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
    connection = h11.Connection(h11.CLIENT)
    request = connection.send(h11.Request(method="CONNECT", target=target, headers=headers))
    assert request is not None  # a request always has bytes
    await stream.send(request)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive())
        elif isinstance(event, h11.Response):
            if not 200 <= event.status_code < 300:
                raise ProxyRefused(event.status_code)
            if connection.trailing_data[0]:  # a WebSocket server waits for us, and so does TLS
                raise OSError("the proxy sent bytes that nobody has asked for")
            return
        elif isinstance(event, h11.ConnectionClosed):
            raise anyio.EndOfStream


def split_proxy(proxy: str) -> SplitResult:
    """The parts of a proxy's address. Raises ``ConfigurationError``, which shows no password."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        _ = parts.port  # raises if it is no number
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = proxy.rpartition("@")[2]
        raise ConfigurationError(f"proxy = {shown!r} is not allowed: give an address like http://HOST:PORT")
    return parts


def environment_proxy(
    scheme: str, host: str, port: int, *, found: Mapping[str, str] | None = None
) -> str | None:
    """The proxy for ``http`` or ``https`` to ``host`` that the environment names, as httpx reads it.

    That is ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` in either case, or the settings of the
    system on macOS and Windows. This machine itself is never reached through a proxy of the environment: it has no
    business there, and would see the token in clear text. ``found``: what the environment names, by scheme, where that
    is known already.
    """
    found = urllib.request.getproxies() if found is None else found
    proxy = found.get(scheme) or found.get("all")
    if not proxy or is_loopback(host):
        return None
    for entry in found.get("no", "").split(","):
        if _spares(entry.strip().lower(), scheme, host.lower(), port):
            return None
    return proxy


def _spares(entry: str, scheme: str, host: str, port: int) -> bool:
    """Whether this entry of NO_PROXY means ``host``: ``a.b`` with all below it, ``.a.b`` what is below it alone."""
    if entry in ("", "*"):
        return entry == "*"
    wanted, found, rest = entry.partition("://")
    if found:
        if wanted not in (scheme, "all"):
            return False
        entry = rest[1:] if rest.startswith("*.") else rest
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdigit() and (":" not in name or name.endswith("]")):
        if int(digits) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if entry.startswith("."):
        return host.endswith(entry)
    return host == entry or (not found and not _is_address(entry) and host.endswith(f".{entry}"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:  # a name
        return False
    return True


def is_loopback(host: str) -> bool:
    """True if ``host`` cannot be anywhere but on this machine. A name may resolve to anywhere."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


@functools.cache
def system_trust() -> ssl.SSLContext:
    """What this system trusts. Reading it takes some ten milliseconds, so it is read once."""
    return ssl.create_default_context()
