"""Messages over one transport, as a pipe would send them: the proof of data, a push, how long, how large."""

from __future__ import annotations

import anyio

from devpipe.adapters.client.single import SingleTransport
from devpipe.adapters.client.traffic import ENVELOPE_ROOM
from devpipe.adapters.doctor.report import Finding, Status
from devpipe.adapters.doctor.steps import Steps
from devpipe.adapters.metrics import percentile
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import (
    DevPipeError,
    FailureKind,
    HandlerError,
    RequestRefused,
    TransportError,
)
from devpipe.machines.message import Message
from devpipe.machines.protocols.envelope import encode_payload, excerpt
from devpipe.machines.protocols.profiles import ELSEWHERE

__all__ = ["TALK_CHECKS", "talk"]

TALK_CHECKS = ("proof", "push", "latency", "size")
#: Messages for the percentiles, and the share of a step's time in which they have to go.
ROUNDS = 100
SHARE = 0.5
#: A push is asked for so many times at most: the first may come before the server knows where to send it.
ASKS = 4
#: A message of this size shows how long the largest one would take (bytes).
SAMPLE = 64 * 1024
#: Slower than this in the middle (seconds), and people notice.
SLOW = 1.0


async def talk(
    steps: Steps, single: SingleTransport, config: PipeConfig, *, measuring: anyio.Lock, where: str
) -> None:
    """Talk to the server at ``where``. ``measuring``: held while something is measured, by one transport at a time.

    Raises ``Stopped`` where nothing goes any further.
    """
    name = steps.transport
    async with single:
        late = f"Look into the server's log: it takes connections at {where} and does not answer."
        # the transport keeps to the same time: this is for what it cannot keep
        await steps.take("proof", lambda: _prove(steps, single, where), late=late, timeout=steps.timeout + 1)
        if name == "http" and not config.http.enable_sse:
            words = "not tried: enable_sse is off"
            steps.add(Finding(check="push", status=Status.SKIPPED, words=words))
        else:
            late = (
                f"Something holds back what the server sends of itself: {_HOLDS_BACK.get(name, 'its log')}."
            )
            await steps.take("push", lambda: _push(steps, single), late=late, vital=False)
        async with measuring:
            await steps.take(
                "latency", lambda: _latency(steps, single, config), late=_LOST_SOME, timeout=steps.timeout + 1
            )
        if not single.transport.terms.server:
            words = "not tried: this server does not say what it takes"
            steps.add(Finding(check="size", status=Status.SKIPPED, words=words))
            return
        async with measuring:
            late = "Small messages go through: give more time with --timeout to try a large one."
            await steps.take("size", lambda: _size(steps, single), late=late, vital=False)


_LOST_SOME = "Messages are lost on the way, or the server is overloaded: look into its log."
_HOLDS_BACK = {
    "http": "a proxy that buffers (nginx: `proxy_buffering off;`)",
    "websocket": "a proxy that does not pass frames on as they come",
    "folder": "the server may not write in the client's folder",
}


# --- proof ------------------------------------------------------------------------------------------------


async def _prove(steps: Steps, single: SingleTransport, where: str) -> Finding:
    """Connect, once. A pipe would try again, which is good for programs and hides what is wrong."""
    transport = single.transport
    lost = anyio.Event()
    transport.on("disconnected", lambda event: lost.set())
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:

        async def until_lost() -> None:
            await lost.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(until_lost)
        try:
            await single.connect()
        except TransportError:
            pass  # the transport still knows why, and says it below
        tasks.cancel_scope.cancel()
    if not transport.ready:
        failure = transport.last_failure or transport.lifecycle.last_failure
        kind = FailureKind.TIMEOUT if failure is None else failure.kind
        reason = "no answer in time" if failure is None else failure.reason
        remedy, words = _remedy(steps, kind, reason, where), reason.replace(f": {ELSEWHERE}", "")
        return Finding(check="proof", status=Status.FAILED, words=words, remedy=remedy)
    terms, times = transport.terms, steps.times
    times.server, times.max_message_bytes = terms.server, transport.max_message_bytes
    if terms.server:
        times.clock_offset = terms.clock_offset
    took = (anyio.current_time() - began) * 1000
    words = f"a nonce came back after {took:.0f} ms"
    if not terms.server:
        words = f"an answer under our id came after {took:.0f} ms; this server knows no sessions: messages are not deduplicated"
    return Finding(check="proof", status=Status.OK, words=words)


