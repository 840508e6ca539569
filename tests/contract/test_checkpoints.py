"""The harness that cancels at every moment: it counts each once, and finds planted bugs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from checkpoints import cancel_at_every_step, cancel_at_every_turn

pytestmark = pytest.mark.anyio


async def nothing() -> None:
    """Nothing to check."""


async def test_each_step_of_the_work_and_of_the_tasks_that_it_starts_is_cancelled_once() -> None:
    reached: list[str] = []
    runs: list[tuple[str, ...]] = []

    async def child() -> None:
        reached.append("child")
        await anyio.lowlevel.checkpoint()

    async def work() -> None:
        reached.append("first")
        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
        reached.append("last")

    async def check() -> None:
        runs.append(tuple(reached))
        reached.clear()

    steps = await cancel_at_every_step(work, check)
    assert len(runs) == steps + 1
    assert runs[0] == ("first",) and runs[-1] == ("first", "child", "last")
    assert ("first", "child") in runs


@pytest.mark.parametrize("everywhere", [cancel_at_every_step, cancel_at_every_turn])
async def test_what_is_not_given_back_by_the_cancelled_is_found(
    everywhere: Callable[[object, object], Awaitable[int]],
) -> None:
    held = 0

    async def work() -> None:
        nonlocal held
        held += 1
        await anyio.lowlevel.checkpoint()
        held -= 1

    async def check() -> None:
        assert held == 0, "one is missing"

    with pytest.raises(AssertionError, match="one is missing") as found:
        await everywhere(work, check)
    assert found.value.__notes__[0].startswith("after a cancellation at ")


async def test_an_exception_group_that_comes_out_of_the_cancelled_work_is_found() -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("in the middle of a cancellation")

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    with pytest.raises(ExceptionGroup):
        await cancel_at_every_step(work, nothing)


@pytest.mark.parametrize("everywhere", [cancel_at_every_step, cancel_at_every_turn])
async def test_what_hangs_afterwards_is_found(
    monkeypatch: pytest.MonkeyPatch, everywhere: Callable[[object, object], Awaitable[int]]
) -> None:
    monkeypatch.setattr("checkpoints.BOUND", 0.05)
    with pytest.raises(TimeoutError):
        await everywhere(anyio.lowlevel.checkpoint, anyio.sleep_forever)
