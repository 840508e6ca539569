"""How a server begins and ends: entered, served, mounted, told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import hypercorn
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import devpipe
from devpipe.adapters.server.listener import listen

pytestmark = pytest.mark.anyio

BOUND = 10.0
Serving = Callable[..., AbstractAsyncContextManager[Any]]
Make = Callable[..., devpipe.Server]

PROGRAM = """
import sys
import anyio
import devpipe

server = devpipe.Server()

@server.handler("echo")
async def echo(message):
    return message.payload

@server.handler("stubborn")
def stubborn(message):
    import os
    os.read(0, 1)

async def main():
    await server.serve(port=0, listening=lambda url: print(url, flush=True))

anyio.run(main, backend=sys.argv[1])
"""


async def test_an_exception_in_the_block_leaves_it_as_it_was(make_server: Make) -> None:
    with pytest.raises(KeyError) as caught:
        async with make_server():
            raise KeyError("mine")
    assert caught.value.args == ("mine",)


async def test_a_server_is_entered_once_and_may_be_entered_again(make_server: Make) -> None:
    server = make_server()
    async with server:
        first = server.identity
        with pytest.raises(devpipe.ConfigurationError, match="runs already"):
            await server.__aenter__()
    async with server:
        assert server.identity != first and server.running
    assert not server.running


async def test_a_block_that_is_cancelled_ends_the_server(make_server: Make) -> None:
    server = make_server()
    with anyio.CancelScope() as scope:
        async with server:
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught and not server.running


async def test_sockets_and_streams_are_ended_first_and_calls_are_answered(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server()) as served, served.connected() as socket:
        hello = await socket.hello()
        fields = {"session": "0123456789abcdef", "server": hello["payload"]["server"]}
        async with served.stream(fields) as stream:
            await stream.line_with("proof")
            await socket.send("wait", id="x-1")
            await socket.call("ping")
            served.server.shut_down()
            answer = await socket.message()
            assert answer["error"]["code"] == "closing" and answer["error"]["outcome"] == "executed"
            assert await socket.closed() == 1001
            with pytest.raises(anyio.EndOfStream):
                await stream.line_with("never")
        answer = await served.post("echo", 1)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "closing"
        served.server.shut_down()


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_ends_it_within_two_seconds_without_a_traceback(
    word: signal.Signals, backend: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    timer = threading.Timer(30, process.kill)
    timer.start()
    try:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            # idle, half a header, a socket, a stream that does not read, a handler that cannot be cancelled
            opened = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), BOUND)) for _ in range(4)
            ]
            opened[1].sendall(b"GET /health HTTP/1.1\r\nHo")
            opened[2].sendall(
                b"GET /devpipe/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert opened[2].recv(10) == b"HTTP/1.1 1"
            message = b'{"type":"stubborn"}'
            opened[3].sendall(
                b"POST /devpipe/message HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(message) + message
            )
            health = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
            assert health.json()["status"] == "ok"
            begin = time.monotonic()
            process.send_signal(word)
            assert read_all(opened[2]).endswith(b"\x88\x02\x03\xe9"), "the socket is told 1001"
            assert b'"closing"' in read_all(opened[3]), "who waits for a reply is told"
            process.stdin.close()  # the thread lets go: nobody can end it
            assert process.wait(BOUND) == 0
            assert time.monotonic() - begin < 2.0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        timer.cancel()
        process.kill()
        with process:  # closes its pipes, and waits
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of files to run into")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_more_connections_than_there_can_be_files_are_refused_in_silence(
    backend: str, tmp_path: Path
) -> None:
    import resource

    program = tmp_path / "program.py"
    program.write_text(f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n{PROGRAM}")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300
    process = subprocess.Popen(
        [sys.executable, str(program), backend], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(30, process.kill)
    timer.start()
    try:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        with httpx.Client(base_url=url, trust_env=False) as early:
            assert early.get("/health").status_code == 200
            with contextlib.ExitStack() as stack:
                opened = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), BOUND))
                    for _ in range(250)
                ]
                with contextlib.suppress(ConnectionResetError):
                    assert opened[-1].recv(1) == b"", "there is no room for it"
                assert early.get("/health").status_code == 200, "who is there already is served"
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND) == 0
        assert process.stderr.read() == ""
    finally:
        timer.cancel()
        process.kill()
        with process:
            pass


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


async def test_a_port_that_is_taken_is_named(make_server: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(devpipe.ConfigurationError, match=str(port)):
            await make_server().serve(port=port)
    with pytest.raises(devpipe.ConfigurationError, match="99999"):
        await make_server().serve(port=99_999)


async def test_other_machines_are_served_with_a_token_or_on_purpose_only(make_server: Make) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(devpipe.ConfigurationError, match="token"):
            await make_server().serve(host=host, port=0)
    for options in ({"token": "t"}, {}):
        urls: list[str] = []
        server = make_server(**options)
        with anyio.move_on_after(BOUND):
            async with anyio.create_task_group() as tasks:

                def told(url: str, tasks: Any = tasks, urls: list[str] = urls) -> None:
                    urls.append(url)
                    tasks.cancel_scope.cancel()

                await server.serve(host="0.0.0.0", port=0, listening=told, allow_anonymous=not options)
        assert urls and urls[0].startswith("http://0.0.0.0:")


# --- as an ASGI application -------------------------------------------------------------------------


async def test_mounted_under_a_prefix_it_lives_in_its_parents_lifespan(make_server: Make) -> None:
    server = make_server()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with server:
            yield

    parent = Starlette(routes=[Mount("/tools", app=server)], lifespan=lifespan)
    async with parent.router.lifespan_context(parent):
        transport = httpx.ASGITransport(parent)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post("/tools/devpipe/message", json={"type": "echo", "payload": 1})
            assert answer.json()["payload"] == 1
            assert (await http.get("/tools/health")).json()["server"] == server.identity
            assert (await http.get("/devpipe/health")).status_code == 404
    assert not server.running


async def test_mounted_without_a_life_it_says_so(make_server: Make) -> None:
    transport = httpx.ASGITransport(make_server())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get("/health")
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "closing"


async def test_a_pipe_to_a_mounted_server_without_a_life_is_told_what_to_write_and_so_is_the_log(
    make_server: Make, caplog: pytest.LogCaptureFixture
) -> None:
    remedy = 'this server does not run: write "async with server:" in the lifespan of your application'
    parent = Starlette(routes=[Mount("/pipe", app=make_server())])
    ended = anyio.Event()
    with socket.create_server(("127.0.0.1", 0)) as bound, anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(listen, parent, hypercorn.Config(), bound, ended=ended, grace=0.1))
            url = f"http://127.0.0.1:{bound.getsockname()[1]}/pipe"
            with pytest.raises(devpipe.AllTransportsFailed) as caught:
                async with devpipe.connect(url, connect_timeout=0.5):
                    pass
            ended.set()
    assert {name: str(error) for name, error in caught.value.errors.items()} == {
        "websocket": f"websocket: the handshake was refused with HTTP 503: {remedy!r}",
        "http": f"http: status 503, 'closing': {remedy!r}",
    }
    logged = [record for record in caplog.records if record.name == "devpipe.server"]
    assert [(record.levelname, record.getMessage()) for record in logged] == [
        ("WARNING", f"{remedy}; until then everything is refused")
    ]


async def lifespan_of(server: devpipe.Server, during: Callable[[], None]) -> list[str]:
    told = ["lifespan.startup", "lifespan.shutdown"]
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        if len(told) == 1:
            during()
        return {"type": told.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await server({"type": "lifespan"}, receive, send)
    return sent


async def test_served_directly_it_lives_in_the_asgi_lifespan(make_server: Make) -> None:
    server = make_server()
    running: list[bool] = []
    sent = await lifespan_of(server, lambda: running.append(server.running))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert running == [True] and not server.running


async def test_a_lifespan_inside_another_life_changes_nothing(make_server: Make) -> None:
    async with make_server() as server:
        assert len(await lifespan_of(server, lambda: None)) == 2
        assert server.running


async def test_another_kind_of_scope_is_refused(make_server: Make) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("nothing is to be said")

    with pytest.raises(NotImplementedError, match="'smtp'"):
        await make_server()({"type": "smtp"}, nothing, nothing)


async def test_a_server_without_websocket_responses_closes_the_handshake(make_server: Make) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with make_server() as server:
        scope = {"type": "websocket", "path": "/devpipe/ws", "headers": [(b"host", b"evil")]}
        await server(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_folder_that_cannot_be_served_is_named(make_server: Make, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    server = make_server(folder=file)
    with pytest.raises(devpipe.ConfigurationError, match="file"):
        async with server:
            pass
    assert not server.running


@pytest.mark.parametrize(
    "said", [b"", b"GET /health HTTP/1.1\r\nHo", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
async def test_a_client_that_hangs_up_leaves_no_socket_open(
    serving: Serving, make_server: Make, said: bytes, rudely: bool
) -> None:
    def open_files() -> int:
        return len(os.listdir("/dev/fd"))

    async with serving(make_server()) as served:
        await served.http.get("/health")  # it accepts: whatever is made once is made now
        before = open_files()
        for _ in range(3):
            async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
                await stream.send(said)
                if said.endswith(b"\r\n\r\n"):
                    assert (await stream.receive()).startswith(b"HTTP/1.1 200")
                if rudely:
                    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with anyio.fail_after(BOUND):  # less than an idle connection is kept
            while open_files() > before:
                await anyio.lowlevel.checkpoint()


async def test_a_server_cannot_be_reached_through_a_closed_door(serving: Serving, make_server: Make) -> None:
    server = make_server()
    async with serving(server) as served:
        port = served.port
    with pytest.raises(OSError):
        await anyio.connect_tcp("127.0.0.1", port)
