"""A byte stream as a link wants it: what comes is told by a call, and what goes is asked for when it can be written.

``StreamWire`` is the reference, for both event loops, TLS and proxies: one reader and one writer around an anyio
stream. ``dial_protocol`` makes the same for plain TCP under asyncio out of a ``BufferedProtocol``: no task is woken
for a read or a write, and nothing is allocated per read but the bytes themselves.

On either, everything that a link has to write by the end of a turn of the loop is one write.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio
from anyio.abc import ByteStream

from devpipe.adapters.waiter import Waiter, waiter_factory

__all__ = ["StreamWire", "Wire", "WireUser", "dial_protocol"]

#: Bytes per read.
READ = 64 * 1024
#: Seconds until the next address of a host is tried beside the one before (RFC 8305, section 5).
NEXT_ADDRESS = 0.25
#: Unread bytes after our last words that are still taken, so that the words are not lost in a reset.
MAX_LINGER = 1024 * 1024
#: A write of a stream that was at least so large tells that the other side takes bytes: a smaller one may have gone
#: no further than into the buffer of this machine's kernel (bytes).
TELLING = 32 * 1024


class WireUser(Protocol):
    """Who talks over a wire. None of these may block."""

    def received(self, data: bytes) -> None:
        """Bytes have come."""

    def take(self) -> bytes:
        """What to write now, one chunk; b"" if there is nothing. Once taken it is on its way."""
        ...

    def progressed(self) -> None:
        """The other side takes what was written, after it was slow to."""


class Wire(Protocol):
    """One connected byte stream. Every method that touches it raises ``OSError`` when it is broken.

    First ``send`` and ``receive``, then one ``run``, at last one ``aclose``.
    """

    async def send(self, data: bytes) -> None:
        """Write; not during ``run``."""

    async def receive(self) -> bytes:
        """Some bytes, b"" at the end; not during ``run``."""
        ...

    async def run(self, user: WireUser) -> None:
        """Carry bytes both ways until the other side ends its half, or until ``stop``."""

    def wake(self) -> None:
        """The user has something to write: ``take`` is called when this turn of the loop is over."""

    def stop(self) -> None:
        """End ``run``."""

    async def aclose(self, words: bytes, *, linger: float) -> None:
        """Write ``words``, wait up to ``linger`` seconds until the other side has closed, and close.

        Raises nothing. Without words, or if a write was broken off, it closes at once.
        """


class StreamWire:
    """A wire around any anyio byte stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._make_waiter: Callable[[], Waiter] = waiter_factory()
        self._idle: Waiter | None = None
        self._broken_off = False  #: a write did not end: what follows would be read as a part of it
        self._scope: anyio.CancelScope | None = None
        self._error: OSError | None = None

    async def send(self, data: bytes) -> None:
        self._broken_off = True
        try:
            await self._stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise _as_os_error(error) from error
        self._broken_off = False

    async def receive(self) -> bytes:
        try:
            return await self._stream.receive(READ)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise _as_os_error(error) from error

    async def run(self, user: WireUser) -> None:
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            tasks.start_soon(self._write, user)
            tasks.start_soon(self._read, user)
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    def stop(self) -> None:
        assert self._scope is not None  # only a user that runs can stop
        self._scope.cancel()

    async def aclose(self, words: bytes, *, linger: float) -> None:
        try:
            if words and not self._broken_off:
                with anyio.move_on_after(linger):
                    await self.send(words)
                    await _drain(self.receive)
        except OSError:
            pass  # the path is gone: nobody hears the last words
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)

    async def _read(self, user: WireUser) -> None:
        try:
            while data := await self.receive():
                user.received(data)
        except OSError as error:
            self._error = error
        self.stop()

    async def _write(self, user: WireUser) -> None:
        try:
            while True:
                data = user.take()
                if data:
                    await self.send(data)
                    if len(data) >= TELLING:
                        user.progressed()
                else:
                    self._idle = self._make_waiter()
                    await self._idle
        except OSError as error:
            self._error = error
            self.stop()


