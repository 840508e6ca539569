"""Binary frames, in both directions: they end their connection with 1003, and the pipe makes another one."""

from __future__ import annotations

import anyio
import pytest
from nonsense import pipe_in_use
from support import with_handlers
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Request

import devpipe

pytestmark = pytest.mark.anyio


async def test_a_binary_frame_is_answered_with_1003_and_other_connections_stay() -> None:
    async with pipe_in_use("websocket") as (world, pipe):
        port = int(world.url.rpartition(":")[2])
        protocol = WSConnection(ConnectionType.CLIENT)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:

            async def event() -> Event:
                while True:
                    for event in protocol.events():
                        return event
                    protocol.receive_data(await stream.receive())

            await stream.send(protocol.send(Request(host=f"127.0.0.1:{port}", target="/devpipe/ws")))
            assert isinstance(await event(), AcceptConnection)
            await stream.send(protocol.send(BytesMessage(data=b'{"type":"echo","id":"strange-1"}')))
            closed = await event()
        assert isinstance(closed, CloseConnection) and closed.code == 1003
        assert pipe.transports[0].lifecycle.last_failure is None


class SaysItInBytes(devpipe.Server):
    """What it has to say over its first WebSocket goes out in binary frames, once it is told to."""

    binary = False

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]  # as ASGI has it
        async def say(message) -> None:  # type: ignore[no-untyped-def]  # as ASGI has it
            if self.binary and message["type"] == "websocket.send":
                self.binary = False
                message = {"type": "websocket.send", "bytes": message["text"].encode()}
            await send(message)

        await super().__call__(scope, receive, say)


async def test_a_binary_frame_of_the_server_ends_the_connection_with_1003() -> None:
    server = with_handlers(SaysItInBytes())
    async with pipe_in_use("websocket", server) as (_, pipe):
        server.binary = True
        assert (await pipe.send("sync", 1)).payload == 1
        failure = pipe.transports[0].lifecycle.last_failure
        assert failure is not None and "1003" in failure.reason
