"""What the messages and the stream of an HTTP link share: the clients, the token, one exchange, what its errors mean."""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from http.cookiejar import CookieJar
from typing import Final, cast

import anyio
import httpx

from devpipe.adapters.ports.clock import Clock
from devpipe.adapters.tokens import ask_token
from devpipe.adapters.transports.link import LinkLost
from devpipe.machines.config import HttpConfig
from devpipe.machines.errors import FailureKind, TransportError
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.envelope import excerpt
from devpipe.machines.protocols.http import Answer, Target
from devpipe.machines.protocols.http_stream import BodyReader

__all__ = [
    "CONNECT_ERRORS",
    "ENVELOPE_SLACK",
    "FAILURES",
    "Body",
    "HttpCaller",
    "close_response",
    "failure_of",
]

#: A reply may be so much larger than the largest message: the envelope around the payload.
ENVELOPE_SLACK: Final = 64 * 1024
#: Seconds to reach the server.
CONNECT_TIMEOUT: Final = 10.0
#: Common servers drop an idle connection after 5 s; a request on a connection that is just being dropped ends with
#: "maybe executed". So we drop it first.
KEEP_ALIVE_EXPIRY: Final = 4.0
#: Errors of an exchange that did not reach the server: nothing was sent.
CONNECT_ERRORS: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
#: What an exchange can raise: httpx by its contract, TransportError from our own reading of the body.
FAILURES: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TransportError)

#: A body goes out in pieces of this many bytes, so that a slow path shows its progress.
PIECE: Final = 256 * 1024

_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    # replies go to the decoder as they come, and a compressed bomb has no reason to be sent
    "Accept-Encoding": "identity",
}


