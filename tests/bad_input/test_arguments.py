"""Bad input, item by item: a typed error that names the thing, or counted and dropped; the rest goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import devpipe

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


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


async def test_a_pipe_may_be_entered_before_anything_works_and_each_send_says_what_is_known() -> None:
    async with devpipe.connect("http://127.0.0.1:9", wait=False) as pipe:
        with anyio.fail_after(10), pytest.raises(devpipe.DevPipeError) as failed:
            await pipe.send("echo", 1, timeout=0.3)
        assert failed.value.outcome is devpipe.Outcome.NEVER_SENT and failed.value.safe_to_resend


async def test_a_token_never_goes_off_loopback_in_clear_text() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="clear text"):
        async with devpipe.connect("http://example.invalid", token="secret-word"):
            pass


async def test_a_folder_that_nobody_serves_is_said(directory: Path) -> None:
    with anyio.fail_after(10), pytest.raises(devpipe.AllTransportsFailed, match="nobody serves"):
        async with devpipe.connect(folder=directory / "none", connect_timeout=0.3):
            pass