def _remedy(steps: Steps, kind: FailureKind, reason: str, where: str) -> str:
    if "421" in reason or "forbidden_host" in reason:
        return "On the server, add the name in the address to allowed_hosts of its ServerConfig."
    stranger = f"Another program, a proxy or a login page answers at {where}: look at the port and the path."
    if ELSEWHERE in reason:
        remedy = f"{ELSEWHERE[0].upper()}{ELSEWHERE[1:]}."
        if kind is FailureKind.AUTH:
            return f"{remedy} Or something forbids it: a firewall, a proxy, or the server's list of origins."
        return f"{remedy} {stranger}" if "html" in reason.lower() else remedy
    if "html" in reason.lower():
        return stranger if steps.transport != "websocket" else f"{stranger} A proxy must pass Upgrade on."
    match kind:
        case FailureKind.AUTH:
            return "Give the token that the server wants: --token-file FILE, or DEVPIPE_TOKEN."
        case FailureKind.PROTOCOL if steps.transport == "websocket":
            return (
                f"No devpipe server at {where}, or a proxy before it that does not pass WebSockets on: let it "
                "pass Upgrade and Connection, or use HTTP."
            )
        case FailureKind.PROTOCOL:
            return (
                f"No devpipe server answers at {where}: look at the port, and at the path it is mounted at."
            )
        case FailureKind.TIMEOUT if steps.transport == "folder":
            return f"Look whether a server serves {where} at all, and into its log."
        case FailureKind.TIMEOUT:
            return (
                "The server is overloaded or hangs, or something holds its answers back: look into its log."
            )
        case FailureKind.UNAVAILABLE | FailureKind.NETWORK:
            return f"Look whether the server at {where} is up, and whether it has room for one more client."


# --- push -------------------------------------------------------------------------------------------------


async def _push(steps: Steps, single: SingleTransport) -> Finding:
    """Ask the server to push something to us, and see it come."""
    if not single.transport.terms.server:
        words = "not tried: this server cannot be asked for a push"
        return Finding(check="push", status=Status.SKIPPED, words=words)
    nonce = single.dice.token(16)
    with single.receive() as pushes:
        for _ in range(ASKS):
            began = anyio.current_time()
            try:
                await single.send("health_push", {"nonce": nonce}, timeout=steps.timeout)
            except (RequestRefused, HandlerError) as error:
                words = f"not tried: the server cannot be asked for a push ({excerpt(error.code)[1:-1]})"
                return Finding(check="push", status=Status.SKIPPED, words=words)
            except DevPipeError as error:
                words = f"it could not be asked for: {error}"
                return Finding(check="push", status=Status.FAILED, words=words, remedy=_LOST_SOME)
            with anyio.move_on_after(steps.timeout / (ASKS + 1)):
                while not _is_ours(await anext(pushes), nonce):
                    pass  # the server pushes for others, too
                return _pushed(steps, single, (anyio.current_time() - began) * 1000)
    words = "none came"
    remedy = f"Look for what holds it back: {_HOLDS_BACK.get(steps.transport, 'see the log of the server')}."
    return Finding(check="push", status=Status.FAILED, words=words, remedy=remedy)


def _is_ours(item: object, nonce: str) -> bool:
    return isinstance(item, Message) and item.type == "health_push" and item.payload == {"nonce": nonce}


def _pushed(steps: Steps, single: SingleTransport, took: float) -> Finding:
    link = single.transport.driver.link
    note = "" if link is None else link.explain()
    words = f"came after {took:.0f} ms" + (f"; {note}" if note else "")
    if note and steps.transport == "http":
        remedy = "A proxy may hold the event stream back: let it pass (nginx: `proxy_buffering off;`)."
        return Finding(check="push", status=Status.WARNING, words=words, remedy=remedy)
    if note and steps.transport == "folder" and "polls" not in note:
        limit = "instances=1024" if "instance" in note else "watches=524288"
        remedy = f"Run `sudo sysctl fs.inotify.max_user_{limit}`."
        return Finding(check="push", status=Status.WARNING, words=words, remedy=remedy)
    return Finding(check="push", status=Status.OK, words=words)


