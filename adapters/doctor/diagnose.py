"""``diagnose``: look around, try every transport for real and all at once, and say what was found."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
from anyio.to_thread import run_sync

from devpipe.adapters.arguments import check_arguments
from devpipe.adapters.client.connect import connect, connect_single
from devpipe.adapters.doctor.report import Finding, Report, Status, Trial
from devpipe.adapters.doctor.surroundings import Sources, clock, container, survey
from devpipe.adapters.tokens import TokenFunction
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

__all__ = ["diagnose"]

_NETWORK = ("websocket", "http")


async def diagnose(
    server_url: str | None = None,
    *,
    profile: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    token: str | TokenFunction | None = None,
    transports: Iterable[str] | None = None,
    timeout: float = 5.0,
    http_client: httpx.AsyncClient | None = None,
    proxy: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    settings: Mapping[str, Any] | None = None,
    config: PipeConfig | None = None,
    config_file: str | os.PathLike[str] | None = None,
) -> Report:
    """Which transports work here, why the others do not, and what to do: ``print(await devpipe.diagnose(url))``.

    Everything means what it means for ``connect``, but ``timeout``: it bounds each step (seconds). A transport that
    hangs holds no other up, except that only one at a time is measured. A server of another kind (``profile``) is asked what
    such a server knows; the rest is skipped, and the words say why. Messages are sent to the server, none of which
    runs a handler.

    Raises ``ConfigurationError`` for wrong settings, and nothing else: what does not work stands in the report.
    """
    check_arguments(
        timeout=timeout,
        transports=transports,
        http_client=http_client,
        proxy=proxy,
        ssl_context=ssl_context,
    )
    if not 0 < timeout < float("inf"):
        raise ConfigurationError(f"timeout = {timeout!r} is not allowed: give a number above 0")
    pipe = connect(
        server_url,
        profile=profile,
        folder=folder,
        token=token,
        wait=False,
        settings=settings,
        config=config,
        config_file=config_file,
    )
    chosen = _impatient(pipe.config, timeout)
    sources = Sources()
    names = _possible(chosen) if transports is None else list(dict.fromkeys(transports))
    trials: dict[str, Trial] = {}
    around: list[Finding] = []
    measuring = anyio.Lock()

    async def attempt(name: str) -> None:
        trials[name] = await _try(
            name,
            chosen,
            sources,
            timeout=timeout,
            token=token,
            http_client=http_client,
            proxy=proxy,
            ssl_context=ssl_context,
            measuring=measuring,
        )

    async def look_around() -> None:
        with anyio.move_on_after(timeout):
            found = await run_sync(lambda: list(survey(chosen, sources, proxy=proxy)), abandon_on_cancel=True)
            around.extend(found)
            return
        words = f"nothing could be read within {timeout:g} s"
        remedy = "The file system of the folder hangs: look after the mount, or take another folder."
        around.append(Finding(check="file system", status=Status.FAILED, words=words, remedy=remedy))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_around)
        for name in names:
            tasks.start_soon(attempt, name)
    ordered = tuple(trials[name] for name in names)
    offset = next((trial.clock_offset for trial in ordered if trial.clock_offset is not None), None)
    around.append(clock(sources.wall(), offset))
    return Report(
        url=chosen.server_url,
        folder=chosen.folder,
        version=version("vaultpilot-devpipe"),
        system=f"Python {platform.python_version()}, {platform.system()} {platform.release()}",
        surroundings=tuple(around),
        trials=ordered,
    )


def _impatient(config: PipeConfig, timeout: float) -> PipeConfig:
    """The same, but a dial begins at once and is over in time: nobody else dials meanwhile."""
    life = replace(config.lifecycle, backoff_initial=0.001, connect_timeout=timeout, proof_timeout=timeout)
    stream = min(
        config.http.stream_proof_timeout, timeout / 2
    )  # a push must have come by polls before its time
    http = replace(config.http, stream_proof_timeout=stream)
    return replace(config, connect_timeout=timeout, lifecycle=life, http=http)


def _possible(config: PipeConfig) -> list[str]:
    """The transports of the chain for which there is an address."""
    without = {"memory"}  # it needs a server in this program, which needs no doctor
    if config.server_url is None:
        without.update(_NETWORK)
    if config.folder is None:
        without.add("folder")
    return [name for name in config.failover.fallback_chain if name not in without]


async def _try(
    name: str,
    config: PipeConfig,
    sources: Sources,
    *,
    timeout: float,
    token: str | TokenFunction | None,
    http_client: httpx.AsyncClient | None,
    proxy: str | None,
    ssl_context: ssl.SSLContext | None,
    measuring: anyio.Lock,
) -> Trial:
    # only here: whoever just connects does not pay for the doctor
    from devpipe.adapters.doctor.files import FOLDER_CHECKS, look_inside
    from devpipe.adapters.doctor.network import NETWORK_CHECKS, Way, reach
    from devpipe.adapters.doctor.steps import Steps
    from devpipe.adapters.doctor.talk import TALK_CHECKS, talk

    over_network = name in _NETWORK and config.server_url is not None
    in_folder = name == "folder" and config.folder is not None
    first = NETWORK_CHECKS if over_network else FOLDER_CHECKS if in_folder else ()
    steps = Steps(name, (*first, *TALK_CHECKS), timeout)

    async def trial() -> None:
        where = name
        if over_network:
            way = Way(
                transport=name,
                config=config,
                proxy=proxy,
                ssl_context=ssl_context,
                http_client=http_client,
                inside=container(sources),
                wall=sources.wall,
            )
            where = way.shown
            await reach(steps, way)
        elif in_folder:
            where = repr(config.folder)
            await look_inside(steps, config)
        single = connect_single(
            name,
            config=config,
            token=token,
            http_client=http_client,
            proxy=proxy,
            ssl_context=ssl_context,
        )
        try:
            await talk(steps, single, config, measuring=measuring, where=where)
        except (
            ConfigurationError
        ) as error:  # told when the transport is made: a token in clear text, no such name
            remedy = (
                "Use an https address for a token." if "clear text" in str(error) else "Correct that setting."
            )
            steps.add(Finding(check="proof", status=Status.FAILED, words=str(error), remedy=remedy))

    return await steps.run(trial)
