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


async def models() -> None:
    async with devpipe.ModelSelector("http://127.0.0.1:8000", folder=".devpipe", max_age=30) as selector:
        choice: devpipe.ModelChoice = await selector.select(
            task_type="code-generation", quality="high", max_cost_usd=0.02
        )
        age: float | None = choice.age
        preferences: devpipe.Preferences = await selector.update_preferences(priority="cost")
        health = {id: found.status for id, found in selector.health.items()}
        print(choice.selected_model.id, choice.source == "server", age, preferences.priority, health)
    service = devpipe.ModelSelectionService("http://127.0.0.1:8000", ".devpipe", {"cache_duration": 60000})
    async with service:
        again: devpipe.ModelChoice = await service.select_model({"task_type": "chat"})
        print(again.live, service.get_config().timeout)


def blocking_models() -> None:
    with devpipe.blocking.ModelSelector("http://127.0.0.1:8000", token=lambda: "t") as selector:
        choice: devpipe.ModelChoice = selector.select("chat")
        print(choice.reasoning)


async def async_token() -> str:
    return "t"


async def tokens() -> None:
    async with devpipe.connect("http://127.0.0.1:8000", token=async_token):
        pass
    async with devpipe.connect_single("http", "http://127.0.0.1:8000", token=lambda: "t"):
        pass
    async with devpipe.ModelSelector("http://127.0.0.1:8000", token=lambda: "t"):
        pass
    print(await devpipe.diagnose("http://127.0.0.1:8000", token=lambda: "t"))


async def doctor() -> None:
    report: devpipe.Report = await devpipe.diagnose("http://127.0.0.1:8000", folder=".devpipe", timeout=2.0)
    working: tuple[str, ...] = report.working
    for trial in report.trials:
        findings: tuple[devpipe.Finding, ...] = trial.findings
        remedies: list[str | None] = [f.remedy for f in findings if f.status is devpipe.Status.FAILED]
        print(working, trial.works, trial.latency_p99, remedies)


def blocking_client() -> None:
    with devpipe.blocking.connect("http://127.0.0.1:8000", token=lambda: "t", backend="trio") as pipe:
        reply: devpipe.Message = pipe.send("echo", {"a": 1}, timeout=5, priority="high", realtime=True)
        active: str | None = pipe.active
        remove = pipe.on("transport_switched", print)
        remove()
        with pipe.receive() as pushes:
            for item in pushes:
                kind: str = item.reason if isinstance(item, devpipe.Gap) else item.type
            first: devpipe.Message | devpipe.Gap = pushes.next(timeout=1.0)
        explained: devpipe.Explanation = pipe.explain()
        counted: dict[str, Any] = pipe.metrics()
        print(reply, active, kind, first, explained, counted)


class Clock:
    """An asynchronous object, to be faced."""

    async def __aenter__(self) -> Clock:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def wait(self, seconds: float, *, really: bool = True) -> int:
        return 1


class BlockingClock(devpipe.blocking.Face[Clock]):
    def wait(self, seconds: float, *, really: bool = True) -> int:
        return self._call(self._subject.wait, seconds, really=really)


def faced() -> None:
    with BlockingClock(Clock(), backend="asyncio") as clock:
        waited: int = clock.wait(1.0, really=False)
        print(waited)


def settings() -> None:
    found: devpipe.Settings = devpipe.load_settings({"timeout": 3}, file="devpipe.toml")
    setting: devpipe.Setting = found["timeout"]
    origin: devpipe.Origin = setting.origin
    try:
        config: devpipe.PipeConfig = found.config()
        print(config, origin.line)
    except devpipe.ConfigurationError as error:
        problems: tuple[devpipe.Problem, ...] = error.problems
        print([(problem.key, problem.source, problem.meant) for problem in problems])


async def serve() -> None:
    server = devpipe.Server(profile="vaultpilot")

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> object:
        return message.payload

    @server.handler("sync")
    def sync(message: devpipe.Message) -> object:
        return message.payload

    async with server:
        reached: int = await server.push("news", {"n": 1}, session="s")
        print(await echo(devpipe.Message(id="a", type="b", raw=None)), sync, reached)


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
