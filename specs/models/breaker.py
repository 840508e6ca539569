"""A circuit breaker as a list of failures and a set of permits; it knows the default numbers only."""

from __future__ import annotations

__all__ = ["BreakerModel"]

THRESHOLD, PERIOD, RESET, PERMIT = 5, 10.0, 30.0, 30.0


class BreakerModel:
    """``closed``, ``open`` or ``half_open``, or what the operator wants; and who may still say something."""

    def __init__(self) -> None:
        self.state = "closed"
        self.failures: list[float] = []
        self.opened_at = 0.0
        self.out: float | None = None  #: deadline of the one permit of half_open
        self.epoch = 0

    def acquire(self, now: float) -> bool:
        """May a call go?"""
        if self.state == "open" and now >= self.opened_at + RESET:
            self.state, self.out = "half_open", now + PERMIT
            self.epoch += 1
            return True
        if self.state == "half_open" and self.out is None:
            self.out = now + PERMIT
            return True
        return self.state in ("closed", "disabled", "observing")

    def failed(self, now: float) -> None:
        """A call of the present epoch failed."""
        if self.state == "closed":
            self.failures = [at for at in self.failures if now - at < PERIOD] + [now]
            if len(self.failures) >= THRESHOLD:
                self.open(now)
        elif self.state == "half_open":
            self.open(now)

    def succeeded(self) -> None:
        """The probe came back well."""
        if self.state == "half_open":
            self.state, self.out, self.failures = "closed", None, []
            self.epoch += 1

    def open(self, now: float) -> None:
        """Nothing goes for a while."""
        self.state, self.opened_at, self.out = "open", now, None
        self.epoch += 1

    def overridden(self, state: str) -> None:
        """The operator's word; ``closed`` gives it back."""
        if state != self.state or state == "closed":
            self.state, self.out, self.failures = state, None, []
            self.epoch += 1

    def tick(self, now: float) -> None:
        """A probe that never came back is a failure."""
        if self.state == "half_open" and self.out is not None and self.out <= now:
            self.open(now)
