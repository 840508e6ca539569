"""The way to a server on a network, step by step: its name, a connection, TLS, its health page."""

from __future__ import annotations

import errno
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.streams.tls import TLSAttribute

from devpipe.adapters.doctor.report import Finding, Status
from devpipe.adapters.doctor.steps import Steps, as_oserror, words_of
from devpipe.adapters.ports.dial import (
    ProxyRefused,
    SystemDialer,
    environment_proxy,
    is_loopback,
    split_proxy,
    system_trust,
)
from devpipe.adapters.transports.http_client import FAILURES, close_response, failure_of
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.protocols.envelope import excerpt
from devpipe.machines.protocols.profiles import ELSEWHERE, profile_of

__all__ = ["NETWORK_CHECKS", "Way", "reach"]

NETWORK_CHECKS = ("address", "name", "connect", "tls", "health")
#: A health page is read so far (bytes).
MAX_PAGE = 64 * 1024
#: A certificate that ends within so many seconds is worth a word.
ENDS_SOON = 14 * 86_400.0
#: OpenSSL's numbers for certificates that nobody vouches for, that are over or not yet valid, or mean another host.
_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
_NOT_NOW = frozenset({9, 10})
_OTHER_HOST = frozenset({62, 64})
#: What the machine around a container is called in it, where somebody has seen to that, and how long it is asked for
#: (seconds).
AROUND = "host.docker.internal"
AROUND_PATIENCE = 0.5
_NO_NAME = "Correct the name, or look after the name server: VPN, /etc/hosts, /etc/resolv.conf."


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one transport goes to a server. ``inside``: what shows that we are in a container, or None."""

    transport: str
    config: PipeConfig
    proxy: str | None = None
    ssl_context: ssl.SSLContext | None = None
    http_client: httpx.AsyncClient | None = None
    inside: str | None = None
    wall: Callable[[], float]

    @property
    def url(self) -> str:
        assert self.config.server_url is not None  # a way to a server has an address
        return self.config.server_url.rstrip("/")

    @property
    def secure(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (443 if self.secure else 80)

    @property
    def shown(self) -> str:
        """The address in words."""
        return f"{self.host}:{self.port}"

    @property
    def through(self) -> str | None:
        """The proxy that the transport goes through. Raises ``ConfigurationError`` if its address is none."""
        found = self.proxy or environment_proxy(urlsplit(self.url).scheme, self.host, self.port)
        if found is not None:
            split_proxy(found)
        return found

    @property
    def trust(self) -> ssl.SSLContext:
        """Whom this transport believes: httpx brings a list of its own, the WebSocket asks the system."""
        if self.ssl_context is not None:
            return self.ssl_context
        return httpx.create_ssl_context() if self.transport == "http" else system_trust()


async def reach(steps: Steps, way: Way) -> None:
    """Go as far as the health page. Raises ``Stopped`` where the way ends."""
    if way.http_client is not None and way.transport == "http":
        for check in ("address", "name", "connect", "tls"):
            words = "left to the given httpx client"
            steps.add(Finding(check=check, status=Status.SKIPPED, words=words))
    else:
        steps.add(_address(way))
        host = way.host if way.through is None else split_proxy(way.through).hostname or ""
        await steps.take("name", lambda: _resolve(host), late=_NO_NAME)
        late = f"A firewall may be dropping what goes to {way.shown}: ask for this port to be opened."
        await steps.take("connect", lambda: _connect(way), late=late)
        if way.secure:
            late = f"Something at {way.shown} takes connections and says nothing: is it the right port?"
            await steps.take("tls", lambda: _tls(way), late=late)
        else:
            words = "not asked for: the address begins with http://"
            steps.add(Finding(check="tls", status=Status.SKIPPED, words=words))
    late = "The server hangs, or something before it holds answers back: look into its log."
    page = _Health(way, steps)
    await steps.take("health", page.ask, late=late, vital=False)


def _address(way: Way) -> Finding:
    try:
        through = way.through
    except ConfigurationError as error:
        remedy = f"devpipe speaks to HTTP proxies only: change it, or run `export NO_PROXY={way.host}`."
        return Finding(check="address", status=Status.FAILED, words=str(error), remedy=remedy)
    words = way.shown
    if through is not None:
        words += f", through the proxy {split_proxy(through).hostname}"
    return Finding(check="address", status=Status.OK, words=words)


# --- name -------------------------------------------------------------------------------------------------


async def _resolve(host: str) -> Finding:
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot even be asked for
        words = words_of(error) if isinstance(error, OSError) else "it is no name of a machine"
        words = f"{host} does not resolve: {words}"
        return Finding(check="name", status=Status.FAILED, words=words, remedy=_NO_NAME)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    shown = ", ".join(addresses[:3]) + (", ..." if len(addresses) > 3 else "")
    words = "an address already" if shown == host else f"{host} is {shown}"
    return Finding(check="name", status=Status.OK, words=words)


# --- connect ----------------------------------------------------------------------------------------------


async def _connect(way: Way) -> Finding:
    through = way.through
    host, port = way.host, way.port
    if through is not None and way.transport == "http" and not way.secure:
        # httpx tells such a proxy the whole address with each request: there is no tunnel
        parts = split_proxy(through)
        host, port, through = parts.hostname or "", parts.port or 80, None
    began = anyio.current_time()
    try:
        stream = await SystemDialer()(host, port, tls=None, proxy=through)
    except OSError as error:
        return await _no_connection(way, f"{host}:{port}", error, tunnel=through is not None)
    took = anyio.current_time() - began
    await anyio.aclose_forcefully(stream)
    return Finding(check="connect", status=Status.OK, words=f"connected in {took * 1000:.1f} ms")


async def _no_connection(way: Way, where: str, error: OSError, *, tunnel: bool) -> Finding:
    inner = as_oserror(error) or error
    words, remedy = f"{where}: {words_of(inner)}", f"Look whether {where} can be reached from here at all."
    if isinstance(error, ProxyRefused):
        words = f"{where}: {error}"
        remedy = f"Ask the proxy's operator to let CONNECT through to {where}."
        if error.status == 407:
            remedy = (
                "Give the proxy's user and password: `export HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT`."
            )
    elif tunnel:
        remedy = f"The proxy itself may be down: look after it, or run `export NO_PROXY={way.host}`."
    elif inner.errno == errno.ECONNREFUSED:
        words = f"nobody listens at {where}"
        remedy = f"Start the server there (`devpipe serve --port {way.port}`), or correct the address."
        if way.inside is not None and is_loopback(way.host):
            remedy += f" {await _around()}"
    elif inner.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        remedy = f"No route leads to {way.host} from here: look after the network or the VPN."
    return Finding(check="connect", status=Status.FAILED, words=words, remedy=remedy)


async def _around() -> str:
    """What to call the machine around this container."""
    with anyio.move_on_after(AROUND_PATIENCE):
        if (await _resolve(AROUND)).status is Status.OK:
            return f"In this container the machine around it is called {AROUND}."
    return f"On Docker Desktop, or with --add-host={AROUND}:host-gateway, the machine around this container is called {AROUND}."


# --- TLS --------------------------------------------------------------------------------------------------


async def _tls(way: Way) -> Finding:
    try:
        stream = await SystemDialer()(way.host, way.port, tls=way.trust, proxy=way.through)
    except OSError as error:
        return _no_tls(way, error)
    version = stream.extra(TLSAttribute.tls_version)
    certificate = cast("Mapping[str, Any]", stream.extra(TLSAttribute.peer_certificate) or {})
    await anyio.aclose_forcefully(stream)
    until = certificate.get("notAfter")
    words = version
    if isinstance(until, str):
        left = ssl.cert_time_to_seconds(until) - way.wall()
        words += f", the certificate is good for {left / 86_400:.0f} days"
        if left < ENDS_SOON:
            remedy = "Renew it before it ends: then nobody will be let in any more."
            return Finding(check="tls", status=Status.WARNING, words=words, remedy=remedy)
    return Finding(check="tls", status=Status.OK, words=words)


def _no_tls(way: Way, error: OSError) -> Finding:
    inner = as_oserror(error) or error
    words, remedy = words_of(inner), f"Look whether {way.shown} speaks TLS at all."
    if isinstance(inner, ssl.SSLCertVerificationError):
        words, remedy = inner.verify_message, "Look at the server's certificate."
        if inner.verify_code in _UNTRUSTED:
            remedy = "If the server is yours, run `export SSL_CERT_FILE=ITS_CERTIFICATE.pem`, or give ssl_context=."
        elif inner.verify_code in _NOT_NOW:
            remedy = "Renew the server's certificate; or this machine's clock is wrong."
        elif inner.verify_code in _OTHER_HOST:
            remedy = f"Use a name that the certificate is for, or make one for {way.host}."
    elif isinstance(inner, ssl.SSLError) and inner.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        words = f"{way.shown} does not speak TLS"
        remedy = f"Give an address that begins with http://, like http://{way.shown}."
    return Finding(check="tls", status=Status.FAILED, words=words, remedy=remedy)


# --- health -----------------------------------------------------------------------------------------------


class _Health:
    """``GET /health``, or where a server of this profile has it. Its failure is a warning: only the proof of data tells whether messages go through."""

    def __init__(self, way: Way, steps: Steps) -> None:
        self._way = way
        self._steps = steps
        self._missing = False  #: nothing was at the last path

    async def ask(self) -> Finding:
        way = self._way
        if way.http_client is not None and way.transport == "http":
            return await self._search(way.http_client)
        verify = way.trust if way.secure else httpx.create_ssl_context(verify=False)
        async with httpx.AsyncClient(
            verify=verify, proxy=way.proxy, trust_env=not is_loopback(way.host)
        ) as client:
            return await self._search(client)

    async def _search(self, client: httpx.AsyncClient) -> Finding:
        """The first page that is there; where none is, what was said of the first."""
        http, profile = self._way.config.http, profile_of(self._way.config.profile)
        paths = [http.health_path, f"{http.prefix.rstrip('/')}/health"]
        if "health_path" in profile.server:
            paths.append(str(profile.server["health_path"]))
        missing: list[Finding] = []
        for path in dict.fromkeys(paths):
            self._missing = False
            finding = await self._ask(client, self._way.url + path)
            if not self._missing:
                return finding
            missing.append(finding)
        return missing[0]

    async def _ask(self, client: httpx.AsyncClient, url: str) -> Finding:
        try:
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            request = client.build_request("GET", url, headers=headers, timeout=self._steps.timeout)
            response = await client.send(request, stream=True, follow_redirects=False)
            body = await _head(response)
        except FAILURES as error:
            reason = failure_of(error).reason
            remedy = f"Look whether a devpipe server, or a proxy before it, answers at {self._way.shown}."
            return _sick(reason, remedy)
        self._look_at_date(response.headers.get("date", ""))
        return self._judge(response, body)

    def _look_at_date(self, date: str) -> None:
        """The server's clock, to the second, for those that do not tell it in their hello."""
        try:
            at = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError):  # none, or nonsense
            return
        self._steps.times.clock_offset = at - self._way.wall()

    def _judge(self, response: httpx.Response, body: bytes) -> Finding:
        way, status = self._way, response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0]
        document = _document(body)
        self._missing = status == 404
        if status == 200 and document.get("status") in ("ok", "healthy"):  # deployed ones are healthy
            server = document.get("server")
            words = "ok" + (f", server {excerpt(server)[1:-1]}" if isinstance(server, str) else "")
            return Finding(check="health", status=Status.OK, words=words)
        if 300 <= status < 400:
            where = excerpt(response.headers.get("location", ""))
            remedy = "Give the address that it points to: no redirect is followed."
            return _sick(f"HTTP {status}, a redirect to {where}", remedy)
        if status == 421:
            remedy = (
                f"On the server, add {way.host!r} to allowed_hosts of its ServerConfig, or use --allow-host."
            )
            return _sick(f"the server does not go by the name {way.host}", remedy)
        if status in (502, 503, 504):
            remedy = "Start the server behind it, or wait: something stands before it and answers."
            return _sick(f"HTTP {status}: the server is away", remedy)
        if status == 404 and "html" not in kind.lower():
            remedy = f"A server may have no such page. If the proof fails too, {ELSEWHERE}."
            return _sick(f"HTTP 404: there is no health page at {response.url}", remedy)
        remedy = (
            f"Another program, a proxy or a login page answers at {way.shown}: look at the port and the path."
        )
        return _sick(f"HTTP {status}, {excerpt(kind)} where a health page should be", remedy)


def _sick(words: str, remedy: str) -> Finding:
    return Finding(check="health", status=Status.WARNING, words=words, remedy=remedy)


async def _head(response: httpx.Response) -> bytes:
    """The beginning of a page, which may have no end."""
    chunks = response.aiter_raw()
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_PAGE:
            break
    await close_response(response, chunks)
    return b"".join(parts)


def _document(body: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):  # a page for people, or nonsense
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
