"""The ASGI application: POST, stream, socket, health. It carries bytes between a connection and the server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from devpipe.adapters.server.guards import Refusal, check, check_host, read_headers
from devpipe.adapters.server.socket import SocketPath
from devpipe.adapters.server.stream import StreamPath
from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.message import Position
from devpipe.machines.protocols.envelope import ErrorBody, encode_payload, encode_reply

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["Application"]

log = logging.getLogger("devpipe.server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
#: A body must have come after this long (seconds): a client that dribbles holds nothing up.
BODY_TIMEOUT = 30.0
#: What an envelope may have around the largest payload (bytes).
ENVELOPE_ROOM = 1024
#: Of a body that is refused so much is read and thrown away, for so long (bytes, seconds): a connection that is closed
#: with unread bytes is reset, and the client never sees why it was refused.
MAX_DISCARDED = 64 * 1024 * 1024
DISCARD_TIMEOUT = 2.0
#: An answer that is not there after this long (seconds) is worth watching whether its client still is.
WATCH_AFTER = 0.25
#: Statuses of refusals that are made before or after a message is read.
STATUS = {
    "bad_message": 400,
    "session_unknown": 409,
    "busy": 503,
    "closing": 503,
    "too_large": 413,
}


RETRY = ((b"retry-after", b"1"),)
CLOSE = ((b"connection", b"close"),)
NOT_RUNNING = Refusal(
    status=503,
    code="closing",
    message='this server does not run: write "async with server:" in the lifespan of your application',
)
FULL = Refusal(status=503, code="busy", message="too many streams and sockets are open", headers=RETRY)

#: Status, body, further headers.
_Answer: TypeAlias = tuple[int, bytes, tuple[tuple[bytes, bytes], ...]]


class Application:
    """Routes one ASGI scope. ``server`` must be running: its own lifespan or the parent's has entered it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open = 0  #: streams and sockets
        self._warned = False  #: that the server does not run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._lifespan(receive, send)
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case other:
                raise NotImplementedError(f"devpipe serves http and websocket, not {other!r}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self._server.running:  # somebody else's life already
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        async with self._server:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _not_running(self) -> Refusal:
        if not self._warned:
            self._warned = True
            log.warning("%s; until then everything is refused", NOT_RUNNING.message)
        return NOT_RUNNING

    # --- http -----------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        config, server = self._server.config, self._server
        path = _path(scope)
        method = scope["method"]
        headers = read_headers(scope["headers"])
        prefix = config.prefix.rstrip("/")
        health = (config.health_path, f"{prefix}/health")
        routes = {
            **dict.fromkeys(health, "GET"),
            prefix + config.message_path: "POST",
            prefix + config.stream_path: "GET",
        }
        allowed = routes.get(path)
        refusal: Refusal | None = None
        if not server.running:
            refusal = self._not_running()
        elif allowed is None:
            refusal = Refusal(status=404, code="not_found", message="there is nothing here")
        elif method != allowed:
            allow = ((b"allow", allowed.encode()),)
            refusal = Refusal(status=405, code="wrong_method", message=f"only {allowed}", headers=allow)
        elif path in health:
            # a load balancer asks without a token; a page that rebinds its name does not get in all the same
            refusal = check_host(headers, hosts=server.hosts)
        else:
            refusal = check(headers, config=config, hosts=server.hosts, token=server.token)
        if refusal is not None:
            if method == "POST":
                await _discard(receive)
            await self._refuse(receive, send, refusal)
        elif path in health:
            body = encode_payload({"status": "ok", "server": server.identity}, type="health")
            await _respond(send, 200, body)
        elif method == "POST":
            await self._post(headers, receive, send)
        elif self._open >= config.max_streams:
            await self._refuse(receive, send, FULL)
        else:
            await self._stream(headers, receive, send)

    async def _refuse(self, receive: Receive, send: Send, refusal: Refusal) -> None:
        async with anyio.create_task_group() as tasks:
            # beside the answer: hypercorn cannot end a request while what it has read of it is not taken
            tasks.start_soon(_take_all, receive)
            await _respond(send, refusal.status, _body_of(refusal), refusal.headers)
            tasks.cancel_scope.cancel()

    async def _post(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        body: bytes | Refusal | None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # a form or a plain text can be posted by any web page; JSON makes a browser ask first
            body = Refusal(status=415, code="not_json", message="content-type must be application/json")
        else:
            body = await self._body(headers, receive)
        if body is None:
            return  # the client has gone
        if isinstance(body, Refusal):
            if body.status != 408:
                await _discard(receive)
            await self._refuse(receive, send, body)
            return
        config = self._server.config
        exchange = _Exchange(config.max_message_bytes, error_status=config.error_status)
        self._server.receive(body, exchange)
        try:
            answer = await self._wait(exchange, receive)
        finally:
            self._server.drop(exchange)
        if answer is not None:
            await _respond(send, *answer)

    async def _wait(self, exchange: _Exchange, receive: Receive) -> _Answer | None:
        """The answer, or None if the client has gone: what is held for it must not be thought delivered."""
        with anyio.move_on_after(WATCH_AFTER):
            return await exchange.wait()
        answer: _Answer | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_disconnect, receive, tasks.cancel_scope)
            answer = await exchange.wait()
            tasks.cancel_scope.cancel()
        return answer

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | Refusal | None:
        limit = self._server.config.max_message_bytes + ENVELOPE_ROOM
        announced = headers.get("content-length", "0")
        size = int(announced) if announced.isascii() and announced.isdigit() else 0
        parts: list[bytes] = []
        taken = 0
        with anyio.move_on_after(BODY_TIMEOUT):
            while max(size, taken) <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                taken += len(parts[-1])
                if not message.get("more_body", False) and taken <= limit:
                    return b"".join(parts)
            return Refusal(status=413, code="too_large", message=f"more than {limit} bytes", headers=CLOSE)
        return Refusal(status=408, code="too_slow", message="the body did not come in time", headers=CLOSE)

    async def _stream(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        config = self._server.config
        path = StreamPath(config.max_message_bytes, keep_alive=config.keep_alive)
        session, identity = headers.get("devpipe-session", ""), headers.get("devpipe-server", "")
        self._open += 1
        try:
            self._server.open_stream(
                path, session=session, server=identity, last_event_id=headers.get("last-event-id", "")
            )
            if path.closed:
                error = ErrorBody(code="session_unknown", message="say hello first", outcome="rejected")
                body = encode_reply(reply_to=None, timestamp=0, error=error)
                await _respond(send, 409, body)
                return
            # who names no session, and is let in all the same, knows no proof either
            nonce = headers.get("devpipe-nonce", "") if session else None
            await path.run(receive, send, nonce=nonce, server=self._server.identity)
        finally:
            self._open -= 1
            self._server.drop(path)

    # --- websocket ------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        headers = read_headers(scope["headers"])
        refusal: Refusal | None
        if not server.running:
            refusal = self._not_running()
        elif _path(scope) not in (
            server.config.websocket_paths or (server.config.prefix.rstrip("/") + "/ws",)
        ):
            refusal = Refusal(status=404, code="not_found", message="there is nothing here")
        elif self._open >= server.config.max_streams:
            refusal = FULL
        else:
            refusal = check(headers, config=server.config, hosts=server.hosts, token=server.token)
        await receive()  # websocket.connect
        if refusal is None:
            path = SocketPath(server.config.websocket_max_message_bytes)
            self._open += 1
            try:
                await send({"type": "websocket.accept"})
                await path.run(server, receive, send)
            finally:
                self._open -= 1
                server.drop(path)
        elif "websocket.http.response" in scope.get("extensions", {}):
            body = _body_of(refusal)
            length = (b"content-length", str(len(body)).encode())
            # a client that waits for a WebSocket need not wait for the body of its refusal
            why = (b"devpipe-error", refusal.message.encode())
            start = {"type": "websocket.http.response.start", "status": refusal.status}
            await send({**start, "headers": [JSON, length, why, *refusal.headers]})
            await send({"type": "websocket.http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})


class _Exchange:
    """One POST: the first thing that is sent is its answer."""

    transport = "http"

    def __init__(self, limit: int, *, error_status: int) -> None:
        self.max_message_bytes = limit
        self._error_status = error_status
        self._answer: _Answer | None = None
        self._waiter: Waiter | None = None

    async def wait(self) -> _Answer:
        """The answer; a wait that was cancelled may be begun again."""
        while self._answer is None:
            self._waiter = waiter_factory()()
            await self._waiter
        return self._answer

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        if self._answer is None:
            status = 202 if accepted else 200 if error is None else STATUS.get(error, self._error_status)
            self._answer = (status, data, RETRY if status == 503 else ())
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def close(self, code: int, error: str) -> None:
        body = ErrorBody(code=error, message="the server is going away", outcome="rejected")
        self.send(encode_reply(reply_to=None, timestamp=0, error=body), error="closing")


def _path(scope: Scope) -> str:
    """The path inside this application: without the prefix under which it is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


async def _respond(
    send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    length = (b"content-length", str(len(body)).encode())
    store = (b"cache-control", b"no-store")
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, store, *headers]})
    await send({"type": "http.response.body", "body": body})


def _body_of(refusal: Refusal) -> bytes:
    error = ErrorBody(code=refusal.code, message=refusal.message, outcome="rejected")
    return encode_reply(reply_to=None, timestamp=0, error=error)


async def _discard(receive: Receive) -> None:
    """Read what is left of a request, within limits."""
    taken = 0
    with anyio.move_on_after(DISCARD_TIMEOUT):
        while taken < MAX_DISCARDED:
            message = await receive()
            taken += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


async def _until_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    await _take_all(receive)
    scope.cancel()


async def _take_all(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
