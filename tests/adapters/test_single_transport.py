"""One transport used alone, over each kind, under both loops."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support import TRANSPORTS, World, serving

import devpipe

pytestmark = pytest.mark.anyio


def alone(world: World, name: str) -> devpipe.SingleTransport:
    if name == "memory":
        return devpipe.connect_single(name, world.server)
    if name == "folder":
        return devpipe.connect_single(name, folder=world.folder)
    return devpipe.connect_single(name, world.url)


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_it_is_connected_and_disconnected_by_hand_and_carries_messages_between(name: str) -> None:
    async with serving() as world, alone(world, name) as single:
        transport = single.transport
        heard: list[str] = []
        transport.on("connected", lambda event: heard.append("connected"))
        transport.on("disconnected", lambda event: heard.append("disconnected"))
        with anyio.fail_after(20):
            with pytest.raises(devpipe.TransportError, match="not connected") as refused:
                await single.send("echo", 0)
            assert refused.value.outcome is devpipe.Outcome.NEVER_SENT
            for n in range(2):
                await single.connect()
                assert transport.connected and transport.available
                assert (await single.send("echo", n)).payload == n
                assert (await transport.health_check()).success
                await single.disconnect()
                assert not transport.connected
            with pytest.raises(devpipe.TransportError, match="not connected"):
                await single.send("echo", 2)
            await anyio.wait_all_tasks_blocked()
        assert heard == ["connected", "disconnected"] * 2


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_it_brings_pushes(name: str) -> None:
    async with serving() as world, alone(world, name) as single:
        with anyio.fail_after(20):
            await single.connect()
            pushes = single.receive()
            await single.send(
                "echo"
            )  # what the server was asked before this, it has done: the pushes come here
            await world.server.push("news", 1)
            got = await pushes.__anext__()
            assert isinstance(got, devpipe.Message) and got.payload == 1


async def test_a_server_that_is_not_there_is_told_within_the_time(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with devpipe.connect_single("http", "http://127.0.0.1:9", connect_timeout=0.2) as single:
            with pytest.raises(devpipe.TransportError, match="http"):
                await single.connect()


async def test_a_lost_connection_ends_the_call_with_what_is_known_and_nothing_is_sent_again() -> None:
    ended: list[devpipe.DevPipeError] = []
    async with serving() as world, alone(world, "websocket") as single:

        async def wait() -> None:
            try:
                await single.send("wait", timeout=30)
            except devpipe.DevPipeError as error:
                ended.append(error)

        with anyio.fail_after(20):
            await single.connect()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await single.send("echo")  # the one before is on its way, too
                await single.disconnect()
    assert [error.outcome for error in ended] == [devpipe.Outcome.MAYBE_EXECUTED]
