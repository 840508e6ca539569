"""What a transport has done, as numbers: cheap to count per message, plain data to read."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from devpipe.machines.errors import FailureKind

__all__ = ["TransportMetrics"]

#: Calls that percentiles and scores look back on, and how old they may be (seconds): DESIGN's window.
WINDOW_CALLS = 100
WINDOW_SECONDS = 300.0
#: Weight of the newest call in the moving average of latency.
SMOOTHING = 0.1


class TransportMetrics:
    """Counters of one transport. Times in seconds, sizes in bytes."""

    __slots__ = (
        "average_latency",
        "bytes_received",
        "bytes_sent",
        "failures",
        "received",
        "recent",
        "sent",
        "succeeded",
        "troubles",
    )

    def __init__(self) -> None:
        self.sent = 0  #: attempts handed to the link
        self.succeeded = 0
        self.failures: Counter[str] = Counter()  #: attempts that ended without a reply, by kind
        self.troubles: Counter[str] = Counter()  #: bad messages and the like, dealt with and dropped
        self.received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.average_latency = 0.0
        #: (when, latency or None for a failure) of the latest calls
        self.recent: deque[tuple[float, float | None]] = deque(maxlen=WINDOW_CALLS)

    def success(self, latency: float, *, now: float) -> None:
        """A reply came after ``latency`` seconds."""
        self.succeeded += 1
        self.recent.append((now, latency))
        if self.average_latency:
            self.average_latency += SMOOTHING * (latency - self.average_latency)
        else:
            self.average_latency = latency

    def failure(self, kind: FailureKind, *, now: float) -> None:
        """An attempt ended without a reply, and that was the path's fault."""
        self.unanswered(kind)
        self.fault(now=now)

    def unanswered(self, kind: FailureKind) -> None:
        """An attempt ended without a reply: whose fault that was is not known yet."""
        self.failures[kind.value] += 1

    def fault(self, *, now: float) -> None:
        """It was the path's: that counts in its score."""
        self.recent.append((now, None))

    def window(self, *, now: float) -> tuple[int, int, float | None]:
        """Attempts and successes of the recent past, and the median latency of the successes."""
        latencies: list[float] = []
        attempts = 0
        for at, latency in self.recent:
            if now - at <= WINDOW_SECONDS:
                attempts += 1
                if latency is not None:
                    latencies.append(latency)
        return attempts, len(latencies), percentile(latencies, 0.5)

    def as_dict(self, operation: str, *, queued: int, in_flight: int) -> dict[str, Any]:
        """Plain data, for ``pipe.metrics()``."""
        latencies = [latency for _, latency in self.recent if latency is not None]
        return {
            "operation": operation,
            "count": self.sent,
            "succeeded": self.succeeded,
            "failures": dict(self.failures),
            "troubles": dict(self.troubles),
            "latency_p50": percentile(latencies, 0.5),
            "latency_p99": percentile(latencies, 0.99),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "received": self.received,
            "queued": queued,
            "in_flight": in_flight,
        }


def percentile(values: list[float], share: float) -> float | None:
    """The value below which ``share`` of them lie, None if there are none."""
    if not values:
        return None
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]
