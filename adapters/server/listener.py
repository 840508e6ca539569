"""Accepts connections and gives each to hypercorn's engine, one by one, under asyncio and under trio.

hypercorn's own ``serve`` would do, but under trio an exception of one connection ends the server (a header that is not
ASCII is enough), it has no limit on connections, and under Python 3.12 it waits for connections that do not end.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import hypercorn

from devpipe.adapters.server.feed import Feed
from devpipe.adapters.server.strict import strict
from devpipe.adapters.waiter import in_trio

if TYPE_CHECKING:
    import asyncio

    import trio

__all__ = ["listen"]

log = logging.getLogger("devpipe.server")

#: Connections at one time; one more is closed at once.
MAX_CONNECTIONS = 10_000

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


async def listen(
    app: Asgi, config: hypercorn.Config, bound: socket.socket, *, ended: anyio.Event, grace: float
) -> None:
    """Serve ``bound``, which listens, until ``ended``; then let what runs end for ``grace`` seconds.

    Shielded: whoever wants it to end sets ``ended``, so that connections end as they should.
    """
    with anyio.CancelScope(shield=True):
        await (_listen_trio if in_trio() else _listen_asyncio)(_wrap(app), config, bound, ended, grace)


def _wrap(app: Asgi) -> Any:
    async def wrapped(scope: Any, receive: Any, send: Any, _spawn: object, _call_soon: object) -> None:
        feed = Feed.of(send)
        socket = strict(send) if scope["type"] == "websocket" else None
        try:
            await app(scope, receive, send)
        finally:
            if feed is not None:
                feed.end()
        if socket is not None:
            await socket.linger()

    return wrapped


def _failed(error: Exception) -> None:
    # errors of the application are logged by hypercorn; these come from what a peer sent, or from how it went away
    log.info("a connection has ended with an error: %.300r", error)


class _TrioStream:
    """A stream that tells when the client has hung up: hypercorn would keep it until its idle time is over."""

    def __init__(self, stream: trio.SocketStream, hung_up: Callable[[], Awaitable[None]]) -> None:
        self.socket = stream.socket
        self.send_all = stream.send_all
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._receive = stream.receive_some
        self._hung_up = hung_up

    async def receive_some(self, max_bytes: int) -> bytes:
        data = b""
        try:
            data = await self._receive(max_bytes)
            return bytes(data)
        finally:
            if not data:  # the end, or an error
                await self._hung_up()


class _AsyncioReader:
    """The same for a reader of asyncio."""

    def __init__(self, reader: asyncio.StreamReader, hung_up: Callable[[], Awaitable[None]]) -> None:
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


async def _listen_trio(
    app: Any, config: hypercorn.Config, bound: socket.socket, ended: anyio.Event, grace: float
) -> None:
    import trio
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext

    contexts: set[WorkerContext] = set()  # one for each connection: each ends by itself, or with all others

    async def connection(stream: trio.SocketStream) -> None:
        if len(contexts) >= MAX_CONNECTIONS:
            await stream.aclose()
            return
        context = WorkerContext(None)
        contexts.add(context)
        watched = _TrioStream(stream, context.terminated.set)
        try:
            await TCPServer(app, config, context, {}, watched)  # type: ignore[arg-type]  # it names TLS streams only
        except Exception as error:  # one connection must never end another
            _failed(error)
        finally:
            contexts.discard(context)

    bound.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.dup()))
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(_serve_listener, connection, listener, connections)
            await ended.wait()
            accepting.cancel_scope.cancel()
        await listener.aclose()
        for context in tuple(contexts):
            await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + grace


async def _serve_listener(connection: Any, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
    import trio

    await trio.serve_listeners(connection, [listener], handler_nursery=nursery)


async def _listen_asyncio(
    app: Any, config: hypercorn.Config, bound: socket.socket, ended: anyio.Event, grace: float
) -> None:
    import asyncio

    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.asyncio.worker_context import WorkerContext

    loop = asyncio.get_running_loop()
    contexts: set[WorkerContext] = set()  # as above
    tasks: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = WorkerContext(None)
        contexts.add(context)
        watched: Any = _AsyncioReader(reader, context.terminated.set)
        try:
            await TCPServer(app, loop, config, context, {}, watched, writer)
        except Exception as error:  # one connection must never end another, nor reach the loop's own handler
            _failed(error)
        finally:
            contexts.discard(context)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of ours: asyncio's own complains about one that was cancelled
        if len(tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = loop.create_task(connection(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # what could not be written by then never will be
        task.add_done_callback(lambda _: writer.transport.abort())

    async def turns() -> None:
        # a connection that was accepted becomes known to us two turns of the loop later, and one that was aborted is
        # closed one turn later; the loop may end right after us
        for _ in range(3):
            await asyncio.sleep(0)

    server = await asyncio.start_server(accepted, sock=bound.dup(), backlog=config.backlog)
    await ended.wait()
    # first it stops to accept: a connection on its way from there to us would be lost in a server that is closed, and
    # its socket would stay open
    for listening in server.sockets:
        try:
            loop.remove_reader(listening.fileno())
        except NotImplementedError:
            break  # the loop of Windows has no readers
    await turns()
    server.close()
    for context in tuple(contexts):
        await context.terminated.set()
    await turns()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=grace)
    await turns()
