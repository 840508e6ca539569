"""What the doctor's tests share: the diagnosis, bounded; its findings; and servers with something wrong about them."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

import devpipe
from devpipe import Finding, Report, Status

PEM = Path(__file__).parents[1] / "localhost.pem"
NETWORK = ["websocket", "http"]
#: No diagnosis of these tests takes longer (seconds).
BOUND = 30.0
#: The time of a step where something hangs (seconds).
SHORT = 1.0

Handler = Callable[[ByteStream], Awaitable[None]]


async def diagnose(url: str | None = None, **options: Any) -> Report:
    with anyio.fail_after(BOUND):
        report = await devpipe.diagnose(url, **options)
    for found in (*report.surroundings, *(f for trial in report.trials for f in trial.findings)):
        wanted = found.status in (Status.WARNING, Status.FAILED)
        assert (found.remedy is not None) is wanted, "a remedy for each failure, and for nothing else"
        assert found.words.isprintable()
        assert found.remedy is None or found.remedy.endswith((".", "?")), "remedies are sentences"
    return report


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
