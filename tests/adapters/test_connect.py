"""``connect``: what it takes, and what it says to the rest."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import anyio
import pytest

import devpipe

pytestmark = pytest.mark.anyio


def embedded() -> devpipe.Server:
    server = devpipe.Server()

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> object:
        return message.payload

    return server


async def test_a_server_of_this_program_is_reached_without_a_network() -> None:
    with anyio.fail_after(10):
        async with embedded() as server, devpipe.connect(server) as pipe:
            reply = await pipe.send("echo", {"n": 1})
            assert (reply.payload, reply.transport) == ({"n": 1}, "memory")
            pushes = pipe.receive()
            await server.push("news", 1)
            assert isinstance(message := await pushes.__anext__(), devpipe.Message)
            assert message.payload == 1


async def test_beside_the_memory_a_folder_may_stand_by(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with embedded() as server, devpipe.connect(server, folder=tmp_path / "pipe") as pipe:
            assert [transport.type for transport in pipe.transports] == ["memory", "folder"]
            assert (await pipe.send("echo", 1)).payload == 1


async def test_a_server_that_does_not_run_is_said_so() -> None:
    with anyio.fail_after(10), pytest.raises(devpipe.AllTransportsFailed, match="not running"):
        async with devpipe.connect(embedded(), connect_timeout=0.1):
            pass


async def test_who_waits_for_no_late_server_is_told_after_a_few_refusals_and_how_long_it_took() -> None:
    pipe = devpipe.connect("http://127.0.0.1:9", connect_timeout=1000)
    pipe.refusals = 2
    with anyio.fail_after(60), pytest.raises(devpipe.AllTransportsFailed, match="nobody listens") as failed:
        async with pipe:
            pass
    took = re.search(r"no transport was proven in ([\d.]+) s:", str(failed.value))
    assert took is not None and float(took[1]) < 60


@pytest.mark.parametrize(
    "address",
    ["localhost:8000", "ftp://x", "http://", "http://u:p@x", "http://x/?q", "http://x:port", 5, object()],
)
def test_what_is_no_address_is_refused_with_what_is_allowed(address: object) -> None:
    with pytest.raises(devpipe.ConfigurationError, match="server_url"):
        devpipe.connect(address)  # type: ignore[arg-type]  # that is the point


async def test_a_transport_that_nothing_supplies_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="folder, http, memory, websocket"):
        async with devpipe.connect(embedded(), transports=["carrier-pigeon"]):
            pass


def test_a_setting_counts_where_no_argument_says_otherwise() -> None:
    settings = {"timeout": 7, "connect_timeout": 3}
    pipe = devpipe.connect("http://127.0.0.1:9", settings=settings, connect_timeout=4)
    assert (pipe.config.timeout, pipe.config.connect_timeout) == (7, 4)


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 30.0),
        ({"health_interval": 7}, 7.0),
        ({"health_interval": 7, "lifecycle.heartbeat_interval": 3}, 3.0),
    ],
)
async def test_an_idle_transport_of_any_kind_is_probed_each_health_interval(
    tmp_path: Path, settings: dict[str, object], seconds: float
) -> None:
    url = "http://127.0.0.1:9"
    pipes = [
        devpipe.connect(url, folder=tmp_path, settings=settings, wait=False),
        devpipe.connect(embedded(), settings=settings, wait=False),
    ]
    found: dict[str, float] = {}
    for pipe in pipes:
        async with pipe:
            found |= {t.type: t.lifecycle.config.heartbeat_interval for t in pipe.transports}
    assert found == dict.fromkeys(("websocket", "http", "folder", "memory"), seconds)


async def test_with_debug_everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("devpipe")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with anyio.fail_after(10):
            async with embedded() as server:
                async with devpipe.connect(server):
                    assert not caplog.records
                async with devpipe.connect(server, settings={"debug": True}):
                    pass
                alone = caplog.records.copy()
                log.setLevel(logging.ERROR)
                async with devpipe.connect_single("memory", server, settings={"debug": True}) as memory:
                    await memory.connect()
        assert any(record.levelno == logging.DEBUG for record in alone)
        assert len(caplog.records) > len(alone)
    finally:
        log.setLevel(level)