class HttpCaller:
    """The clients of one link. ``open`` before use, ``aclose`` afterwards; a client given by the user stays open."""

    def __init__(
        self,
        target: Target,
        *,
        config: HttpConfig,
        clock: Clock,
        token: Callable[[], Awaitable[str]] | None,
        client: httpx.AsyncClient | None,
        proxy: str | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.target = target
        self.token: str | None = None
        self.limit = config.max_message_bytes + ENVELOPE_SLACK
        self._config = config
        self._clock = clock
        self._provider = token
        self._theirs = client
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._stream: httpx.AsyncClient | None = None
        self._lanes: list[httpx.AsyncClient] = []  #: all of ours for messages
        self._free: list[httpx.AsyncClient] = []  #: of these, the ones that no worker has
        self._cookies = CookieJar()  # of all lanes: a load balancer knows us by it
        self._verify: ssl.SSLContext | bool = False
        self._template = httpx.Headers()
        self._url = httpx.URL(target.message)
        self._refreshing: anyio.Lock | None = None

    @property
    def stream_client(self) -> httpx.AsyncClient:
        """The client of the stream and of polls: none of the connections of the messages."""
        assert self._stream is not None  # the link opens before it runs
        return self._stream

    async def open(self) -> None:
        """Make the clients and ask for the token. Raises ``LinkLost``."""
        self._refreshing = anyio.Lock()
        if self._theirs is not None:
            if self._theirs.is_closed:
                raise LinkLost(
                    Failure(kind=FailureKind.UNAVAILABLE, reason="the given httpx client is closed")
                )
            self._stream = self._theirs
        else:
            # for http:// nothing is verified, and no certificates are read
            secure = self._ssl_context if self.target.secure else httpx.create_ssl_context(verify=False)
            self._verify = secure or httpx.create_ssl_context()
            self._stream = self._make_client()
        await self._ask_token()

    def borrow(self) -> httpx.AsyncClient:
        """A client for one worker: a given one, or one of ours with a single connection.

        A pool of ten makes each request look at ten sockets, and lets requests that start together fight for the
        first idle one; ten pools of one cost a third less.
        """
        if self._theirs is not None:
            return self._theirs
        if self._free:
            return self._free.pop()
        lane = self._make_client()
        self._lanes.append(lane)
        return lane

    def give_back(self, lane: httpx.AsyncClient) -> None:
        """The worker has ended: its connection, if it stands, is the next one's."""
        if lane is not self._theirs:
            self._free.append(lane)

    def _make_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._verify,
            proxy=self._proxy,
            # a proxy of the environment has no business with this machine, and would see the token in clear text
            trust_env=not self.target.loopback,
            cookies=self._cookies,
            limits=httpx.Limits(
                max_connections=1,
                max_keepalive_connections=1 if self._config.keep_alive else 0,
                keepalive_expiry=KEEP_ALIVE_EXPIRY,
            ),
        )

    async def aclose(self) -> None:
        """Close what is ours. A second time changes nothing."""
        ours = [*self._lanes, *([self._stream] if self._stream not in (None, self._theirs) else [])]
        self._lanes, self._free, self._stream = [], [], None
        for client in ours:
            await client.aclose()

    # --- the token ----------------------------------------------------------------------------------

    async def refresh(self, refused: str | None) -> bool:
        """A server has refused this token: True if there is another one now. Raises ``LinkLost``."""
        assert self._refreshing is not None  # the link opens before it runs
        async with self._refreshing:  # ten calls that are refused at once ask for one token
            if self.token == refused:
                await self._ask_token()
            return self.token != refused

    async def _ask_token(self) -> None:
        if self._provider is not None:
            self.token = await ask_token(self._provider)
        self._template = self._build_template(self.stream_client)

    def _build_template(self, client: httpx.AsyncClient) -> httpx.Headers:
        """The headers of each message: the client's own (cookies, user agent, host) and ours."""
        request = client.build_request("POST", self._url, headers=self._with_token(_HEADERS))
        del request.headers["Content-Length"]
        self._url = request.url
        return request.headers

    def _with_token(self, headers: dict[str, str]) -> dict[str, str]:
        if self.token is None:
            return headers
        return {**headers, "Authorization": f"Bearer {self.token}"}

    # --- exchanges ----------------------------------------------------------------------------------

    async def post(self, client: httpx.AsyncClient, body: Body, *, timeout: float) -> Answer:
        """One message and its answer, which is read whole. ``timeout``: seconds without any progress.

        Raises one of ``FAILURES``. This is the hot path: the request is built without httpx's merging, unless the
        client has cookies.
        """
        template = self._build_template(client) if client.cookies else self._template
        request = httpx.Request(
            "POST",
            self._url,
            headers=template,
            stream=body,
            extensions={
                "timeout": {
                    "connect": CONNECT_TIMEOUT,
                    "read": timeout,
                    "write": timeout,
                    "pool": timeout,
                }
            },
        )
        request.headers["Content-Length"] = str(len(body.data))
        response = await client.send(request, stream=True, follow_redirects=False)
        return await self.read(response, self.target.message)

    async def open_stream(self, headers: dict[str, str], *, timeout: float | None) -> httpx.Response:
        """The response to ``GET stream``, unread: close it with ``close_response``. Raises one of ``FAILURES``."""
        client = self.stream_client
        request = client.build_request(
            "GET",
            self.target.stream,
            headers=self._with_token(
                {
                    **headers,
                    "Accept": "text/event-stream",
                    "Accept-Encoding": "identity",
                    "Cache-Control": "no-store",
                }
            ),
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
        )
        return await client.send(request, stream=True, follow_redirects=False)

    async def read(self, response: httpx.Response, url: str) -> Answer:
        """The whole response to ``url``, bounded; its connection is free afterwards. Raises one of ``FAILURES``."""
        headers = response.headers
        chunks = response.aiter_raw()
        try:
            reader = BodyReader(limit=self.limit, encoding=headers.get("content-encoding", ""))
            async for chunk in chunks:
                reader.feed(chunk)
        except TransportError:
            await close_response(response, chunks)
            raise
        return Answer(
            url=url,
            status=response.status_code,
            content_type=headers.get("content-type", ""),
            retry_after=headers.get("retry-after", ""),
            body=reader.finish(),
            # not whether we have a token: a client that was given may bring its own
            authorized="authorization" in response.request.headers,
        )

    def failure_of(self, error: Exception) -> Failure:
        """What an exchange's error means, without address or token."""
        failure = failure_of(error)
        if self.token is not None and self.token in failure.reason:  # a peer that echoes our headers
            return Failure(kind=failure.kind, reason=failure.reason.replace(self.token, "***"))
        return failure


