"""What the world knows of a transport's links: at most one is open, each one that was opened is closed, and which of them
has carried a nonce there and back.
"""

from __future__ import annotations

__all__ = ["LinkModel"]


class LinkModel:
    """Keeps the link that is open."""

    def __init__(self) -> None:
        self.link: int | None = None
        self.proven = False
        self._out: set[str] = set()  #: nonces that went out on this link

    def opened(self, generation: int) -> None:
        """A link is to be opened."""
        assert self.link is None, "the link before this one was never closed"
        self.link = generation
        self.proven = False
        self._out.clear()

    def asked(self, nonce: str) -> None:
        """A nonce goes out on it."""
        assert nonce not in self._out, "a nonce went out twice"
        self._out.add(nonce)

    def came_back(self, generation: int, nonce: str) -> None:
        """Somebody said this nonce, on a link of this number."""
        self.proven = self.proven or (generation == self.link and nonce in self._out)

    def closed(self, generation: int) -> None:
        """A link is to be closed."""
        assert self.link == generation, "a link is closed that is not open"
        self.link = None

    def lost(self, generation: int) -> None:
        """Its calls are handed back, before it is closed."""
        assert self.link == generation, "calls are handed back of a link that is not open"
