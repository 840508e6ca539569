"""What hypercorn feeds to an application ends with the application.

hypercorn 0.18 hands what a client sends over through a queue of ten. Once the application has ended nobody takes anything out:
whoever reads the connection waits for room, does not notice that the client hangs up, and the connection with its
file stays for ever. A client that goes away while it sends is enough.
"""

from __future__ import annotations

from typing import Any

import anyio

__all__ = ["Feed"]


class Feed:
    """Stands before the queue of one hypercorn stream."""

    def __init__(self, stream: Any) -> None:
        self._put_behind = stream.app_put
        self._ended = False
        self._putting: set[anyio.CancelScope] = set()
        stream.app_put = self._put

    @classmethod
    def of(cls, send: Any) -> Feed | None:
        """Before the queue behind an ASGI ``send``; None if there is none (another ASGI server)."""
        stream = getattr(send, "__self__", None)
        return None if getattr(stream, "app_put", None) is None else cls(stream)

    def end(self) -> None:
        """Nobody takes anything any more: what waits is let go, and what comes is dropped."""
        self._ended = True
        for scope in self._putting:
            scope.cancel()

    async def _put(self, message: Any) -> None:
        if self._ended:
            return
        with anyio.CancelScope() as scope:
            self._putting.add(scope)
            try:
                await self._put_behind(message)
            finally:
                self._putting.discard(scope)
