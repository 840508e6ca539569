"""Prefixes, paths, folder names and profiles are configuration; and what a flat folder may hold besides messages."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import make_server, serving

import devpipe
from devpipe.adapters.client.configuration import load_config
from devpipe.adapters.server import flat_folder

pytestmark = pytest.mark.anyio

BOUND = 20.0
NAMES = {"requests": "in", "clients": "out", "tmp": "drafts", "claims": "taken"}
URL = "http://127.0.0.1:8000"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def folder_has(folder: Path, prefix: str) -> list[str]:
    """The names in it that begin like this."""
    return [name for name in os.listdir(folder) if name.startswith(prefix)]


@pytest.mark.parametrize("way", ["websocket", "http", "folder"])
async def test_every_path_and_every_folder_name_may_be_another_one(way: str) -> None:
    server = make_server(
        config=devpipe.ServerConfig(
            prefix="/p", message_path="/say", stream_path="/hear", websocket_paths=("/q/sock", "/r")
        ),
        folder_options=devpipe.FolderConfig(**NAMES),
    )
    settings: dict[str, Any] = {
        "http.prefix": "/p", "http.message_path": "/say", "http.stream_path": "/hear", "websocket.path": "/q/sock",
    }  # fmt: skip
    settings |= {f"folder_options.{key}": value for key, value in NAMES.items()}
    with anyio.fail_after(BOUND):
        async with serving(server) as world:
            url, where = (None, world.folder) if way == "folder" else (world.url, None)
            async with devpipe.connect(url, folder=where, transports=[way], settings=settings) as pipe:
                with pipe.receive() as pushes:
                    assert (await pipe.send("echo", 1, timeout=10)).payload == 1
                    await world.server.push("news", 2)
                    message = await anext(aiter(pushes))
                assert isinstance(message, devpipe.Message) and message.payload == 2
            assert {path.name for path in world.folder.iterdir() if path.is_dir()} == set(NAMES.values())


def test_a_profile_is_weaker_than_whatever_is_said_anywhere(folder: Path) -> None:
    file = folder / "devpipe.toml"
    file.write_text('profile = "vaultpilot"\n[http]\nprefix = "/from/file"\n')
    config = load_config({"server_url": URL}, environ={"DEVPIPE_WEBSOCKET_PATH": "/from/env"}, file=file)
    assert (config.profile, config.http.prefix, config.websocket.path) == (
        "vaultpilot",
        "/from/file",
        "/from/env",
    )
    assert config.peer.sender == "vaultpilot-plugin" and config.folder_options.flat
    config = load_config({"server_url": URL, "profile": "default"}, environ={}, file=file)
    assert config.profile == "default" and not config.folder_options.flat
    config = load_config({"server_url": URL}, environ={"DEVPIPE_PROFILE": "vaultpilot"})
    assert config.websocket.path == "/ws/agent"
    with pytest.raises(devpipe.ConfigurationError, match="environment variable DEVPIPE_PROFILE"):
        load_config({"server_url": URL}, environ={"DEVPIPE_PROFILE": "vp"})


def test_a_setting_counts_where_its_argument_is_not_given() -> None:
    pipe = devpipe.connect(URL, settings={"timeout": 3.0, "profile": "vaultpilot"})
    assert (pipe.config.timeout, pipe.config.profile) == (3.0, "vaultpilot")


def test_a_profile_may_be_put_on_a_server_that_is_made_already() -> None:
    server = devpipe.Server(devpipe.ServerConfig(prefix="/mine", allowed_hosts=("pipe.test",)))
    server.configure(profile="vaultpilot")
    assert server.config.prefix == "/mine" and server.config.health_path == "/status"
    assert server.folder_options.flat and server.hosts == {"pipe.test"}


async def test_a_profile_that_nobody_knows_is_told_with_those_that_there_are() -> None:
    for wrong in (
        lambda: devpipe.connect("http://127.0.0.1:1", profile="vp"),
        lambda: devpipe.Server(profile="vp"),
        lambda: devpipe.connect(
            profile="vaultpilot", config=devpipe.PipeConfig(server_url="http://127.0.0.1:1")
        ),
    ):
        with pytest.raises(devpipe.ConfigurationError, match="profile = 'v"):
            wrong()


# --- a flat folder with other things in it --------------------------------------------------------------


async def test_only_plain_files_of_a_flat_folder_are_read_and_nothing_is_followed(folder: Path) -> None:
    inside, secret = folder / "pipe", folder / "secret.json"
    inside.mkdir(mode=0o700)
    request = {"id": "x-1", "type": "echo", "payload": 1}
    secret.write_text(json.dumps(request))
    (inside / "request_link-1.json").symlink_to(secret)
    os.link(secret, inside / "request_two-1.json")
    os.mkfifo(inside / "request_fifo-1.json")
    (inside / "request_folder-1.json").mkdir()
    (inside / "request_..json").write_text(json.dumps(request))
    server = make_server(profile="vaultpilot", folder=inside)
    with anyio.fail_after(BOUND):
        async with server:
            (inside / "request_good-1.json").write_text(json.dumps(request))
            while not (inside / "response_good-1.json").exists():
                await anyio.lowlevel.checkpoint()
    assert [path.name for path in inside.glob("response_*")] == ["response_good-1.json"]


async def test_a_request_that_stays_half_written_is_refused_in_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat_folder, "PATIENCE", 0.2)
    server = make_server(
        profile="vaultpilot", folder=folder, folder_options=devpipe.FolderConfig(rescan_interval=0.05)
    )
    with anyio.fail_after(BOUND):
        async with server:
            (folder / "request_half-1.json").write_text('{"id": "half-1", "ty')
            response = folder / "response_half-1.json"
            while not response.exists():
                await anyio.lowlevel.checkpoint()
    told = json.loads(response.read_text())
    assert (told["id"], told["success"], told["error"]["code"]) == ("half-1", False, "bad_message")


async def test_a_response_that_is_no_plain_file_is_told_and_not_followed(folder: Path) -> None:
    settings = {"folder_options.rescan_interval": 0.02, "profile": "vaultpilot"}
    server = make_server(profile="vaultpilot", folder=folder)
    with anyio.fail_after(BOUND):
        async with server, devpipe.connect(folder=folder, settings=settings) as pipe:
            troubles: list[str] = []
            pipe.on("error", lambda event: troubles.append(event.failure.reason))

            async def plant() -> None:
                while not (found := [n for n in folder_has(folder, "request_") if n.endswith(".json")]):
                    await anyio.lowlevel.checkpoint()
                name = found[0].replace("request_", "response_")
                (folder / name).symlink_to(folder / "elsewhere")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(plant)
                with pytest.raises(devpipe.DeadlineExceeded) as caught:
                    await pipe.send("wait", timeout=1.0)
            assert caught.value.outcome is devpipe.Outcome.MAYBE_EXECUTED
            assert any("no plain file" in trouble for trouble in troubles), troubles
            assert (await pipe.send("echo", 1, timeout=10)).payload == 1


async def test_without_its_folder_a_flat_transport_is_lost_and_nothing_was_sent(folder: Path) -> None:
    inside = folder / "pipe"
    settings = {"folder_options.rescan_interval": 0.02, "profile": "vaultpilot"}
    with anyio.fail_after(BOUND):
        with pytest.raises(devpipe.AllTransportsFailed, match="nobody serves"):
            async with devpipe.connect(folder=inside, settings=settings, connect_timeout=0.3):
                pass
        async with make_server(profile="vaultpilot", folder=inside):
            async with devpipe.connect(folder=inside, settings=settings) as pipe:
                lost = anyio.Event()
                pipe.on("transport_failed", lambda event: lost.set())
                async with anyio.create_task_group() as tasks:

                    async def wait() -> None:
                        with pytest.raises(devpipe.DevPipeError) as caught:
                            await pipe.send("wait", timeout=10)
                        assert caught.value.outcome is devpipe.Outcome.MAYBE_EXECUTED

                    tasks.start_soon(wait)
                    while len(folder_has(inside / "claims", "request_")) < 2:  # the first is the probe's
                        await anyio.lowlevel.checkpoint()
                    shutil.rmtree(inside)
                    await lost.wait()
                with pytest.raises(devpipe.DevPipeError) as caught:
                    await pipe.send("echo", timeout=0.5)
                assert caught.value.outcome is devpipe.Outcome.NEVER_SENT


async def test_what_is_taken_from_the_flat_folder_is_taken_once_also_after_a_restart() -> None:
    executed: list[str | None] = []

    def counting() -> devpipe.Server:
        server = devpipe.Server(profile="vaultpilot")

        @server.handler("count")
        async def count(message: devpipe.Message) -> int:
            executed.append(message.id)
            return len(executed)

        return server

    with tempfile.TemporaryDirectory() as name, anyio.fail_after(BOUND):
        folder = Path(name) / "pipe"
        folder.mkdir(mode=0o700)
        request = {"id": "msg_1751760000000_1", "type": "count", "payload": None}
        (folder / "request_msg_1751760000000_1.json").write_text(json.dumps(request))
        old = folder / "request_old-1.json"
        old.write_text(json.dumps({**request, "id": "old-1"}))
        os.utime(old, (time.time() - 4000, time.time() - 4000))
        (folder / "request_a b.json").write_text("{}")
        (folder / "health_check_1751760000000.tmp").write_text("health_check")
        for id in ("now-1", "then-1"):
            server = counting()
            server.configure(folder=folder)
            async with server:
                (folder / f"request_{id}.json").write_text(json.dumps({**request, "id": id}))
                while not (folder / f"response_{id}.json").exists():
                    await anyio.lowlevel.checkpoint()
            for response in folder.glob("response_*.json"):
                response.unlink()  # whoever tidies up does not make anything run again
        assert executed == ["msg_1751760000000_1", "now-1", "then-1"]
        assert old.exists() and not (folder / "response_old-1.json").exists()


async def test_the_server_removes_its_own_old_responses_and_nobody_elses() -> None:
    with tempfile.TemporaryDirectory() as name, anyio.fail_after(BOUND):
        folder = Path(name) / "pipe"
        (folder / "claims").mkdir(mode=0o700, parents=True)
        long_ago = time.time() - 8000
        for id in ("ours-1", "theirs-1"):
            for kind in ("request", "response"):
                path = folder / f"{kind}_{id}.json"
                path.write_text("{}")
                os.utime(path, (long_ago, long_ago))
        claim = folder / "claims" / "request_ours-1.json"
        claim.write_text("")
        os.utime(claim, (long_ago, long_ago))
        server = make_server(profile="vaultpilot", folder=folder)
        folder.chmod(0o700)
        async with server:
            while claim.exists():
                await anyio.lowlevel.checkpoint()
        left = {path.name for path in folder.iterdir() if path.is_file()}
        assert left == {"request_ours-1.json", "request_theirs-1.json", "response_theirs-1.json"}
