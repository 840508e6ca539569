"""How a byte stream to a server is made: TCP, TLS, and through an HTTP CONNECT proxy."""

from __future__ import annotations

import ssl
import urllib.request
from typing import Protocol
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

__all__ = ["Dialer", "ProxyRefused", "SystemDialer", "environment_proxy"]


class ProxyRefused(OSError):
    """The proxy did not let us through; ``status`` is its answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the proxy refused the tunnel with HTTP {status} {reason}")
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
            stream = await _tunnel(proxy, host, port)
        if tls is None:
            return stream
        try:
            return await TLSStream.wrap(
                stream, hostname=host, ssl_context=tls, server_side=False, standard_compatible=False
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise


async def _tunnel(proxy: str, host: str, port: int) -> ByteStream:
    parts = urlsplit(proxy)
    if parts.hostname is None:
        raise OSError(f"the proxy address {parts.scheme}://... has no host")
    stream = await anyio.connect_tcp(parts.hostname, parts.port or 80)
    try:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        headers = [("Host", target)]
        if parts.username is not None:
            import base64

            secret = base64.b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode()
            headers.append(("Proxy-Authorization", f"Basic {secret}"))
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
                    raise ProxyRefused(event.status_code, event.reason.decode("latin-1")[:60])
                return stream
    except (h11.RemoteProtocolError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        await anyio.aclose_forcefully(stream)
        raise OSError(f"the proxy did not answer as one: {error!r}") from error
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


def environment_proxy(url: str) -> str | None:
    """The proxy for this URL from ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``."""
    parts = urlsplit(url)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if found is not None and found.startswith("http://") else None
