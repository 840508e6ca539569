"""What hypercorn's engine leaves open about a connection, closed here for both event loops.

hypercorn 0.18, asked on the wire: it keeps a connection whose client has hung up until its idle time is over; it waits
without end for a client that takes nothing of what is written, even to close; and it speaks HTTP/2 with whoever begins so,
where none of our limits hold: a preface and nothing more stays open for ever. Tests hold each rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trio

__all__ = ["AsyncioReader", "AsyncioWriter", "Http1", "TrioStream"]

#: A client that has taken less than a piece (bytes) of what is written after so long (seconds) is gone.
WRITE_TIMEOUT = 30.0
PIECE = 64 * 1024

HungUp = Callable[[], Awaitable[None]]


class Http1:
    """Before one of hypercorn's ``TCPServer``: the connection stays with HTTP/1.1, and with WebSockets over that."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "protocol":
            value.protocol._check_protocol = _stay  # private to hypercorn: it looks for HTTP/2 in a request
        super().__setattr__(name, value)


async def _stay(request: Any) -> None:
    pass


class TrioStream:
    """A stream that tells when the client has hung up, and gives one up that takes nothing."""

    def __init__(self, stream: trio.SocketStream, hung_up: HungUp) -> None:
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._send = stream.send_all
        self._receive = stream.receive_some
        self._hung_up = hung_up

    async def send_all(self, data: bytes) -> None:
        import trio

        for at in range(0, len(data), PIECE):
            with trio.move_on_after(WRITE_TIMEOUT) as patience:
                await self._send(data[at : at + PIECE])
            if patience.cancelled_caught:
                await self.aclose()
                raise trio.BrokenResourceError("the client takes nothing")

    async def receive_some(self, max_bytes: int) -> bytes:
        data = b""
        try:
            data = await self._receive(max_bytes)
            return bytes(data)
        finally:
            if not data:  # the end, or an error
                await self._hung_up()


class AsyncioReader:
    """A reader that tells when the client has hung up."""

    def __init__(self, reader: asyncio.StreamReader, hung_up: HungUp) -> None:
        self.at_eof = reader.at_eof
        self._read = reader.read
        self._hung_up = hung_up

    async def read(self, max_bytes: int) -> bytes:
        data = b""
        try:
            data = await self._read(max_bytes)
            return data
        finally:
            if not data:  # the end, or an error
                await self._hung_up()


class AsyncioWriter:
    """A writer that gives up a client that takes nothing."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.get_extra_info = writer.get_extra_info
        self.write = writer.write
        self.write_eof = writer.write_eof
        self.close = writer.close
        self._writer = writer

    async def drain(self) -> None:
        await self._while_taken(self._writer.drain)

    async def wait_closed(self) -> None:
        await self._while_taken(self._writer.wait_closed)

    async def _while_taken(self, wait: Callable[[], Awaitable[None]]) -> None:
        transport = self._writer.transport
        if not transport.get_write_buffer_size():
            await wait()
            return
        waiting = asyncio.ensure_future(wait())
        try:
            while not waiting.done():
                left = transport.get_write_buffer_size()
                await asyncio.wait({waiting}, timeout=WRITE_TIMEOUT)
                if not waiting.done() and transport.get_write_buffer_size() > max(0, left - PIECE):
                    transport.abort()
                    raise ConnectionResetError("the client takes nothing")
            await waiting
        finally:
            waiting.cancel()
