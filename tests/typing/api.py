"""How programs use devpipe, for the type checkers. It is never run."""

from __future__ import annotations

from typing import Any

import devpipe
from devpipe.machines.inputs import Connect, Initialize


async def client() -> None:
    async with devpipe.connect("http://127.0.0.1:8000", folder=".devpipe", token="t") as pipe:
        reply: devpipe.Message = await pipe.send("echo", {"a": 1}, timeout=5, priority="high", realtime=True)
        payload: Any = reply.payload
        active: str | None = pipe.active
        remove = pipe.on("transport_switched", print)
        remove()
        async for item in pipe.receive():
            if isinstance(item, devpipe.Gap):
                reason: str = item.reason
            else:
                kind: str = item.type
        pipe.use("http")
        explained: devpipe.Explanation = pipe.explain()
        print(payload, active, explained.would_change, reason, kind)


async def doctor() -> None:
    report: devpipe.Report = await devpipe.diagnose("http://127.0.0.1:8000", folder=".devpipe", timeout=2.0)
    working: tuple[str, ...] = report.working
    for trial in report.trials:
        findings: tuple[devpipe.Finding, ...] = trial.findings
        remedies: list[str | None] = [f.remedy for f in findings if f.status is devpipe.Status.FAILED]
        print(working, trial.works, trial.latency_p99, remedies)


async def serve() -> None:
    server = devpipe.Server(profile="vaultpilot")

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> object:
        return message.payload

    @server.handler("sync")
    def sync(message: devpipe.Message) -> object:
        return message.payload

    async with server:
        await server.push("news", {"n": 1}, session="s")
        print(await echo(devpipe.Message(id="a", type="b", raw=None)), sync)


def machines() -> None:
    breaker = devpipe.CircuitBreaker(name="b")
    permit = breaker.acquire(now=0.0)
    if permit is not None:
        breaker.success(permit, now=0.1)
    life = devpipe.Lifecycle(name="t")
    life.receive(Initialize(), now=0.0)
    life.receive(Connect(), now=0.0)
    print(life.drain_effects(), life.state is devpipe.LifecycleState.OPENING)


async def guarded() -> None:
    try:
        async with devpipe.Breaker("mine"):
            pass
    except devpipe.CircuitOpen as error:
        print(error.retry_after)
    except devpipe.DevPipeError as error:
        print(error.outcome, error.safe_to_resend)
