"""``devpipe diagrams``: the machines, as Mermaid or SVG."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["diagrams"]


@click.command(short_help="Print the diagrams of the machines.")
@click.option(
    "--svg", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Draw them as SVG into DIR (wants graphviz).",
)  # fmt: skip
@click.option(
    "--write", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write the texts."
)
@click.argument("names", nargs=-1)
def diagrams(svg: Path | None, write: Path | None, names: tuple[str, ...]) -> None:
    """Print the diagrams of the machines, as Mermaid, drawn from the classes that run.

    NAMES: breaker, lifecycle, failover, machines (default: all).
    """
    from devpipe.specs import render

    drawn = render.mermaid_documents()
    for name in names:
        if name not in drawn:
            raise click.UsageError(f"no machine is called {name!r}: there are {', '.join(drawn)}")
    chosen = {name: text for name, text in drawn.items() if not names or name in names}
    if svg is not None:
        for path in render.write_svg(svg, list(chosen)):
            click.echo(str(path))
    elif write is not None:
        for path in render.write_documents(write):
            click.echo(str(path))
    else:
        for name, text in chosen.items():
            click.echo(f"%% {name}\n{text}")
