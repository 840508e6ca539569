"""The stream of one session: pushes and late replies as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from devpipe.machines.message import Position
from devpipe.machines.protocols.envelope import encode_payload
from devpipe.machines.protocols.sse import encode_comment, encode_event

__all__ = ["StreamPath"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Bytes that wait for a client that reads too slowly; beyond that its stream ends, and it comes back for them.
MAX_WAITING = 16 * 1024 * 1024
#: A client that takes nothing of a write for so long is gone (seconds).
WRITE_TIMEOUT = 30.0
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx buffers streams unless it is told not to
]


class StreamPath:
    """The server's end of one ``GET /stream``."""

    transport = "stream"

    def __init__(self, limit: int, *, keep_alive: float) -> None:
        self.max_message_bytes = limit
        self.closed = False
        self._keep_alive = keep_alive
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._wake = anyio.Event()

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        if self._bytes + len(data) > MAX_WAITING and self._waiting:
            self.close(1008, "too_slow")
            return
        id = None if position is None else f"{position.epoch}:{position.offset}"
        self._waiting.append(encode_event(data, id=id))
        self._bytes += len(data)
        self._wake.set()

    def close(self, code: int, error: str) -> None:
        self.closed = True
        self._wake.set()

    async def run(self, receive: Receive, send: Send, *, nonce: str | None, server: str) -> None:
        """Carry events until the client has gone, or the stream is closed. ``nonce``: None for one that wants no proof."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        if nonce is None:
            await self._say(send, encode_comment())  # the head alone might be kept back until there is a body
        else:
            proof = encode_payload({"nonce": nonce[:128], "server": server}, type="proof")
            await self._say(send, encode_event(proof, event="proof"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_disconnect, receive, tasks.cancel_scope)
            while not self.closed:
                if self._waiting:
                    events, self._waiting, self._bytes = b"".join(self._waiting), [], 0
                    with anyio.move_on_after(WRITE_TIMEOUT) as patience:
                        await self._say(send, events)
                    if patience.cancelled_caught:
                        break
                    continue
                self._wake = anyio.Event()
                with anyio.move_on_after(self._keep_alive) as pause:
                    await self._wake.wait()
                if pause.cancelled_caught:
                    await self._say(send, encode_comment())
            with anyio.move_on_after(1.0):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()

    async def _say(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
