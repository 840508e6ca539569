"""What devpipe costs, as ratios against named peers in one run: ``python -m pytest`` never times anything, this does.

    .venv/bin/python tests/benchmarks [NAME ...]

Each figure is taken in a process of its own, peer and pipe in turns, against one server process, and the smallest and
the median of the rounds are compared. Times differ from machine to machine, ratios much less.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROUNDS = int(os.environ.get("DEVPIPE_BENCH_ROUNDS", "5"))
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Comparison:
    """One line of the table: ours against a peer's, the same figure, lower is better."""

    name: str
    what: str
    ours: tuple[str, ...]
    peer: tuple[str, ...]
    peer_name: str
    floor: float


COMPARISONS = (
    Comparison(
        "ws-sequential", "WebSocket echo, one after the other: client CPU",
        ("pipe", "--via", "websocket", "--count", "3000", "--in-flight", "1"),
        ("websockets", "--count", "3000", "--in-flight", "1"), "websockets + dict of futures", 2.0,
    ),
    Comparison(
        "ws-100", "WebSocket echo, 100 in flight: client CPU",
        ("pipe", "--via", "websocket", "--count", "20000", "--in-flight", "100"),
        ("websockets", "--count", "20000", "--in-flight", "100"), "websockets + dict of futures", 1.2,
    ),
    Comparison(
        "http", "HTTP echo, ten connections: client CPU",
        ("pipe", "--via", "http", "--count", "1500", "--in-flight", "10"),
        ("httpx", "--count", "1500", "--in-flight", "10"), "bare httpx, same settings", 1.15,
    ),
    Comparison(
        "folder", "Folder round trip, p50",
        ("pipe", "--via", "folder", "--count", "400", "--in-flight", "1", "--figure", "p50"),
        ("watchdog", "--count", "400", "--figure", "p50"), "bare watchdog, event filter", 1.3,
    ),
    Comparison(
        "select", "Model selection over WebSocket, p50",
        ("select", "--count", "2000", "--figure", "p50"),
        ("send-selection", "--count", "2000", "--figure", "p50"), "plain pipe.send of the same", 1.3,
    ),
    Comparison(
        "cached", "A cached model selection, p50",
        ("cached", "--count", "20000", "--figure", "p50"),
        ("send-selection", "--count", "2000", "--figure", "p50"), "plain pipe.send of the same", 0.05,
    ),
)  # fmt: skip


def one(arguments: tuple[str, ...], url: str, folder: str) -> float:
    """Run one measurement in a process of its own; microseconds per call."""
    done = subprocess.run(
        [sys.executable, str(HERE / "clients.py"), *arguments, "--url", url, "--folder", folder],
        stdout=subprocess.PIPE, check=True, timeout=120,
    )  # fmt: skip
    return float(json.loads(done.stdout)["us_per_call"])


def start_server(folder: str) -> tuple[subprocess.Popen[str], str]:
    """The server of both sides: devpipe's own, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "devpipe.cli", "serve", "--port", "0", "--folder", folder],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None  # asked for above
    line = process.stdout.readline()
    return process, line.split("serves at ")[1].split()[0]


def compare(comparison: Comparison, url: str, folder: str) -> tuple[float, float]:
    """Ours and the peer's medians, taken in turns."""
    ours: list[float] = []
    peers: list[float] = []
    for turn in range(ROUNDS):
        pairs = [(ours, comparison.ours), (peers, comparison.peer)]
        for figures, arguments in pairs if turn % 2 else reversed(pairs):
            figures.append(one(arguments, url, folder))
    return statistics.median(ours), statistics.median(peers)


def main(names: list[str]) -> int:
    """Print the table; the exit code says whether every floor holds."""
    chosen = [c for c in COMPARISONS if not names or c.name in names]
    failed = 0
    print("| what | devpipe | peer | ratio | floor |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o700)
        server, url = start_server(f"{directory}/pipe")
        try:
            for comparison in chosen:
                ours, peer = compare(comparison, url, f"{directory}/pipe")
                ratio = ours / peer
                failed += ratio > comparison.floor
                print(
                    f"| {comparison.what} | {ours:.3g} us | {peer:.3g} us ({comparison.peer_name}) "
                    f"| {ratio:.3g} | {comparison.floor:g} |",
                    flush=True,
                )
        finally:
            server.terminate()
            server.wait(10)
    for script in ("imports", "failover", "memory", "scoring"):
        if not names or script in names:
            done = subprocess.run([sys.executable, str(HERE / f"{script}.py")], timeout=300, check=False)
            failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
