"""Bad input, item by item: a typed error that names the thing, or counted and dropped; the rest goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from support import open_pipe, serving

import devpipe

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://h", "http://", "http://h:port", "http://h:99999", "http://u:p@h", "http://h?q=1", "http://[::1"],
)  # fmt: skip
async def test_a_server_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(devpipe.ConfigurationError, match="server_url"):
        devpipe.connect(url)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("token", 5, "a text"),
        ("token", "", "without spaces"),
        ("token", "two\nlines", "without spaces"),
        ("folder", 5, "a path"),
        ("config_file", 5, "a path"),
        ("settings", "x", "a dictionary"),
        ("settings", {5: 5}, "a dictionary"),
        ("http_client", "x", "AsyncClient"),
        ("timeout", "5", "seconds"),
        ("connect_timeout", True, "seconds"),
        ("transports", "http", "a list of names"),
        ("transports", 5, "a list of names"),
        ("config", "x", "PipeConfig"),
        ("proxy", 5, "an address"),
        ("ssl_context", 5, "SSLContext"),
    ],
)
async def test_an_argument_of_a_wrong_kind_is_named_with_what_is_allowed(
    name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(devpipe.ConfigurationError, match=f"(?s){name}.*{allowed}"):
        devpipe.connect("http://127.0.0.1:9", **{name: value})


async def test_a_doctor_and_a_send_refuse_arguments_of_a_wrong_kind_too() -> None:
    for wrong in ({"transports": "http"}, {"timeout": "5"}, {"proxy": 5}):
        with pytest.raises(devpipe.ConfigurationError, match=next(iter(wrong))):
            await devpipe.diagnose("http://127.0.0.1:9", **wrong)  # type: ignore[arg-type]  # as above
    async with devpipe.connect("http://127.0.0.1:9", wait=False) as pipe:
        with pytest.raises(devpipe.InvalidMessage, match="timeout = '5'"):
            await pipe.send("echo", timeout="5")  # type: ignore[arg-type]  # as above


async def test_a_bad_token_in_the_environment_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEVPIPE_TOKEN", "two words")
    with pytest.raises(devpipe.ConfigurationError, match="DEVPIPE_TOKEN") as refused:
        devpipe.connect("http://127.0.0.1:9")
    assert "two words" not in str(refused.value)


async def test_an_execution_log_that_cannot_be_written_is_refused_by_name(directory: Path) -> None:
    for log in (directory / "none" / "x", directory, 5.5):
        with pytest.raises(devpipe.ConfigurationError, match="execution_log"):
            async with devpipe.Server(execution_log=log):  # type: ignore[arg-type]  # as above
                pass


async def test_neither_url_nor_folder_is_refused() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="neither"):
        devpipe.connect()


async def test_an_unknown_transport_or_setting_is_refused_with_what_there_is() -> None:
    for options in ({"transports": ["pigeon"]}, {"transports": ["folder"]}):
        with pytest.raises(devpipe.ConfigurationError, match=options["transports"][0]):
            async with devpipe.connect("http://127.0.0.1:1", **options):  # type: ignore[arg-type]
                pass
    with pytest.raises(devpipe.ConfigurationError, match=r"did you mean http\.max_connections"):
        devpipe.connect("http://127.0.0.1:1", settings={"http.max_conections": 3})
    with pytest.raises(devpipe.ConfigurationError, match="argument"):
        devpipe.connect("http://127.0.0.1:1", settings={"http.max_connections": 0})


async def test_a_setting_of_the_environment_or_a_file_names_its_source(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVPIPE_TIMEOUT", "soon")
    with pytest.raises(devpipe.ConfigurationError, match="DEVPIPE_TIMEOUT"):
        devpipe.connect("http://127.0.0.1:1")
    monkeypatch.setenv("DEVPIPE_TIMEOUT", "7.5")
    assert devpipe.connect("http://127.0.0.1:1").config.timeout == 7.5
    assert devpipe.connect("http://127.0.0.1:1", timeout=3).config.timeout == 3
    file = directory / "devpipe.toml"
    monkeypatch.delenv("DEVPIPE_TIMEOUT")
    file.write_text("timeout = 4.0\n[http]\nmax_connections = 2\n")
    config = devpipe.connect("http://127.0.0.1:1", config_file=file).config
    assert (config.timeout, config.http.max_connections) == (4.0, 2)
    for text, word in (("timeout = -1", "devpipe.toml"), ("a b", "TOML"), ("tiemout = 1", "timeout")):
        file.write_text(text)
        with pytest.raises(devpipe.ConfigurationError, match=word):
            devpipe.connect("http://127.0.0.1:1", config_file=file)
    with pytest.raises(devpipe.ConfigurationError, match="cannot be read"):
        devpipe.connect("http://127.0.0.1:1", config_file=directory / "none.toml")


async def test_a_port_nobody_listens_on_is_said_for_each_transport() -> None:
    with anyio.fail_after(20), pytest.raises(devpipe.AllTransportsFailed) as failed:
        async with devpipe.connect("http://127.0.0.1:9", connect_timeout=0.5):
            pass
    assert set(failed.value.errors) == {"websocket", "http"}
    assert "nobody listens" in str(failed.value.errors["websocket"])
    assert "refuses connections" in str(failed.value.errors["http"])


async def test_a_wrong_path_in_the_address_is_named_with_what_to_correct_and_that_once() -> None:
    async with serving() as world:
        with anyio.fail_after(20), pytest.raises(devpipe.AllTransportsFailed) as failed:
            async with devpipe.connect(f"{world.url}/wrong", connect_timeout=2):
                pass
    said, where = str(failed.value), world.url.removeprefix("http://")
    for at in (f" {where}/wrong/devpipe/ws", f" {world.url}/wrong/devpipe/message"):
        assert f"nothing of devpipe at{at}" in said
    assert (
        said.count("correct the path in the address (a mounted server is at its mount path, like /pipe)") == 1
    )
    assert "profile='vaultpilot'" in said


async def test_a_pipe_may_be_entered_before_anything_works_and_each_send_says_what_is_known() -> None:
    async with devpipe.connect("http://127.0.0.1:9", wait=False) as pipe:
        with anyio.fail_after(10), pytest.raises(devpipe.DevPipeError) as failed:
            await pipe.send("echo", 1, timeout=0.3)
        assert failed.value.outcome is devpipe.Outcome.NEVER_SENT and failed.value.safe_to_resend


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "the server wants a token: give token= or DEVPIPE_TOKEN"),
        ("wrong", "the server does not accept our token"),
    ],
)
async def test_a_wrong_or_missing_token_fails_at_once_and_the_breaker_is_untouched(
    token: str | None, words: str
) -> None:
    async with serving(token="right") as world:
        with anyio.fail_after(8), pytest.raises(devpipe.AllTransportsFailed) as failed:
            async with devpipe.connect(world.url, token=token):
                pass
        assert failed.value.kind is devpipe.FailureKind.AUTH
        told = {name: str(error) for name, error in failed.value.errors.items()}
        assert told == {"websocket": f"websocket: {words}", "http": f"http: {words}"}
        assert "right" not in str(failed.value)
        async with devpipe.connect(world.url, token="right") as pipe:
            assert (await pipe.send("echo", 1)).payload == 1


async def test_a_token_never_goes_off_loopback_in_clear_text() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="clear text"):
        async with devpipe.connect("http://example.invalid", token="secret-word"):
            pass


async def test_a_foreign_origin_or_host_is_refused_on_every_path() -> None:
    async with serving() as world, httpx.AsyncClient() as client:
        for path, method in (("/devpipe/message", "POST"), ("/devpipe/stream", "GET")):
            for headers, status in (
                ({"Origin": "https://evil.example"}, 403),
                ({"Origin": "null"}, 403),
                ({"Host": "evil.example"}, 421),
            ):
                reply = await client.request(
                    method, world.url + path, headers={"Content-Type": "application/json", **headers}
                )
                assert reply.status_code == status, (path, headers)
                assert reply.json()["success"] is False


async def test_a_body_that_is_no_json_is_refused_and_others_are_answered() -> None:
    async with serving() as world, httpx.AsyncClient() as client:
        url = f"{world.url}/devpipe/message"
        assert (
            await client.post(url, content=b"{}", headers={"Content-Type": "text/plain"})
        ).status_code == 415
        for body in (b"", b"[1]", b'{"type":5}', b"\xff", b"[" * 100_000):
            reply = await client.post(url, content=body, headers={"Content-Type": "application/json"})
            assert reply.json()["error"]["code"] == "bad_message", body[:20]
        good = {"id": "a", "type": "echo", "payload": 1}
        assert (await client.post(url, json=good)).json()["payload"] == 1


@pytest.mark.parametrize("name", ["websocket", "http", "folder"])
async def test_a_reply_too_large_for_its_transport_is_an_error_that_says_it_ran(name: str) -> None:
    async with serving() as world, open_pipe(world, name) as pipe:
        size = 2 * 1024 * 1024 if name == "websocket" else 11 * 1024 * 1024
        with anyio.fail_after(30), pytest.raises(devpipe.DevPipeError) as failed:
            await pipe.send("large", size, timeout=20)
        assert failed.value.outcome is devpipe.Outcome.EXECUTED
        with anyio.fail_after(10):
            assert (await pipe.send("echo", 1)).payload == 1


async def test_files_half_written_named_badly_or_planted_are_left_alone_on_both_sides() -> None:
    async with serving() as world, open_pipe(world, "folder") as pipe:
        secret = world.folder.parent / "secret"
        secret.write_text('{"type":"echo","id":"evil-1"}')
        mine = world.folder / "clients" / pipe._prefix
        for place, kind in ((world.folder / "requests", "request_evil-"), (mine, "response_evil-")):
            (place / f"{kind}1.json").symlink_to(secret)
            os.mkfifo(place / f"{kind}2.json")
            (place / f"{kind}3.json").mkdir()
            os.link(secret, place / f"{kind}4.json")
            (place / f"{kind}5.json").write_bytes(b'{"type": "ec')
            (place / "draft.tmp").write_text("half")
            (place / "request_..evil.json").write_text("{}")
            (place / "push_one.json").write_text("{}")
        with anyio.fail_after(20):
            for n in range(5):
                assert (await pipe.send("echo", n)).payload == n
            await world.server.push("news", 1)
            assert (await pipe.send("echo", "still")).payload == "still"
        assert secret.read_text() == '{"type":"echo","id":"evil-1"}'
        assert (world.folder / "requests" / "request_evil-2.json").is_fifo()


async def test_a_folder_that_others_may_write_is_refused_unless_it_is_allowed(directory: Path) -> None:
    shared = directory / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    server = devpipe.Server(folder=shared)
    with pytest.raises(devpipe.ConfigurationError, match="not safe"):
        async with server:
            pass
    options = devpipe.FolderConfig(allow_shared=True)
    async with devpipe.Server(folder=shared, folder_options=options):
        with anyio.fail_after(10), pytest.raises(devpipe.AllTransportsFailed, match="not safe"):
            async with devpipe.connect(folder=shared):
                pass
        async with devpipe.connect(folder=shared, settings={"folder_options.allow_shared": True}) as pipe:
            assert pipe.active == "folder"


async def test_a_folder_that_nobody_serves_is_said(directory: Path) -> None:
    with anyio.fail_after(10), pytest.raises(devpipe.AllTransportsFailed, match="nobody serves"):
        async with devpipe.connect(folder=directory / "none", connect_timeout=0.3):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system of its own")
@pytest.mark.parametrize(("options", "code"), [("size=64k", errno.ENOSPC), ("ro", errno.EROFS)])
async def test_a_full_or_read_only_folder_fails_the_message_with_the_remedy_and_recovers(
    directory: Path, options: str, code: int
) -> None:
    mounted = directory / "mounted"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "devpipe-test", str(mounted)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        server = devpipe.Server(folder=mounted / "pipe")

        @server.handler("echo")
        async def echo(message: devpipe.Message) -> object:
            return message.payload

        settings = {"retry_attempts": 1, "lifecycle.backoff_initial": 0.01}
        async with server, devpipe.connect(folder=mounted / "pipe", settings=settings) as pipe:
            with anyio.fail_after(30):
                assert (await pipe.send("echo", 1)).payload == 1
                filler = mounted / "filler"
                if code == errno.ENOSPC:
                    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
                        while True:
                            file.write(b"x" * 4096)
                else:
                    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
                with pytest.raises(devpipe.DevPipeError) as failed:
                    await pipe.send("echo", "x" * 8000, timeout=2)
                assert failed.value.outcome is devpipe.Outcome.NEVER_SENT
                if code == errno.ENOSPC:
                    filler.unlink()
                else:
                    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
                assert (await pipe.send("echo", 2, timeout=20)).payload == 2
            assert not list((mounted / "pipe" / "tmp").iterdir())
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)
