"""What a connection may cost that is held by a client which takes nothing, says nothing, or speaks something else."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from leftovers import open_files

import devpipe
from devpipe.adapters.server.serve import KEEP_ALIVE, bind

pytestmark = pytest.mark.anyio

BOUND = 10.0
LARGE = 8 * 1024 * 1024  #: more than the buffers of two kernels and an event loop take
Serving = Callable[..., AbstractAsyncContextManager[Any]]
Make = Callable[..., devpipe.Server]


def request(payload: str) -> bytes:
    body = json.dumps({"id": "x-1", "type": "echo", "payload": payload}).encode()
    head = "POST /devpipe/message HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


HANDSHAKE = (
    b"GET /devpipe/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def frame(payload: str) -> bytes:
    """The same for a WebSocket; the mask is zero, which is allowed."""
    body = json.dumps({"type": "echo", "payload": payload}).encode()
    return b"\x81\xff" + len(body).to_bytes(8, "big") + bytes(4) + body


async def answered(server: Any) -> None:
    """The handler has run, so that its reply is being written."""
    while not server.executed or server._service.running:
        await anyio.lowlevel.checkpoint()


@contextmanager
def client(port: int) -> Iterator[socket.socket]:
    """One that reads nothing unless it is told to, and whose kernel takes little by itself."""
    with socket.socket() as raw:
        raw.settimeout(4 * BOUND)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        raw.connect(("127.0.0.1", port))
        yield raw


async def test_a_client_that_takes_nothing_of_its_reply_is_let_go(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.connection.WRITE_TIMEOUT", 0.2)
    async with serving(make_server()) as served:
        await served.post("echo", 0)
        await to_thread.run_sync(bool)  # nothing is opened later that stays
        served.server.executed.clear()
        before = open_files()
        with client(served.port) as greedy, anyio.fail_after(BOUND):
            await to_thread.run_sync(greedy.sendall, request("x" * LARGE))
            await answered(served.server)
            while open_files() > before + 1:  # our own end
                await anyio.lowlevel.checkpoint()
        assert (await served.post("echo", 1)).json()["payload"] == 1


async def test_a_client_that_takes_its_reply_slowly_gets_all_of_it(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.connection.WRITE_TIMEOUT", 0.5)
    async with serving(make_server()) as served:
        with client(served.port) as patient, anyio.fail_after(4 * BOUND):
            await to_thread.run_sync(patient.sendall, request("x" * LARGE))
            began, taken = anyio.current_time(), 0
            while taken < LARGE:
                taken += len(await to_thread.run_sync(patient.recv, 64 * 1024))
                while (
                    anyio.current_time() < began + taken / LARGE * 1.5
                ):  # three times as long as it may rest
                    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("handshake", "data"),
    [(b"", request("x" * LARGE)), (HANDSHAKE, frame("x" * 500_000) * 16)],
    ids=["http", "socket"],
)
async def test_a_client_that_takes_nothing_does_not_hold_up_the_end_of_the_server(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch, handshake: bytes, data: bytes
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.serve.GRACE", 0.1)
    # what is written gives up some time too, so that this test ends even if the server has no end of its own
    monkeypatch.setattr("devpipe.adapters.server.connection.WRITE_TIMEOUT", BOUND)
    with ExitStack() as stack:
        async with serving(make_server()) as served:
            greedy = stack.enter_context(client(served.port))
            with anyio.fail_after(BOUND):
                if handshake:
                    await to_thread.run_sync(greedy.sendall, handshake)
                    assert (await to_thread.run_sync(greedy.recv, 12)) == b"HTTP/1.1 101"
                await to_thread.run_sync(greedy.sendall, data)
                await answered(served.server)
            began = anyio.current_time()
        assert anyio.current_time() - began < BOUND / 2


async def test_what_comes_before_its_handshake_is_answered_is_refused_and_no_error_of_ours(
    serving: Serving, make_server: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.serve.HEADER_TIMEOUT", 0.2)
    async with serving(make_server()) as served:
        assert (await served.raw(HANDSHAKE + frame("x") * 20)).startswith(b"HTTP/1.1 400")
        assert (await served.post("echo", 1)).json()["payload"] == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    ],
    ids=["preface", "upgrade"],
)
async def test_nobody_gets_out_of_http_1_where_the_limits_hold(
    serving: Serving, make_server: Make, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devpipe.adapters.server.serve.HEADER_TIMEOUT", 0.2)
    async with serving(make_server()) as served:
        answer = await served.raw(data)  # until the server closes
        assert answer.startswith(b"HTTP/1.1 ") and not answer.startswith(b"HTTP/1.1 101")


@pytest.mark.skipif(sys.platform != "linux", reason="the options of other systems have other names")
def test_the_kernel_asks_whether_a_silent_client_is_still_there() -> None:
    with bind("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            for name, value in KEEP_ALIVE.items():
                assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value, name
