"""The command line: ``devpipe serve``, ``send``, ``watch``, ``diagrams``, ``demo``."""

from __future__ import annotations

from devpipe.cli.commands import main

__all__ = ["main"]
