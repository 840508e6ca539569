"""Model selection against ``devpipe serve`` in a process of its own, which is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

import devpipe

pytestmark = pytest.mark.anyio


@contextmanager
def model_server(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "devpipe.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ}
    )
    assert process.stdout is not None  # asked for above
    try:
        yield process, process.stdout.readline().split("serves at ")[1].split()[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_the_snippet_of_the_readme_gets_a_live_answer() -> None:
    with anyio.fail_after(60), model_server() as (_, url):
        async with devpipe.ModelSelector(url) as models:
            choice = await models.select(task_type="code-generation", quality="high", max_cost_usd=0.02)
            assert (choice.source, choice.live) == ("server", True)
            assert choice.selected_model.id
            assert choice.reasoning


async def test_a_server_killed_in_the_middle_of_a_loop_is_stood_in_for_and_then_answers_again() -> None:
    sources: list[str] = []
    with anyio.fail_after(60):
        with model_server() as (process, url):
            async with devpipe.ModelSelector(url, patience=0.2) as models:

                async def until(*wanted: str) -> None:
                    while True:
                        choice = await models.select(
                            task_type="code-generation", quality="high", max_cost_usd=0.02
                        )
                        if not sources or sources[-1] != choice.source:
                            sources.append(choice.source)
                        if choice.source in wanted:
                            return
                        await anyio.lowlevel.checkpoint()

                await until("server")
                process.kill()
                await until("cache", "static")
                models.clear_cache()
                await until("static")
                with model_server(int(url.rsplit(":", 1)[1])):
                    await until("server")
    assert sources == ["server", "cache", "static", "server"]


async def test_reports_of_clients_make_the_health_that_other_clients_hear() -> None:
    with anyio.fail_after(60), model_server() as (_, url):
        async with devpipe.ModelSelector(url) as one, devpipe.ModelSelector(url) as other:
            model = (await one.select("chat")).selected_model.id
            ill = anyio.Event()
            other.on("health_updated", lambda event: ill.set() if event.health.status != "healthy" else None)
            await other.select("chat")  # it is connected, and listens
            while not ill.is_set():
                await one.report(model, "chat", success=False, response_time=1)
            assert other.health[model].status in ("degraded", "offline")
            assert (await one.performance_metrics(model))[0].success_rate < 1


async def test_preferences_are_kept_by_the_server_for_each_user() -> None:
    with anyio.fail_after(60), model_server() as (_, url):
        async with devpipe.ModelSelector(url, user="ann") as models:
            await models.select("chat")
            await models.update_preferences(priority="cost")
        async with devpipe.ModelSelector(url, user="ann") as again:
            fetched = anyio.Event()
            again.on("preferences_updated", lambda event: fetched.set())
            await fetched.wait()
            assert again.preferences.priority == "cost"
