"""What every transport does alike, against the real server: memory, WebSocket, HTTP and folder, under both loops."""

from __future__ import annotations

import anyio
import pytest
from support import TRANSPORTS, make_server, open_pipe, serving

import devpipe

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("name", TRANSPORTS)]


async def test_a_message_comes_back_answered_and_says_which_way_it_took(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(10):
            reply = await pipe.send("echo", {"text": "hello ünï\u2028", "n": [1, None, 2.5]})
        assert reply.payload == {"text": "hello ünï\u2028", "n": [1, None, 2.5]}
        assert (reply.transport, pipe.active) == (name, name)


async def test_many_at_once_are_each_answered_with_their_own(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        answers: dict[int, object] = {}

        async def ask(n: int) -> None:
            answers[n] = (await pipe.send("echo", n)).payload

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for n in range(100):
                    tasks.start_soon(ask, n)
        assert answers == {n: n for n in range(100)}
        assert pipe.metrics()["in_flight"] == 0


async def test_handlers_may_be_sync_and_errors_are_typed_and_named(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(10):
            assert (await pipe.send("sync", 7)).payload == 7
            with pytest.raises(devpipe.HandlerError) as failed:
                await pipe.send("fail")
            with pytest.raises(devpipe.HandlerError) as poor:
                await pipe.send("refuse")
            with pytest.raises(devpipe.RequestRefused) as unknown:
                await pipe.send("no-such-type")
            assert (await pipe.send("echo", "still here")).payload == "still here"
    assert failed.value.code == "handler_error" and failed.value.outcome is devpipe.Outcome.EXECUTED
    assert "secret" not in str(failed.value) and "a secret of the server" in caplog.text
    assert poor.value.code == "BUDGET_EXCEEDED" and poor.value.details == {"least": 3}
    assert unknown.value.outcome is devpipe.Outcome.REJECTED and "no-such-type" in str(unknown.value)
    assert unknown.value.safe_to_resend and not failed.value.safe_to_resend


async def test_a_send_ends_at_its_deadline_with_what_is_known(name: str) -> None:
    server = make_server()
    begun: list[str | None] = []

    @server.handler("hang")
    async def hang(message: devpipe.Message) -> None:
        begun.append(message.id)
        await anyio.sleep_forever()

    async with serving(server) as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(10), pytest.raises(devpipe.DeadlineExceeded) as late:
            await pipe.send("hang", timeout=0.3)
        with anyio.fail_after(10):
            assert (await pipe.send("echo", 1)).payload == 1
        if begun:
            # the server may see it first, and knows more: that the handler ran
            assert late.value.outcome in (devpipe.Outcome.MAYBE_EXECUTED, devpipe.Outcome.EXECUTED)
        else:  # on a machine that stood still meanwhile it never got there
            assert late.value.outcome in (devpipe.Outcome.MAYBE_EXECUTED, devpipe.Outcome.NEVER_SENT)


async def test_a_cancelled_caller_frees_its_place_and_harms_nobody(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        for patience in (0.0, 0.0005, 0.002, 0.005, 0.02, 0.05):
            with anyio.move_on_after(patience) as scope:
                await pipe.send("wait", timeout=30)
            assert scope.cancelled_caught
        assert pipe.metrics()["in_flight"] == 0
        with anyio.fail_after(10):
            assert (await pipe.send("echo", 1)).payload == 1
        assert pipe.transports[0].breaker.error_rate(now=1e9) == 0.0


async def test_pushes_come_in_order_and_once_to_everybody_who_listens(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(20):
            session = (await pipe.send("who")).payload["session"]
            first, second = pipe.receive(), pipe.receive()
            for n in range(20):
                await world.server.push("news", n)
            await world.server.push("private", "for you", session=session)
            for subscription in (first, second):
                got = [await subscription.__anext__() for _ in range(21)]
                assert all(isinstance(item, devpipe.Message) for item in got)
                assert [item.payload for item in got if isinstance(item, devpipe.Message)] == [
                    *range(20),
                    "for you",
                ]
            assert pipe.position is not None and pipe.position.offset == 21
            first.close()
            assert [item async for item in first] == []


async def test_a_message_that_no_transport_takes_is_refused_with_the_limit(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        with anyio.fail_after(30), pytest.raises(devpipe.MessageTooLarge) as large:
            await pipe.send("echo", "x" * (11 * 1024 * 1024))
        assert name in str(large.value) and large.value.limit < large.value.size
        with anyio.fail_after(10):
            assert (await pipe.send("echo", 1)).payload == 1


async def test_what_is_no_json_or_no_type_never_leaves(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        for type, payload in (("echo", object()), ("", 1), ("a\nb", 1), ("echo", "\ud800")):
            with pytest.raises(devpipe.InvalidMessage) as invalid:
                await pipe.send(type, payload)
            assert invalid.value.outcome is devpipe.Outcome.NEVER_SENT
        for options in ({"timeout": 0}, {"timeout": float("nan")}, {"priority": "urgent"}):
            with pytest.raises(devpipe.InvalidMessage):
                await pipe.send("echo", 1, **options)  # type: ignore[arg-type]


async def test_health_is_asked_on_the_path_of_the_messages_and_never_raises(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        transport = pipe.transports[0]
        with anyio.fail_after(10):
            result = await transport.health_check()
        assert result.success and 0 < result.latency < 5 and result.error is None
        assert transport.connected and transport.available
        report = transport.get_health_status()
        assert report.status is devpipe.HealthStatus.HEALTHY and report.uptime > 0
        capabilities = transport.get_capabilities()
        assert capabilities["reliability"] == 1.0 and capabilities["max_message_bytes"] > 0
        transport.disconnect()
        result = await transport.health_check()
        assert not result.success and result.error


async def test_an_exception_of_the_block_is_left_as_it_was(name: str) -> None:
    async with serving() as world:
        with pytest.raises(KeyError, match="mine"):
            async with open_pipe(world, name):
                raise KeyError("mine")


async def test_the_pipe_can_be_cancelled_at_every_step_of_its_opening(name: str) -> None:
    async with serving() as world:
        for patience in (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016):
            with anyio.move_on_after(patience):
                async with open_pipe(world, name) as pipe:
                    await pipe.send("wait", timeout=30)
        with anyio.fail_after(10):
            async with open_pipe(world, name) as pipe:
                assert (await pipe.send("echo", 1)).payload == 1


async def test_a_closed_pipe_says_so_and_ends_who_waits(name: str) -> None:
    async with serving() as world:
        pipe = open_pipe(world, name)
        with pytest.raises(devpipe.PipeClosed):
            await pipe.send("echo")
        ended: list[BaseException] = []

        async def wait() -> None:
            try:
                await pipe.send("wait", timeout=30)
            except devpipe.PipeClosed as error:
                ended.append(error)

        async with anyio.create_task_group() as tasks:
            async with pipe:
                subscription = pipe.receive()
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
        assert len(ended) == 1
        assert [item async for item in subscription] == []
        with pytest.raises(devpipe.PipeClosed):
            await pipe.send("echo")
        with pytest.raises(devpipe.ConfigurationError):
            async with pipe:
                pass


async def test_a_busy_server_is_asked_again_when_there_may_be_room_and_is_no_failure(name: str) -> None:
    server = devpipe.Server(devpipe.ServerConfig(max_running=4))
    gate = anyio.Event()

    @server.handler("gate")
    async def wait(message: devpipe.Message) -> object:
        await gate.wait()
        return message.payload

    answers: list[object] = []
    async with serving(server) as world, open_pipe(world, name) as pipe:

        async def ask(n: int) -> None:
            answers.append((await pipe.send("gate", n)).payload)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for n in range(8):
                    tasks.start_soon(ask, n)
                while pipe.metrics()["resent"] < 4:  # each of the others was refused once
                    await anyio.wait_all_tasks_blocked()
                gate.set()
        assert sorted(map(str, answers)) == [str(n) for n in range(8)]
        assert pipe.transports[0].breaker.error_rate(now=0.0) == 0.0
        assert pipe.transports[0].breaker.consecutive_failures == 0
