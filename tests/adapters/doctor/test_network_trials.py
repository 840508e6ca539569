"""The way to a server on a network, and everything that can be wrong with it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from devpipe import Status

sys.path.insert(0, str(Path(__file__).parent))
from patients import (
    BOUND,
    NETWORK,
    PEM,
    SHORT,
    answering,
    around,
    certificate,
    check_broken,
    diagnose,
    findings,
    forward,
    free_port,
    listening,
    silent,
    trusting,
)
from support import make_server, serving

pytestmark = pytest.mark.anyio


# --- the network -----------------------------------------------------------------------------------------


async def test_a_port_at_which_nobody_listens() -> None:
    port = free_port()
    report = await diagnose(f"http://127.0.0.1:{port}")
    for name in NETWORK:
        remedy = check_broken(report, name, "connect", f"nobody listens at 127.0.0.1:{port}")
        assert f"`devpipe serve --port {port}`" in remedy
    assert report.verdict == "nothing works: tried websocket and http"
    assert str(report).count("the rest") == 2


@pytest.mark.parametrize("resolves", [True, False, None], ids=["resolves", "does not", "hangs"])
async def test_in_a_container_the_machine_around_it_is_named_as_it_can_be_reached(
    resolves: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = anyio.getaddrinfo

    async def resolving(host: str, *rest: Any, **options: Any) -> Any:
        if host != "host.docker.internal":
            return await resolve(host, *rest, **options)
        if resolves is None:
            await anyio.sleep_forever()
        if not resolves:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("172.17.0.1", 0))]

    monkeypatch.setenv("container", "podman")
    monkeypatch.setattr(anyio, "getaddrinfo", resolving)
    report = await diagnose(f"http://127.0.0.1:{free_port()}", transports=["http"], timeout=2.0)
    remedy = check_broken(report, "http", "connect", "nobody listens")
    assert ("In this container the machine around it is called host.docker.internal" in remedy) is bool(
        resolves
    )
    assert ("with --add-host=host.docker.internal:host-gateway" in remedy) is not resolves


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


async def test_all_transports_are_tried_at_once() -> None:
    asked: list[bytes] = []
    both = anyio.Event()

    async def meeting(stream: ByteStream) -> None:
        """Answers nobody before two have asked."""
        asked.append(await stream.receive())
        if len(asked) == 2:
            both.set()
        await both.wait()
        await stream.send(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "ok"}')

    async with listening(meeting) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", timeout=SHORT)
    for name in NETWORK:
        assert findings(report, name)["health"].status is Status.OK


@pytest.mark.parametrize("head", ["200 OK", "404 Not Found", "501 Not Implemented"])
async def test_a_server_that_shows_a_page_for_people(head: str) -> None:
    handler = answering(f"{head}\r\nContent-Type: text/html", "<html>Please log in</html>")
    async with listening(handler) as port:
        # it is not tried again until the time is over
        report = await diagnose(f"http://127.0.0.1:{port}", timeout=2 * BOUND)
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


# --- TLS -------------------------------------------------------------------------------------------------


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


# --- proxies ---------------------------------------------------------------------------------------------


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
