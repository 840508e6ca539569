"""The ASGI application: POST, stream, socket, health. It carries bytes between a connection and the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import anyio

from devpipe.adapters.server.guards import Refusal, check, read_headers
from devpipe.adapters.server.socket import SocketPath
from devpipe.adapters.server.stream import StreamPath
from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.message import Position
from devpipe.machines.protocols.envelope import ErrorBody, encode_payload, encode_reply

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["Application"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
#: A body must have come after this long (seconds): a client that dribbles holds nothing up.
BODY_TIMEOUT = 30.0
#: What an envelope may have around the largest payload (bytes).
ENVELOPE_ROOM = 1024
#: Statuses of refusals that are made before or after a message is read.
STATUS = {
    "bad_message": 400,
    "session_unknown": 409,
    "busy": 503,
    "closing": 503,
    "too_large": 413,
}


class Application:
    """Routes one ASGI scope. ``server`` must be running: its own lifespan or the parent's has entered it."""

    def __init__(self, server: Server) -> None:
        self._server = server

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

    # --- http -----------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        config, server = self._server.config, self._server
        path = _path(scope)
        method = scope["method"]
        headers = read_headers(scope["headers"])
        routes = {
            config.health_path: "GET",
            f"{config.prefix}/health": "GET",
            f"{config.prefix}/message": "POST",
            f"{config.prefix}/stream": "GET",
        }
        allowed = routes.get(path)
        refusal: Refusal | None = None
        if not server.running:
            refusal = Refusal(status=503, code="closing", message="this server does not run")
        elif allowed is None:
            refusal = Refusal(status=404, code="not_found", message="there is nothing here")
        elif method != allowed:
            allow = ((b"allow", allowed.encode()),)
            refusal = Refusal(status=405, code="wrong_method", message=f"only {allowed}", headers=allow)
        elif path.endswith("/health"):
            body = encode_payload({"status": "ok", "server": server.identity}, type="health")
            await _respond(send, 200, body)
            return
        else:
            refusal = check(headers, config=config, token=server.token)
        if refusal is not None:
            await self._refuse(send, refusal)
        elif method == "POST":
            await self._post(headers, receive, send)
        else:
            await self._stream(headers, receive, send)

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        error = ErrorBody(code=refusal.code, message=refusal.message, outcome="rejected")
        body = encode_reply(reply_to=None, timestamp=0, error=error)
        await _respond(send, refusal.status, body, refusal.headers)

    async def _post(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # a form or a plain text can be posted by any web page; JSON makes a browser ask first
            refusal = Refusal(status=415, code="not_json", message="content-type must be application/json")
            await self._refuse(send, refusal)
            return
        body = await self._body(headers, receive, send)
        if body is None:
            return
        exchange = _Exchange(self._server.config.max_message_bytes, waiter_factory()())
        self._server.receive(body, exchange)
        try:
            status, data, extra = await exchange.answer
        finally:
            self._server.drop(exchange)
        await _respond(send, status, data, extra)

    async def _body(self, headers: dict[str, str], receive: Receive, send: Send) -> bytes | None:
        limit = self._server.config.max_message_bytes + ENVELOPE_ROOM
        announced = headers.get("content-length", "0")
        size = int(announced) if announced.isdigit() else 0
        parts: list[bytes] = []
        with anyio.move_on_after(BODY_TIMEOUT):
            while size <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size = max(size, sum(map(len, parts)))
                if not message.get("more_body", False) and size <= limit:
                    return b"".join(parts)
            await self._refuse(
                send,
                Refusal(
                    status=413,
                    code="too_large",
                    message=f"more than {limit} bytes",
                    headers=((b"connection", b"close"),),
                ),
            )
            return None
        await self._refuse(
            send, Refusal(status=408, code="too_slow", message="the body did not come in time")
        )
        return None

    async def _stream(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        config = self._server.config
        path = StreamPath(config.max_message_bytes, keep_alive=config.keep_alive)
        session, identity = headers.get("devpipe-session", ""), headers.get("devpipe-server", "")
        self._server.open_stream(
            path, session=session, server=identity, last_event_id=headers.get("last-event-id", "")
        )
        try:
            if path.closed:
                error = ErrorBody(code="session_unknown", message="say hello first", outcome="rejected")
                body = encode_reply(reply_to=None, timestamp=0, error=error)
                await _respond(send, 409, body)
                return
            await path.run(
                receive, send, nonce=headers.get("devpipe-nonce", ""), server=self._server.identity
            )
        finally:
            self._server.drop(path)

    # --- websocket ------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        headers = read_headers(scope["headers"])
        refusal: Refusal | None
        if not server.running:
            refusal = Refusal(status=503, code="closing", message="this server does not run")
        elif _path(scope) != f"{server.config.prefix}/ws":
            refusal = Refusal(status=404, code="not_found", message="there is nothing here")
        else:
            refusal = check(headers, config=server.config, token=server.token)
        await receive()  # websocket.connect
        if refusal is None:
            path = SocketPath(server.config.websocket_max_message_bytes)
            await send({"type": "websocket.accept"})
            try:
                await path.run(server, receive, send)
            finally:
                server.drop(path)
        elif "websocket.http.response" in scope.get("extensions", {}):
            error = ErrorBody(code=refusal.code, message=refusal.message, outcome="rejected")
            body = encode_reply(reply_to=None, timestamp=0, error=error)
            start = {"type": "websocket.http.response.start", "status": refusal.status}
            await send({**start, "headers": [JSON, *refusal.headers]})
            await send({"type": "websocket.http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})


class _Exchange:
    """One POST: the first thing that is sent is its answer."""

    transport = "http"

    def __init__(self, limit: int, answer: Waiter) -> None:
        self.max_message_bytes = limit
        self.answer = answer

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        if not self.answer.done():
            status = 202 if accepted else 200 if error is None else STATUS.get(error, 200)
            extra = ((b"retry-after", b"1"),) if status == 503 else ()
            self.answer.set_result((status, data, extra))

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
