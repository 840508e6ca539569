"""Every transport tried for real: servers that are well, and everything that can be wrong with one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

import devpipe
from devpipe import Finding, Report, Status
from devpipe.adapters.doctor import talk
from devpipe.adapters.doctor.files import whose
from devpipe.adapters.ports import watcher
from devpipe.adapters.ports.clock import SystemClock
from devpipe.machines.protocols import control

sys.path.insert(0, str(Path(__file__).parents[2]))
from support import make_server, serving

pytestmark = pytest.mark.anyio

PEM = Path(__file__).parents[1] / "localhost.pem"
NETWORK = ["websocket", "http"]
#: No diagnosis of these tests takes longer (seconds).
BOUND = 30.0
#: The time of a step where something hangs (seconds).
SHORT = 0.4

Handler = Callable[[ByteStream], Awaitable[None]]


async def diagnose(url: str | None = None, **options: Any) -> Report:
    with anyio.fail_after(BOUND):
        return await devpipe.diagnose(url, **options)


def findings(report: Report, transport: str) -> dict[str, Finding]:
    trial = next(trial for trial in report.trials if trial.transport == transport)
    found = {finding.check: finding for finding in trial.findings}
    assert len(found) == len(trial.findings), "each check is told once"
    return found


def around(report: Report, check: str) -> Finding:
    return next(finding for finding in report.surroundings if finding.check == check)


def check_broken(report: Report, transport: str, check: str, *words: str) -> str:
    """It ended at this check, with these words; what came after was left undone. Returns the remedy."""
    found = findings(report, transport)
    assert found[check].status is Status.FAILED
    for word in words:
        assert word in found[check].words
    names = list(found)
    rest = names[names.index(check) + 1 :]
    assert "size" in rest
    assert {found[name].status for name in rest} == {Status.SKIPPED}
    assert transport not in report.working
    remedy = found[check].remedy
    assert remedy is not None
    return remedy


@contextlib.asynccontextmanager
async def listening(
    handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[int, None]:
    """Something that listens; gives its port."""

    async def serve(stream: ByteStream) -> None:
        async with stream:
            with contextlib.suppress(
                anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
            ):  # the doctor hangs up, which is its right
                await handler(stream)

    listener: Any = await anyio.create_tcp_listener(local_host=host)
    port = listener.extra(SocketAttribute.local_port)
    if tls is not None:
        listener = TLSListener(listener, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield port
        tasks.cancel_scope.cancel()


def forward(url: str, *, limit: int | None = None) -> Handler:
    """To this server; ``limit``: hangs up after so many bytes of one connection."""
    port = int(url.rpartition(":")[2])

    async def handler(stream: ByteStream) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as onward, anyio.create_task_group() as tasks:

            async def pump(source: ByteStream, sink: ByteStream, most: float) -> None:
                taken = 0
                with contextlib.suppress(
                    anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
                ):  # one side hung up: so do we
                    while taken <= most:
                        data = await source.receive()
                        taken += len(data)
                        await sink.send(data)
                tasks.cancel_scope.cancel()

            tasks.start_soon(pump, onward, stream, float("inf"))
            await pump(stream, onward, float("inf") if limit is None else limit)

    return handler


def answering(head: str, body: str = "") -> Handler:
    """An HTTP server that says the same to everybody."""
    answer = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()

    async def handler(stream: ByteStream) -> None:
        while b"\r\n\r\n" not in await stream.receive():
            pass
        await stream.send(answer)

    return handler


async def silent(stream: ByteStream) -> None:
    while True:
        await stream.receive()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def trusting(file: Path = PEM) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(file))


# --- all is well ----------------------------------------------------------------------------------------------


async def test_over_a_server_that_is_well_every_transport_works_and_is_measured() -> None:
    async with serving() as world:
        report = await diagnose(world.url, folder=world.folder)
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


# --- the network ----------------------------------------------------------------------------------------------


async def test_a_port_at_which_nobody_listens() -> None:
    port = free_port()
    report = await diagnose(f"http://127.0.0.1:{port}")
    for name in NETWORK:
        remedy = check_broken(report, name, "connect", f"nobody listens at 127.0.0.1:{port}")
        assert f"`devpipe serve --port {port}`" in remedy
    assert report.verdict == "nothing works: tried websocket and http"
    assert str(report).count("the rest") == 2


async def test_a_name_that_does_not_resolve() -> None:
    report = await diagnose("http://no-such-host.invalid:8000")
    for name in NETWORK:
        remedy = check_broken(report, name, "name", "no-such-host.invalid does not resolve")
        assert "Correct the name" in remedy


async def test_a_name_that_cannot_even_be_asked_for() -> None:
    report = await diagnose(f"http://{'x' * 64}.example:8000", transports=["http"])
    check_broken(report, "http", "name", "does not resolve")


async def test_a_server_that_takes_connections_and_says_nothing() -> None:
    async with listening(silent) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", timeout=SHORT)
    for name in NETWORK:
        assert findings(report, name)["health"].status is Status.WARNING
        assert "hangs" in check_broken(report, name, "proof")


async def test_what_hangs_or_refuses_does_not_stop_what_works() -> None:
    async with serving() as world, listening(silent) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", folder=world.folder, timeout=SHORT)
    assert report.working == ("folder",) and not report.ok
    assert report.verdict == "folder works, websocket and http do not"


@pytest.mark.parametrize("head", ["200 OK", "404 Not Found", "501 Not Implemented"])
async def test_a_server_that_shows_a_page_for_people(head: str) -> None:
    handler = answering(f"{head}\r\nContent-Type: text/html", "<html>Please log in</html>")
    async with listening(handler) as port:
        report = await diagnose(f"http://127.0.0.1:{port}")
    for name in NETWORK:
        health = findings(report, name)["health"]
        assert health.status is Status.WARNING and "'text/html'" in health.words
        assert health.remedy is not None and "Another program" in health.remedy
        assert f"answers at 127.0.0.1:{port}" in check_broken(report, name, "proof")


async def test_a_redirect_is_told_and_not_followed() -> None:
    async with listening(answering("302 Found\r\nLocation: https://elsewhere.example/")) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", transports=["http"])
    health = findings(report, "http")["health"]
    assert "elsewhere.example" in health.words
    assert health.remedy is not None and "the address that it points to" in health.remedy


async def test_a_proxy_whose_server_is_away() -> None:
    async with listening(answering("502 Bad Gateway\r\nContent-Type: text/plain", "no")) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", transports=["http"])
    assert "the server is away" in findings(report, "http")["health"].words
    assert "is up" in check_broken(report, "http", "proof", "502")


async def test_a_page_without_an_end_is_read_so_far_and_no_further() -> None:
    async def endless(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            await stream.send(b"x" * 65536)

    async with listening(endless) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", transports=["http"], timeout=2.0)
    assert "where a health page should be" in findings(report, "http")["health"].words


async def test_a_server_that_does_not_go_by_that_name() -> None:
    server = make_server()

    class Strict(set[str]):
        """What ``serve`` adds of itself stays out."""

        def add(self, element: str) -> None:
            pass

    server.hosts = Strict(["api.example.com"])
    async with serving(server) as world:
        report = await diagnose(world.url)
    for name in NETWORK:
        assert "does not go by the name" in findings(report, name)["health"].words
        assert "allowed_hosts" in check_broken(report, name, "proof", "refuse")


async def test_what_a_peer_says_cannot_harm_a_screen() -> None:
    async with listening(answering("200 OK\r\nContent-Type: \x1b[31mtext/html", "x")) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", timeout=2.0)
    assert "\x1b" not in str(report)


# --- TLS ------------------------------------------------------------------------------------------------------


async def test_over_tls_that_is_trusted_everything_works() -> None:
    async with serving() as world, listening(forward(world.url), tls=certificate()) as port:
        report = await diagnose(f"https://localhost:{port}", ssl_context=trusting())
    assert report.ok, str(report)
    for name in NETWORK:
        assert "TLSv1.3, the certificate is good for" in findings(report, name)["tls"].words


async def test_a_certificate_that_nobody_vouches_for() -> None:
    async with listening(silent, tls=certificate()) as port:
        report = await diagnose(f"https://localhost:{port}")
    for name in NETWORK:
        assert "SSL_CERT_FILE" in check_broken(report, name, "tls", "self-signed certificate")


async def test_the_remedy_for_it_is_one() -> None:
    code = "import anyio, devpipe, sys; print(anyio.run(lambda: devpipe.diagnose(sys.argv[1])).working)"  # a new process
    async with serving() as world, listening(forward(world.url), tls=certificate()) as port:
        command = [sys.executable, "-c", code, f"https://localhost:{port}"]
        with anyio.fail_after(BOUND):
            done = await anyio.run_process(command, env={**os.environ, "SSL_CERT_FILE": str(PEM)})
    assert done.stdout.decode().strip() == "('websocket', 'http')"


async def test_a_certificate_for_another_name() -> None:
    async with listening(silent, tls=certificate(), host="127.0.0.2") as port:
        report = await diagnose(f"https://127.0.0.2:{port}", ssl_context=trusting())
    for name in NETWORK:
        assert "make one for 127.0.0.2" in check_broken(report, name, "tls", "127.0.0.2")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs: openssl")
@pytest.mark.parametrize(
    ("days", "status"), [(-1, Status.FAILED), (3, Status.WARNING)], ids=["over", "ends soon"]
)
async def test_a_certificate_whose_time_is_over_or_soon_will_be(
    tmp_path: Path, days: int, status: Status
) -> None:
    request, made = tmp_path / "request.pem", tmp_path / "made.pem"
    names = tmp_path / "names"
    names.write_text("subjectAltName=DNS:localhost\n")
    sign = f"x509 -req -in {request} -signkey {PEM} -days {days} -out {made} -extfile {names}"
    for command in (f"req -new -key {PEM} -subj /CN=localhost -out {request}", sign):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, PEM)
    async with listening(silent, tls=context) as port:
        report = await diagnose(
            f"https://localhost:{port}", ssl_context=trusting(made), timeout=SHORT, transports=["websocket"]
        )
    found = findings(report, "websocket")["tls"]
    assert found.status is status
    assert found.remedy is not None and "Renew" in found.remedy


async def test_a_server_that_speaks_no_tls() -> None:
    async with serving() as world:
        report = await diagnose(world.url.replace("http://", "https://"))
    for name in NETWORK:
        assert "begins with http://" in check_broken(report, name, "tls", "does not speak TLS")


# --- proxies --------------------------------------------------------------------------------------------------


async def test_a_proxy_of_the_environment_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    report = await diagnose("http://api.example.com:8000")
    assert "is reached through 127.0.0.1 (HTTP_PROXY)" in around(report, "proxy").words
    assert "NO_PROXY=api.example.com" in check_broken(report, "websocket", "connect", "refused")
    check_broken(report, "http", "connect", "nobody listens at 127.0.0.1")


@pytest.mark.parametrize(("status", "remedy"), [(403, "let CONNECT through"), (407, "user and password")])
async def test_a_proxy_that_lets_nobody_through(status: int, remedy: str) -> None:
    async with listening(answering(f"{status} No")) as port:
        report = await diagnose(
            "https://api.example.com", proxy=f"http://127.0.0.1:{port}", transports=["websocket"]
        )
    assert remedy in check_broken(report, "websocket", "connect", f"HTTP {status}")


async def test_a_proxy_that_speaks_socks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://u:secret@127.0.0.1:1080")
    report = await diagnose("http://api.example.com:8000")
    assert around(report, "proxy").status is Status.FAILED
    for name in NETWORK:
        assert "HTTP proxies only" in check_broken(report, name, "address")
    assert "secret" not in str(report)


# --- proof, push, latency, size -------------------------------------------------------------------------------


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

    def broken(self: WebSocketLink, call: object) -> None:
        raise ZeroDivisionError("our own \x1b error")

    monkeypatch.setattr(WebSocketLink, "submit", broken)
    async with serving() as world:
        report = await diagnose(world.url, timeout=2.0)
    assert report.working == ("http",)
    assert "websocket" in report.verdict and "\x1b" not in str(report)


# --- the folder -----------------------------------------------------------------------------------------------


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    report = await diagnose(folder=tmp_path / "missing")
    remedy = check_broken(report, "folder", "folder", "does not exist")
    assert f"`devpipe serve --folder {tmp_path / 'missing'}`" in remedy


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = await diagnose(folder=tmp_path / "file")
    check_broken(report, "folder", "folder", "is no folder")


async def test_a_folder_behind_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = await diagnose(folder=tmp_path / "file" / "pipe")
    check_broken(report, "folder", "folder", "ENOTDIR")


async def test_a_folder_in_which_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    folder.mkdir()
    folder.chmod(0o777)
    report = await diagnose(folder=folder)
    assert check_broken(report, "folder", "folder", "mode 777") == f"Run `chmod 700 {folder}`."


async def test_a_shared_folder_that_is_allowed_is_a_warning(tmp_path: Path) -> None:
    async with serving() as world:
        world.folder.chmod(0o777)
        report = await diagnose(folder=world.folder, settings={"folder_options.allow_shared": True})
    assert report.ok and findings(report, "folder")["folder"].status is Status.WARNING


async def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    mine = os.geteuid()
    found = whose(tmp_path, allow_shared=False, uid=mine + 1)
    assert (
        found.status is Status.FAILED and f"it belongs to the user {mine}, we are {mine + 1}" in found.words
    )
    assert found.remedy is not None and found.remedy.startswith(f"The folder belongs to uid {mine}: ")


async def test_a_folder_without_owners_is_ours(tmp_path: Path) -> None:
    assert whose(tmp_path, allow_shared=False, uid=-1).status is Status.OK


@pytest.mark.skipif(sys.platform != "linux", reason="needs: /sys, in which nobody may make a file")
async def test_a_folder_in_which_nothing_can_be_written() -> None:
    report = await diagnose(folder="/sys")
    check = "write" if os.geteuid() == 0 else "folder"
    assert check_broken(report, "folder", check)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "chmod u+rwx"),
        (errno.EIO, "local disk"),
    ],
)
async def test_each_reason_why_nothing_can_be_written_has_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    from devpipe.adapters.ports.folder import Directory

    def refuse(self: Directory, name: str, data: bytes, *, durability: str = "none") -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Directory, "write", refuse)
    report = await diagnose(folder=tmp_path)
    assert remedy in check_broken(report, "folder", "write", errno.errorcode[code])


async def test_a_folder_that_nobody_serves(tmp_path: Path) -> None:
    report = await diagnose(folder=tmp_path)
    remedy = check_broken(report, "folder", "beat", "nobody has served this folder")
    assert f"`devpipe serve --folder {tmp_path}`" in remedy
    assert os.listdir(tmp_path) == [], "the trial leaves nothing behind"


async def test_a_folder_whose_server_is_gone() -> None:
    async with serving() as world:
        copy = world.folder.parent / "copy"
        shutil.copytree(world.folder, copy)
        copy.chmod(0o700)
        report = await diagnose(folder=copy)
    check_broken(report, "folder", "beat", "it is gone")


async def test_a_beat_that_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "server.json").mkdir()
    report = await diagnose(folder=tmp_path)
    check_broken(report, "folder", "beat")


async def test_a_system_without_watches_left_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """No more of these."""

        def schedule(self, *arguments: object, **options: object) -> None:
            raise OSError(errno.EMFILE, "inotify instance limit reached")

    async with serving() as world:
        monkeypatch.setattr(watcher, "Observer", Full)
        report = await diagnose(folder=world.folder, settings={"folder_options.rescan_interval": 0.05})
    push = findings(report, "folder")["push"]
    assert report.ok and push.status is Status.WARNING and "instance limit" in push.words
    assert push.remedy == "Run `sudo sysctl fs.inotify.max_user_instances=1024`."


async def test_a_folder_that_tells_nothing_is_noticed_by_its_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """What a network file system is."""

        blind = None

        def __init__(self, path: Path, wake: Callable[[], None]) -> None:
            pass

        def start(self) -> None:
            pass

        def stop(self) -> None:
            pass

    from devpipe.adapters.transports import folder

    async with serving() as world:
        monkeypatch.setattr(folder, "Watcher", Deaf)
        report = await diagnose(
            folder=world.folder, timeout=3.0, settings={"folder_options.rescan_interval": 0.3}
        )
    latency = findings(report, "folder")["latency"]
    assert report.ok and latency.status is Status.WARNING
    assert latency.remedy is not None and "No notification arrives" in latency.remedy
