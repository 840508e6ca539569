"""Time and chance, as an adapter gives them to a core."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from typing import Protocol

import anyio

from devpipe.adapters.waiter import in_trio

__all__ = ["Clock", "Dice", "SystemClock", "SystemDice"]


class Clock(Protocol):
    """Where ``now`` comes from. All in seconds."""

    now: Callable[[], float]
    """Monotonic time of the running event loop: what every core is given."""

    def wall(self) -> float:
        """Seconds since 1970: for time stamps, and for deadlines in the server's clock; never for waiting."""
        ...

    def slept(self) -> float:
        """How long the machine has been asleep since some fixed point: only differences mean anything."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Return when ``now()`` has reached ``deadline``; at once if it has."""
        ...


class SystemClock:
    """The clock of the event loop that runs now; make it inside the loop.

    Under trio it follows trio's own clock, so that ``MockClock`` makes an hour a second.
    """

    def __init__(self) -> None:
        self.now: Callable[[], float]
        if in_trio():
            import trio

            self.now = trio.current_time
        else:
            self.now = asyncio.get_running_loop().time

    def wall(self) -> float:
        return time.time()

    def slept(self) -> float:
        # Linux: BOOTTIME runs on in sleep, MONOTONIC does not, and a set wall clock moves neither.
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        if boot is not None:
            return time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)
        return time.time() - time.monotonic()

    async def sleep_until(self, deadline: float) -> None:
        await anyio.sleep(max(0.0, deadline - self.now()))


class Dice(Protocol):
    """Where chance comes from."""

    def jitter(self) -> float:
        """A fraction in [0, 1)."""
        ...

    def token(self, chars: int) -> str:
        """A secret of this many characters out of letters, digits, ``_`` and ``-``."""
        ...


class SystemDice:
    """The operating system's randomness for what must be secret, Python's for what must only be spread."""

    def jitter(self) -> float:
        return random.random()

    def token(self, chars: int) -> str:
        # every character carries 6 bits; a leading '-' would look like an option in a shell
        text = secrets.token_urlsafe(chars)[:chars]
        return text.replace("-", "0", 1) if text.startswith("-") else text
