"""Real processes, real kills, a frozen server, a proxy with its default buffering."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support import make_server, open_pipe, server_process, serving

import devpipe

pytestmark = pytest.mark.anyio

QUICK = {"lifecycle.blocked_initial": 0.5, "lifecycle.backoff_initial": 0.1, "failover.min_stay": 0.2}


def executions(log: Path) -> Counter[tuple[str, str]]:
    """What the server's own log says was started: (server process, id)."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return Counter((entry["server"], entry["id"]) for entry in entries)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def test_a_killed_server_that_comes_back_runs_nothing_twice_and_every_send_ends_once(
    directory: Path,
) -> None:
    folder, log = directory / "pipe", directory / "log.jsonl"
    ended: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    with server_process(folder, log) as (process, port):
        url = f"http://127.0.0.1:{port}"
        async with devpipe.connect(url, folder=folder, settings=QUICK) as pipe:

            async def ask(n: int) -> None:
                try:
                    reply = await pipe.send("echo", n, timeout=15)
                    assert reply.payload == n
                    outcomes["answered"] += 1
                except devpipe.DevPipeError as error:
                    outcomes["unknown" if error.outcome is None else error.outcome.value] += 1
                ended[n] += 1

            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    for n in range(150):
                        tasks.start_soon(ask, n)
                        await anyio.lowlevel.checkpoint()
                    lost = anyio.Event()
                    pipe.on("transport_failed", lambda event: lost.set())
                    process.kill()
                    process.wait()
                    await lost.wait()
                    for n in range(150, 300):
                        tasks.start_soon(ask, n)
                    with server_process(folder, log, port=port):
                        while len(ended) < 300:
                            await anyio.lowlevel.checkpoint()
    assert ended == Counter(range(300))
    assert set(outcomes) <= {"answered", "maybe_executed", "never_sent"}
    assert outcomes["answered"] >= 100, outcomes
    assert max(executions(log).values()) == 1


async def test_while_a_server_restarts_nobody_moves_to_its_folder_and_what_was_sent_meanwhile_is_answered(
    directory: Path,
) -> None:
    folder, log = directory / "pipe", directory / "log.jsonl"
    with server_process(folder, log) as (process, port):
        async with devpipe.connect(f"http://127.0.0.1:{port}", folder=folder) as pipe:
            went: list[str] = []
            pipe.on("transport_switched", lambda event: went.append(event.to))  # type: ignore[attr-defined]
            with anyio.fail_after(60):
                while not all(transport.ready for transport in pipe.transports):
                    await anyio.lowlevel.checkpoint()
                answers: list[object] = []

                async def ask(n: int) -> None:
                    answers.append((await pipe.send("echo", n, timeout=50)).payload)

                process.kill()
                process.wait()
                while pipe.active is not None or not went:  # the socket, then HTTP
                    await anyio.lowlevel.checkpoint()
                assert went == ["http"]
                async with anyio.create_task_group() as tasks:
                    for n in range(50):
                        tasks.start_soon(ask, n)
                    await anyio.lowlevel.checkpoint()
                    assert pipe.active is None
                    with server_process(folder, log, port=port):
                        while len(answers) < 50:
                            await anyio.lowlevel.checkpoint()
    assert sorted(map(str, answers)) == sorted(map(str, range(50)))
    assert max(executions(log).values()) == 1


async def test_losing_the_active_transport_is_not_noticed_by_the_callers() -> None:
    async with serving() as world, open_pipe(world, "websocket", "http") as pipe:
        answers: list[object] = []
        with anyio.fail_after(20):
            assert pipe.active == "websocket"
            while not pipe.transports[1].ready:
                await anyio.lowlevel.checkpoint()

            async def ask(n: int) -> None:
                answers.append((await pipe.send("echo", n, timeout=10)).payload)

            async with anyio.create_task_group() as tasks:
                for n in range(50):
                    tasks.start_soon(ask, n)
                await anyio.lowlevel.checkpoint()
                pipe.transports[0].disconnect()
            assert sorted(map(int, map(str, answers))) == list(range(50))
            assert pipe.active == "http"
            reply = await pipe.send("echo", "x", timeout=5)
        assert reply.transport == "http"


async def test_a_frozen_server_is_found_within_the_bound_although_its_kernel_takes_everything(
    directory: Path,
) -> None:
    with server_process(directory / "pipe", directory / "log.jsonl") as (process, port):
        pipe = devpipe.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        async with pipe:
            lost = anyio.Event()
            pipe.on("transport_failed", lambda event: lost.set())
            order: list[str] = []
            os.kill(process.pid, signal.SIGSTOP)
            try:
                async with anyio.create_task_group() as tasks:

                    async def ask() -> None:
                        with pytest.raises(devpipe.DevPipeError):
                            await pipe.send("echo", 1, timeout=3)
                        order.append("the call ended")

                    tasks.start_soon(ask)
                    with anyio.fail_after(10):
                        await lost.wait()
                    order.append("the loss was known")
            finally:
                os.kill(process.pid, signal.SIGCONT)
            # a ping after a third of its time, another third for the answer: a third is left for another way
            assert order == ["the loss was known", "the call ended"]
            with anyio.fail_after(20):
                assert (await pipe.send("echo", 2, timeout=15)).payload == 2


