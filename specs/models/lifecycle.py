"""What the world knows of a transport's links: at most one is open, and each one that was opened is closed."""

from __future__ import annotations

__all__ = ["LinkModel"]


class LinkModel:
    """Keeps the link that is open."""

    def __init__(self) -> None:
        self.link: int | None = None

    def opened(self, generation: int) -> None:
        """A link is to be opened."""
        assert self.link is None, "the link before this one was never closed"
        self.link = generation

    def closed(self, generation: int) -> None:
        """A link is to be closed."""
        assert self.link == generation, "a link is closed that is not open"
        self.link = None

    def lost(self, generation: int) -> None:
        """Its calls are handed back, before it is closed."""
        assert self.link == generation, "calls are handed back of a link that is not open"
