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

from devpipe.adapters.server.connection import AsyncioReader, AsyncioWriter, Http1, TrioStream
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
#: Files that are left for everything else: folders, logs, a database, and connections that are just being refused. A
#: server that runs out of files cannot even refuse, and asyncio says so a thousand times a second.
SPARE_FILES = 64
#: Connections that are accepted in one turn of the loop.
AT_ONCE = 16

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
        if socket is not None and await socket.is_over():
            return
        try:
            await app(scope, receive, send)
        finally:
            if feed is not None:
                feed.end()
        if socket is not None:
            await socket.linger()

    return wrapped


def room() -> int:
    """How many connections this process can have."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(files // 2, files - SPARE_FILES))


def _failed(error: Exception) -> None:
    # errors of the application are logged by hypercorn; these come from what a peer sent, or from how it went away
    log.info("a connection has ended with an error: %.300r", error)


async def _listen_trio(
    app: Any, config: hypercorn.Config, bound: socket.socket, ended: anyio.Event, grace: float
) -> None:
    import trio
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext

    class Engine(Http1, TCPServer):
        pass

    # one for each connection: each ends by itself, or with all others
    contexts: dict[WorkerContext, trio.SocketStream] = {}
    none_left = trio.Event()

    most = room()

    async def connection(stream: trio.SocketStream) -> None:
        if len(contexts) >= most:
            await stream.aclose()
            return
        context = WorkerContext(None)
        contexts[context] = stream
        watched = TrioStream(stream, context.terminated.set)
        try:
            await Engine(app, config, context, {}, watched)  # type: ignore[arg-type]  # it names TLS streams only
        except Exception as error:  # one connection must never end another
            _failed(error)
        finally:
            del contexts[context]
            if ended.is_set() and not contexts:
                none_left.set()

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
        if contexts:
            with trio.move_on_after(grace):
                await none_left.wait()
        connections.cancel_scope.cancel()
        for stream in contexts.values():
            stream.socket.close()  # hypercorn shields its writes, and the client may be one that takes nothing


async def _serve_listener(connection: Any, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
    import trio

    await trio.serve_listeners(connection, [listener], handler_nursery=nursery)


async def _listen_asyncio(
    app: Any, config: hypercorn.Config, bound: socket.socket, ended: anyio.Event, grace: float
) -> None:
    import asyncio

    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.asyncio.worker_context import WorkerContext

    class Engine(Http1, TCPServer):
        pass

    loop = asyncio.get_running_loop()
    contexts: set[WorkerContext] = set()  # as above
    tasks: dict[asyncio.Task[None], asyncio.WriteTransport] = {}
    most = room()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = WorkerContext(None)
        contexts.add(context)
        watched: Any = AsyncioReader(reader, context.terminated.set)
        patient: Any = AsyncioWriter(writer)
        try:
            await Engine(app, loop, config, context, {}, watched, patient)
        except Exception as error:  # one connection must never end another, nor reach the loop's own handler
            _failed(error)
        finally:
            contexts.discard(context)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of ours: asyncio's own complains about one that was cancelled
        if len(tasks) >= most:
            writer.transport.abort()
            return
        task = loop.create_task(connection(reader, writer))
        tasks[task] = writer.transport
        # what could not be written by then never will be
        task.add_done_callback(lambda _: tasks.pop(task).abort())

    async def turns() -> None:
        # a connection that was accepted becomes known to us two turns of the loop later, and one that was aborted is
        # closed one turn later; the loop may end right after us
        for _ in range(3):
            await asyncio.sleep(0)

    server = await asyncio.start_server(accepted, sock=bound.dup(), backlog=AT_ONCE)
    bound.listen(config.backlog)  # more may wait: to asyncio the two are one number
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
            tasks[task].abort()  # it may be waiting for a client that takes nothing
        if late:
            await asyncio.wait(late, timeout=grace)
    await turns()
