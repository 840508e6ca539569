"""What 10,000 waiting calls cost in memory, beyond what the callers' own tasks cost."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import tracemalloc

import devpipe

CALLS = 10_000
LIMIT = 40.0  #: MB that the pending calls may add

#: A server process whose handler never answers.
SERVER = """
    import anyio, devpipe
    server = devpipe.Server(devpipe.ServerConfig(max_running=20_000))

    @server.handler("wait")
    async def wait(message):
        await anyio.sleep_forever()

    async def main():
        await server.serve(port=0, listening=lambda url: print(url, flush=True))

    anyio.run(main)
"""


async def main(url: str) -> int:
    """Measure, print, and return the exit code."""
    loop = asyncio.get_running_loop()
    gate: asyncio.Future[None] = loop.create_future()

    async def bare(n: int) -> None:
        await gate

    async def wait(pipe: devpipe.Pipe, n: int) -> None:
        await pipe.send("wait", {"n": n}, timeout=600)

    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(bare(n)) for n in range(CALLS)]
    await asyncio.sleep(0.1)
    own = tracemalloc.get_traced_memory()[0] - before
    gate.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
    async with devpipe.connect(url, transports=["websocket"]) as pipe:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(wait(pipe, n)) for n in range(CALLS)]
        while pipe.metrics()["in_flight"] < CALLS:
            await asyncio.sleep(0.05)
        added = tracemalloc.get_traced_memory()[0] - before - own
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(
        f"| {CALLS:,} pending calls, memory beyond the callers' own tasks | {added / 1e6:.1f} MB "
        f"| the tasks alone: {own / 1e6:.1f} MB | - | {LIMIT:g} MB |"
    )
    return 0 if added / 1e6 <= LIMIT else 1


if __name__ == "__main__":
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        code = asyncio.run(main(process.stdout.readline().strip()))
    finally:
        process.terminate()
        process.wait(10)
    sys.exit(code)
