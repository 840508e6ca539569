"""Who the server is may change under a path that stands, or it may know us and not know us: the pipe finds out and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio.abc import TaskGroup
from lines import Line, pipe_over
from support import make_server

import devpipe

pytestmark = pytest.mark.anyio


class Wicked:
    """A server that answers every hello and ping as it should, and all else as ``answer`` says."""

    def __init__(self, tasks: TaskGroup, answer: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
        self._tasks = tasks
        self._answer = answer

    def receive(self, data: bytes, path: Any, /) -> None:
        self._tasks.start_soon(self._reply, msgspec.json.decode(data), path)

    def drop(self, path: Any, /) -> None:
        pass

    async def _reply(self, message: dict[str, Any], path: Any) -> None:
        await anyio.lowlevel.checkpoint()
        for answer in self._answers(message):
            path.send(msgspec.json.encode(answer))

    def _answers(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        if message["type"] not in ("hello", "health_ping"):
            return self._answer(message)
        asked = message["payload"]
        payload = {"server": "S", "nonce": asked["nonce"], "time": time.time() * 1000}
        if message["type"] == "hello":
            payload |= {"session": asked["session"], "push": {"epoch": "e", "offset": 0}}
        return [{"type": message["type"], "replyTo": message["id"], "success": True, "payload": payload}]


def reply(message: dict[str, Any], payload: object = None, **fields: Any) -> dict[str, Any]:
    return {"type": "response", "replyTo": message["id"], "success": True, "payload": payload, **fields}


async def test_a_greeting_that_is_lost_on_a_path_that_stands_is_repeated() -> None:
    with anyio.fail_after(20):
        async with make_server() as old, make_server() as new:
            line = Line("a", old)
            async with pipe_over(line) as pipe:
                assert (await pipe.send("echo", 1)).payload == 1
                line.server, line.lost = new, {"hello"}
                assert (await pipe.send("echo", 2, timeout=10)).payload == 2
                assert not line.lost, "it was lost"


async def test_paths_that_lead_to_two_new_servers_do_not_wait_for_each_other() -> None:
    with anyio.fail_after(20):
        async with make_server() as old, make_server() as one, make_server() as other:
            a, b = Line("a", old), Line("b", old)
            async with pipe_over(a, b) as pipe:
                while not all(transport.ready for transport in pipe.transports):
                    await anyio.lowlevel.checkpoint()
                a.server, b.server = one, other
                assert (await pipe.send("echo", 1, timeout=10)).payload == 1
                assert "another server" in str(pipe.explain())
                assert (await pipe.send("echo", 2, timeout=10)).payload == 2


async def test_a_server_that_knows_us_and_does_not_know_us_is_asked_a_bounded_number_of_times() -> None:
    def answer(message: dict[str, Any]) -> list[dict[str, Any]]:
        if message["type"] == "attach":
            return [reply(message, {"epoch": "e", "offset": 0})]
        return [reply(message, success=False, error={"code": "session_unknown", "outcome": "rejected"})]

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            line = Line("a", Wicked(tasks, answer))
            async with pipe_over(line) as pipe:
                with pytest.raises(devpipe.AllTransportsFailed, match="forgets us again and again") as failed:
                    await pipe.send("echo", 1, timeout=10)
                assert failed.value.outcome is devpipe.Outcome.NEVER_SENT
                assert line.sent["hello"] <= 3 * line.dials, "between two dials stands a wait"
            tasks.cancel_scope.cancel()


async def test_a_server_that_is_not_ours_answers_no_calls_and_pushes_nothing() -> None:
    with anyio.fail_after(20):
        async with make_server() as ours, make_server() as other:
            a, b = Line("a", ours), Line("b", None)
            async with pipe_over(a, b) as pipe, anyio.create_task_group() as tasks:
                heard: list[object] = []
                for name in ("message", "gap"):
                    pipe.on(name, heard.append)
                b.server = other
                while not pipe.transports[1].connected:
                    await anyio.lowlevel.checkpoint()
                id = (await pipe.send("who")).id
                assert id is not None
                prefix, _, number = id.rpartition("-")
                tasks.start_soon(pipe.send, "wait")
                while pipe.metrics()["in_flight"] == 0:
                    await anyio.lowlevel.checkpoint()
                forged = f"{prefix}-{int(number) + 1}"
                for kind in ("response", "accepted", "strange"):
                    b.say(type=kind, replyTo=forged, success=True, payload="forged")
                b.say(type="news", epoch="forged", offset=1, payload="forged")
                assert pipe.metrics()["in_flight"] == 1 and pipe.metrics()["unknown_replies"] == 3
                assert (await pipe.send("echo", "true")).payload == "true"
                assert not heard
                tasks.cancel_scope.cancel()


@pytest.mark.parametrize("epoch", ["e", "other"])
async def test_a_push_that_never_comes_is_asked_for_a_few_times_and_is_a_gap_then(epoch: str) -> None:
    def answer(message: dict[str, Any]) -> list[dict[str, Any]]:
        if message["type"] != "attach":
            return [reply(message)]
        attached = reply(message, {"epoch": "e", "offset": 7, "gap": False})
        return [attached, *({"type": "news", "epoch": epoch, "offset": n, "payload": n} for n in (7, 8, 9))]

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            line = Line("a", Wicked(tasks, answer))
            async with pipe_over(line) as pipe, pipe.receive() as pushes:
                gap = await anext(pushes)
                assert isinstance(gap, devpipe.Gap)
                push = await anext(pushes)
                assert isinstance(push, devpipe.Message) and push.position == gap.before
                asked = line.sent["attach"]
                assert asked <= 10
                await pipe.send("echo", 1)
                assert line.sent["attach"] <= asked + 3, "it is not asked without end"
            tasks.cancel_scope.cancel()
