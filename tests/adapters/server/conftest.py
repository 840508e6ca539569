"""A real server on a real socket, and foreign clients that know nothing of our code: httpx, wsproto, raw bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import h11
import httpx
import pytest
from anyio.abc import SocketStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

import devpipe

SESSION = "0123456789abcdef"
#: Nothing here takes so long unless it hangs (seconds).
BOUND = 10.0


class Socket:
    """A foreign WebSocket client."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.count = 0

    async def handshake(self, port: int, path: str, headers: list[tuple[bytes, bytes]], host: str) -> None:
        request = Request(host=host or f"127.0.0.1:{port}", target=path, extra_headers=headers)
        await self.stream.send(self.protocol.send(request))

    async def event(self) -> Event:
        """The next event; a connection that ends without a close frame raises ``EndOfStream``."""
        with anyio.fail_after(BOUND):
            while not self.events:
                self.protocol.receive_data(await self.stream.receive())
                self.events.extend(self.protocol.events())
        return self.events.pop(0)

    async def message(self) -> dict[str, Any]:
        """The next whole message."""
        text = ""
        while True:
            event = await self.event()
            assert isinstance(event, Message), event
            text += event.data
            if event.message_finished:
                decoded: dict[str, Any] = json.loads(text)
                return decoded

    async def closed(self) -> int:
        """The close code; whatever else comes before it is dropped."""
        while True:
            event = await self.event()
            if isinstance(event, CloseConnection):
                return int(event.code)

    async def status(self) -> int:
        """The answer to the handshake."""
        event = await self.event()
        if isinstance(event, RejectConnection):
            return event.status_code
        assert isinstance(event, AcceptConnection), event
        return 101

    async def rejection(self) -> dict[str, Any]:
        """The body of a refused handshake."""
        data = b""
        while True:
            event = await self.event()
            assert isinstance(event, RejectData), event
            data += event.data
            if event.body_finished:
                decoded: dict[str, Any] = json.loads(data)
                return decoded

    async def send(self, type: str, payload: object = None, **fields: Any) -> None:
        # compact, as httpx writes it: a repeated message has the same bytes
        text = json.dumps({"type": type, "payload": payload, **fields}, separators=(",", ":"))
        await self.say(text)

    async def say(self, text: str) -> None:
        await self.stream.send(self.protocol.send(TextMessage(data=text)))

    async def call(self, type: str, payload: object = None, **fields: Any) -> dict[str, Any]:
        self.count += 1
        await self.send(type, payload, **{"id": f"ws-{self.count}", **fields})
        return await self.message()

    async def hello(self, session: str = SESSION) -> dict[str, Any]:
        return await self.call("hello", {"session": session, "nonce": "n", "resume": False})


class EventStream:
    """A foreign client of the stream of pushes, line by line."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.protocol = h11.Connection(h11.CLIENT)
        self.headers: dict[str, str] = {}
        self.status = 0
        self.lines: list[str] = []
        self.rest = b""
        self.ended = False

    async def open(self, fields: dict[str, str], nonce: str) -> None:
        headers = {
            "Host": "localhost",
            "DevPipe-Session": fields["session"],
            "DevPipe-Server": fields["server"],
            "DevPipe-Nonce": nonce,
        }
        request = h11.Request(method="GET", target="/devpipe/stream", headers=list(headers.items()))
        await self.stream.send(
            (self.protocol.send(request) or b"") + (self.protocol.send(h11.EndOfMessage()) or b"")
        )
        while not self.status:
            await self._read()

    async def line(self) -> str:
        """The next line; raises ``EndOfStream`` when the stream has ended as it should."""
        with anyio.fail_after(BOUND):
            while not self.lines:
                if self.ended:
                    raise anyio.EndOfStream
                await self._read()
        return self.lines.pop(0)

    async def line_with(self, word: str) -> str:
        """The next line in which this stands."""
        while word not in (line := await self.line()):
            pass
        return line

    async def _read(self) -> None:
        event = self.protocol.next_event()
        if event is h11.NEED_DATA:
            self.protocol.receive_data(await self.stream.receive())
        elif isinstance(event, h11.Response):
            self.status = event.status_code
            self.headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            *lines, self.rest = (self.rest + bytes(event.data)).split(b"\n")
            self.lines += [line.decode() for line in lines]
        else:
            assert isinstance(event, h11.EndOfMessage), event
            self.ended = True


@dataclass
class Served:
    """A server that listens."""

    server: devpipe.Server
    url: str
    port: int
    http: httpx.AsyncClient = field(repr=False)

    @asynccontextmanager
    async def socket(
        self, path: str = "/devpipe/ws", *, host: str = "", **headers: str
    ) -> AsyncIterator[Socket]:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
            client = Socket(stream)
            await client.handshake(self.port, path, raw, host)
            yield client

    @asynccontextmanager
    async def connected(self, **headers: str) -> AsyncIterator[Socket]:
        async with self.socket(**headers) as client:
            assert await client.status() == 101
            yield client

    async def post(self, type: str, payload: object = None, **fields: Any) -> httpx.Response:
        return await self.http.post("/devpipe/message", json={"type": type, "payload": payload, **fields})

    async def hello(self, session: str = SESSION) -> dict[str, str]:
        """Say hello over HTTP; returns the fields that name the session from then on."""
        payload = {"session": session, "nonce": "n", "resume": False}
        answer = (await self.post("hello", payload, id="h-1")).json()
        assert answer["success"] is True
        return {"session": session, "server": answer["payload"]["server"]}

    @asynccontextmanager
    async def stream(self, fields: dict[str, str], nonce: str = "nonce") -> AsyncIterator[EventStream]:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            client = EventStream(stream)
            await client.open(fields, nonce)
            yield client

    async def raw(self, data: bytes) -> bytes:
        """Everything that the server answers to these bytes until it closes."""
        answer = b""
        with anyio.fail_after(BOUND):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                await stream.send(data)
                try:
                    while True:
                        answer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):  # closed, or reset
                    return answer


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serving() -> Serving:
    """``async with serving(server) as served``: it listens on a port of its own until the block ends."""

    @asynccontextmanager
    async def serve(server: devpipe.Server, **headers: str) -> AsyncIterator[Served]:
        urls: list[str] = []
        listening = anyio.Event()

        def told(url: str) -> None:
            urls.append(url)
            listening.set()

        async def run() -> None:
            await server.serve(port=0, listening=told)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            with anyio.fail_after(BOUND):
                await listening.wait()
            async with httpx.AsyncClient(
                base_url=urls[0], timeout=BOUND, trust_env=False, headers=headers
            ) as http:
                yield Served(server, urls[0], int(urls[0].rpartition(":")[2]), http)
            tasks.cancel_scope.cancel()

    return serve


def echo_server(**options: Any) -> devpipe.Server:
    """A server with handlers that tests want."""
    server = devpipe.Server(devpipe.ServerConfig(**options.pop("config", {})), **options)
    server.executed = []  # type: ignore[attr-defined]  # what has run, for the tests
    server.gate = anyio.Event()  # type: ignore[attr-defined]  # lets go what waits

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        server.executed.append(message.id)  # type: ignore[attr-defined]  # as above
        return message.payload

    @server.handler("wait")
    async def wait(message: devpipe.Message) -> Any:
        server.executed.append(message.id)  # type: ignore[attr-defined]  # as above
        await server.gate.wait()  # type: ignore[attr-defined]  # as above
        return "waited"

    return server


@pytest.fixture
def make_server() -> Callable[..., devpipe.Server]:
    """``make_server(config={...}, token=...)``."""
    return echo_server