async def test_a_host_that_falls_silent_is_known_on_all_its_paths_in_one_window(directory: Path) -> None:
    folder = directory / "pipe"
    with server_process(folder, directory / "log.jsonl") as (process, port):
        async with devpipe.connect(f"http://127.0.0.1:{port}", folder=folder) as pipe:
            with anyio.fail_after(20):
                while not all(transport.ready for transport in pipe.transports):
                    await anyio.lowlevel.checkpoint()
            exhausted = anyio.Event()
            pipe.on("exhausted", lambda event: exhausted.set())
            order: list[str] = []
            os.kill(process.pid, signal.SIGSTOP)
            try:
                async with anyio.create_task_group() as tasks:

                    async def ask() -> None:
                        with pytest.raises(devpipe.DevPipeError):
                            await pipe.send("echo", 1, timeout=6)
                        order.append("the call ended")

                    tasks.start_soon(ask)
                    with anyio.fail_after(20):
                        await exhausted.wait()
                    order.append("nothing is usable")
            finally:
                os.kill(process.pid, signal.SIGCONT)
            # one path after the other would take twice the time of the call, and more
            assert order == ["nothing is usable", "the call ended"]


async def test_a_frozen_server_costs_its_clients_no_more_time_than_it_was_frozen(directory: Path) -> None:
    with server_process(directory / "pipe", directory / "log.jsonl") as (process, port):
        url = f"http://127.0.0.1:{port}"
        async with devpipe.connect(url, folder=directory / "pipe") as pipe:
            opened: list[object] = []
            pipe.on("breaker_changed", opened.append)
            with anyio.fail_after(30):
                while not all(transport.ready for transport in pipe.transports):
                    await anyio.lowlevel.checkpoint()
                os.kill(process.pid, signal.SIGSTOP)
                try:

                    async def ask() -> None:
                        with pytest.raises(devpipe.DevPipeError):
                            await pipe.send("echo", 1, timeout=0.4)

                    for _ in range(5):  # whatever is active meanwhile, it answers nobody
                        async with anyio.create_task_group() as tasks:
                            for _ in range(10):
                                tasks.start_soon(ask)
                finally:
                    os.kill(process.pid, signal.SIGCONT)
                assert (await pipe.send("echo", 2, timeout=20)).payload == 2
            assert not opened, "when all paths fall silent it is the server, and no breaker counts it"


async def test_two_servers_behind_one_address_are_not_mixed(directory: Path) -> None:
    async with serving() as first, serving() as second:
        async with devpipe.connect(first.url, folder=second.folder) as pipe:
            with anyio.fail_after(20):
                while not all(transport.connected for transport in pipe.transports):
                    await anyio.lowlevel.checkpoint()
                aside = {t.name for t in pipe.explain().transports if "another server" in t.note}
                # whoever answered first is our server: the network's or the folder's
                assert aside in ({"folder"}, {"websocket", "http"})
                for n in range(20):
                    assert (await pipe.send("echo", n)).transport not in aside


@contextmanager
def nginx(port: int, directory: Path, target: int) -> Iterator[None]:
    """nginx as Debian ships it, with nothing set about buffering or WebSockets."""
    (directory / "logs").mkdir()
    config = directory / "nginx.conf"
    config.write_text(
        f"""
        daemon off; pid {directory}/pid; error_log {directory}/logs/error.log; events {{}}
        http {{
          access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
          fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
          server {{ listen 127.0.0.1:{port};
            location / {{ proxy_pass http://127.0.0.1:{target}; proxy_http_version 1.1; }} }}
        }}"""
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(directory)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx (apt install nginx-light)")
async def test_behind_nginx_with_its_defaults_http_carries_messages_and_pushes(directory: Path) -> None:
    async with serving() as world:
        port = free_port()
        with nginx(port, directory, int(world.url.rpartition(":")[2])):
            with anyio.fail_after(10):
                while True:
                    try:
                        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                        break
                    except OSError:
                        await anyio.lowlevel.checkpoint()
            async with devpipe.connect(f"http://127.0.0.1:{port}", settings=QUICK) as pipe:
                with anyio.fail_after(20):
                    assert (await pipe.send("echo", "through")).payload == "through"
                    assert pipe.active == "http", "nginx does not pass WebSockets on unless it is told to"
                    subscription = pipe.receive()
                    await world.server.push("news", 1)
                    item = await subscription.__anext__()
                    assert isinstance(item, devpipe.Message) and item.payload == 1


async def test_ctrl_c_ends_a_serving_process_within_two_seconds_without_a_traceback(directory: Path) -> None:
    for backend in ("asyncio", "trio"):
        command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", "0", "--backend", backend]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().split("serves at ")[1].split()[0]
            async with devpipe.connect(url) as pipe:
                with anyio.fail_after(10):
                    assert (await pipe.send("echo", 1)).payload == 1
                    while not all(t.ready for t in pipe.transports):
                        await anyio.lowlevel.checkpoint()
                began = anyio.current_time()
                process.send_signal(signal.SIGINT)
                with anyio.fail_after(5):
                    while process.poll() is None:
                        await anyio.lowlevel.checkpoint()
                assert anyio.current_time() - began < 2
            assert process.returncode in (0, 130)
            assert process.stderr.read() == ""
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


async def test_a_session_outlives_its_connections_and_its_pushes_are_not_lost() -> None:
    server = make_server()
    async with serving(server) as world, open_pipe(world, "websocket", "http") as pipe:
        subscription = pipe.receive()
        with anyio.fail_after(20):
            await pipe.send("echo", 1)
            for n in range(10):
                await server.push("news", n)
                if n == 4:
                    pipe.transports[0].disconnect()
            got = [await subscription.__anext__() for _ in range(10)]
        assert [item.payload for item in got if isinstance(item, devpipe.Message)] == list(range(10))
