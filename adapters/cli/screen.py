"""What the demo shows: a live picture in a terminal, plain lines where there is none."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import devpipe
from devpipe.machines.events import SwitchReason

if TYPE_CHECKING:
    from devpipe.adapters.client.explain import TransportExplanation
    from devpipe.cli.demo import Ledger
    from devpipe.cli.world import World

__all__ = ["Screen", "summary_lines", "verdict"]

#: Wider pictures are harder to read (columns), and the last ones of a terminal are left to what it echoes: a ^C that
#: does not fit behind the picture would move it by a line.
WIDTH = 100
ECHO = 2
#: The columns of both tables have a fixed width, so that the picture stands still.
TRANSPORTS: tuple[tuple[str, int, JustifyMethod], ...] = (
    ("", 1, "left"), ("transport", 9, "left"), ("state", 13, "left"), ("breaker", 11, "left"),
    ("score", 5, "right"), ("latency", 10, "right"), ("answers", 7, "right"),
)  # fmt: skip
COUNTERS = (("sent", 8), ("answered", 8), ("in flight", 9), ("executed", 8), ("twice", 5))
#: Calls that have waited so long for any answer wait for a transport that is silent (seconds).
SILENT = 1.0
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
    "silent": "red",
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
        self._switched = 0.0

    def begin(self, pipe: devpipe.Pipe, ledger: Ledger, world: World) -> None:
        """The pipe is open: the clock of the story runs from here."""
        self._pipe, self._ledger, self._world = pipe, ledger, world
        self._began = anyio.current_time()
        self.say(f"the pipe is open over {pipe.active}")

    def say(self, words: str, style: str = "") -> None:
        """A line of the story."""
        at = f"{anyio.current_time() - self._began:5.1f} s  " if self._pipe is not None else "         "
        line = Text(at, style="dim", no_wrap=True, overflow="ellipsis") + Text(words, style=style)
        if self._live and self._pipe is not None:
            self._story.append(line)
        elif not self._quiet:
            self._console.print(line, soft_wrap=True)

    def act(self, words: str) -> None:
        """Something is done to the world."""
        self.say(f"! {words}", "bold red" if "again" not in words else "bold magenta")

    def switched(self, event: Any, waited: float) -> None:
        """The active transport has changed."""
        self._switched = anyio.current_time()
        before = event.from_ or "nothing"
        # where nothing was lost nobody waits for the switch: what is in flight is answered on the old way
        span = f"{waited * 1000:.0f} ms" if waited < 1 else f"{waited:.1f} s"
        whose = "callers waited" if event.reason is SwitchReason.FAILOVER else "oldest call in flight"
        self.say(f"> {before} -> {event.to} ({event.reason.value}); {whose} {span}", "bold green")

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
        # painted after ``begin`` only
        assert self._pipe is not None and self._ledger is not None and self._world is not None
        states = ", ".join(f"{t.name} {self._state(t)}" for t in self._pipe.explain().transports)
        executed, twice = self._world.executions()
        return (
            f"active {self._pipe.active or 'none'} | {states} | sent {self._ledger.sent}, "
            f"answered {self._ledger.answered}, errors: {self._errors()}, executed {executed}, twice {twice}"
        )

    def _errors(self) -> str:
        """Those that ended with an error, and what is known of them."""
        assert self._ledger is not None  # as above
        return ", ".join(f"{count} x {what}" for what, count in self._ledger.errors.items()) or "none"

    def _picture(self) -> Group:
        assert self._pipe is not None and self._ledger is not None and self._world is not None  # as above
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, width, justify in TRANSPORTS:
            table.add_column(name, justify=justify, no_wrap=True, width=width)
        for t in self._pipe.explain().transports:
            active, state = t.name == self._pipe.active, self._state(t)
            table.add_row(
                Text(">" if active else " ", style="bold green"),
                Text(t.name, style="bold" if active else ""),
                Text(state, style=_COLOURS.get(state.partition(" ")[0], "")),
                Text(t.breaker, style=_COLOURS.get(t.breaker, "")),
                f"{t.score:.2f}",
                "-" if t.latency_p50 is None else f"{t.latency_p50 * 1000:.1f} ms",
                str(self._ledger.by_transport[t.name]),
            )
        executed, twice = self._world.executions()
        in_flight = self._ledger.sent - sum(self._ledger.ended.values())
        counters = Table(box=None, pad_edge=False, header_style="dim")
        for name, width in COUNTERS:
            counters.add_column(name, justify="right", no_wrap=True, width=width)
        counters.add_row(
            str(self._ledger.sent),
            Text(str(self._ledger.answered), style="green"),
            str(in_flight),
            str(executed),
            Text(str(twice), style="red" if twice else "green"),
        )
        errors = Text("ended with an error  ", style="dim", no_wrap=True, overflow="ellipsis")
        errors.append(self._errors(), style="red" if self._ledger.errors else "")
        story = Group(*self._story, *[Text("")] * (STORY - len(self._story)))
        clock = f"{anyio.current_time() - self._began:4.1f} s"
        width = min(self._console.width - ECHO, WIDTH)
        return Group(
            Panel(
                Group(table, Text(""), counters, errors), title="devpipe demo", subtitle=clock, width=width
            ),
            Panel(story, title="what happens", title_align="left", width=width),
        )

    def _state(self, transport: TransportExplanation) -> str:
        """Its state; of the active one also that it says nothing, which the machine finds out a little later."""
        assert self._pipe is not None and self._ledger is not None  # as above
        if transport.name == self._pipe.active:
            now = anyio.current_time()
            silence = min(self._ledger.silence(transport.name, now), now - self._switched)
            if silence >= SILENT:
                return f"silent {silence:.1f} s"
        return transport.state


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


def verdict(summary: dict[str, Any]) -> str:
    """What was promised, and whether it was kept, in a sentence."""
    sent, once, twice = (
        summary["sent"],
        summary["ended_exactly_once"],
        summary["executed_twice_by_one_server"],
    )
    broken = [
        *([f"{sent - once} of {sent} calls did not end exactly once"] if once != sent else []),
        *([f"{twice} ran twice"] if twice else []),
        *(["none was answered"] if not summary["answered"] else []),
    ]
    if broken:
        return f"a promise was broken: {', '.join(broken)}"
    unknown = summary["unknown_at_the_kill"]
    others = sum(summary["errors"].values()) - unknown
    words = "every call ended once, none ran twice"
    if unknown:
        words += f"; {unknown} that were in flight at the kill ended with maybe_executed, as promised"
    if others:
        words += f"; {others} ended with another error"
    return words
