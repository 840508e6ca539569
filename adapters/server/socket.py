"""One WebSocket of a client."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import anyio

from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.message import Position

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["SocketPath"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Bytes that wait for a client that reads too slowly; beyond that it is let go.
MAX_WAITING = 16 * 1024 * 1024
#: A client that takes nothing of a write for so long is gone (seconds).
WRITE_TIMEOUT = 30.0


class SocketPath:
    """The server's end of one connection."""

    transport = "websocket"

    def __init__(self, limit: int) -> None:
        self.max_message_bytes = limit
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._idle: Waiter | None = None
        self._close_code: int | None = None
        self._make_waiter = waiter_factory()

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        if self._bytes + len(data) > MAX_WAITING:
            self.close(1008, "too_slow")  # what it has missed it gets when it attaches again
            return
        self._waiting.append(data)
        self._bytes += len(data)
        self._wake()

    def close(self, code: int, error: str) -> None:
        self._close_code = code
        self._wake()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def run(self, server: Server, receive: Receive, send: Send) -> None:
        """Carry messages both ways until the client has gone, or it is closed."""
        server.open(self)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, send, tasks.cancel_scope)
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    break
                text: str | None = message.get("text")
                if text is None:
                    self.close(1003, "binary")
                    await anyio.sleep_forever()  # the writer closes, and ends this too
                    continue
                server.receive(text.encode("utf-8", "surrogatepass"), self)
            tasks.cancel_scope.cancel()

    async def _write(self, send: Send, scope: anyio.CancelScope) -> None:
        while True:
            while self._waiting:
                data = self._waiting.popleft()
                self._bytes -= len(data)
                with anyio.move_on_after(WRITE_TIMEOUT) as patience:
                    await send({"type": "websocket.send", "text": data.decode()})
                if patience.cancelled_caught:
                    scope.cancel()
                    return
            if self._close_code is not None:
                with anyio.move_on_after(1.0):
                    await send({"type": "websocket.close", "code": self._close_code})
                scope.cancel()
                return
            self._idle = self._make_waiter()
            await self._idle
