"""What hypercorn's WebSocket leaves open, closed per connection: compression, close codes, and what is kept of a bomb.

hypercorn 0.18, asked on the wire by a raw peer: it agrees to permessage-deflate whenever that is offered, and wsproto
inflates without a limit; a failure that wsproto finds itself (text that is no UTF-8, a reserved bit) ends the connection
without its close code; it refuses frames that come before the handshake is answered, and leaves the connection open and
the application waiting; after it has said 1009 it goes on gathering what still comes; and it answers each of any number of
pings, one write for each, before anybody else has a turn. Nothing in its configuration changes that, so the one object behind a connection is adjusted before its handshake is answered. Tests hold each rule.
"""

from __future__ import annotations

from io import BytesIO, StringIO
from typing import Any

import anyio
import h11
from hypercorn.protocol.events import Data, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping

from devpipe.machines.protocols.websocket import MAX_PINGS, PING_WINDOW

__all__ = ["StrictSocket", "strict"]

#: Frames of one message: a message in pieces of 64 KiB needs far fewer.
MAX_FRAMES = 1024
#: After a refusal the connection stays open for so long (seconds), so that the close frame is not lost in a reset.
LINGER = 1.0


def strict(send: Any) -> StrictSocket | None:
    """Take over the hypercorn connection behind an ASGI ``send``; None if there is none (another ASGI server)."""
    stream = getattr(send, "__self__", None)
    return StrictSocket(stream) if isinstance(stream, WSStream) else None


class StrictSocket:
    """One connection. hypercorn feeds it; what it lets through reaches the application as before."""

    def __init__(self, stream: WSStream) -> None:
        self._stream: Any = stream  # private parts of hypercorn: the tests hold what is used of them
        self._refused = False
        self._gone = anyio.Event()
        self._frames = 0
        self._pings = 0
        self._pings_since = 0.0
        stream.handshake.extensions = None  # none is agreed to
        stream.buffer = _Buffer(stream.config.websocket_max_message_size)
        self._handle_behind = stream.handle
        self._stream.handle = self._handle  # type: ignore[method-assign]  # this connection's, not the class's
        self._stream._handle_events = self._handle_events  # type: ignore[method-assign]  # as above

    async def is_over(self) -> bool:
        """True if hypercorn has refused the handshake before anybody was asked; then the connection is closed."""
        stream = self._stream
        if (
            not stream.closed
            and stream.send.__self__.connection.h11_connection.our_state is h11.SEND_RESPONSE
        ):
            return False
        with anyio.move_on_after(LINGER):
            while not stream.closed:  # it says so only when its answer is written, and may be writing
                await anyio.sleep(0.01)
        await stream.send(StreamClosed(stream_id=stream.stream_id))
        return True

    async def linger(self) -> None:
        """Let a peer that was refused read why, for a moment."""
        if self._refused:
            with anyio.move_on_after(LINGER):
                await self._gone.wait()

    async def _handle(self, event: Any) -> None:
        stream = self._stream
        if not isinstance(event, Data) or stream.handshake.accepted or stream.closed:
            await self._handle_behind(event)
            return
        stream.closed = True  # first: the application may be about to accept
        await stream._send_error_response(400)
        await stream.app_put({"type": "websocket.disconnect", "code": 1006})
        await stream.send(StreamClosed(stream_id=stream.stream_id))

    async def _handle_events(self) -> None:
        stream = self._stream
        ping: Ping | None = None  #: the latest: it answers for those before it (RFC 6455, section 5.5.3)
        for event in stream.connection.events():
            if isinstance(event, CloseConnection):
                # OPEN: wsproto found the failure itself, and this is the only moment to say its code
                if stream.connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                    await stream._send_wsproto_event(event.response())
                self._gone.set()
                await stream.send(StreamClosed(stream_id=stream.stream_id))
            elif self._refused:
                continue  # nothing of it is kept
            elif isinstance(event, Ping):
                ping = event
                if self._too_many_pings():
                    await self._refuse(1008)
            elif isinstance(event, Message):
                await self._take(event)  # pyright: ignore[reportUnknownArgumentType]
        if ping is not None and not self._refused:
            await stream._send_wsproto_event(ping.response())

    def _too_many_pings(self) -> bool:
        now = anyio.current_time()
        if now - self._pings_since >= PING_WINDOW:
            self._pings_since, self._pings = now, 0
        self._pings += 1
        return self._pings > MAX_PINGS

    async def _take(self, event: Message[Any]) -> None:
        stream = self._stream
        self._frames += event.frame_finished
        try:
            stream.buffer.extend(event)
        except FrameTooLargeError:
            await self._refuse(1009)
            return
        if event.message_finished:
            self._frames = 0
            await stream.app_put(stream.buffer.to_message())
            stream.buffer.clear()
        elif self._frames > MAX_FRAMES:
            await self._refuse(1008)

    async def _refuse(self, code: int) -> None:
        stream = self._stream
        self._refused = True
        stream.buffer.clear()
        if code == 1008:  # it keeps us busy: more of the same is not even parsed
            stream.connection.receive_data = _forget
        await stream._send_wsproto_event(CloseConnection(code=code))
        await stream.app_put({"type": "websocket.disconnect", "code": code})


def _forget(data: bytes | None) -> None:
    pass


class _Buffer(WebsocketBuffer):
    """The pieces of one message, counted in bytes: hypercorn counts characters. Nothing beyond the limit is kept."""

    def extend(self, event: Message[Any]) -> None:
        data: Any = event.data
        self.length += len(data.encode()) if isinstance(data, str) else len(data)
        if self.length > self.max_length:
            raise FrameTooLargeError()
        if self.value is None:
            self.value = StringIO() if isinstance(data, str) else BytesIO()
        self.value.write(data)  # pyright: ignore[reportArgumentType]  # the first piece has decided which of the two it is
