"""What the demo shows: a live picture in a terminal, plain lines where there is none."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import devpipe

if TYPE_CHECKING:
    from devpipe.cli.demo import Ledger
    from devpipe.cli.world import World

__all__ = ["Screen", "summary_lines"]

#: Lines of the story that stay on the screen.
STORY = 9
#: Pictures per second in a terminal, and seconds between status lines where there is none.
FRAMES = 8.0
STATUS_EVERY = 2.0

_COLOURS = {
    "healthy": "green",
    "probation": "green",
    "degraded": "yellow",
    "connecting": "cyan",
    "backoff": "yellow",
    "blocked": "red",
    "failed": "red",
    "closed": "green",
    "open": "red",
    "half_open": "yellow",
}


class Screen:
    """One demo's output. ``quiet``: nothing but the summary."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live = console.is_terminal and not quiet
        self._story: deque[Text] = deque(maxlen=STORY)
        self._pipe: devpipe.Pipe | None = None
        self._ledger: Ledger | None = None
        self._world: World | None = None
        self._began = 0.0

    def begin(self, pipe: devpipe.Pipe, ledger: Ledger, world: World) -> None:
        """The pipe is open: the clock of the story runs from here."""
        self._pipe, self._ledger, self._world = pipe, ledger, world
        self._began = anyio.current_time()
        self.say(f"the pipe is open over {pipe.active}")

    def say(self, words: str, style: str = "") -> None:
        """A line of the story."""
        at = f"{anyio.current_time() - self._began:5.1f} s  " if self._pipe is not None else "         "
        line = Text(at, style="dim") + Text(words, style=style)
        if self._live and self._pipe is not None:
            self._story.append(line)
        elif not self._quiet:
            self._console.print(line, soft_wrap=True)

    def act(self, words: str) -> None:
        """Something is done to the world."""
        self.say(f"! {words}", "bold red" if "again" not in words else "bold magenta")

    def switched(self, event: Any, waited: float) -> None:
        """The active transport has changed."""
        before = event.from_ or "nothing"
        self.say(
            f"> {before} -> {event.to} ({event.reason.value}); callers waited {waited * 1000:.0f} ms",
            "bold green",
        )

    async def paint(self) -> None:
        """Keep the picture fresh until cancelled."""
        if self._quiet:
            return
        if not self._live:
            while True:
                await anyio.sleep(STATUS_EVERY)
                self.say(self._status(), "dim")
        with Live(self._picture(), console=self._console, auto_refresh=False, transient=False) as live:
            try:
                while True:
                    await anyio.sleep(1 / FRAMES)
                    live.update(self._picture(), refresh=True)
            finally:
                live.update(self._picture(), refresh=True)

    def _status(self) -> str:
        assert self._pipe is not None and self._ledger is not None  # painted after ``begin`` only
        states = ", ".join(f"{t.name} {t.state}" for t in self._pipe.explain().transports)
        errors = sum(self._ledger.errors.values())
        return (
            f"active {self._pipe.active or 'none'} | {states} | sent {self._ledger.sent}, "
            f"answered {self._ledger.answered}, errors {errors}"
        )

    def _picture(self) -> Group:
        assert self._pipe is not None and self._ledger is not None and self._world is not None  # as above
        table = Table(expand=True, box=None, pad_edge=False, header_style="bold")
        for name, justify in (("", "left"), ("transport", "left"), ("state", "left"), ("breaker", "left")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # rich's literal
        for name in ("score", "latency", "answers"):
            table.add_column(name, justify="right", no_wrap=True)
        for t in self._pipe.explain().transports:
            active = t.name == self._pipe.active
            table.add_row(
                Text(">" if active else " ", style="bold green"),
                Text(t.name, style="bold" if active else ""),
                Text(t.state, style=_COLOURS.get(t.state, "")),
                Text(t.breaker, style=_COLOURS.get(t.breaker, "")),
                f"{t.score:.2f}",
                "-" if t.latency_p50 is None else f"{t.latency_p50 * 1000:.1f} ms",
                str(self._ledger.by_transport[t.name]),
            )
        executed, twice = self._world.executions()
        errors = sum(self._ledger.errors.values())
        in_flight = self._ledger.sent - sum(self._ledger.ended.values())
        counters = Text.assemble(
            ("sent ", "dim"), f"{self._ledger.sent}  ",
            ("answered ", "dim"), (f"{self._ledger.answered}  ", "green"),
            ("in flight ", "dim"), f"{in_flight}  ",
            ("errors ", "dim"), (f"{errors}  ", "red" if errors else ""),
            ("executed ", "dim"), f"{executed}  ",
            ("twice ", "dim"), (str(twice), "red" if twice else "green"),
        )  # fmt: skip
        story = Group(*self._story, *[Text("")] * (STORY - len(self._story)))
        clock = anyio.current_time() - self._began
        return Group(
            Panel(Group(table, Text(""), counters), title="devpipe demo", subtitle=f"{clock:4.1f} s"),
            Panel(story, title="what happens", title_align="left"),
        )


def summary_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary as (name, value), for people."""
    errors = [f"{n} x {what}" for what, n in summary["errors"].items()] or ["none"]
    return [
        ("sent", str(summary["sent"])),
        ("answered", str(summary["answered"])),
        ("ended with an error", errors[0]),
        *(("", error) for error in errors[1:]),
        ("ended exactly once", f"{summary['ended_exactly_once']} of {summary['sent']}"),
        ("executed, by the server's log", str(summary["executed"])),
        ("executed twice by one server", str(summary["executed_twice_by_one_server"])),
        ("switches of the transport", str(summary["switches"])),
        ("answers by transport", ", ".join(f"{n} {name}" for name, n in summary["by_transport"].items())),
        ("sent again, under the same id", str(summary["resent"])),
    ]
