"""The service, alone in a world of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from service_world import World


@pytest.fixture
def world() -> World:
    return World()
