"""The HTTP transport: one POST per message over several connections at once, pushes over a stream of its own.

Workers are tasks that live as long as the link; each carries one call at a time, so that a message costs no task. A
call that is withdrawn takes its worker down, which is what frees the connection; the next call gets a new worker.

The link is lost when the server cannot be reached and no request is under way on a connection that stands, when a
token is refused for good, or when the stream finds that the server does not know us any more. Everything else is the
business of the one call that it happened to.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import httpx
from anyio.abc import TaskGroup

from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.transports.base import Transport
from devpipe.adapters.transports.http_client import CONNECT_ERRORS, FAILURES, Body, HttpCaller
from devpipe.adapters.transports.http_stream import HttpStream
from devpipe.adapters.transports.link import Capabilities, LinkHost, LinkLost, Terms
from devpipe.adapters.transports.registry import TransportContext
from devpipe.adapters.waiter import Waiter, waiter_factory
from devpipe.machines.config import HttpConfig
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.calls import Call
from devpipe.machines.protocols.http import (
    Accepted,
    Answer,
    Delivered,
    Unserved,
    read_answer,
    target_of,
)
from devpipe.machines.protocols.http_queue import PROBES, SendQueue
from devpipe.machines.protocols.http_stream import read_attach
from devpipe.machines.protocols.profiles import DEFAULT, Profile

__all__ = ["HttpLink", "capabilities_of", "factory"]

#: A request ends so many seconds after its call's own deadline, for the calls that nobody withdraws.
GRACE: Final = 5.0
#: Without a stream, an accepted call is asked for again, not more often than this (seconds).
REPEAT_PAUSE: Final = 1.0
#: A server without sessions keeps no answer for a stream that is not there yet: messages wait for it, but not longer
#: than this (seconds).
HELD: Final = 2.0


def capabilities_of(config: HttpConfig) -> Capabilities:
    """What HTTP can do with this configuration: without the stream there is nothing to push over."""
    return Capabilities(
        supports_realtime=config.enable_sse,
        supports_bidirectional=config.enable_sse,
        supports_filesystem=False,
        supports_streaming=True,
        max_message_bytes=config.max_message_bytes,
        max_concurrent_connections=config.max_connections,
        names_session=True,
        cost=config.cost,
    )


def factory(context: TransportContext) -> Transport | None:
    """The HTTP transport of a pipe, None if no URL is given. Raises ``ConfigurationError``."""
    url = context.config.server_url
    if url is None:
        return None
    config = context.config.http

    def make_link() -> HttpLink:
        return HttpLink(
            url,
            config=config,
            clock=context.clock,
            dice=context.dice,
            control_id=context.owner.control_id,
            token=context.token,
            client=context.http_client,
            proxy=context.proxy,
            ssl_context=context.ssl_context,
            profile=context.profile,
            probe=context.config.peer.probe,
        )

    make_link()  # a wrong address, or a token in clear text, is told now and not at the first dial
    return Transport(
        "http",
        make_link=make_link,
        capabilities=capabilities_of(config),
        owner=context.owner,
        clock=context.clock,
        dice=context.dice,
        lifecycle=context.lifecycle,
        breaker=context.config.breaker,
        profile=context.profile,
        peer=context.config.peer,
    )


class HttpLink:
    """A ``Link`` over HTTP.

    ``client``: used for everything if given, and never closed; it may bring proxies, authentication, certificates and
    hooks. ``control_id`` gives the ids of polls. ``profile``: the kind of server; ``probe``: the type of what proves it. Raises ``ConfigurationError`` for a wrong address, or a token that
    would go over the network in clear text.
    """

    def __init__(
        self,
        server_url: str,
        *,
        config: HttpConfig,
        clock: Clock,
        dice: Dice,
        control_id: Callable[[], str],
        token: Callable[[], Awaitable[str]] | None = None,
        client: httpx.AsyncClient | None = None,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        profile: Profile = DEFAULT,
        probe: str = "health_ping",
    ) -> None:
        self.capabilities = capabilities_of(config)
        self._sessions = profile.sessions
        self._config = config
        self._clock = clock
        self._caller = HttpCaller(
            target_of(
                server_url,
                prefix=config.prefix,
                has_token=token is not None,
                message_path=config.message_path,
                stream_path=config.stream_path,
            ),
            config=config,
            clock=clock,
            token=token,
            client=client,
            proxy=proxy,
            ssl_context=ssl_context,
        )
        self._stream = HttpStream(
            self._caller,
            config=config,
            clock=clock,
            dice=dice,
            control_id=control_id,
            lose=self._lose,
            unreachable=self._stream_unreachable,
        )
        self._queue = SendQueue(
            limit=config.queue_size, slots=config.max_connections, probes=PROBES | {probe}
        )
        self._host: LinkHost | None = None
        self._terms: Terms | None = None
        self._tasks: TaskGroup | None = None
        self._make_waiter: Callable[[], Waiter] | None = None
        self._idle: list[Waiter] = []
        self._workers = 0
        self._flights: dict[int, _Flight] = {}
        self._unreachable: Failure | None = None
        self._lost: Failure | None = None
        self._held = False  #: messages wait for the stream, on which their answers may come

    # --- Link ---------------------------------------------------------------------------------------

    async def open(self, host: LinkHost) -> None:
        self._host = host
        self._make_waiter = waiter_factory()
        await self._caller.open()

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._start_stream()
                for _ in range(self._queue.waiting):  # what was submitted between open and run
                    self._wake()
                if self._lost is None:
                    await anyio.sleep_forever()
        finally:
            self._tasks = None
        assert self._lost is not None  # nothing else cancels the group from inside
        raise LinkLost(self._lost)

    def submit(self, call: Call) -> None:
        self._queue.put(call, now=self._clock.now())
        if call.type == "attach":
            self._stream.position = read_attach(call.payload)
        self._wake()

    def withdraw(self, call: Call) -> None:
        if self._queue.withdraw(call):
            return
        flight = self._flights.get(id(call))
        if flight is not None:
            flight.withdrawn = True
            flight.scope.cancel()

    def established(self, terms: Terms) -> None:
        before, self._terms = self._terms, terms
        changed = before is None or (before.session, before.server) != (terms.session, terms.server)
        if changed and self._sessions:
            self._start_stream()

    def _start_stream(self) -> None:
        if self._tasks is not None and self._host is not None and not self._sessions:
            if self._config.enable_sse:  # before the proof: its answer may come this way
                self._held = True
                self._tasks.start_soon(self._release_later)
                self._stream.listen(self._tasks, self._host, tried=self._release)
        elif (
            self._tasks is not None
            and self._host is not None
            and self._terms is not None
            and self._config.enable_sse
        ):
            self._stream.start(self._tasks, self._host, self._terms)

    async def _release_later(self) -> None:
        await anyio.sleep(HELD)
        self._release()

    def _release(self) -> None:
        """The stream stands, or will not stand soon: messages may go now."""
        if self._held:
            self._held = False
            for _ in range(self._queue.waiting):
                self._wake()

    async def aclose(self, reason: str) -> None:
        await self._caller.aclose()

    @property
    def queued(self) -> int:
        return self._queue.waiting + sum(
            1 for flight in self._flights.values() if not flight.call.handed_over
        )

    def explain(self) -> str:
        if not self._config.enable_sse:
            return "no stream: enable_sse is off"
        return self._stream.explain()

    # --- workers ------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Let one worker look at the queue, a new one if all are busy and there may be more."""
        if self._tasks is None or self._lost is not None or self._held or not self._queue.ready:
            return
        while self._idle:
            waiter = self._idle.pop()
            if (
                not waiter.done()
            ):  # one that is being cancelled is woken already, and has not left the list yet
                waiter.set_result(None)
                return
        if self._workers <= self._config.max_connections:  # one more than these, for the probes
            self._workers += 1
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        scope = anyio.CancelScope()
        flight: _Flight | None = None
        lane = self._caller.borrow()
        try:
            with scope:
                while not scope.cancel_called:
                    call = self._queue.take(now=self._clock.now())
                    if call is None:
                        await self._rest()
                        continue
                    flight = self._flights[id(call)] = _Flight(call, scope, self._host)
                    await self._carry(flight, lane)
        finally:
            self._workers -= 1
            self._caller.give_back(lane)
            if flight is not None:
                self._land(flight)
            self._wake()

    async def _rest(self) -> None:
        assert self._make_waiter is not None  # made by open
        waiter = self._make_waiter()
        self._idle.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._idle:  # cancelled: nobody must wake it any more
                self._idle.remove(waiter)

    def _land(self, flight: _Flight) -> None:
        """The call is not under way any more. Its place is free before anybody is told, who may submit again."""
        if self._flights.get(id(flight.call)) is flight:
            del self._flights[id(flight.call)]
            self._queue.release(flight.call)

    async def _carry(self, flight: _Flight, lane: httpx.AsyncClient) -> None:
        call = flight.call
        host = flight.host
        refreshed = False
        while True:
            began = self._clock.now()
            token = self._caller.token
            try:
                answer = await self._caller.post(
                    lane, flight, timeout=max(0.0, call.deadline - began) + GRACE
                )
            except FAILURES as error:
                self._failed(flight, error)
                return
            self._unreachable = None
            host.heard()
            if answer.status == 401 and not refreshed:
                refreshed = True
                if await self._refresh(token):
                    flight.not_passed()
                    continue
            reading = read_answer(
                answer, call_id=call.id, wall=self._clock.wall(), foreign=not self._sessions
            )
            if isinstance(reading, Accepted) and self._must_ask_again():
                flight.accepted = True
                host.deliver(reading.data)
                await anyio.sleep(max(0.0, began + REPEAT_PAUSE - self._clock.now()))
                continue
            self._answered(flight, answer, reading)
            return

    async def _refresh(self, refused: str | None) -> bool:
        try:
            return await self._caller.refresh(refused)
        except LinkLost as lost:
            self._lose(lost.failure)
            return False

    def _must_ask_again(self) -> bool:
        """No stream will bring the reply: the same id again joins the call, in a session that remembers it."""
        return not self._config.enable_sse and self._terms is not None and self._terms.session is not None

    def _answered(self, flight: _Flight, answer: Answer, reading: Delivered | Accepted | Unserved) -> None:
        if flight.withdrawn:
            return
        call, host = flight.call, flight.host
        if not isinstance(reading, Unserved):
            self._land(flight)
            host.deliver(reading.data)
            return
        if not reading.executed:
            flight.not_passed()
        if answer.status == 401:
            self._lose(
                reading.failure
            )  # every call has the same token; what is under way comes back with the loss
            return
        self._land(flight)
        host.undelivered(call, reading.failure)

    def _failed(self, flight: _Flight, error: Exception) -> None:
        if flight.withdrawn:
            return
        call = flight.call
        failure = self._caller.failure_of(error)
        if isinstance(error, CONNECT_ERRORS):
            self._unreachable = failure
        self._land(flight)
        if self._unreachable is not None and not self._stands():
            self._lose(self._unreachable)  # the transport takes all calls back at once, this one too
        else:
            flight.host.undelivered(call, failure)

    def _stands(self) -> bool:
        """Some request is under way on a connection."""
        return any(flight.call.handed_over for flight in self._flights.values())

    def _stream_unreachable(self, failure: Failure) -> None:
        self._unreachable = failure
        if not self._stands():
            self._lose(failure)

    def _lose(self, failure: Failure) -> None:
        if self._lost is None:
            self._lost = failure
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()


class _Flight(Body):
    """One call under way, and the body of its request."""

    __slots__ = ("accepted", "call", "host", "scope", "withdrawn")

    def __init__(self, call: Call, scope: anyio.CancelScope, host: LinkHost | None) -> None:
        assert host is not None  # the link opens before it runs
        super().__init__(call.data)
        self.call = call
        self.scope = scope
        self.host = host
        self.accepted = False
        self.withdrawn = False

    def not_passed(self) -> None:
        """The request was refused before anybody looked at the message; an earlier one may have been taken."""
        if not self.accepted:
            self.call.handed_over = False

    def written(self) -> None:
        self.host.heard()

    def leaving(self) -> None:
        if self.withdrawn:  # nothing of it has left that means anything: it must not be completed now
            raise httpx.WriteError("withdrawn")
        self.call.handed_over = True
