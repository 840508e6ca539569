"""Every test of the link runs twice: ``fast`` is the direct way under asyncio and the fast frames; without it everything
is anyio's and wsproto's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=[True, False], ids=["fast", "reference"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
