"""A shared folder as a table of names, and the law of it, written by somebody who has not seen how it is kept.

It imports nothing of machines/. A file is one that was written once, whatever its names; every change is one atomic step,
and names who does it. Time is one number.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STRANGER", "File", "FolderModel"]

#: Whoever else writes into the folder.
STRANGER = "a stranger"


@dataclass(eq=False, slots=True, kw_only=True)
class File:
    """One file: who wrote what, when, and what has become of it."""

    content: bytes
    author: str
    written: float
    whole: bool = True
    runs: int = 0
    disowned: bool = False  #: its author was told that nobody has seen it, or will


class FolderModel:
    """Names by (place, name). ``age``: what is older belongs to nobody (seconds). ``links``: files may have two names."""

    def __init__(self, *, age: float, links: bool) -> None:
        self.age = age
        self.links = links
        self.now = 0.0
        self.names: dict[tuple[str, str], File] = {}
        self.files: dict[bytes, File] = {}
        self.claimed: dict[tuple[str, str], File] = {}  #: what somebody last claimed by a name
        self.seen: dict[tuple[str, str, str], File] = {}  #: what somebody last saw there

    # --- steps ------------------------------------------------------------------------------------------

    def write(self, who: str, place: str, name: str, content: bytes, *, whole: bool = True) -> None:
        """A new file. Raises ``FileExistsError``."""
        if (place, name) in self.names:
            raise FileExistsError(place, name)
        file = File(content=content, author=who, written=self.now, whole=whole)
        self.names[place, name] = self.files[content] = file

    def move(self, who: str, source: str, name: str, target: str, new: str) -> None:
        """Another name for it. Raises ``FileNotFoundError``."""
        file = self._there(source, name)
        old = self.names.get((target, new))
        if old is not None and not target.startswith(
            "home of"
        ):  # an answer may take the place of the same one
            assert old.author == file.author, f"{who} writes over {target}/{new} of {old.author}"
        if source == "requests":
            self.claimed[who, new] = file
        else:
            self._must_be_allowed(who, source, name, file)
        del self.names[source, name]
        self.names[target, new] = file

    def link(self, who: str, source: str, name: str, target: str) -> str:
        """A second name: ``made``, ``lost`` or ``impossible``."""
        if not self.links:
            return "impossible"
        file = self.names.get((source, name))
        if file is None or (target, name) in self.names:
            return "lost"
        self.names[target, name] = file
        self.claimed[who, name] = file
        return "made"

    def remove(self, who: str, place: str, name: str) -> bool:
        """One name less; False if it was not there."""
        file = self.names.get((place, name))
        if file is None:
            return False
        self._must_be_allowed(who, place, name, file)
        del self.names[place, name]
        return True

    def read(self, who: str, place: str, name: str) -> bytes:
        """All of it. Raises ``FileNotFoundError``."""
        file = self._there(place, name)
        assert file.whole, f"{who} reads half a file: {place}/{name}"
        assert file.author != STRANGER, f"{who} reads {place}/{name} of a stranger"
        return file.content

    def look(self, who: str, place: str, name: str) -> tuple[float, float] | None:
        """When it was written, and what time it is."""
        file = self.names.get((place, name))
        if file is None:
            return None
        self.seen[who, place, name] = file
        return file.written, self.now

    # --- the law ----------------------------------------------------------------------------------------

    def ran(self, who: str, content: bytes) -> None:
        """A server runs what it took."""
        file = self.files[content]
        file.runs += 1
        assert file.runs == 1, f"{content!r} was run twice, now by {who}"
        assert not file.disowned, f"{who} runs {content!r}, of which {file.author} was told that nobody will"

    def disown(self, content: bytes) -> None:
        """Its author was told that nobody has seen it, or will."""
        file = self.files[content]
        assert file.runs == 0, f"{file.author} was told that nobody has seen {content!r}, which was run"
        file.disowned = True

    def expired(self, file: File) -> bool:
        """It belongs to nobody any more."""
        return self.now - file.written > self.age

    def _must_be_allowed(self, who: str, place: str, name: str, file: File) -> None:
        assert file.author != STRANGER, f"{who} takes {place}/{name} of a stranger"
        if self.expired(file):
            return
        claim, seen = self.claimed.get((who, name)), self.seen.get((who, place, name))
        # names of claims are used again: whoever saw an old one, or held one for too long, may meet another's
        late = any(known is not None and self.expired(known) for known in (claim, seen))
        mine = {
            "tmp": file.author == who,
            "requests": claim is not None,
            "claims": claim is file or late,
            f"home of {who}": True,
        }
        assert mine.get(place, False), f"{who} takes {place}/{name} of {file.author}"

    def _there(self, place: str, name: str) -> File:
        if (place, name) not in self.names:
            raise FileNotFoundError(place, name)
        return self.names[place, name]
