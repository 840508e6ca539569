"""A server on a socket of its own: bound here, so that port 0 works and the real one is known."""

from __future__ import annotations

import errno
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from devpipe.adapters.ports.dial import is_loopback
from devpipe.machines.config import ServerConfig
from devpipe.machines.errors import ConfigurationError

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["KEEP_ALIVE", "bind", "serve"]

log = logging.getLogger("devpipe.server")

BACKLOG = 1024
#: What is still being answered when the server is told to end may take this long (seconds).
GRACE = 1.0
#: A connection that has not sent a whole header after this long is closed, and one that is idle (seconds). Longer than
#: clients keep idle connections, so that it is they who close: nothing is sent into a connection that closes.
HEADER_TIMEOUT = 15.0
#: A client that vanished without a word, like a laptop that was shut, is let go within a minute: it holds a place among the
#: streams and sockets, and its session awake (seconds, probes, and milliseconds for what was sent and not taken).
KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
#: Bytes of one request's header.
MAX_HEADER = 16 * 1024


async def serve(
    server: Server,
    *,
    host: str,
    port: int,
    listening: Callable[[str], None] | None = None,
    allow_anonymous: bool = False,
) -> None:
    """Serve until cancelled, or until SIGINT or SIGTERM where this is the main thread."""
    if not is_loopback(host):
        if server.token is None and not allow_anonymous:
            raise ConfigurationError(
                f"host = {host!r} can be reached from other machines: give a token, or listen at 127.0.0.1; "
                "allow_anonymous=True lets everybody in"
            )
        log.warning("what goes to %s is in clear text: put something that speaks TLS in front", host)
    try:
        import hypercorn

        from devpipe.adapters.server.listener import listen
    except ImportError as error:
        raise ConfigurationError(
            "serving wants hypercorn: pip install 'vaultpilot-devpipe[server]'"
        ) from error
    bound = bind(host, port)
    config = _configuration(hypercorn.Config(), server.config)
    ended = anyio.Event()

    async def until_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            server.shut_down()  # our own streams and sockets first: they would hold the rest up
            ended.set()

    async def carry(scope: anyio.CancelScope) -> None:
        await listen(server, config, bound, ended=ended, grace=GRACE)
        scope.cancel()

    with bound:
        async with server, anyio.create_task_group() as tasks:
            if not _is_any(host):
                server.hosts.add(f"[{host}]" if ":" in host else host.lower())
            tasks.start_soon(until_cancelled)
            if threading.current_thread() is threading.main_thread():
                tasks.start_soon(_until_signal, tasks.cancel_scope)
            tasks.start_soon(carry, tasks.cancel_scope)
            if listening is not None:
                shown = f"[{host}]" if ":" in host else host
                listening(f"http://{shown}:{bound.getsockname()[1]}")


async def _until_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name, by which the server goes from now on
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ``ConfigurationError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit these: small replies leave at once, and the kernel asks whether a silent client is still there
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            if hasattr(socket, option):  # each system has some of them
                bound.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        remedy = ": give another --port, or 0 for a free one" if taken else ""
        raise ConfigurationError(f"cannot listen at {host}:{port}: {error}{remedy}") from error
    return bound


def _configuration(config: Any, ours: ServerConfig) -> Any:
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = logging.getLogger("devpipe.server.hypercorn")
    config.websocket_max_message_size = ours.websocket_max_message_bytes
    config.h11_max_incomplete_size = MAX_HEADER
    config.keep_alive_max_requests = 1_000_000_000  # a pipe keeps its connections for as long as it lives
    config.keep_alive_timeout = HEADER_TIMEOUT
    config.include_server_header = False
    return config
