"""Draws the machines from the classes that run: Mermaid for people, a table of every (state, event) pair for proof.

The text is committed under ``diagrams/`` and a test fails when it is stale: ``python -m devpipe.specs.render DIR``
writes it anew. SVG is drawn on demand, with graphviz, and never committed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

from devpipe.machines.charts.base import PureChart
from devpipe.machines.errors import ConfigurationError
from devpipe.machines.wiring import BREAKER, FAILOVER, LIFECYCLE, MONITOR, OTHERS, Wire
from devpipe.specs.charts import CHARTS, Edge, edges, events, leaves, nodes

__all__ = ["dot_documents", "documents", "mermaid_documents", "write_documents", "write_svg"]

#: A line break inside a label of graphviz.
_BREAK = "\\n"


def mermaid(chart: type[PureChart[Any]]) -> str:
    """The picture: states, guards, actions. What leaves and enters nothing stands in the table only."""
    lines = ["stateDiagram-v2", "    direction TB"]
    tops = [node for node in nodes(chart) if node.parent is None]
    for node in tops:
        if not node.compound:
            # named here, since Mermaid draws nothing at all where a note stands beside a state without a line
            lines.append(f"    {node.name}")
        else:
            lines.append(f"    state {node.name} {{")
            inner = [n for n in nodes(chart) if n.parent == node.name]
            lines += [f"        [*] --> {n.name}" for n in inner if n.initial]
            names = {n.name for n in inner}
            lines += [f"        {line}" for line in _arrows(chart, within=names)]
            lines.append("    }")
    lines += [f"    [*] --> {node.name}" for node in tops if node.initial]
    lines += [f"    {line}" for line in _arrows(chart, within=None)]
    return "\n".join(lines) + "\n"


def _arrows(chart: type[PureChart[Any]], *, within: set[str] | None) -> list[str]:
    inner = {node.name for node in nodes(chart) if node.parent is not None}
    grouped: dict[tuple[str, str], list[str]] = {}
    gathered = _gathered(chart)
    for edge in edges(chart):
        if edge.target is None:
            continue
        source = edge.source
        if (edge.event, edge.target) in gathered:
            continue
        both_inside = source in inner and edge.target in inner
        if within is not None and not {source, edge.target} <= within:
            continue
        if within is None and both_inside and _parent(chart, source) == _parent(chart, edge.target):
            continue
        grouped.setdefault((source, edge.target), []).append(_label(edge))
    lines = [
        f"{source} --> {target} : {'<br/>'.join(labels)}" for (source, target), labels in grouped.items()
    ]
    if within is None:
        for (event, target), sources in gathered.items():
            lines.append(f"note right of {target} : {event} comes here<br/>from {', '.join(sources)}")
    return lines


def _gathered(chart: type[PureChart[Any]]) -> dict[tuple[str, str], list[str]]:
    """From where an operator's events reach a state: said once."""
    sources: dict[tuple[str, str], list[str]] = {}
    for edge in edges(chart):
        if edge.target is not None and edge.event in chart.OVERRIDES:
            sources.setdefault((edge.event, edge.target), []).append(edge.source)
    return sources


def _parent(chart: type[PureChart[Any]], name: str) -> str | None:
    return next(node.parent for node in nodes(chart) if node.name == name)


def _label(edge: Edge) -> str:
    guards = f" [{' and '.join(edge.guards)}]" if edge.guards else ""
    actions = f" / {', '.join(edge.actions)}" if edge.actions else ""
    return f"{edge.event}{guards}{actions}"


def table(name: str, chart: type[PureChart[Any]]) -> str:
    """Every pair of state and event: taken, ignored with a reason, or illegal."""
    lines = [
        f"# {name}",
        "",
        f"Generated from `{chart.__name__}`; a pair that is not listed under *taken* or *ignored* raises",
        "`IllegalTransition` and changes nothing.",
        "",
        "## Taken",
        "",
        "| state | event | guard | action | next state |",
        "|---|---|---|---|---|",
    ]
    for edge in edges(chart):
        guards = " and ".join(f"`{guard}`" for guard in edge.guards) or "-"
        actions = ", ".join(f"`{action}`" for action in edge.actions) or "-"
        lines.append(f"| {edge.source} | {edge.event} | {guards} | {actions} | {edge.target or 'stays'} |")
    lines += ["", "## Ignored", "", "| state | event | why |", "|---|---|---|"]
    lines += [f"| {state} | {event} | {why} |" for (state, event), why in chart.IGNORED.items()] or [
        "| - | - | - |"
    ]
    lines += ["", "## All pairs", "", "| state | " + " | ".join(events(chart)) + " |"]
    lines.append("|---|" + "---|" * len(events(chart)))
    for leaf in leaves(chart):
        lines.append(f"| {leaf} | " + " | ".join(_mark(chart, leaf, event) for event in events(chart)) + " |")
    return "\n".join(lines) + "\n"


