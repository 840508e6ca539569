"""What the server talks to: one connection, one HTTP exchange, one stream, one client's folder."""

from __future__ import annotations

from typing import Protocol

from devpipe.machines.message import Position

__all__ = ["Path"]


class Path(Protocol):
    """The server's end of a way to a client. Nothing here blocks or raises."""

    transport: str
    max_message_bytes: int

    def send(
        self,
        data: bytes,
        *,
        reply_to: str | None = None,
        position: Position | None = None,
        accepted: bool = False,
        error: str | None = None,
    ) -> None:
        """Hand this envelope to the client.

        ``reply_to``: the id it answers; ``position``: the place of a push; ``accepted``: no answer yet, only the
        word that one will come; ``error``: the code of a refusal or an error.
        """
        ...

    def close(self, code: int, error: str) -> None:
        """The server ends this path; ``code`` as WebSocket has it, ``error`` as the envelope has it."""
        ...
