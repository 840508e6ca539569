"""How long a caller waits when the active WebSocket is reset under its call, and when it falls silent: loopback, a proxy
that cuts, or keeps the connection open and passes nothing on.

The extra wait is the call's own time less the median of undisturbed calls. The standby (HTTP) is proven already.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time

import devpipe

ROUNDS = 60
LIMIT = 0.100  #: seconds, p99 of the extra wait
PATIENCE = 30  #: seconds for the transports to come back
SILENCES = 4
#: Seconds: 3 without a sign of life, 2 for the answer to a ping, a quarter for the monitor's round, and the failover.
SILENCE_LIMIT = 3 + 2 + 0.25 + LIMIT
SETTINGS = {
    "lifecycle.backoff_initial": 0.05,
    "lifecycle.blocked_initial": 0.1,
    "lifecycle.blocked_max": 0.1,
    "failover.min_stay": 0.05,
    "failover.ejection_initial": 0.05,
    "failover.ejection_max": 0.05,
    "breaker.failure_threshold": 1000,
    "selection.reliability_weight": 0.0,  # one that is cut all the time would not be chosen again
}


def tell(proxy: subprocess.Popen[str], word: str) -> None:
    """Change the weather."""
    assert proxy.stdin is not None
    proxy.stdin.write(f"{word}\n")
    proxy.stdin.flush()


async def calm(pipe: devpipe.Pipe) -> None:
    """Everything is up again, and messages go over the WebSocket."""
    try:
        async with asyncio.timeout(PATIENCE):
            while pipe.active != "websocket" or not all(t.ready for t in pipe.transports):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise SystemExit(f"the transports did not come back:\n{pipe.explain()}") from None


async def silence(url: str, proxy: subprocess.Popen[str]) -> int:
    """The same, for a connection that stays open and brings nothing."""
    waits: list[float] = []
    async with devpipe.connect(url, transports=["websocket", "http"], settings=SETTINGS) as pipe:
        for _ in range(SILENCES):
            await calm(pipe)
            tell(proxy, "silence")
            began = time.perf_counter()
            await pipe.send("echo", 1, timeout=60)
            waits.append(time.perf_counter() - began)
            tell(proxy, "heal")
    print(
        f"| Failover by silence, wait of the caller, most of {SILENCES} | {max(waits):.2f} s "
        f"| median {statistics.median(waits):.2f} s | - | {SILENCE_LIMIT:g} s |"
    )
    return 0 if max(waits) <= SILENCE_LIMIT else 1


async def resets(url: str, proxy: subprocess.Popen[str]) -> int:
    """Measure, print, and return the exit code."""
    waits: list[float] = []
    usual: list[float] = []
    async with devpipe.connect(url, transports=["websocket", "http"], settings=SETTINGS) as pipe:
        for _ in range(ROUNDS):
            await calm(pipe)
            for _ in range(5):
                began = time.perf_counter()
                await pipe.send("echo", 1, timeout=10)
                usual.append(time.perf_counter() - began)
            lost = asyncio.Event()
            remove = pipe.on("transport_failed", lambda event, lost=lost: lost.set())
            tell(proxy, "cut")
            slowest = 0.0
            while not lost.is_set():
                began = time.perf_counter()
                await pipe.send("echo", 1, timeout=10)
                slowest = max(slowest, time.perf_counter() - began)
            remove()
            waits.append(slowest)
    median = statistics.median(usual)
    extra = sorted(max(0.0, wait - median) for wait in waits)
    p99 = extra[min(len(extra) - 1, int(len(extra) * 0.99))]
    print(
        f"| Failover by reset, extra wait of the caller, p99 of {ROUNDS} | {p99 * 1000:.1f} ms "
        f"| median {statistics.median(extra) * 1000:.1f} ms | - | {LIMIT * 1000:g} ms |"
    )
    return 0 if p99 <= LIMIT else 1


if __name__ == "__main__":
    server = subprocess.Popen(
        [sys.executable, "-m", "devpipe.cli", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    port = server.stdout.readline().rpartition(":")[2].split()[0]
    proxy = subprocess.Popen(
        [sys.executable, "-m", "devpipe.cli.proxy", port],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert proxy.stdout is not None
    try:
        url = f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        code = asyncio.run(resets(url, proxy)) | asyncio.run(silence(url, proxy))
    finally:
        for process in (proxy, server):
            process.terminate()
            process.wait(10)
    sys.exit(code)
