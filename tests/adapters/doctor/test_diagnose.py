"""A diagnosis as a whole: servers that are well, and messages that do not get through."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import devpipe
from devpipe import Status
from devpipe.adapters.doctor import talk
from devpipe.adapters.ports.clock import SystemClock
from devpipe.machines.protocols import control

sys.path.insert(0, str(Path(__file__).parent))
from patients import (
    BOUND,
    NETWORK,
    SHORT,
    answering,
    around,
    check_broken,
    diagnose,
    findings,
    forward,
    listening,
)
from support import serving

pytestmark = pytest.mark.anyio


# --- all is well -----------------------------------------------------------------------------------------


async def test_over_a_server_that_is_well_every_transport_works_and_is_measured() -> None:
    async with serving() as world:
        # time enough for the largest message, however busy the machine
        report = await diagnose(world.url, folder=world.folder, timeout=60.0)
    assert report.ok and report.working == ("websocket", "http", "folder")
    assert report.verdict == "websocket, http and folder work"
    for trial in report.trials:
        found = findings(report, trial.transport)
        assert {f.check for f in trial.findings if f.status is not Status.OK} <= {"tls"}
        assert trial.server is not None and trial.server in (found.get("health") or found["beat"]).words
        assert trial.latency_p50 is not None and trial.latency_p99 is not None
        assert 0 < trial.latency_p50 <= trial.latency_p99
        assert "came after" in found["push"].words
        assert "one of that size took" in found["size"].words
    assert [t.max_message_bytes for t in report.trials] == [2**20, 10 * 2**20, 10 * 2**20]
    assert "the same as the server's" in around(report, "clock").words


async def test_every_check_is_made_in_order_and_stands_on_the_page() -> None:
    async with serving() as world:
        report = await diagnose(world.url, folder=world.folder)
    around_us = ["sockets", "proxy", "container", "clock"]
    if sys.platform == "linux":
        around_us[3:3] = ["wsl", "file system", "inotify"]
    network = ["address", "name", "connect", "tls", "health"]
    messages = ["proof", "push", "latency", "size"]
    made = {
        "surroundings": around_us,
        "websocket": network + messages,
        "http": network + messages,
        "folder": ["folder", "write", "beat", *messages],
    }
    assert {name: [finding.check for finding in found] for name, found in report.sections()} == made
    page = (Path(__file__).parents[3] / "specs" / "doctor.md").read_text(encoding="utf-8")
    for checks in made.values():
        assert [check for check in checks if f"`{check}`" not in page] == []


async def test_only_what_is_asked_for_is_tried() -> None:
    async with serving() as world:
        assert (await diagnose(folder=world.folder)).working == ("folder",)
        assert (await diagnose(world.url)).working == ("websocket", "http")
        report = await diagnose(world.url, folder=world.folder, transports=["http", "http"])
    assert [trial.transport for trial in report.trials] == ["http"]
    assert report.verdict == "http works"


async def test_no_handler_is_run() -> None:
    executed: list[Any] = []
    async with serving(execution_log=executed.append) as world:
        assert (await diagnose(world.url, folder=world.folder)).ok
    assert executed == []


async def test_other_sessions_hear_nothing_of_it() -> None:
    async with serving() as world, devpipe.connect(world.url) as pipe:
        pushes = pipe.receive()
        assert (await diagnose(world.url)).ok
        await world.server.push("news", 1)
        with anyio.fail_after(BOUND):
            item = await anext(pushes)
    assert isinstance(item, devpipe.Message) and item.type == "news"


async def test_a_report_is_plain_data_and_plain_words() -> None:
    async with serving() as world:
        report = await diagnose(world.url, transports=["http"])
    data = report.as_dict()
    assert data["ok"] is True and data["working"] == ["http"] and data["url"] == report.url
    assert [f["check"] for f in data["transports"][0]["findings"]][-4:] == [
        "proof",
        "push",
        "latency",
        "size",
    ]
    assert data["transports"][0]["findings"][-4]["status"] == "ok"
    lines = str(report).splitlines()
    assert "http" in lines and lines[-1] == "http works"


@pytest.mark.parametrize("timeout", [0, -1, float("inf")])
async def test_a_time_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(devpipe.ConfigurationError, match="timeout"):
        await diagnose("http://127.0.0.1:1", timeout=timeout)


async def test_without_an_address_there_is_nothing_to_diagnose() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="neither"):
        await diagnose()


# --- proof, push, latency, size --------------------------------------------------------------------------


async def test_a_token_that_is_missing_or_wrong() -> None:
    async with serving(token="right") as world:
        for token in (None, "wrong"):
            report = await diagnose(world.url, token=token)
            for name in NETWORK:
                assert findings(report, name)["health"].status is Status.OK
                assert "--token-file" in check_broken(report, name, "proof")
        assert (await diagnose(world.url, token="right")).ok


@pytest.mark.skipif(sys.platform == "win32", reason="needs: a system that reaches itself by 0.0.0.0")
async def test_a_token_that_would_go_in_clear_text() -> None:
    async with serving() as world:
        report = await diagnose(world.url.replace("127.0.0.1", "0.0.0.0"), token="secret")
    for name in NETWORK:
        assert "https" in check_broken(report, name, "proof", "clear text")
    assert "secret" not in str(report)


async def test_a_server_that_cannot_be_asked_for_a_push(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(control._DECODERS, "health_push")
    async with serving() as world:
        report = await diagnose(world.url, folder=world.folder)
    assert report.ok
    for trial in report.trials:
        push = findings(report, trial.transport)["push"]
        assert push.status is Status.SKIPPED and "unknown_type" in push.words


async def test_pushes_that_are_switched_off_are_not_tried() -> None:
    async with serving() as world:
        report = await diagnose(world.url, transports=["http"], settings={"http.enable_sse": False})
    assert report.ok and findings(report, "http")["push"].words == "not tried: enable_sse is off"


async def test_a_stream_that_does_not_come_through_is_warned_of() -> None:
    class Buffering(devpipe.Server):
        """Behind a proxy that holds streams back."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if str(scope.get("path", "")).endswith("/stream"):
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
            await super().__call__(scope, receive, send)

    async with serving(Buffering()) as world:
        report = await diagnose(world.url, transports=["http"], timeout=2.0)
    push = findings(report, "http")["push"]
    assert report.ok and push.status is Status.WARNING and "polled" in push.words
    assert push.remedy is not None and "proxy_buffering off" in push.remedy


