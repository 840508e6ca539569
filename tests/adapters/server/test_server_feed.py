"""A client that goes away in the middle of what it sends leaves no connection behind."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support import make_server, serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which shows the open files"),
]

CLIENTS = 20


def frame(document: object) -> bytes:
    """One masked text frame; the mask is zero."""
    data = json.dumps(document).encode()
    return b"\x81" + bytes([0x80 | len(data)]) + bytes(4) + data


def send_and_vanish(port: int, number: int) -> None:
    """Say many requests at once, read none of the replies, and reset the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(
            f"GET /devpipe/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        requests = [{"id": f"c{number}-{n}", "type": "sync", "payload": 1} for n in range(400)]
        connection.sendall(b"".join(map(frame, requests)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except FileNotFoundError:
            pass  # the one by which the directory was read
    return found


async def test_connections_of_clients_that_vanish_while_they_send_are_closed() -> None:
    with anyio.fail_after(30):
        async with serving(make_server()) as world:
            port = urlsplit(world.url).port or 0
            await anyio.to_thread.run_sync(
                send_and_vanish, port, CLIENTS
            )  # now it listens, and all that it has is open
            before = sockets()
            for number in range(CLIENTS):
                await anyio.to_thread.run_sync(send_and_vanish, port, number)
            with anyio.move_on_after(10):
                while sockets() > before:
                    await anyio.lowlevel.checkpoint()
            assert sockets() <= before
