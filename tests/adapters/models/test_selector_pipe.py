"""A selector over another's pipe: whatever becomes of the pipe, the program around the selector goes on."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from model_peer import ModelPeer

import devpipe
from devpipe.adapters.background import Background

pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:9"


async def test_a_pipe_that_was_never_entered_is_told_and_nothing_is_left_open() -> None:
    with anyio.fail_after(10):
        for _ in range(2):
            with pytest.raises(devpipe.PipeClosed, match="async with"):
                async with devpipe.ModelSelector(pipe=devpipe.connect(NOBODY)):
                    raise AssertionError("not entered")
        await anyio.lowlevel.checkpoint()


async def test_a_pipe_that_another_task_closes_ends_the_questions_and_not_the_program() -> None:
    peer = ModelPeer()
    with anyio.fail_after(10):
        async with peer.server() as server:
            life = Background(devpipe.connect(server))
            pipe = await life.open()
            async with devpipe.ModelSelector(pipe=pipe, monitoring_interval=0.02) as models:
                assert (await models.select("chat")).source == "server"
                await life.close()
                with anyio.move_on_after(0.2) as waiting:  # ten polls would be due meanwhile
                    await anyio.sleep_forever()
                assert waiting.cancelled_caught
                with pytest.raises(devpipe.PipeClosed):
                    await models.select("chat")
                assert not models.connected


async def test_a_listener_that_comes_when_all_is_closed_is_never_called_and_harms_nobody() -> None:
    peer = ModelPeer()
    heard: list[object] = []
    with anyio.fail_after(10):
        async with peer.server() as server, devpipe.connect(server) as pipe:
            async with devpipe.ModelSelector(pipe=pipe) as models:
                await models.select("chat")
            models.on("model_selected", heard.append)()
        pipe.on("exhausted", heard.append)
        async with peer.server() as server:
            life = Background(devpipe.connect(server))
            pipe = await life.open()
            await life.close()
            async with devpipe.ModelSelector(pipe=pipe) as models:
                with pytest.raises(devpipe.PipeClosed):
                    await models.select("chat")
    assert not heard
