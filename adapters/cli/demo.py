"""``devpipe demo``: the main job on an embedded default, with things broken for real.

A server in a process of its own, a proxy in front of it in another, and one pipe over all three transports that keeps
asking. The proxy cuts and refuses WebSockets and lets HTTP hang, the server is killed and started again. What was
executed is counted by the server's own log.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import click

import devpipe
from devpipe.cli.inputs import Number
from devpipe.cli.options import backend_option, json_option, run

if TYPE_CHECKING:
    from devpipe.cli.screen import Screen
    from devpipe.cli.world import World

__all__ = ["Ledger", "demo", "summary_of"]

TIMEOUT = 20.0  #: of each request, in seconds: longer than every outage of the play


@dataclass
class Ledger:
    """What has become of the requests, by the client's count."""

    sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[int] = field(default_factory=Counter[int])
    by_transport: Counter[str] = field(default_factory=Counter[str])
    began: dict[int, float] = field(default_factory=dict[int, float])  #: of the requests in flight
    answered_at: dict[str, float] = field(default_factory=dict[str, float])  #: the last time, by transport
    struck: set[int] = field(
        default_factory=set[int]
    )  #: in flight when the server was killed, or while it was away
    unknown: int = 0  #: of these, how many ended without anybody knowing whether they ran

    def oldest(self, now: float) -> float:
        """How long the request that has waited longest has waited (seconds)."""
        return max((now - began for began in self.began.values()), default=0.0)

    def silence(self, transport: str, now: float) -> float:
        """How long requests have waited without one answer over this transport (seconds)."""
        return min(self.oldest(now), now - self.answered_at.get(transport, 0.0))


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens to the world, ``at`` seconds after the beginning."""

    at: float
    words: str
    order: str


PLAY = (
    Act(2.5, "the proxy cuts every WebSocket and refuses new ones", "cut"),
    Act(5.5, "the proxy lets HTTP requests hang, without a word", "hang"),
    Act(11.5, "the proxy behaves again", "heal"),
    Act(16.5, "the server process is killed (SIGKILL) and started again", "kill"),
)
LENGTH = 22.0
#: A shorter play would let HTTP behave again before its silence is found, after 5 seconds.
SHORTEST = 20.0
#: A play of seconds cannot wait for minutes as a program should: blocked paths, breakers and returns are hurried, and
#: the queues hold what arrives while nothing answers.
SETTINGS: dict[str, Any] = {
    "queue_size": 10_000,
    "http.queue_size": 10_000,
    "folder_options.queue_size": 10_000,
    "lifecycle.blocked_initial": 1.0,
    "lifecycle.blocked_max": 2.0,
    "breaker.reset_timeout": 2.0,
    "failover.min_stay": 1.0,
    "failover.ejection_initial": 1.0,
    "failover.ejection_max": 2.0,
}


@click.command(short_help="Break every transport of a pipe, and see it hold.")
@click.option(
    "--seconds",
    type=Number(min=SHORTEST),
    default=LENGTH,
    show_default=True,
    help="Length of the play.",
)
@click.option("--rate", type=Number(min=1), default=300.0, show_default=True, help="Requests a second.")
@json_option
@backend_option
def demo(seconds: float, rate: float, as_json: bool, backend: str) -> None:
    """Break every transport of a pipe in use, for real, and count that nothing is lost or done twice.

    Exit code 0 only if every request ended exactly once and no server process executed an id twice.
    """
    from rich.console import Console

    from devpipe.cli.screen import Screen, summary_lines, verdict
    from devpipe.cli.world import end_as_at_ctrl_c

    console = Console(highlight=False)
    end_as_at_ctrl_c()

    async def playing() -> dict[str, Any]:
        return await _run_demo(Screen(console, quiet=as_json), seconds=seconds, rate=rate)

    summary = run(playing, backend)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        for name, value in summary_lines(summary):
            console.print(f"{name:>32}  {value}", soft_wrap=True)
        style = "bold green" if summary["ok"] else "bold red"
        console.print(verdict(summary), style=style, soft_wrap=not console.is_terminal)
    if not summary["ok"]:
        sys.exit(1)


async def _run_demo(screen: Screen, *, seconds: float, rate: float) -> dict[str, Any]:
    """Play it, and return the summary. ``seconds`` scales the length of the play."""
    from devpipe.cli.world import made_world

    ledger = Ledger()
    scale = seconds / LENGTH
    async with made_world() as world:
        screen.say("starting a server and a proxy, each a process of its own")
        port = await world.start()
        url = f"http://127.0.0.1:{port}"
        async with devpipe.connect(url, folder=world.folder, settings=SETTINGS) as pipe:
            screen.begin(pipe, ledger, world)
            switches = 0

            def switched(event: Any) -> None:
                nonlocal switches
                switches += 1
                screen.switched(event, ledger.oldest(anyio.current_time()))

            pipe.on("transport_switched", switched)
            began = anyio.current_time()
            async with anyio.create_task_group() as painting:
                painting.start_soon(screen.paint)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_play, world, screen, ledger, began, scale)
                    while (elapsed := anyio.current_time() - began) < seconds:
                        due = int(elapsed * rate) + 1
                        while ledger.sent < due:
                            ledger.sent += 1
                            tasks.start_soon(_ask, pipe, ledger, ledger.sent)
                        await anyio.sleep(1 / rate)
                painting.cancel_scope.cancel()
            return summary_of(
                ledger,
                seconds=seconds,
                executions=world.executions(),
                switches=switches,
                resent=pipe.metrics()["resent"],
            )


def summary_of(
    ledger: Ledger, *, seconds: float, executions: tuple[int, int], switches: int, resent: int
) -> dict[str, Any]:
    """What came of it, and whether the promises held: every request ended once, and no server ran one twice."""
    executed, twice = executions
    once = sum(1 for count in ledger.ended.values() if count == 1)
    return {
        "seconds": seconds,
        "sent": ledger.sent,
        "answered": ledger.answered,
        "errors": dict(ledger.errors),
        "unknown_at_the_kill": ledger.unknown,
        "ended_exactly_once": once,
        "executed": executed,
        "executed_twice_by_one_server": twice,
        "switches": switches,
        "by_transport": dict(ledger.by_transport),
        "resent": resent,
        "ok": once == ledger.sent and twice == 0 and ledger.answered > 0,
    }


async def _ask(pipe: devpipe.Pipe, ledger: Ledger, number: int) -> None:
    ledger.began[number] = anyio.current_time()
    try:
        reply = await pipe.send("echo", {"n": number}, timeout=TIMEOUT)
        if reply.payload != {"n": number}:
            ledger.errors["wrong reply"] += 1
        else:
            ledger.answered += 1
        transport = reply.transport or "?"
        ledger.by_transport[transport] += 1
        ledger.answered_at[transport] = anyio.current_time()
    except devpipe.DevPipeError as error:
        outcome = "unknown" if error.outcome is None else error.outcome.value
        ledger.errors[f"{type(error).__name__} {outcome}{_code(error)}"] += 1
        if error.outcome is devpipe.Outcome.MAYBE_EXECUTED and number in ledger.struck:
            ledger.unknown += 1
    del ledger.began[number]
    ledger.ended[number] += 1


async def _play(world: World, screen: Screen, ledger: Ledger, began: float, scale: float) -> None:
    for act in PLAY:
        await anyio.sleep(max(0.0, began + act.at * scale - anyio.current_time()))
        screen.act(act.words)
        match act.order:
            case "cut":
                world.tell_proxy("refuse", "cut")
            case "kill":
                ledger.struck.update(ledger.began)
                await anyio.to_thread.run_sync(world.kill_server)
                await world.start_server()
                ledger.struck.update(ledger.began)
            case order:
                world.tell_proxy(order)


def _code(error: devpipe.DevPipeError) -> str:
    code = getattr(error, "code", "")
    return f" ({code})" if code else ""
