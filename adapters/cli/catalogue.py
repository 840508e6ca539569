"""``devpipe catalogue``: the example to begin with, or what a catalogue of one's own says."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["catalogue"]


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def catalogue(file: Path | None) -> None:
    """Print the example catalogue of the package, or check FILE.

    A catalogue to begin with: devpipe catalogue > models.toml

    A FILE is read as "devpipe serve --catalogue FILE" reads it: every mistake is told with its line, and the exit code
    is 2.
    """
    from devpipe.adapters.models.catalogue_file import EXAMPLE, load_catalogue

    if file is None:
        click.echo(EXAMPLE.read_text("utf-8"), nl=False)
        return
    found = load_catalogue(file)
    dated = f", dated {found.dated}" if found.dated else ", without a date: say when its prices were true"
    click.echo(f"{file}: {len(found.models)} models{dated}")
