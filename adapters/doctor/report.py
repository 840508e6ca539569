"""What a diagnosis found: plain facts, each with a status, words for people, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

__all__ = ["Finding", "Report", "Status", "Trial"]


class Status(str, Enum):
    """How a check ended, from best to worst."""

    OK = "ok"
    SKIPPED = "skipped"  #: it was not tried; the words say why
    WARNING = "warning"  #: messages go through, and something is not as it should be
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check. ``remedy``: what to do, in a sentence; None where nothing needs to be done."""

    check: str
    status: Status
    words: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"check": self.check, "status": self.status.value, "words": self.words, "remedy": self.remedy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One transport, tried for real, step by step.

    ``server``: the identity of the process that answered, "" if it knows none, None if nobody did.
    ``latency_p50``, ``latency_p99`` in seconds and ``max_message_bytes``: None if that was not reached.
    ``clock_offset``: the server's clock minus ours, in seconds, None if it did not say.
    """

    transport: str
    findings: tuple[Finding, ...]
    server: str | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    max_message_bytes: int | None = None
    clock_offset: float | None = None

    @property
    def works(self) -> bool:
        """True if messages go this way: the proof of data came back, and nothing that was tried has failed."""
        proven = any(f.check == "proof" and f.status is Status.OK for f in self.findings)
        return proven and not any(f.status is Status.FAILED for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; times in seconds."""
        return {
            "transport": self.transport,
            "works": self.works,
            "server": self.server,
            "latency_p50": self.latency_p50,
            "latency_p99": self.latency_p99,
            "max_message_bytes": self.max_message_bytes,
            "clock_offset": self.clock_offset,
            "findings": [finding.as_dict() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole diagnosis; ``print(report)`` shows it, ``as_dict()`` is plain data.

    ``url`` and ``folder`` are what was diagnosed, ``version`` that of devpipe, ``system`` where it ran.
    """

    url: str | None
    folder: str | None
    version: str
    system: str
    surroundings: tuple[Finding, ...]
    trials: tuple[Trial, ...]

    @property
    def working(self) -> tuple[str, ...]:
        """The transports that work."""
        return tuple(trial.transport for trial in self.trials if trial.works)

    @property
    def ok(self) -> bool:
        """True if every transport that was tried works. Warnings do not count."""
        return len(self.working) == len(self.trials)

    @property
    def verdict(self) -> str:
        """The whole in a sentence."""
        working, asked = self.working, [trial.transport for trial in self.trials]
        broken = [name for name in asked if name not in working]
        if not broken:
            return f"{_list(asked)} {_verb(asked, 'works', 'work')}"
        if not working:
            return f"nothing works: tried {_list(asked)}"
        return f"{_list(working)} {_verb(working, 'works', 'work')}, {_list(broken)} {_verb(broken, 'does', 'do')} not"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "working": list(self.working),
            "url": self.url,
            "folder": self.folder,
            "version": self.version,
            "system": self.system,
            "surroundings": [finding.as_dict() for finding in self.surroundings],
            "transports": [trial.as_dict() for trial in self.trials],
        }

    def sections(self) -> Iterator[tuple[str, list[Finding]]]:
        """The findings in the order of reading, each group with its headline; what was left undone in one line."""
        yield "surroundings", list(self.surroundings)
        for trial in self.trials:
            yield trial.transport, _without_rest(trial.findings)

    def __str__(self) -> str:
        lines = [f"devpipe {self.version}, {self.system}"]
        for headline, findings in self.sections():
            lines += ["", headline]
            for finding in findings:
                lines.append(f"  {finding.status.value:<8} {finding.check:<12} {finding.words}")
                if finding.remedy is not None:
                    lines.append(f"{'':<24}remedy: {finding.remedy}")
        return "\n".join([*lines, "", self.verdict])


def _without_rest(findings: tuple[Finding, ...]) -> list[Finding]:
    shown = list(findings)
    while len(shown) > 1 and shown[-1].status is Status.SKIPPED and shown[-1].words == shown[-2].words:
        shown.pop()
    if len(shown) < len(findings):
        shown[-1] = replace(shown[-1], check="the rest")
    return shown


def _list(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _verb(names: Iterable[str], one: str, many: str) -> str:
    return one if len(list(names)) == 1 else many
