"""The steps of one trial: each is bounded in time, and the first that fails ends the trial, never the diagnosis."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import cast

import anyio

from devpipe.adapters.doctor.report import Finding, Status, Trial

__all__ = ["Steps", "Stopped", "Times", "as_oserror", "words_of"]

#: Of an error so many characters are shown.
MAX_WORDS = 400

log = logging.getLogger("devpipe.doctor")


class Stopped(Exception):
    """A step has failed without which the next ones make no sense. It stays inside the trial."""


@dataclass(slots=True, kw_only=True)
class Times:
    """What is measured on the way (seconds, bytes); None where it was not reached."""

    server: str | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    max_message_bytes: int | None = None
    clock_offset: float | None = None


@dataclass(slots=True)
class Steps:
    """Collects the findings of one trial. ``checks``: what there is to do, in order; ``timeout``: for each (seconds)."""

    transport: str
    checks: tuple[str, ...]
    timeout: float
    findings: list[Finding] = field(default_factory=list[Finding])
    times: Times = field(default_factory=Times)
    _why: str = "an earlier step failed"

    async def take(
        self,
        check: str,
        step: Callable[[], Awaitable[Finding]],
        *,
        late: str,
        vital: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Do one step. ``late``: the remedy if its time runs out. Raises ``Stopped`` if a vital one fails.

        One that is not vital can do no worse than to warn when its time runs out.
        """
        status = Status.FAILED if vital else Status.WARNING
        seconds = self.timeout if timeout is None else timeout
        finding = Finding(check=check, status=status, words=f"no end within {seconds:g} s", remedy=late)
        with anyio.move_on_after(seconds):
            finding = await step()
        self.add(finding, vital=vital)

    def add(self, finding: Finding, *, vital: bool = True) -> None:
        """Note a finding. Raises ``Stopped`` if a vital one has failed."""
        self.findings.append(replace(finding, words=_printable(finding.words)))
        if vital and finding.status is Status.FAILED:
            self._why = f"{finding.check!r} failed"
            raise Stopped

    async def run(self, trial: Callable[[], Awaitable[None]]) -> Trial:
        """Run the whole trial and gather it, with what was left undone. Raises nothing but cancellation."""
        try:
            await trial()
        except Stopped:
            pass  # the finding says it
        except Exception as error:
            # a broken transport, a token function, an installed package: none of them ends the other trials
            log.debug("the trial of %s broke", self.transport, exc_info=True)
            check = self._left()[0] if self._left() else "trial"
            words = f"it broke: {type(error).__name__}: {error}"
            remedy = "Run it again with --debug: the traceback shows whose error it is."
            self.add(Finding(check=check, status=Status.FAILED, words=words, remedy=remedy), vital=False)
            self._why = f"{check!r} failed"
        for check in self._left():
            self.findings.append(Finding(check=check, status=Status.SKIPPED, words=f"not tried: {self._why}"))
        times = self.times
        return Trial(
            transport=self.transport,
            findings=tuple(self.findings),
            server=times.server,
            latency_p50=times.latency_p50,
            latency_p99=times.latency_p99,
            max_message_bytes=times.max_message_bytes,
            clock_offset=times.clock_offset,
        )

    def _left(self) -> list[str]:
        done = {finding.check for finding in self.findings}
        return [check for check in self.checks if check not in done]


def _printable(words: str) -> str:
    """In one line that fits a screen, whatever a peer has put into it."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in words[:MAX_WORDS])
    return shown + ("..." if len(words) > MAX_WORDS else "")


def as_oserror(error: BaseException) -> OSError | None:
    """The system's own error inside: anyio gathers one for each address, and wraps them."""
    waiting: list[BaseException] = [error]
    for _ in range(32):  # a chain may be a ring
        if not waiting:
            break
        one = waiting.pop(0)
        if isinstance(one, OSError) and (one.errno is not None or isinstance(one, ssl.SSLError)):
            return one
        if isinstance(one, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", one).exceptions
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
    return None


def words_of(error: OSError) -> str:
    """What the system says about an error, with its name: ``Connection refused (ECONNREFUSED)``."""
    # the numbers of these two are not those of errno
    ours = not isinstance(error, (socket.gaierror, ssl.SSLError)) and error.errno in errno.errorcode
    if error.errno is None or not ours:
        return error.strerror or str(error) or type(error).__name__
    # not the error's own words: asyncio puts an address there
    return f"{os.strerror(error.errno)} ({errno.errorcode[error.errno]})"
