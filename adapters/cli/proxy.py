"""A proxy for the demo, in a process of its own: it forwards TCP, and misbehaves when it is told to.

It is told by lines on its standard input: ``cut`` (drop every WebSocket now), ``refuse`` (drop every WebSocket at its
handshake from now on), ``hang`` (take HTTP requests and let them hang from now on), ``heal``. It prints its port first.
Run it with ``python -m devpipe.cli.proxy TARGET_PORT``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream

__all__ = ["run"]

#: A request head may be this long before the kind of a connection is known (bytes).
MAX_HEAD = 64 * 1024
READ = 64 * 1024


@dataclass
class _Weather:
    """What the proxy does to its connections now."""

    refuse: bool = False
    hang: bool = False
    silent: bool = False
    web_sockets: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    calm: anyio.Event = field(default_factory=anyio.Event)


async def run(target_port: int) -> None:
    """Forward from a free port on loopback to ``target_port`` until standard input ends."""
    weather = _Weather()
    weather.calm.set()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    print(listener.extra(SocketAttribute.local_port), flush=True)

    async def serve(client: SocketStream) -> None:
        async with client:
            await _connection(client, target_port, weather)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        while line := (await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)).strip():
            _obey(line, weather)
        tasks.cancel_scope.cancel()


def _obey(line: str, weather: _Weather) -> None:
    match line:
        case "cut":
            for scope in tuple(weather.web_sockets):
                scope.cancel()
        case "refuse":
            weather.refuse = True
        case "hang":
            weather.hang = True
            weather.calm = anyio.Event()
        case "silence":
            weather.silent = True
            weather.calm = anyio.Event()
        case "heal":
            weather.refuse = weather.hang = weather.silent = False
            weather.calm.set()
        case _:
            print(f"unknown: {line}", file=sys.stderr, flush=True)


async def _connection(client: SocketStream, target_port: int, weather: _Weather) -> None:
    head = b""
    try:
        while b"\r\n\r\n" not in head and len(head) < MAX_HEAD:
            head += await client.receive(READ)
        web_socket = b"upgrade: websocket" in head.lower()
        if web_socket and weather.refuse:
            return
        async with await anyio.connect_tcp("127.0.0.1", target_port) as server:
            with anyio.CancelScope() as scope:
                if web_socket:
                    weather.web_sockets.add(scope)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_pump, client, server, head, weather, web_socket, tasks.cancel_scope)
                    tasks.start_soon(_pump, server, client, b"", weather, web_socket, tasks.cancel_scope)
            weather.web_sockets.discard(scope)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return  # either side has gone: so goes the connection


async def _pump(
    source: ByteReceiveStream,
    sink: ByteSendStream,
    first: bytes,
    weather: _Weather,
    web_socket: bool,
    both: anyio.CancelScope,
) -> None:
    try:
        data = first or await source.receive(READ)
        while True:
            if weather.silent if web_socket else weather.hang:
                await weather.calm.wait()
            await sink.send(data)
            data = await source.receive(READ)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        both.cancel()


if __name__ == "__main__":
    try:
        anyio.run(run, int(sys.argv[1]))
    except KeyboardInterrupt:
        pass  # the demo is being stopped from the terminal, and says so itself