async def test_pushes_that_get_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    from devpipe.machines.protocols.pushes import Pushes

    def forget(self: Pushes, type: str, payload: bytes, *, timestamp: int) -> None:
        pass

    monkeypatch.setattr(Pushes, "append", forget)
    async with serving() as world:
        report = await diagnose(world.url, transports=["websocket"], timeout=SHORT)
    push = findings(report, "websocket")["push"]
    assert push.status is Status.FAILED and push.words == "none came" and push.remedy is not None
    assert not report.ok and findings(report, "websocket")["latency"].status is Status.OK


async def test_messages_that_are_too_large_for_something_between_are_warned_of() -> None:
    async with serving() as world, listening(forward(world.url, limit=500_000)) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", transports=["websocket"], timeout=2.0)
    size = findings(report, "websocket")["size"]
    assert report.ok and size.status is Status.WARNING and "does not get through" in size.words
    assert size.remedy is not None and "client_max_body_size" in size.remedy


async def test_messages_that_are_larger_than_the_server_takes_after_all_are_warned_of() -> None:
    class Narrow(devpipe.Server):
        """Says ten MiB and takes one."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            sizes = [int(value) for name, value in scope["headers"] if name == b"content-length"]
            serve = small if sizes and sizes[0] > 2**20 else super().__call__
            await serve(scope, receive, send)

    async with devpipe.Server(devpipe.ServerConfig(max_message_bytes=2**20)) as small:
        async with serving(Narrow()) as world:
            report = await diagnose(world.url, transports=["http"], timeout=60)  # enough for ten MiB
    size = findings(report, "http")["size"]
    assert report.ok and size.status is Status.WARNING and "does not get through" in size.words


async def test_the_largest_message_is_not_tried_where_it_would_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(talk, "SHARE", 1e-6)  # of the time: whatever it takes is long
    async with serving() as world:
        report = await diagnose(world.url, transports=["http"])
    found = findings(report, "http")
    assert report.ok and "not tried: it would take about" in found["size"].words
    assert found["latency"].words.endswith("of 1 message")


@pytest.mark.parametrize(("ahead", "words"), [(3600.0, "ahead of"), (-3600.0, "behind")])
async def test_a_clock_that_differs_from_the_server_s(ahead: float, words: str) -> None:
    class Skewed(SystemClock):
        def wall(self) -> float:
            return super().wall() + ahead

    async with serving(clock=Skewed) as world:
        report = await diagnose(world.url, transports=["websocket"])
    found = around(report, "clock")
    assert found.status is Status.WARNING and f"60 minutes {words} ours" in found.words
    assert report.ok, "messages go through all the same"


async def test_the_clock_of_a_server_that_says_the_date_only() -> None:
    handler = answering("200 OK\r\nDate: Mon, 01 Jan 2035 00:00:00 GMT\r\nContent-Type: text/html", "x")
    async with listening(handler) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", transports=["http"])
    assert around(report, "clock").status is Status.WARNING
    assert "days ahead of ours" in around(report, "clock").words


async def test_a_client_of_one_s_own_is_used_and_stays_open() -> None:
    async with serving() as world, httpx.AsyncClient() as client:
        report = await diagnose(world.url, transports=["http"], http_client=client)
        assert not client.is_closed
    assert report.ok and findings(report, "http")["connect"].words == "left to the given httpx client"


async def test_a_transport_that_nobody_knows() -> None:
    report = await diagnose("http://127.0.0.1:1", transports=["pigeon"])
    check_broken(report, "pigeon", "proof", "'pigeon' is not known")


async def test_a_token_function_that_raises_is_told_and_ends_nothing_else() -> None:
    async def token() -> str:
        raise ZeroDivisionError

    async with serving() as world:
        report = await diagnose(world.url, folder=world.folder, token=token)
    assert report.working == ("folder",)
    check_broken(report, "http", "proof", "ZeroDivisionError")


async def test_what_breaks_a_trial_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from devpipe.adapters.transports.websocket import WebSocketLink

    def broken(self: WebSocketLink, *arguments: object, **options: object) -> None:
        raise ZeroDivisionError("our own\x1b[31m\nerror" + "x" * 10_000)

    monkeypatch.setattr(WebSocketLink, "__init__", broken)
    async with serving() as world:
        report = await diagnose(world.url)
    assert report.working == ("http",)
    remedy = check_broken(report, "websocket", "proof", "ZeroDivisionError", "our own\\x1b[31m\\nerror")
    assert "--debug" in remedy
    assert len(findings(report, "websocket")["proof"].words) < 500
