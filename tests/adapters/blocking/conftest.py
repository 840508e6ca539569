"""A server in an event loop of its own, for tests that have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from support import World, serving


class Served:
    """A running server; ``push`` goes to every session."""

    def __init__(self, portal: BlockingPortal, world: World) -> None:
        self._portal = portal
        self.url = world.url
        self.folder = world.folder
        self.server = world.server

    def push(self, type: str, payload: Any) -> None:
        self._portal.call(self.server.push, type, payload)


@pytest.fixture
def served() -> Iterator[Served]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving()) as world:
        yield Served(portal, world)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """The event loop of the pipe."""
    chosen: str = request.param
    return chosen
