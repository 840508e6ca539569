"""The command line: ``devpipe serve``, ``send``, ``watch``, ``doctor``, ``config``, ``diagrams``, ``demo``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

#: What the extra ``cli`` installs, and the command line cannot do without.
_WANTED = ("click", "rich")


def main() -> NoReturn:
    """Run a command and leave with its exit code."""
    try:
        from devpipe.cli.commands import main as run
    except ModuleNotFoundError as error:
        wanted = (error.name or "").partition(".")[0]
        if wanted not in _WANTED:
            raise
        sys.stderr.write(f"devpipe: the command line wants {wanted}: pip install 'vaultpilot-devpipe[cli]'\n")
        sys.exit(2)
    run()