# --- how long, how large ----------------------------------------------------------------------------------


async def _latency(steps: Steps, single: SingleTransport, config: PipeConfig) -> Finding:
    """Round trips one after the other, the way that messages go."""
    taken: list[float] = []
    # a socket is pinged; elsewhere a server without sessions may know nothing but the probe of its profile
    pinged = single.transport.terms.server or steps.transport == "websocket"
    type = "health_ping" if pinged else config.peer.probe
    until = anyio.current_time() + steps.timeout * SHARE
    while len(taken) < ROUNDS and (not taken or anyio.current_time() < until):
        began = anyio.current_time()
        try:
            await _round_trip(single, {"nonce": ""}, type=type, timeout=steps.timeout)
        except DevPipeError as error:
            words = f"message {len(taken) + 1} got no answer: {error}"
            return Finding(check="latency", status=Status.FAILED, words=words, remedy=_LOST_SOME)
        taken.append(anyio.current_time() - began)
    p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
    assert p50 is not None and p99 is not None  # there is at least one
    steps.times.latency_p50, steps.times.latency_p99 = p50, p99
    words = f"p50 {_ms(p50)}, p99 {_ms(p99)} of {len(taken)} message{'s' if len(taken) > 1 else ''}"
    polling = (
        config.folder_options.polling or config.folder_options.flat
    )  # who serves a flat one looks now and then
    if steps.transport == "folder" and not polling and p50 > config.folder_options.rescan_interval / 2:
        remedy = "No notification arrives: a network file system has none. Set folder_options.rescan_interval lower."
        return Finding(check="latency", status=Status.WARNING, words=words, remedy=remedy)
    if p50 > SLOW and not (steps.transport == "folder" and polling):
        remedy = "The way or the server is slow: look at its load, and at what stands between."
        return Finding(check="latency", status=Status.WARNING, words=words, remedy=remedy)
    return Finding(check="latency", status=Status.OK, words=words)


async def _size(steps: Steps, single: SingleTransport) -> Finding:
    """The largest message that both sides take; sent, if a smaller one shows that it will not take long."""
    limit = single.transport.max_message_bytes
    words = f"up to {_bytes(limit)}"
    try:
        pace = 0.0
        if limit > 2 * SAMPLE:
            pace = await _send_bytes(steps, single, SAMPLE) / SAMPLE
        if pace * limit > steps.timeout * SHARE:
            words += f" (not tried: it would take about {pace * limit:.0f} s)"
            return Finding(check="size", status=Status.OK, words=words)
        took = await _send_bytes(steps, single, limit)
    except DevPipeError as error:
        return Finding(
            check="size",
            status=Status.WARNING,
            words=f"{words} by its word, but one of that size does not get through: {error}",
            remedy=f"Raise the limit of what stands between (nginx: `client_max_body_size {limit // 2**20 + 1}m;`).",
        )
    return Finding(check="size", status=Status.OK, words=f"{words}: one of that size took {_ms(took)}")


async def _send_bytes(steps: Steps, single: SingleTransport, size: int) -> float:
    """Send a message of ``size`` bytes, of which a part is kept for the envelope as in every pipe; seconds."""
    frame = len(encode_payload({"nonce": "", "padding": ""}, type="health_ping"))
    padding = "x" * max(0, size - ENVELOPE_ROOM - frame)
    began = anyio.current_time()
    await _round_trip(single, {"nonce": "", "padding": padding}, timeout=steps.timeout)
    return anyio.current_time() - began


async def _round_trip(
    single: SingleTransport, payload: object, *, timeout: float, type: str = "health_ping"
) -> None:
    """A probe and its answer; from a server that knows no probes, any answer under our id."""
    try:
        await single.send(type, payload, timeout=timeout)
    except (RequestRefused, HandlerError) as error:
        if error.code in ("too_large", "busy"):
            raise
        # any other is an answer all the same


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def _bytes(count: int) -> str:
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"
