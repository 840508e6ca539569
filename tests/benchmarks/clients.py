"""The clients that are compared, one per process: run by ``__main__``, prints the figure as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

PAYLOAD = {"text": "x" * 120, "n": 1, "tags": ["a", "b"]}
WARM_UP = 200
SELECTION: dict[str, Any] = {"task_type": "code-generation", "quality": "high", "max_cost_usd": 1.0}


def cpu() -> float:
    """User and system seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(call: Callable[[], Awaitable[Any]], count: int, in_flight: int) -> dict[str, float]:
    """CPU per call, and the median round trip, in microseconds."""
    for _ in range(WARM_UP):
        await call()
    trips: list[float] = []

    async def lane(n: int) -> None:
        for _ in range(n):
            began = time.perf_counter()
            await call()
            trips.append(time.perf_counter() - began)

    before = cpu()
    await asyncio.gather(*(lane(count // in_flight) for _ in range(in_flight)))
    used = cpu() - before
    return {"cpu": used / len(trips) * 1e6, "p50": statistics.median(trips) * 1e6}


async def pipe(arguments: argparse.Namespace) -> dict[str, float]:
    """The whole pipe."""
    import devpipe

    url = None if arguments.via == "folder" else arguments.url
    folder = arguments.folder if arguments.via == "folder" else None
    async with devpipe.connect(url, folder=folder, transports=[arguments.via]) as opened:

        async def call() -> None:
            reply = await opened.send("echo", PAYLOAD, timeout=30)
            assert reply.payload["n"] == 1

        return await measure(call, arguments.count, arguments.in_flight)


async def select(arguments: argparse.Namespace) -> dict[str, float]:
    """A model selector that asks the server each time, or (``cached``) takes what it has."""
    import devpipe

    max_age = 300.0 if arguments.client == "cached" else 0.0
    source = "cache" if arguments.client == "cached" else "server"
    async with devpipe.ModelSelector(arguments.url, transports=["websocket"], max_age=max_age) as models:
        await models.select(**SELECTION)

        async def call() -> None:
            choice = await models.select(**SELECTION)
            assert choice.source == source

        return await measure(call, arguments.count, arguments.in_flight)


async def send_selection(arguments: argparse.Namespace) -> dict[str, float]:
    """The same question as a plain message."""
    import devpipe

    question = {"task_type": "code-generation", "quality_requirement": "high", "max_cost": 1.0}
    async with devpipe.connect(arguments.url, transports=["websocket"]) as opened:

        async def call() -> None:
            reply = await opened.send("model-selection-request", question, timeout=30)
            assert reply.payload["selected_model"]["id"]

        return await measure(call, arguments.count, arguments.in_flight)


async def with_websockets(arguments: argparse.Namespace) -> dict[str, float]:
    """The websockets package as its documentation advises: one reader task, a dictionary of futures."""
    from websockets.asyncio.client import connect

    pending: dict[str, asyncio.Future[Any]] = {}
    number = 0
    async with connect(arguments.url.replace("http", "ws", 1) + "/devpipe/ws", compression=None) as socket:

        async def read() -> None:
            async for text in socket:
                message = json.loads(text)
                future = pending.pop(message["replyTo"], None)
                if future is not None and not future.done():
                    future.set_result(message)

        async def call() -> None:
            nonlocal number
            number += 1
            id = f"peer-{number}"
            future = pending[id] = asyncio.get_running_loop().create_future()
            await socket.send(
                json.dumps(
                    {"id": id, "type": "echo", "timestamp": int(time.time() * 1000), "payload": PAYLOAD}
                )
            )
            reply = await future
            assert reply["payload"]["n"] == 1

        reader = asyncio.create_task(read())
        try:
            return await measure(call, arguments.count, arguments.in_flight)
        finally:
            reader.cancel()


async def with_httpx(arguments: argparse.Namespace) -> dict[str, float]:
    """httpx with the settings that the HTTP transport gives its own client."""
    import httpx

    limits = httpx.Limits(max_connections=10, max_keepalive_connections=10)
    number = 0
    async with httpx.AsyncClient(base_url=arguments.url, limits=limits, timeout=30) as client:

        async def call() -> None:
            nonlocal number
            number += 1
            message = {
                "id": f"peer-{number}", "type": "echo", "timestamp": int(time.time() * 1000), "payload": PAYLOAD
            }  # fmt: skip
            reply = await client.post("/devpipe/message", json=message)
            assert reply.json()["payload"]["n"] == 1

        return await measure(call, arguments.count, arguments.in_flight)


async def with_watchdog(arguments: argparse.Namespace) -> dict[str, float]:
    """The obvious folder client: write and rename a request, let watchdog tell of the response."""
    import secrets

    from watchdog.events import FileCreatedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    root = Path(arguments.folder)
    prefix = secrets.token_hex(6)
    mine = root / "clients" / prefix
    mine.mkdir(mode=0o700, parents=True)
    loop = asyncio.get_running_loop()
    pending: dict[str, asyncio.Future[bytes]] = {}

    def take(name: str) -> None:
        future = pending.pop(name, None)
        if future is not None and not future.done():
            path = mine / name
            future.set_result(path.read_bytes())
            path.unlink()

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            path = event.dest_path if isinstance(event, FileMovedEvent) else event.src_path
            loop.call_soon_threadsafe(take, Path(str(path)).name)

    observer = Observer()
    observer.schedule(Handler(), str(mine), event_filter=[FileCreatedEvent, FileMovedEvent])
    observer.start()
    number = 0

    async def call() -> None:
        nonlocal number
        number += 1
        id = f"{prefix}-{number}"
        future = pending[f"response_{id}.json"] = loop.create_future()
        draft = root / "tmp" / f"{id}.json"
        draft.write_text(
            json.dumps({"id": id, "type": "echo", "timestamp": int(time.time() * 1000), "payload": PAYLOAD})
        )
        draft.rename(root / "requests" / f"request_{id}.json")
        reply = json.loads(await asyncio.wait_for(future, 10))
        assert reply["payload"]["n"] == 1

    try:
        return await measure(call, arguments.count, 1)
    finally:
        observer.stop()
        observer.join()


def main() -> None:
    """Run one client."""
    clients = {
        "pipe": pipe, "websockets": with_websockets, "httpx": with_httpx, "watchdog": with_watchdog,
        "select": select, "cached": select, "send-selection": send_selection,
    }  # fmt: skip
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=clients)
    parser.add_argument("--url", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("--via", default="websocket")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--figure", choices=["cpu", "p50"], default="cpu")
    arguments = parser.parse_args()
    figures = asyncio.run(clients[arguments.client](arguments))
    print(json.dumps({"us_per_call": figures[arguments.figure]}))


if __name__ == "__main__":
    main()
