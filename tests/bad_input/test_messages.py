"""Messages that are none, each kind by its name, over every transport and in both directions: they are counted and
dropped, or end their connection with the code that says why; the message that is on its way gets its reply all the same.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from nonsense import hear, pipe_in_use, say, troubles
from support import TRANSPORTS, World

from devpipe.adapters.client.pipe import Pipe

pytestmark = [pytest.mark.anyio]

each_transport = pytest.mark.parametrize("name", TRANSPORTS)

MALFORMED = [
    b"",
    b"{",
    b"{}x",
    b'{"type": "ec',
    b"nonsense",
    b"{'type': 'echo'}",
    b'{"type":"a"} {"type":"b"}',
]
WRONG_TYPES = [
    b"[]", b"5", b"null", b'"echo"', b'{"type":5}', b'{"type":"news","epoch":1,"offset":"x","payload":1}',
    b'{"type":"response","replyTo":5}', b'{"type":"response","replyTo":[]}', b'{"type":"ping","id":{}}',
]  # fmt: skip
#: Deeper than any stack: cut off, and whole but for a field that has no end.
BOTTOMLESS = [
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b'{"type":"news","id":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
]


async def refused(world: World, pipe: Pipe, nonsense: list[bytes]) -> None:
    """The server counts each of these."""
    before = world.server._service.bad_messages
    for data in nonsense:
        say(pipe, data)
    while world.server._service.bad_messages < before + len(nonsense):
        await anyio.lowlevel.checkpoint()


async def dropped(world: World, pipe: Pipe, nonsense: list[bytes]) -> None:
    """The client counts each of these."""
    before = troubles(pipe)
    for data in nonsense:
        await hear(world, pipe, data)
    while troubles(pipe) < before + len(nonsense):
        await anyio.lowlevel.checkpoint()


@each_transport
async def test_malformed_json_is_refused_by_the_server(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await refused(world, pipe, MALFORMED)


@each_transport
async def test_malformed_json_of_the_server_is_counted_and_dropped(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await dropped(world, pipe, MALFORMED)


@each_transport
async def test_wrong_types_are_refused_by_the_server(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await refused(world, pipe, WRONG_TYPES)


@each_transport
async def test_wrong_types_of_the_server_are_counted_and_dropped(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await dropped(world, pipe, WRONG_TYPES)


@each_transport
async def test_a_bottomless_message_is_refused_by_the_server(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await refused(world, pipe, BOTTOMLESS)


@each_transport
async def test_a_bottomless_message_of_the_server_is_counted_and_dropped(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await dropped(world, pipe, BOTTOMLESS)


@each_transport
async def test_unknown_reply_ids_of_the_server_are_counted_and_dropped(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        before = pipe.metrics()["unknown_replies"]
        for id in (f"{pipe._prefix}-77", "nobody-1", "", "../../etc/passwd", "x" * 10_000):
            await hear(world, pipe, b'{"type":"response","replyTo":"%s","payload":1}' % id.encode())
        while pipe.metrics()["unknown_replies"] < before + 5:
            await anyio.lowlevel.checkpoint()


@each_transport
async def test_a_reply_without_an_id_is_counted_and_no_push(name: str) -> None:
    async with pipe_in_use(name) as (world, pipe):
        await dropped(world, pipe, [b'{"type":"response","success":false,"error":"what was that?"}'] * 3)


@each_transport
async def test_a_reply_to_a_server_that_asked_nothing_is_refused(name: str) -> None:
    async with pipe_in_use(name) as (_, pipe):
        say(pipe, b'{"type":"response","replyTo":"nobody-1","payload":1}')
        say(pipe, b'{"type":"response","payload":1}')
