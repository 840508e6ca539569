"""Where a token comes from: a text, or a function of the program, which may fail."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from support import serving

import devpipe

pytestmark = pytest.mark.anyio

SECRET = "s3cret"


def plain() -> str:
    return SECRET


async def asynchronous() -> str:
    await anyio.lowlevel.checkpoint()
    return SECRET


@pytest.mark.parametrize("function", [plain, asynchronous])
@pytest.mark.parametrize("transport", ["websocket", "http"])
async def test_a_function_that_gives_the_token_may_be_plain_or_async(transport: str, function: Any) -> None:
    with anyio.fail_after(10):
        async with (
            serving(token=SECRET) as world,
            devpipe.connect(world.url, token=function, transports=[transport]) as pipe,
        ):
            assert (await pipe.send("echo", 1)).payload == 1


async def refused(token: Any) -> dict[str, str]:
    """What each transport says of this token function; nothing has been dialled."""
    with anyio.fail_after(10), pytest.raises(devpipe.AllTransportsFailed) as caught:
        async with devpipe.connect("http://127.0.0.1:9", token=token, connect_timeout=0.5):
            pass
    return {name: str(error) for name, error in caught.value.errors.items()}


async def test_a_function_that_raises_is_told_by_the_type_and_logged_with_the_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def locked() -> str:
        raise PermissionError(f"the key chain is locked: {SECRET}")

    with caplog.at_level(logging.DEBUG, "devpipe"):
        told = await refused(locked)
    assert told == {name: f"{name}: the token function raised PermissionError" for name in told}
    assert set(told) == {"websocket", "http"}
    first, *_ = [record for record in caplog.records if record.name == "devpipe.token"]
    assert first.levelno == logging.DEBUG and "PermissionError" in first.getMessage()
    assert f"{__file__}:{locked.__code__.co_firstlineno + 1} in locked" in first.getMessage()
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "it is of the type NoneType"),
        (5, "it is of the type int"),
        (b"s3cret", "it is of the type bytes"),
        ("", "it is empty"),
        (" s3cret", "it has other characters"),
    ],
)
async def test_a_function_that_gives_no_token_is_told_what_it_gave_and_never_its_value(
    given: Any, words: str
) -> None:
    told = await refused(lambda: given)
    assert set(told) == {"websocket", "http"}
    for name, said in told.items():
        assert said.startswith(f"{name}: what the token function gives is not allowed")
        assert said.endswith(words) and SECRET not in said
