"""devpipe for programs without an event loop: ``with devpipe.blocking.connect(url) as pipe: pipe.send(...)``.

The names are those of the asynchronous pipe and selector. ``Face`` is what a blocking face of another asynchronous object is made of.
"""

from __future__ import annotations

from devpipe.adapters.blocking.face import Face
from devpipe.adapters.blocking.pipe import Pipe, Subscription, connect
from devpipe.adapters.blocking.selector import ModelSelector

__all__ = ["Face", "ModelSelector", "Pipe", "Subscription", "connect"]
