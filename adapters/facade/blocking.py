"""devpipe for programs without an event loop: ``with devpipe.blocking.connect(url) as pipe: pipe.send(...)``.

The names are those of the asynchronous pipe. ``Face`` is what a blocking face of another asynchronous object is made of.
"""

from __future__ import annotations

from devpipe.adapters.blocking.face import Face
from devpipe.adapters.blocking.pipe import Pipe, Subscription, connect

__all__ = ["Face", "Pipe", "Subscription", "connect"]
