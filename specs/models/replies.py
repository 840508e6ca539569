"""What a memory of ids must do, written with a set and a list, by somebody who has not seen how it is done.

It imports nothing of machines/. An id is ``prefix-number``; a message is named by id and content.
"""

from __future__ import annotations

__all__ = ["ReplyModel"]


class ReplyModel:
    """Every id that ever began, for ever; replies oldest first, as long as they fit."""

    def __init__(self, *, max_replies: int, max_bytes: int, max_gaps: int) -> None:
        self.max_replies = max_replies
        self.max_bytes = max_bytes
        self.max_gaps = max_gaps
        self.began: dict[str, set[int]] = {}
        self.floor: dict[str, int] = {}  #: below it everything may be forgotten; it never sinks
        self.running: dict[str, str] = {}
        self.replies: list[tuple[str, str | None, bytes]] = []

    def expected(self, prefix: str, number: int, content: str) -> str:
        """The word for what is known of this message."""
        id = f"{prefix}-{number}"
        for known, kept, _ in self.replies:
            if known == id:
                return "stored" if kept in (None, content) else "reused"
        if id in self.running:
            return "running" if self.running[id] == content else "reused"
        if number in self.began.get(prefix, ()):
            return "forgotten or unknown"
        return "new or unknown"

    def begin(self, prefix: str, number: int, content: str) -> None:
        """It runs."""
        self.note(prefix, number)
        self.running[f"{prefix}-{number}"] = content

    def note(self, prefix: str, number: int) -> None:
        """It is used up."""
        began = self.began.setdefault(prefix, set())
        began.add(number)
        ends = [n for n in sorted(began) if n + 1 not in began]
        if len(ends) > self.max_gaps:
            self.floor[prefix] = max(self.floor.get(prefix, 0), ends[-self.max_gaps - 1])

    def finish(self, id: str, data: bytes) -> None:
        """It was answered."""
        self._keep(id, self.running.pop(id), data)

    def block(self, prefix: str, number: int, data: bytes) -> None:
        """It must not run."""
        self.note(prefix, number)
        self._keep(f"{prefix}-{number}", None, data)

    def _keep(self, id: str, content: str | None, data: bytes) -> None:
        self.replies.append((id, content, data))
        while (
            len(self.replies) > self.max_replies or sum(len(d) for _, _, d in self.replies) > self.max_bytes
        ):
            self.replies.pop(0)

    def reply(self, id: str) -> bytes | None:
        """What is kept."""
        return next((data for known, _, data in self.replies if known == id), None)
