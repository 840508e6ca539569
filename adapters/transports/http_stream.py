"""The stream of an HTTP link, and the polls that stand in for it. What to do next is the plan's decision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import anyio
import httpx
from anyio.abc import TaskGroup

from devpipe.adapters.ports.clock import Clock, Dice
from devpipe.adapters.transports.http_client import (
    CONNECT_ERRORS,
    FAILURES,
    Body,
    HttpCaller,
    close_response,
)
from devpipe.adapters.transports.link import LinkHost, LinkLost, Terms
from devpipe.machines.config import HttpConfig
from devpipe.machines.errors import FailureKind, TransportError
from devpipe.machines.inputs import Failure
from devpipe.machines.protocols.http import Answer
from devpipe.machines.protocols.http_stream import (
    BodyReader,
    StreamPlan,
    StreamRefusal,
    check_proof,
    encode_poll,
    read_poll,
    read_stream_head,
)
from devpipe.machines.protocols.sse import SseEvent, SseParser

__all__ = ["HttpStream"]

#: A stream that shows nothing for so long (seconds) is dead: one heartbeat of 30 s missed, and 5 s more.
SILENCE: Final = 35.0
#: A poll may take so many seconds longer than it was asked to.
POLL_GRACE: Final = 10.0
#: Empty polls are not sent more often than this (seconds).
POLL_PAUSE: Final = 1.0


class HttpStream:
    """Keeps one stream, or one poll, open for the session that ``start`` names; a new ``start`` ends the old one.

    ``lose`` ends the whole link, ``unreachable`` tells it that the server could not be reached.
    """

    def __init__(
        self,
        caller: HttpCaller,
        *,
        config: HttpConfig,
        clock: Clock,
        dice: Dice,
        control_id: Callable[[], str],
        lose: Callable[[Failure], None],
        unreachable: Callable[[Failure], None],
    ) -> None:
        self.position: tuple[str, int] | None = (
            None  #: epoch and offset of the last push that came, or was asked for
        )
        self._caller = caller
        self._config = config
        self._clock = clock
        self._dice = dice
        self._control_id = control_id
        self._lose = lose
        self._unreachable = unreachable
        self._plan = StreamPlan()
        self._scope: anyio.CancelScope | None = None
        self._sessionless = False
        self._listening = False
        self._tried: Callable[[], None] = lambda: None
        self._heard = False  #: a stream without sessions has been open before

    def listen(self, tasks: TaskGroup, host: LinkHost, *, tried: Callable[[], None]) -> None:
        """Run for a server without sessions: what it pushes while nobody listens is lost, and told as such.

        ``tried``: called when the stream stands, or cannot be had, and again after each further attempt.
        """
        self._plan = StreamPlan(polling=False)
        self._listening = True
        self._tried = tried
        tasks.start_soon(self._run, host, None, "", anyio.CancelScope())

    def start(self, tasks: TaskGroup, host: LinkHost, terms: Terms) -> None:
        """Run for this session from now on."""
        if self._scope is not None:
            self._scope.cancel()
        self._scope = None
        self._plan = StreamPlan()
        self._sessionless = terms.session is None
        if terms.session is not None:
            self._scope = anyio.CancelScope()
            tasks.start_soon(self._run, host, terms.session, terms.server, self._scope)

    def explain(self) -> str:
        """What is unusual about the pushes of this link, or ""."""
        if self._listening:
            return f"no stream: {self._plan.why}" if self._plan.why else ""
        if self._sessionless:
            return "no stream: the server has no sessions"
        return f"pushes are polled: {self._plan.why}" if self._plan.why else ""

    async def _run(self, host: LinkHost, session: str | None, server: str, scope: anyio.CancelScope) -> None:
        """``session``: None for a server without sessions."""
        with scope:
            while True:
                if session is None:
                    wait = await self._attempt(host, lambda parser: self._hear(parser, host))
                    self._tried()
                elif self._plan.polls(now=self._clock.now()):
                    wait = await self._poll(host, session, server)
                else:
                    wait = await self._attempt(
                        host, lambda parser: self._read_stream(parser, host, session, server)
                    )
                if wait > 0:
                    await anyio.sleep(wait)

    # --- the stream -----------------------------------------------------------------------------------

    async def _attempt(self, host: LinkHost, read: Callable[[SseParser], Awaitable[None]]) -> float:
        """Open one stream and read it until it ends. Returns the seconds until the next step."""
        plan, token = self._plan, self._caller.token
        parser = SseParser(
            max_line_bytes=self._caller.limit,
            max_event_bytes=self._caller.limit,
            last_event_id="" if self.position is None else f"{self.position[0]}:{self.position[1]}",
        )
        for_good = False
        try:
            await read(parser)
            failure = Failure(kind=FailureKind.NETWORK, reason="the stream ended")
        except _Refused as refused:
            failure, for_good = refused.refusal.failure, refused.refusal.for_good
            if failure.kind is FailureKind.AUTH and await self._refresh(token):
                return 0.0
            if refused.refusal.lost:
                self._lose(failure)
        except FAILURES as error:
            failure = self._caller.failure_of(error)
            if isinstance(error, CONNECT_ERRORS):
                self._unreachable(failure)
        except _HeldBack:
            seconds = self._config.stream_proof_timeout
            plan.held_back(now=self._clock.now(), seconds=seconds)
            host.trouble(Failure(kind=FailureKind.TIMEOUT, reason=self.explain()))
            return 0.0
        host.trouble(failure)
        return plan.ended(
            failure,
            now=self._clock.now(),
            jitter=self._dice.jitter(),
            for_good=for_good,
            retry_ms=parser.retry,
        )

    async def _refresh(self, refused: str | None) -> bool:
        try:
            return await self._caller.refresh(refused)
        except LinkLost as lost:
            self._lose(lost.failure)
            return False

    async def _read_stream(self, parser: SseParser, host: LinkHost, session: str, server: str) -> None:
        """Returns when the stream ends. Raises one of ``FAILURES``, ``_Refused`` or ``_HeldBack``."""
        nonce = self._dice.token(22)
        headers = {"DevPipe-Session": session, "DevPipe-Server": server, "DevPipe-Nonce": nonce}
        if parser.last_event_id:
            headers["Last-Event-ID"] = parser.last_event_id
        opened = _Opened()
        try:
            with anyio.move_on_after(self._config.stream_proof_timeout):
                opened.response = response = await self._caller.open_stream(headers, timeout=SILENCE)
                await self._check_head(response)
                opened.chunks = chunks = response.aiter_raw()
                unpacker = BodyReader(
                    limit=self._caller.limit, encoding=response.headers.get("content-encoding", "")
                )
                events: list[SseEvent] = []
                while not events:
                    parser.feed(unpacker.unpack(await _next_chunk(chunks)))
                    events = parser.drain_events()
                proof = events[0]
                check_proof(proof.data if proof.type == "proof" else b"", nonce=nonce, server=server)
                self._plan.proved(now=self._clock.now())
                host.heard()
                self._take(events[1:], host)
                opened.unpacker = unpacker
            if opened.unpacker is None or opened.chunks is None:
                raise _HeldBack
            async for chunk in opened.chunks:
                host.heard()
                try:
                    parser.feed(opened.unpacker.unpack(chunk))
                finally:  # what was whole before the nonsense is good
                    self._take(parser.drain_events(), host)
        finally:
            await opened.aclose()

    async def _hear(self, parser: SseParser, host: LinkHost) -> None:
        """The same for a server that proves nothing: its head must come in time, and what comes then is believed.

        Many such servers are silent while they have nothing to say. Only one that has once sent a comment, which is
        there to show life, is dead when it stops.
        """
        opened = _Opened()
        alive = False
        try:
            with anyio.move_on_after(self._config.stream_proof_timeout):
                opened.response = response = await self._caller.open_stream({}, timeout=None)
                await self._check_head(response)
                opened.chunks = response.aiter_raw()
                opened.unpacker = BodyReader(
                    limit=self._caller.limit, encoding=response.headers.get("content-encoding", "")
                )
            if opened.unpacker is None or opened.chunks is None:
                raise TransportError("the stream did not begin in time", kind=FailureKind.TIMEOUT)
            self._plan.proved(now=self._clock.now())
            if self._heard:
                host.missed("the stream was opened again: what was pushed meanwhile is not known")
            self._heard = True
            self._tried()
            while True:
                chunk: bytes | None = None
                with anyio.move_on_after(SILENCE if alive else None) as patience:
                    chunk = await anext(opened.chunks, None)
                if patience.cancelled_caught:
                    raise TransportError("the stream is silent", kind=FailureKind.TIMEOUT)
                if chunk is None:
                    return
                host.heard()
                alive = alive or chunk.startswith(b":")
                try:
                    parser.feed(opened.unpacker.unpack(chunk))
                finally:  # as above
                    for event in parser.drain_events():
                        host.deliver(event.data)
        finally:
            await opened.aclose()

    async def _check_head(self, response: httpx.Response) -> None:
        headers = response.headers
        url = self._caller.target.stream
        answer = Answer(
            url=url,
            status=response.status_code,
            content_type=headers.get("content-type", ""),
            retry_after=headers.get("retry-after", ""),
            body=b"",
        )
        wall = self._clock.wall()
        if read_stream_head(answer, wall=wall) is not None:
            refusal = read_stream_head(await self._caller.read(response, url), wall=wall)
            assert refusal is not None  # the status that refused has not changed
            raise _Refused(refusal)

    def _take(self, events: list[SseEvent], host: LinkHost) -> None:
        for event in events:
            epoch, _, offset = event.last_event_id.rpartition(":")
            if epoch and offset.isascii() and offset.isdigit() and len(offset) < 16:
                self._came(epoch, int(offset))
            host.deliver(event.data)

    def _came(self, epoch: str, offset: int) -> None:
        """A push came. Behind a hole the position stays: the pipe will attach, and must get what is missing."""
        at = self.position
        if at is None or at[0] != epoch or offset == at[1] + 1:
            self.position = (epoch, offset)

    # --- polls ----------------------------------------------------------------------------------------

    async def _poll(self, host: LinkHost, session: str, server: str) -> float:
        """Ask once. Returns the seconds until the next step."""
        plan, token, asked_for = self._plan, self._caller.token, self.position
        began = self._clock.now()
        hold = self._config.poll_hold
        id = self._control_id()
        data = encode_poll(
            id=id,
            position=asked_for,
            hold=hold,
            session=session,
            server=server,
            timestamp=int(self._clock.wall() * 1000),
        )
        try:
            answer = await self._caller.post(
                self._caller.stream_client, Body(data), timeout=hold + POLL_GRACE
            )
            poll = read_poll(answer, call_id=id, wall=self._clock.wall())
        except FAILURES as error:
            failure = self._caller.failure_of(error)
            if isinstance(error, CONNECT_ERRORS):
                self._unreachable(failure)
            host.trouble(failure)
            return plan.poll_failed(failure, jitter=self._dice.jitter())
        host.heard()
        if poll.refusal is not None:
            failure = poll.refusal.failure
            if failure.kind is FailureKind.AUTH and await self._refresh(token):
                return 0.0
            if poll.refusal.lost:
                self._lose(failure)
            host.trouble(failure)
            return plan.poll_failed(failure, jitter=self._dice.jitter())
        plan.polled()
        if poll.position is not None and self.position == asked_for:  # else an attach has spoken meanwhile
            self.position = poll.position
        for message in poll.messages:
            host.deliver(message)
        # a server that does not hold is not asked more often than this
        return 0.0 if poll.messages else max(0.0, began + POLL_PAUSE - self._clock.now())


class _Opened:
    """A stream that is being opened or read, and how it is hung up."""

    def __init__(self) -> None:
        self.response: httpx.Response | None = None
        self.chunks: AsyncIterator[bytes] | None = None
        self.unpacker: BodyReader | None = None  #: set when the stream is proven

    async def aclose(self) -> None:
        if self.response is not None and not self.response.is_closed:
            await close_response(self.response, self.chunks)


class _Refused(Exception):
    """There is no stream to be had."""

    def __init__(self, refusal: StreamRefusal) -> None:
        super().__init__(refusal.failure.reason)
        self.refusal = refusal


class _HeldBack(Exception):
    """Nothing came in time."""


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        raise TransportError("the stream ended before its proof", kind=FailureKind.NETWORK) from None
