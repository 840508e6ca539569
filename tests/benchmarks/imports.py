"""What ``import devpipe`` costs: its ratio to the sum of importing httpx, statemachine and msgspec, on which it stands.

CPU seconds, each in processes of their own, in turns; what the interpreter's own start costs is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

OURS = "devpipe"
PEERS = ("httpx", "statemachine", "msgspec")
LIMIT = 2.0
ROUNDS = 7


def environment() -> dict[str, str]:
    """Ours without the variables by which coverage would measure, and slow down, what is measured here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def cost(module: str) -> float:
    """CPU seconds that importing it takes, in a fresh interpreter."""
    code = f"import time; began = time.process_time(); import {module}; print(time.process_time() - began)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return float(done.stdout)


def compare(rounds: int = ROUNDS) -> tuple[float, float]:
    """Ours and the peers' sum, in seconds, of the medians. A round before the first fills caches and is not counted."""
    figures: dict[str, list[float]] = {module: [] for module in (OURS, *PEERS)}
    for turn in range(rounds + 1):
        for module in figures if turn % 2 else reversed(figures):
            seconds = cost(module)
            if turn:
                figures[module].append(seconds)
    medians = {module: statistics.median(taken) for module, taken in figures.items()}
    return medians[OURS], sum(medians[peer] for peer in PEERS)


def main() -> int:
    """Print the line of the table; the exit code says whether the floor holds."""
    ours, peers = compare()
    ratio = ours / peers
    print(
        f"| Import: CPU | {ours * 1000:.0f} ms | {peers * 1000:.0f} ms ({', '.join(PEERS)}) | {ratio:.2f} | {LIMIT:g} |",
        flush=True,
    )
    return 1 if ratio > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
