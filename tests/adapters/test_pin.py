"""A pin in a whole pipe: no message takes another way, whatever is up."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support import open_pipe, serving

import devpipe

pytestmark = pytest.mark.anyio


async def test_a_message_waits_for_the_transport_that_is_pinned_although_another_is_up() -> None:
    alone = {"failover.standby": False}  # the other one is not even dialled
    async with serving() as world, open_pipe(world, "websocket", "http", "folder", settings=alone) as pipe:
        with anyio.fail_after(20):
            for way in ("http", "folder", "websocket", "http"):
                pipe.use(way)
                assert pipe.active is None
                assert (await pipe.send("echo", way)).transport == way
                assert pipe.active == way
            pipe.use(None)
            assert (await pipe.send("echo", 1)).payload == 1


async def test_a_message_waits_for_the_pinned_transport_while_that_is_dialled() -> None:
    async with serving() as world, open_pipe(world, "websocket", "http") as pipe:
        websocket, http = pipe.transports
        with anyio.fail_after(20):
            while not (websocket.ready and http.ready):
                await anyio.lowlevel.checkpoint()
            http.disconnect()
            pipe.use("http")
            assert pipe.active is None and websocket.ready and not http.ready
            assert (await pipe.send("echo", 1)).transport == "http"


async def test_a_pin_to_a_transport_that_is_down_sends_nothing_over_its_standby(tmp_path: Path) -> None:
    async with serving() as world:
        ways = ["websocket", "folder"]
        async with devpipe.connect(world.url, folder=tmp_path / "nobody", transports=ways) as pipe:
            with anyio.fail_after(20):
                pipe.use("folder")
                assert pipe.active is None and pipe.transports[0].connected
                with pytest.raises(devpipe.DevPipeError) as failed:
                    await pipe.send("echo", 1, timeout=0.3)
                assert failed.value.outcome is devpipe.Outcome.NEVER_SENT
                pipe.use(None)
                assert (await pipe.send("echo", 2)).transport == "websocket"
