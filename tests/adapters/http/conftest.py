"""What the tests of the HTTP link share stands in ``http_peer``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
