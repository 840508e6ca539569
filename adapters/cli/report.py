"""The report of ``devpipe doctor`` for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from devpipe import Finding, Report, Status

__all__ = ["show"]

#: Wider lines are harder to read (columns).
WIDTH = 100

_COLOURS = {Status.OK: "green", Status.SKIPPED: "dim", Status.WARNING: "yellow", Status.FAILED: "red"}
_MARKS = {Status.OK: "✓", Status.SKIPPED: "·", Status.WARNING: "!", Status.FAILED: "✗"}
_PLAIN_MARKS = {Status.OK: "+", Status.SKIPPED: ".", Status.WARNING: "!", Status.FAILED: "x"}


def show(report: Report, console: Console) -> None:
    """A panel for the surroundings and one for each transport."""
    marks, arrow = _MARKS, "→"
    if not console.encoding.lower().startswith("utf"):
        marks, arrow = _PLAIN_MARKS, "->"
    width = min(console.width, WIDTH)
    console.print(Text(f"devpipe {report.version}, {report.system}", style="dim"))
    works = {trial.transport: trial.works for trial in report.trials}
    for headline, findings in report.sections():
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True, min_width=11)
        table.add_column(ratio=1)
        for finding in findings:
            colour = _COLOURS[finding.status]
            table.add_row(
                Text(marks[finding.status], style=f"bold {colour}"),
                Text(finding.check, style="dim" if finding.status is Status.SKIPPED else ""),
                Text(finding.words, style="" if finding.status is Status.OK else colour),
            )
            if finding.remedy is not None:
                table.add_row("", Text(arrow, justify="right"), Text(finding.remedy, style="bold"))
        worst = _worst(findings)
        title = Text(headline, style="bold")
        if headline in works:
            title.append(" works" if works[headline] else " does not work", style=_COLOURS[worst])
        console.print(
            Panel(table, title=title, title_align="left", border_style=_COLOURS[worst], width=width)
        )
    console.print(_summary(report, marks))
    colour = "green" if report.ok else "yellow" if report.working else "red"
    console.print(Text(report.verdict, style=f"bold {colour}"))


def _summary(report: Report, marks: dict[Status, str]) -> Table:
    """A line for each transport: what a reader wants who has seen it all before."""
    table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    table.add_column("")
    table.add_column("transport")
    for name in ("p50", "p99", "largest"):
        table.add_column(name, justify="right", min_width=10)
    for trial in report.trials:
        status = Status.OK if trial.works else Status.FAILED
        table.add_row(
            Text(marks[status], style=f"bold {_COLOURS[status]}"),
            trial.transport,
            _ms(trial.latency_p50),
            _ms(trial.latency_p99),
            "-" if trial.max_message_bytes is None else f"{trial.max_message_bytes / 2**20:.3g} MiB",
        )
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _worst(findings: list[Finding]) -> Status:
    found = {finding.status for finding in findings}
    return next((status for status in (Status.FAILED, Status.WARNING) if status in found), Status.OK)
