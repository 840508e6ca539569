"""Which transports can work here at all. A manager asks before it takes a transport, and a program may ask too.

What can change is not asked beforehand: a folder that cannot be used now is dialled again like a server that is down.
"""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

__all__ = ["supports_filesystem", "supports_websockets"]


def supports_websockets() -> bool:
    """True if this process may open sockets at all and has the protocol library."""
    import socket

    if find_spec("wsproto") is None:
        return False
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:  # a sandbox without network: nothing to dial with
        return False
    return True


def supports_filesystem(folder: str | os.PathLike[str]) -> bool:
    """True if files can be written, renamed and removed in ``folder`` (or where it would be made)."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        return False
    try:
        with tempfile.TemporaryDirectory(dir=path, prefix=".devpipe-probe-") as probe:
            first = Path(probe) / "a"
            first.write_bytes(b"x")
            first.replace(Path(probe) / "b")
    except OSError:  # read-only, full, not ours: in each case the folder transport cannot work
        return False
    return True
