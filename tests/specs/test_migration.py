"""``specs/migration.md``: every example that is not marked as the old way runs, against a real server."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from model_peer import ModelPeer
from support import serving

PAGE = (Path(__file__).parents[2] / "specs" / "migration.md").read_text(encoding="utf-8")
EXAMPLES = [
    (title, block)
    for section in PAGE.split("\n## ")[1:]
    for title in [section.splitlines()[0]]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    if not block.startswith("# before")
]


def test_the_whole_checklist_of_the_original_is_walked_through() -> None:
    titles = [section.splitlines()[0] for section in PAGE.split("\n## ")[1:]]
    assert titles == [
        "Backup current working code",
        "Create transport interface",
        "Refactor DevPipeClient",
        "Implement WebSocket and FileSystem transports",
        "Create TransportManager",
        "Update ModelSelectionService",
        "Add health monitoring and circuit breaker patterns",
        "Implement enhanced error handling",
        "Update tests",
        "Validate backward compatibility",
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example[0])
async def test_each_example_runs_and_prints_what_it_says(example: tuple[str, str]) -> None:
    _, block = example
    called: list[bool] = []

    async def call_the_api() -> None:
        called.append(True)

    with anyio.fail_after(20):
        async with serving(ModelPeer().server()) as world:
            source = block.replace("http://127.0.0.1:8000", world.url).replace(".devpipe", str(world.folder))
            body = "".join(f"    {line}\n" for line in source.splitlines())
            scope: dict[str, Any] = {"call_the_api": call_the_api}
            exec("async def example():\n" + body, scope)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("error")
                await cast("Callable[[], Awaitable[None]]", scope["example"])()
    promised = [line.split("     # ", 1)[1] for line in block.splitlines() if "     # " in line]
    for line in promised:
        assert line in printed.getvalue()
    assert called or "call_the_api" not in block
