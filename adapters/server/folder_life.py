"""The life of a server's folder: opened, served until it is not ours any more, and opened again as soon as that can be."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from devpipe.adapters.ports.folder import Directory, open_directory, why
from devpipe.machines.errors import ConfigurationError

__all__ = ["Trouble", "live", "open_root", "was_damaged"]

log = logging.getLogger("devpipe.server.folder")

#: A folder that cannot be served is looked at so often (seconds).
LOOK_AGAIN = 1.0


class Trouble:
    """Something that fails again and again: said once, and once more when it is over."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._said = ""

    def is_now(self, said: str) -> None:
        """What is wrong; nothing, if it has worked."""
        if said and said != self._said:
            log.warning("%s: %s", self._words, said)
        elif self._said and not said:
            log.info("%s: it is over", self._words)
        self._said = said


async def live(
    path: Path,
    *,
    begin: Callable[[list[Directory], bool], Awaitable[None]],
    serve: Callable[[], Awaitable[str]],
    task_status: TaskStatus[None],
) -> None:
    """Serve ``path`` until cancelled.

    ``begin`` opens it, and puts what it opened into the list; its argument says whether that is done anew. ``serve`` returns
    why the folder is not ours any more. Raises ``ConfigurationError`` if it cannot be served at first.
    """
    serving = Trouble("the folder is not served now")
    begun = False
    while True:
        opened: list[Directory] = []
        try:
            try:
                await begin(opened, begun)
            except OSError as error:
                raise ConfigurationError(
                    f"the folder {str(path)!r} cannot be served: {why(error)}"
                ) from error
            serving.is_now("")
            if not begun:
                begun = True
                task_status.started()
            lost = await serve()
        except ConfigurationError as error:
            if not begun:
                raise
            lost = str(error)
        finally:
            for directory in opened:
                directory.close()
        serving.is_now(lost)
        await anyio.sleep(LOOK_AGAIN)


def open_root(path: Path, *, anew: bool, allow_shared: bool) -> Directory:
    """Open the folder that is served, and make it. Raises what ``open_directory`` raises."""
    # whoever has removed what is around it as well does not want it back
    return open_directory(path, make=not anew or path.parent.is_dir(), allow_shared=allow_shared)


def was_damaged(opened: list[Directory]) -> str:
    """What to say if one of these was removed, moved or replaced. Raises ``OSError``."""
    if all(directory.in_place for directory in opened):
        return ""
    return f"{str(opened[0].path)!r}, or a directory in it, was removed or replaced"
