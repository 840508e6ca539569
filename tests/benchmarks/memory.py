"""What 10,000 waiting calls cost in memory, beyond what the callers' own tasks cost."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc

import devpipe

CALLS = 10_000
LIMIT = 40.0  #: MB that the pending calls may add


async def main() -> int:
    """Measure, print, and return the exit code."""
    server = devpipe.Server()
    release = asyncio.Event()

    @server.handler("wait")
    async def wait(message: devpipe.Message) -> None:
        await release.wait()

    tracemalloc.start()
    loop = asyncio.get_running_loop()
    gate: asyncio.Future[None] = loop.create_future()

    async def bare() -> None:
        await asyncio.shield(gate)

    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(bare()) for _ in range(CALLS)]
    await asyncio.sleep(0)
    own = tracemalloc.get_traced_memory()[0] - before
    gate.set_result(None)
    await asyncio.gather(*tasks)
    tasks.clear()

    from devpipe.testing import blackhole_pipe

    async with blackhole_pipe() as pipe:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        waiting = [asyncio.create_task(pipe.send("wait", {"n": n}, timeout=600)) for n in range(CALLS)]
        await asyncio.sleep(0.5)
        added = tracemalloc.get_traced_memory()[0] - before - own
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    print(
        f"| {CALLS} pending calls add | {added / 1e6:.1f} MB | own tasks {own / 1e6:.1f} MB | | {LIMIT:g} MB |"
    )
    return 0 if added / 1e6 <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
