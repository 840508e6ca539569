"""What both kinds of folder have in common: what they can do, and what it means when the file system refuses."""

from __future__ import annotations

import errno
from pathlib import Path

from devpipe.adapters.ports.folder import why
from devpipe.adapters.transports.link import Capabilities
from devpipe.machines.config import FolderConfig
from devpipe.machines.errors import FailureKind
from devpipe.machines.inputs import Failure

__all__ = ["ENVELOPE_ROOM", "capabilities", "failure_of", "nobody_serves"]

#: What a file may have around the largest message (bytes).
ENVELOPE_ROOM = 4096
#: Who serves a flat folder looks into it now and then, as its clients do (seconds).
FLAT_ANSWER = 5.0
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EMFILE: "too many open files",
}


def capabilities(config: FolderConfig) -> Capabilities:
    """What a shared folder can do."""
    return Capabilities(
        supports_realtime=False,
        supports_bidirectional=not config.flat,
        supports_filesystem=True,
        supports_streaming=False,
        max_message_bytes=config.max_message_bytes,
        max_concurrent_connections=1,
        names_session=True,
        cost=config.cost,
        answers_within=FLAT_ANSWER if config.flat else 0.0,
    )


def nobody_serves(folder: Path) -> Failure:
    """There is no such folder, or it is not a server's."""
    return Failure(
        kind=FailureKind.UNAVAILABLE, reason=f"nobody serves the folder {str(folder)!r}", refused=True
    )


def failure_of(what: str, error: OSError) -> Failure:
    """What an error of the file system means, with its remedy."""
    code = error.errno or 0
    remedy = _REMEDIES.get(code) or why(error)
    return Failure(
        kind=FailureKind.UNAVAILABLE,
        reason=f"{what}: {remedy} ({errno.errorcode.get(code, 'unknown error')})",
    )