class Body(httpx.AsyncByteStream):
    """The body of a request. No async generator: one that is dropped half-way is what event loops warn of."""

    __slots__ = ("_at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._at = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._at = 0  # authentication may send it twice
        return self

    async def __anext__(self) -> bytes:
        at, data = self._at, self.data
        if at >= len(data):
            raise StopAsyncIteration
        if at:
            self.written()
        self._at = at + PIECE
        if self._at >= len(data):
            self.leaving()
        return data[at : at + PIECE]

    def written(self) -> None:
        """A piece has left, and it was not the last."""

    def leaving(self) -> None:
        """The last piece is about to leave. May raise one of ``FAILURES`` to hold it back."""


async def close_response(response: httpx.Response, chunks: AsyncIterator[bytes] | None) -> None:
    """Hang up in the middle of a body.

    The iterator is read on until it notices: one that is dropped half-way is what event loops warn of.
    """
    await response.aclose()
    if chunks is None:
        return
    try:
        async for _ in chunks:
            pass
    except FAILURES:
        pass  # this is how it notices that the connection is closed


def failure_of(error: Exception) -> Failure:
    """What an error of httpx, or of reading a body, means. The text holds no address."""
    match error:
        case TransportError():
            return Failure(kind=error.kind, reason=str(error))
        case httpx.HTTPStatusError():  # raised by a hook of a client that the user gave
            return Failure(
                kind=FailureKind.PROTOCOL, reason=f"a hook of the client raised: {error.response.status_code}"
            )
        case httpx.ConnectTimeout():
            return Failure(kind=FailureKind.TIMEOUT, reason="the server cannot be reached: no answer in time")
        case httpx.PoolTimeout():
            return Failure(kind=FailureKind.TIMEOUT, reason="no connection became free in time")
        case httpx.TimeoutException():
            return Failure(kind=FailureKind.TIMEOUT, reason="no progress in time")
        case httpx.ConnectError():
            return _unreachable(error)
        case httpx.RemoteProtocolError() if _hung_up(str(error)):
            return Failure(kind=FailureKind.NETWORK, reason=f"the connection broke: {excerpt(str(error))}")
        case httpx.NetworkError():
            return Failure(kind=FailureKind.NETWORK, reason=f"the connection broke ({type(error).__name__})")
        case httpx.ProxyError():
            return Failure(kind=FailureKind.NETWORK, reason=f"the proxy refuses: {excerpt(str(error))}")
        case httpx.RemoteProtocolError():
            return Failure(kind=FailureKind.PROTOCOL, reason=f"this is no HTTP: {excerpt(str(error))}")
        case _:
            return Failure(kind=FailureKind.PROTOCOL, reason=f"HTTP failed ({type(error).__name__})")


def _hung_up(words: str) -> bool:
    """The words of httpcore and h11 for a peer that closed too early, as against one that talks nonsense."""
    return words.startswith(("Server disconnected", "peer closed connection"))


def _unreachable(error: BaseException) -> Failure:
    """Look for the reason inside: httpx keeps only words."""
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Failure(kind=FailureKind.PROTOCOL, reason="the server's certificate or TLS is not acceptable")
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
            return Failure(kind=FailureKind.NETWORK, reason="the server refuses connections", refused=True)
    return Failure(kind=FailureKind.NETWORK, reason="the server cannot be reached")


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting = [error]
    while waiting and len(found) < 32:  # a chain may be a ring
        one = waiting.pop()
        found.append(one)
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", one).exceptions
    return found