class ProtocolWire(asyncio.BufferedProtocol):
    """A wire that is itself the protocol of an asyncio transport."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._view = memoryview(bytearray(READ))
        self._transport: asyncio.Transport | None = None
        self._user: WireUser | None = None
        self._early = bytearray()  #: what came while nobody ran
        self._waiter: asyncio.Future[None] | None = (
            None  #: of whoever waits for any of the following to change
        )
        self._ended = False  #: nothing more will come
        self._stopped = False
        self._error: Exception | None = None
        self._paused = False
        self._flushing = False

    # --- what asyncio calls -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # of a TCP connection
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._view[:nbytes])
        user = self._user
        if user is None:
            self._early += data
            self._connected.pause_reading()  # until somebody asks
            self._tell()
            return
        try:
            user.received(data)
        except Exception as error:  # a bug of the user: run raises it, where somebody sees it
            self._end(error)

    def eof_received(self) -> bool:
        self._end(None)
        return True  # our half stays open for the last words

    def connection_lost(self, exc: Exception | None) -> None:
        self._paused = True  # no write gets anywhere any more
        self._end(exc or OSError("the connection is closed"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._tell()
        if self._user is not None:
            self._user.progressed()
            self._flush()

    # --- what a link calls --------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        self._connected.write(data)
        while self._paused:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def receive(self) -> bytes:
        while not self._early:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait()
        data = bytes(self._early)
        self._early.clear()
        if not self._ended:
            self._connected.resume_reading()
        return data

    async def run(self, user: WireUser) -> None:
        if self._early:
            user.received(await self.receive())
        self._user = user
        try:
            self.wake()
            while not (self._ended or self._stopped):
                await self._wait()
        finally:
            self._user = None
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        if not self._flushing and not self._paused:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def stop(self) -> None:
        self._stopped = True
        self._tell()

    async def aclose(self, words: bytes, *, linger: float) -> None:
        try:
            if words and self._error is None:
                with anyio.move_on_after(linger):
                    await self.send(words)
                    await _drain(self.receive)
        except OSError:
            pass  # the path is gone: nobody hears the last words
        finally:
            self._connected.abort()

    # --- inside -------------------------------------------------------------------------------------------

    @property
    def _connected(self) -> asyncio.Transport:
        assert self._transport is not None  # dial_protocol hands out connected wires only
        return self._transport

    def _flush(self) -> None:
        self._flushing = False
        user = self._user
        if user is None:
            return
        write = self._connected.write
        try:
            while not self._paused and (data := user.take()):
                write(data)
        except Exception as error:  # a bug of the user, as above
            self._end(error)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _tell(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _end(self, error: Exception | None) -> None:
        if self._error is None:
            self._error = error
        self._ended = True
        self._tell()


async def dial_protocol(host: str, port: int) -> Wire:
    """Connect by plain TCP under asyncio. Raises ``OSError``; a cancelled call leaves nothing open.

    The addresses of a name race, each with a head start over the next. asyncio could do that itself, but it melts the
    errors of several addresses into one text, and not every loop can.
    """
    loop = asyncio.get_running_loop()

    async def connect(address: str) -> ProtocolWire:
        return (await loop.create_connection(lambda: ProtocolWire(loop), address, port))[1]

    try:
        ipaddress.ip_address(host)
    except ValueError:  # a name
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return await race(list(dict.fromkeys(str(entry[4][0]) for entry in found)), connect)
    return await connect(host)


async def race(addresses: Sequence[str], connect: Callable[[str], Awaitable[ProtocolWire]]) -> ProtocolWire:
    """The first that connects; the others are cancelled. Raises the one error, or ``OSError`` from all of them."""
    winners: list[ProtocolWire] = []
    errors: list[OSError] = []

    async def attempt(address: str, lost: anyio.Event) -> None:
        try:
            winners.append(await connect(address))
        except OSError as error:
            errors.append(error)
            lost.set()
        else:
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                lost = anyio.Event()
                tasks.start_soon(attempt, address, lost)
                with anyio.move_on_after(NEXT_ADDRESS):
                    await lost.wait()
    except BaseException:
        for wire in winners:
            await wire.aclose(b"", linger=0)
        raise
    for wire in winners[1:]:  # two in the same turn of the loop
        await wire.aclose(b"", linger=0)
    if winners:
        return winners[0]
    if len(errors) == 1:
        raise errors[0]
    raise OSError("no address of this name could be reached") from ExceptionGroup("all addresses", errors)


async def _drain(receive: Callable[[], Awaitable[bytes]]) -> None:
    """Read and forget until the other side has closed."""
    left = MAX_LINGER
    while left > 0 and (data := await receive()):
        left -= len(data)


def _as_os_error(error: Exception) -> OSError:
    """What anyio has wrapped, or the same in its own words."""
    cause = error.__cause__
    return cause if isinstance(cause, OSError) else OSError("the connection is closed")
