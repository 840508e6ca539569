"""A server on a socket: hypercorn under asyncio and trio, on sockets that are bound here."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from devpipe.adapters.ports.dial import is_loopback
from devpipe.adapters.waiter import in_trio
from devpipe.machines.config import ServerConfig
from devpipe.machines.errors import ConfigurationError

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["serve"]

log = logging.getLogger("devpipe.server")

BACKLOG = 1024
#: What is still being answered when the server is told to end may take this long (seconds).
GRACE = 1.0


async def serve(
    server: Server, *, host: str, port: int, listening: Callable[[str], None] | None = None
) -> None:
    """Serve until cancelled, or until SIGINT or SIGTERM."""
    if not is_loopback(host) and server.token is None:
        raise ConfigurationError(
            f"host = {host!r} can be reached from other machines: give a token, or listen at 127.0.0.1"
        )
    try:
        import hypercorn
        import hypercorn.asyncio
        import hypercorn.trio
    except ImportError as error:
        raise ConfigurationError(
            "serving wants hypercorn: pip install 'vaultpilot-devpipe[server]'"
        ) from error
    bound = _bind(host, port)
    config = _configuration(hypercorn.Config(), bound, server.config)
    ended = anyio.Event()

    async def until_ended() -> None:
        await ended.wait()

    async def until_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            server.shut_down()
            ended.set()

    async def carry(scope: anyio.CancelScope) -> None:
        # a task of its own, because hypercorn leaves marks of cancellation on the one that runs it; shielded,
        # because cancelled it would drop its connections noisily: it is told to end instead, within its grace
        with anyio.CancelScope(shield=True):
            await run(server, config, shutdown_trigger=until_ended, mode="asgi")
        scope.cancel()

    run: Callable[..., Any] = hypercorn.trio.serve if in_trio() else hypercorn.asyncio.serve
    with bound:
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(until_cancelled)
            if threading.current_thread() is threading.main_thread():
                tasks.start_soon(_until_signal, server, ended)
            if listening is not None:
                shown = f"[{host}]" if ":" in host else host
                listening(f"http://{shown}:{bound.getsockname()[1]}")
            tasks.start_soon(carry, tasks.cancel_scope)


async def _until_signal(server: Server, ended: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            server.shut_down()  # our own streams and sockets first: they would hold hypercorn up
            ended.set()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigurationError(f"cannot listen at {host}:{port}: {error}") from error
    return bound


def _configuration(config: Any, bound: socket.socket, ours: ServerConfig) -> Any:
    # hypercorn closes the descriptor that it is given: it gets one of its own
    config.bind = [f"fd://{bound.dup().detach()}"]
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = logging.getLogger("devpipe.server.hypercorn")
    config.loglevel = "WARNING"
    config.graceful_timeout = GRACE
    config.shutdown_timeout = GRACE
    config.websocket_max_message_size = ours.websocket_max_message_bytes
    config.keep_alive_max_requests = 1_000_000_000  # a pipe keeps its connections for as long as it lives
    config.keep_alive_timeout = 75.0
    config.include_server_header = False
    return config