def _mark(chart: type[PureChart[Any]], leaf: str, event: str) -> str:
    if (leaf, event) in chart.IGNORED:
        return "ignored"
    parent = _parent(chart, leaf)
    taken = any(edge.event == event and edge.source in (leaf, parent) for edge in edges(chart))
    return "taken" if taken else "illegal"


def wiring() -> str:
    """How the machines feed each other, from the tables that transport and manager run."""
    lines = ["flowchart LR", *(f"    {name}([{label}])" for name, label in _LABELS.items())]
    for wire in _WIRES:
        lines.append(f'    {wire.source} -- "{_passes(wire)}<br/>{wire.reason}" --> {wire.target}')
    return "\n".join(lines) + "\n"


def _passes(wire: Wire) -> str:
    return f"{wire.output.__name__} becomes {wire.makes.__name__}"


def mermaid_documents() -> dict[str, str]:
    """Every picture, by name."""
    return {**{name: mermaid(chart) for name, chart in CHARTS.items()}, "machines": wiring()}


def documents() -> dict[str, str]:
    """Every committed file, by its name under ``diagrams/``."""
    pictures = {f"{name}.mmd": text for name, text in mermaid_documents().items()}
    return {**pictures, **{f"{name}.md": table(name, chart) for name, chart in CHARTS.items()}}


def write_documents(directory: Path) -> list[Path]:
    """Write them all; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, text in documents().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def dot_documents() -> dict[str, str]:
    """The same pictures for graphviz."""
    found = {name: _dot(chart) for name, chart in CHARTS.items()}
    lines = ["digraph machines {", *_STYLE, "  rankdir=LR;"]
    lines += [f'  {name} [label="{label}"];' for name, label in _LABELS.items()]
    lines += [f'  {w.source} -> {w.target} [label="{_passes(w)}{_BREAK}{w.reason}"];' for w in _WIRES]
    return {**found, "machines": "\n".join([*lines, "}"]) + "\n"}


_WIRES = (*BREAKER, *LIFECYCLE, *OTHERS, *MONITOR, *FAILOVER)
_LABELS = {
    "breaker": "circuit breaker",
    "lifecycle": "transport lifecycle",
    "monitor": "health monitor",
    "failover": "manager failover",
}
_STYLE = [
    '  graph [fontname="sans-serif", compound=true];',
    '  node [shape=box, style="rounded,filled", fillcolor="#eef3fb", fontname="sans-serif"];',
    '  edge [fontname="sans-serif", fontsize=10];',
]


def _dot(chart: type[PureChart[Any]]) -> str:
    lines = ["digraph chart {", *_STYLE]
    heads = {n.parent: n.name for n in reversed(nodes(chart)) if n.parent is not None}
    for node in nodes(chart):
        if node.compound:
            lines.append(f'  subgraph cluster_{node.name} {{ label="{node.name}"; style=rounded;')
            lines += [f"    {n.name};" for n in nodes(chart) if n.parent == node.name]
            lines.append("  }")
        elif node.parent is None:
            lines.append(f"  {node.name};")
    gathered = _gathered(chart)
    grouped: dict[tuple[str, str], list[str]] = {}
    for edge in edges(chart):
        if edge.target is not None and (edge.event, edge.target) not in gathered:
            grouped.setdefault((edge.source, edge.target), []).append(_label(edge))
    for (source, target), labels in grouped.items():
        options = [f'label="{_BREAK.join(labels)}"']
        if source in heads:
            options.append(f"ltail=cluster_{source}")
        if target in heads:
            options.append(f"lhead=cluster_{target}")
        tail, head = heads.get(source, source), heads.get(target, target)
        lines.append(f"  {tail} -> {head} [{', '.join(options)}];")
    for event, target in gathered:
        lines.append(f'  any_{event} [shape=plaintext, label="any state", fillcolor=none, style=""];')
        lines.append(f'  any_{event} -> {heads.get(target, target)} [label="{event}", style=dashed];')
    return "\n".join([*lines, "}"]) + "\n"


def write_svg(directory: Path, names: list[str]) -> list[Path]:
    """Draw SVG files with graphviz. Raises ``ConfigurationError`` if its ``dot`` is not there."""
    dot = shutil.which("dot")
    if dot is None:
        raise ConfigurationError("drawing SVG wants the program dot: install graphviz (apt install graphviz)")
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, text in dot_documents().items():
        if name in names:
            path = directory / f"{name}.svg"
            subprocess.run([dot, "-Tsvg", "-o", str(path)], input=text.encode(), check=True)
            paths.append(path)
    return paths


def main() -> None:
    """Write every diagram into DIR."""
    parser = argparse.ArgumentParser(prog="python -m devpipe.specs.render", description=main.__doc__)
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=Path("diagrams"))
    for written in write_documents(parser.parse_args().directory):
        print(written)


if __name__ == "__main__":
    main()
