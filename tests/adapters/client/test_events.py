"""What a program hears of a pipe and of its transports, by name and with which facts; and what transports say of themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from support import make_server, open_pipe, serving

import devpipe

pytestmark = pytest.mark.anyio

#: It may return to the better transport soon.
QUICK = {"failover.min_stay": 0.1, "failover.ejection_initial": 0.1}
NAMES = ("websocket", "http", "folder")
OF_A_TRANSPORT = ("connected", "disconnected", "message", "error", "health_check", "reconnecting")
OF_A_PIPE = (
    "transport_switched",
    "transport_failed",
    "transport_recovered",
    "health_updated",
    "exhausted",
    "server_changed",
    "gap",
)


class Heard:
    """Everything that is told, as the dictionaries that go into logs."""

    def __init__(self, on: Callable[..., object], *names: str) -> None:
        self.events: list[dict[str, Any]] = []
        for name in names:
            on(name, lambda event, name=name: self.events.append(_facts(event, name)))

    async def wait(self, name: str, **facts: object) -> dict[str, Any]:
        """The first event with these facts."""
        with anyio.fail_after(20):
            while True:
                for event in self.events:
                    if event["event"] == name and facts.items() <= event.items():
                        return event
                await anyio.sleep(0.005)


def _facts(event: Any, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"event": name, "type": event.type} if name == "message" else event.as_dict()
    return facts


async def test_a_pipe_tells_of_a_loss_the_switch_the_recovery_and_the_return() -> None:
    async with (
        serving() as world,
        open_pipe(world, "websocket", "http", settings=QUICK) as pipe,
    ):
        heard = Heard(pipe.on, *OF_A_PIPE)
        with anyio.fail_after(20):
            while not all(transport.ready for transport in pipe.transports):
                await anyio.sleep(0.005)
        websocket = pipe.transports[0]
        websocket.disconnect()
        failed = await heard.wait("transport_failed", transport="websocket")
        assert failed["timestamp"] > 0 and failed["failure"]["kind"] == "unavailable"
        await heard.wait("transport_switched", **{"from": "websocket", "to": "http", "reason": "failover"})
        await heard.wait("transport_recovered", **{"from": "websocket", "to": "http"})
        await heard.wait("health_updated", transport="websocket", status="disconnected")
        websocket.connect()
        await heard.wait("transport_switched", **{"from": "http", "to": "websocket", "reason": "upgrade"})
        await heard.wait("health_updated", transport="websocket", status="healthy")
        # each listener has a task of its own, so nothing is said of the order between them
        names = sorted(e["event"] for e in heard.events if e["event"].startswith("transport_"))
        assert names == ["transport_failed", "transport_recovered", *["transport_switched"] * 2]


async def test_a_pipe_tells_of_a_server_that_is_another_one_now_and_of_the_gap() -> None:
    server = make_server()
    settings = {"lifecycle.backoff_initial": 0.01}
    async with anyio.create_task_group() as tasks:
        gone, again = anyio.Event(), anyio.Event()

        async def serve(*, until: anyio.Event, task_status: Any) -> None:
            async with server:
                task_status.started()
                await until.wait()

        async def start(until: anyio.Event) -> str:
            async def run(*, task_status: Any) -> None:
                await serve(until=until, task_status=task_status)

            await tasks.start(run)
            return server.identity

        first = await start(gone)
        async with devpipe.connect(server, settings=settings) as pipe:
            heard = Heard(pipe.on, *OF_A_PIPE)
            gone.set()
            await heard.wait("exhausted")
            second = await start(again)
            await heard.wait("server_changed", **{"from": first, "to": second})
            await heard.wait("gap")
            with anyio.fail_after(10):
                assert (await pipe.send("echo", 1)).payload == 1
        again.set()


@pytest.mark.parametrize("name", NAMES)
async def test_a_transport_tells_of_its_own_life(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        transport = pipe.transports[0]
        heard = Heard(transport.on, *OF_A_TRANSPORT)
        with anyio.fail_after(20):
            while not any(event["event"] == "message" for event in heard.events):
                await world.server.push("news", 1)
                await anyio.sleep(0.01)
        assert (await transport.health_check()).success
        assert (await heard.wait("health_check", success=True))["latency"] > 0
        transport.disconnect()
        await heard.wait("disconnected", transport=name)
        assert not (await transport.health_check()).success
        await heard.wait("health_check", success=False)
        transport.connect()
        await heard.wait("reconnecting", attempt=1)
        await heard.wait("connected", server=world.server.identity)
        with pytest.raises(devpipe.ConfigurationError, match="no event"):
            transport.on("transport_switched", print)


async def test_what_each_transport_can_do_and_how_it_is() -> None:
    mebibyte = 1024 * 1024
    expected = {  # realtime, bidirectional, file system, streaming, bytes, connections
        "websocket": (True, True, False, True, 1 * mebibyte, 1),
        "http": (True, True, False, True, 10 * mebibyte, 10),
        "folder": (False, True, True, False, 10 * mebibyte, 1),
    }
    async with serving() as world, open_pipe(world, *NAMES) as pipe:
        with anyio.fail_after(20):
            while not all(transport.ready for transport in pipe.transports):
                await anyio.sleep(0.005)
        for transport in pipe.transports:
            can = transport.get_capabilities()
            assert expected[transport.type] == (
                can["supports_realtime"],
                can["supports_bidirectional"],
                can["supports_filesystem"],
                can["supports_streaming"],
                can["max_message_bytes"],
                can["max_concurrent_connections"],
            )
            assert can["average_latency"] == 0.0 and can["reliability"] == 1.0
            assert can["supported_environments"] == ("linux", "macos", "windows", "container")
            assert (
                transport.id.startswith(f"{transport.type}-") and len(transport.id) > len(transport.type) + 4
            )
            pipe.use(transport.type)
            await pipe.send("echo", 1, timeout=10)
            report = transport.get_health_status()
            assert report.status is devpipe.HealthStatus.HEALTHY and report.last_check is not None
            assert report.latency == transport.get_capabilities()["average_latency"] > 0
            assert (report.error_rate, report.consecutive_failures) == (0.0, 0) and report.uptime > 0
    async with serving() as world, open_pipe(world, "http", settings={"http.enable_sse": False}) as pipe:
        can = pipe.transports[0].get_capabilities()
        assert (can["supports_realtime"], can["supports_bidirectional"]) == (False, False)


async def test_every_log_line_of_a_transport_begins_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: object) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.DEBUG, logger="devpipe.transport"):
        async with serving() as world, open_pipe(world, "http") as pipe:
            transport = pipe.transports[0]
            told = anyio.Event()
            transport.on("disconnected", broken)
            transport.on("disconnected", lambda event: told.set())
            transport.disconnect()
            with anyio.fail_after(10):
                await told.wait()
                await anyio.wait_all_tasks_blocked()
    records = [record for record in caplog.records if record.name == "devpipe.transport.http"]
    assert any(record.exc_info for record in records) and any(r.levelno == logging.DEBUG for r in records)
    for record in records:
        assert record.getMessage().startswith(f"{transport.id}: ")
        assert vars(record)["transport"] == transport.id
