"""Which transports can work here at all."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

import devpipe


def test_a_process_with_sockets_can_have_websockets() -> None:
    assert devpipe.supports_websockets()


def test_a_sandbox_without_sockets_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> socket.socket:
        raise PermissionError("no network here")

    monkeypatch.setattr(socket, "socket", refuse)
    assert not devpipe.supports_websockets()


def test_without_the_protocol_library_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def hide(name: str, *more: Any) -> Any:
        return None if name == "wsproto" else find(name, *more)

    monkeypatch.setattr("devpipe.adapters.environment.find_spec", hide)
    assert not devpipe.supports_websockets()


def test_a_folder_that_is_there_or_can_be_made_will_do(tmp_path: Path) -> None:
    assert devpipe.supports_filesystem(tmp_path)
    assert devpipe.supports_filesystem(tmp_path / "not" / "yet" / "there")
    assert list(tmp_path.iterdir()) == [], "the probe leaves nothing behind"


def test_a_file_in_its_place_will_not(tmp_path: Path) -> None:
    file = tmp_path / "pipe"
    file.write_text("x")
    assert not devpipe.supports_filesystem(file)
    assert not devpipe.supports_filesystem(file / "deeper")


def test_a_file_system_that_takes_no_files_will_not() -> None:
    assert not devpipe.supports_filesystem("/proc/self")


def test_one_that_cannot_rename_will_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    assert not devpipe.supports_filesystem(tmp_path)


def test_where_no_socket_can_be_opened_a_pipe_has_no_websocket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def names() -> list[str]:
        async with devpipe.connect("http://127.0.0.1:9", folder=tmp_path, wait=False) as pipe:
            return [transport.type for transport in pipe.transports]

    async def websocket() -> None:
        async with devpipe.connect("http://127.0.0.1:9", transports=["websocket"], wait=False):
            pass

    assert anyio.run(names) == ["websocket", "http", "folder"]
    monkeypatch.setattr("devpipe.adapters.transports.websocket.supports_websockets", lambda: False)
    assert anyio.run(names) == ["http", "folder"]
    with pytest.raises(devpipe.ConfigurationError, match="a process that may open sockets"):
        anyio.run(websocket)
