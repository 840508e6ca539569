"""How long a question waits once nothing can be reached."""

from __future__ import annotations

import anyio
import pytest

from devpipe.adapters.models.patience import Patience

pytestmark = pytest.mark.anyio


class Now:
    """A clock that is set by hand; it begins where the event loop's is."""

    def __init__(self) -> None:
        self.at = anyio.current_time()

    def __call__(self) -> float:
        return self.at


async def test_it_counts_from_the_loss_and_not_from_the_last_time_it_was_told() -> None:
    now = Now()
    patience = Patience(10, first_seconds=10, now=now)
    patience.online()
    assert not patience.over
    patience.offline()
    now.at += 9
    patience.offline()
    assert not patience.over
    now.at += 1
    assert patience.over
    patience.online()
    assert not patience.over


async def test_the_first_attempts_have_longer_unless_all_of_them_fail() -> None:
    now = Now()
    slow, refused = (Patience(1, first_seconds=10, now=now) for _ in range(2))
    refused.offline()
    now.at += 2
    assert (slow.over, refused.over) == (False, True)
    now.at += 8
    assert slow.over


async def test_who_waits_is_let_go_when_it_is_over_and_not_while_somebody_can_be_reached() -> None:
    now = Now()
    patience = Patience(0, first_seconds=10, now=now)
    patience.online()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            waiting = anyio.Event()
            let_go = anyio.Event()

            async def wait() -> None:
                with patience.waiting() as scope:
                    waiting.set()
                    await anyio.sleep_forever()
                assert scope.cancelled_caught
                let_go.set()

            tasks.start_soon(wait)
            await waiting.wait()
            assert not let_go.is_set()
            patience.offline()
            await let_go.wait()


async def test_who_is_done_is_not_touched_any_more() -> None:
    patience = Patience(0, first_seconds=0)
    patience.online()
    with patience.waiting() as scope:
        pass
    patience.offline()
    assert scope.deadline == float("inf")
