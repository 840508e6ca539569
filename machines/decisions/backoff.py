"""When to try again: full jitter, growing, bounded; a server's own word wins."""

from __future__ import annotations

from devpipe.machines.config import LifecycleConfig

__all__ = ["backoff_delay", "blocked_delay", "growing"]


def growing(*, count: int, initial: float, factor: float, most: float) -> float:
    """``initial * factor ** count``, bounded by ``most``; never overflows."""
    if count > 60:  # any factor above 1 is past every bound by then
        return most
    return min(most, initial * factor ** max(0, count))


def backoff_delay(
    *, attempt: int, jitter: float, config: LifecycleConfig, retry_after: float | None = None
) -> float:
    """Seconds until attempt number ``attempt`` (from 0): uniform between 0 and the grown bound.

    ``jitter`` is the fraction in [0, 1). ``retry_after`` of a server wins, spread by a tenth so that not everybody
    comes back in the same instant.
    """
    if retry_after is not None:
        return retry_after * (1.0 + 0.1 * jitter)
    bound = growing(
        count=attempt, initial=config.backoff_initial, factor=config.backoff_factor, most=config.backoff_max
    )
    return jitter * bound


def blocked_delay(*, times: int, jitter: float, config: LifecycleConfig) -> float:
    """Seconds until a blocked transport is tried again: doubling each time, within 10 % of jitter."""
    bound = growing(count=times, initial=config.blocked_initial, factor=2.0, most=config.blocked_max)
    return bound * (0.9 + 0.1 * jitter)
