"""What must hold of the active transport, from the facts alone."""

from __future__ import annotations

__all__ = ["FailoverModel"]


class FailoverModel:
    """Keeps what the world has said of each transport."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.up: dict[str, str] = {}  #: proven, and the server it reaches
        self.held: set[str] = set()  #: by its breaker
        self.names = names
        self.pinned: str | None = None

    def candidates(self) -> set[str]:
        """Who may be active at all: proven, admitted, allowed."""
        return {n for n in self.up if n not in self.held and self.pinned in (None, n)}
