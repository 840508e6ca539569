"""The command line: ``devpipe serve``, ``send``, ``watch``, ``doctor``, ``config``, ``catalogue``, ``diagrams``, ``demo``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

#: What the extra ``cli`` installs, and the command line cannot do without.
_WANTED = ("click", "rich")
INTERRUPTED = 130


def main() -> NoReturn:
    """Run a command and leave with its exit code."""
    try:
        from devpipe.cli.commands import main as run

        run()
    except ModuleNotFoundError as error:  # rich is imported by the commands that want it
        wanted = (error.name or "").partition(".")[0]
        if wanted not in _WANTED:
            raise
        sys.stderr.write(f"devpipe: the command line wants {wanted}: pip install 'vaultpilot-devpipe[cli]'\n")
        sys.exit(2)
    except KeyboardInterrupt:  # while the command is imported: nothing has begun
        sys.exit(INTERRUPTED)
