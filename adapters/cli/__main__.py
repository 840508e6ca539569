"""``python -m devpipe.cli``: the same as the command ``devpipe``."""

from __future__ import annotations

from devpipe.cli import main

main()
