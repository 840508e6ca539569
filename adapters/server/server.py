"""The other end of a pipe: one table of handlers for all transports.

``async with server:`` is its life: handlers run in its own task group, whatever transport a message came by. It is also
an ASGI application; mounted in another one, the parent's lifespan enters it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from dataclasses import replace
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from devpipe.adapters.alarm import Alarm
from devpipe.adapters.arguments import check_arguments
from devpipe.adapters.ports.clock import Clock, Dice, SystemClock, SystemDice
from devpipe.adapters.server.application import Application
from devpipe.adapters.server.audit import ExecutionLog, ExecutionTarget
from devpipe.adapters.server.handlers import Handler, answer
from devpipe.adapters.server.path import Path
from devpipe.adapters.tokens import checked_token
from devpipe.machines.config import FolderConfig, ServerConfig, with_settings
from devpipe.machines.errors import (
    ConfigurationError,
    MessageTooLarge,
    Outcome,
)
from devpipe.machines.protocols.envelope import ErrorBody, check_type, encode_payload
from devpipe.machines.protocols.profiles import profile_of
from devpipe.machines.protocols.service import Service
from devpipe.machines.protocols.serving import (
    Arrived,
    CancelHandler,
    ClosePath,
    HandlerEnded,
    PathClosed,
    PathOpened,
    Pushed,
    RunHandler,
    SendTo,
    ServiceInput,
    Shutdown,
    StreamOpened,
)

__all__ = ["Handler", "Server"]

log = logging.getLogger("devpipe.server")

H = TypeVar("H", bound=Handler)
#: What runs beside the handlers for as long as the server does; told ``task_status``.
Part = Callable[..., Coroutine[Any, Any, None]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

IDENTITY_CHARS = 12
#: What an envelope may have around a push (bytes).
ENVELOPE_ROOM = 1024


class Server:
    """Register handlers, then serve, mount, or enter it.

    ``profile``: the kind of clients (``"vaultpilot"``: deployed ones, without sessions); it sets what ``config`` and
    ``folder_options`` leave at their defaults. ``token``: what every client must show, as a bearer token; printable ASCII
    without spaces. ``folder``: serve this shared folder too. What cannot be is told by name (``ConfigurationError``).
    ``execution_log``: a file that gets one line of JSON before each handler starts, or a function that is called with
    the same facts as a dictionary: who ran what, told by the server. If it raises, the handler does not run.
    """

    def __init__(
        self,
        config: ServerConfig | None = None,
        *,
        profile: str | None = None,
        token: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        folder_options: FolderConfig | None = None,
        execution_log: ExecutionTarget | None = None,
        clock: Callable[[], Clock] = SystemClock,
        dice: Dice | None = None,
    ) -> None:
        check_arguments(folder=folder)
        config = config or ServerConfig()
        self.folder_options = folder_options or FolderConfig()
        self._set_profile(config, config.profile if profile is None else profile)
        self.token = None if token is None else checked_token(token)
        self.folder = None if folder is None else FilePath(folder)
        self._execution_log = execution_log
        self._audit: ExecutionLog | None = None
        self._make_clock = clock
        self._dice = dice or SystemDice()
        self._handlers: dict[str, Handler] = {}
        self._parts: list[Part] = []
        self._tasks: TaskGroup | None = None
        self._numbers: dict[Path, int] = {}
        self._paths: dict[int, Path] = {}
        self._count = 0
        self._runs: dict[int, anyio.CancelScope] = {}
        self._application = Application(self)
        self._busy = False
        self._inbox: list[ServiceInput] = []

    def _set_profile(self, config: ServerConfig, name: str) -> None:
        self.config = config.with_profile(name)
        self.folder_options = with_settings(self.folder_options, profile_of(name).folder)
        self.hosts = {
            host.lower() for host in self.config.allowed_hosts
        }  #: names by which this server goes; "*" is any

    # --- handlers -------------------------------------------------------------------------------------

    def handler(self, type: str) -> Callable[[H], H]:
        """Decorator: this function answers messages of ``type``. It may be async, or sync: then it runs in a thread.
        A thread cannot be ended: a sync handler that blocks for ever holds up the end of the program.

        It gets a ``Message`` and returns what can be written as JSON. Raise ``HandlerError``, ``RequestRefused`` or
        ``ModelSelectionError`` to say what went wrong; anything else is told to the client as ``handler_error`` with an id, and its traceback
        stands in the log under that id. Raises ``ConfigurationError`` if the type has a handler, or if it is none.
        """
        if callable(type):  # the parentheses were forgotten
            name = getattr(type, "__name__", "echo")
            raise ConfigurationError(f'write @server.handler("{name}"): it wants the type of the messages')
        check_type(type)

        def register(function: H) -> H:
            if not callable(function):
                raise ConfigurationError(
                    f"the handler for {type!r} is not allowed: give a function, not {function!r}"
                )
            if type in self._handlers:
                raise ConfigurationError(f"there is a handler for {type!r} already: {self._handlers[type]!r}")
            self._handlers[type] = function
            return function

        return register

    def configure(
        self,
        *,
        profile: str | None = None,
        token: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        execution_log: ExecutionTarget | None = None,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        """Set what was not set before it is entered; None leaves a setting as it is.

        ``allowed_hosts``: further names by which clients may call this server, beside those of its ``ServerConfig``.
        Raises ``ConfigurationError`` for what cannot be.
        """
        check_arguments(folder=folder)
        if profile is not None:
            self._set_profile(self.config, profile)
        if token is not None:
            self.token = checked_token(token)
        if allowed_hosts:
            names = (*self.config.allowed_hosts, *allowed_hosts)
            self.config = replace(self.config, allowed_hosts=names)
            self._set_profile(self.config, self.config.profile)
        if folder is not None:
            self.folder = FilePath(folder)
        if execution_log is not None:
            self._execution_log = execution_log

    def attach(self, part: Part) -> None:
        """``await part(task_status=...)`` runs whenever this server does: it is started first, and nothing is served
        before it has called ``task_status.started()``; it is cancelled at the end. If it raises, the server ends with it.

        Raises ``ConfigurationError`` if the server runs already.
        """
        if self._tasks is not None:
            raise ConfigurationError("this server runs already: attach before it is entered")
        self._parts.append(part)

    async def push(self, type: str, payload: object = None, *, session: str | None = None) -> int:
        """Push to every live session, connected or not; with ``session=message.session`` to that one, if it lives.

        Returns for how many sessions it is: 0 for a session that does not live, or when there is none. Of deployed clients,
        which have no sessions, each open stream and socket counts. It does not say that anybody has heard it yet.

        Raises ``InvalidMessage`` if the payload is no JSON, ``MessageTooLarge`` if the smallest transport does not take
        it, ``ConfigurationError`` if the server does not run.
        """
        if self._tasks is None:
            raise ConfigurationError(
                "this server does not run: enter it with `async with server:`, or serve it"
            )
        check_type(type)
        data = encode_payload(payload, type=type)
        config = self.config
        limits = (config.websocket_max_message_bytes, config.max_message_bytes)
        limit = min(*limits, self.folder_options.max_message_bytes) - ENVELOPE_ROOM
        if len(data) > limit:
            raise MessageTooLarge(
                f"the push {type!r} has {len(data)} bytes; the smallest transport takes {limit}",
                size=len(data),
                limit=limit,
                outcome=Outcome.NEVER_SENT,
            )
        audience = self._service.audience(session)
        self._feed(Pushed(type=type, payload=data, session=session))
        await anyio.lowlevel.checkpoint()
        return audience

    # --- life -----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Inside ``async with``."""
        return self._tasks is not None

    @property
    def identity(self) -> str:
        """This run of this server: another one after each start."""
        return self._service.identity

    async def __aenter__(self) -> Server:
        if self._tasks is not None:
            raise ConfigurationError("this server runs already")
        self.clock = self._make_clock()
        identity = self._dice.token(IDENTITY_CHARS)
        self._service = Service(
            config=self.config, identity=identity, epochs=self._dice.token(8), types=self._handlers
        )
        if self._execution_log is not None:
            self._audit = ExecutionLog(self._execution_log, identity, self.clock.wall)
        self._alarm = Alarm(self.clock)
        self._alarm.watch(self)
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        tasks.start_soon(self._alarm.run)
        parts = list(self._parts)
        if self.folder is not None:
            from devpipe.adapters.server.flat_folder import FlatFolderServer
            from devpipe.adapters.server.folder import FolderServer

            kind = FlatFolderServer if self.folder_options.flat else FolderServer
            parts.append(kind(self, self.folder, config=self.folder_options).run)
        for part in parts:
            try:
                await tasks.start(part)
            except BaseException:
                await self.__aexit__(None, None, None)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # entered before
        self.shut_down()
        tasks, self._tasks = self._tasks, None
        tasks.cancel_scope.cancel()
        try:
            await tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise _first(group) from None  # the bare cause, never a group of one
        finally:
            if self._audit is not None:
                self._audit.close()
                self._audit = None
            self._numbers.clear()
            self._paths.clear()

    def shut_down(self) -> None:
        """Take nothing new and end every path; a second time changes nothing."""
        if self._tasks is not None:
            self._feed(Shutdown())

    async def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        listening: Callable[[str], None] | None = None,
        allow_anonymous: bool = False,
    ) -> None:
        """Serve until cancelled, or until SIGINT or SIGTERM; ``listening`` is told the real address.

        ``allow_anonymous``: serve other machines without a token. Raises ``ConfigurationError`` if the address cannot
        be had, or is reachable from outside without a token.
        """
        from devpipe.adapters.server.serve import serve

        await serve(self, host=host, port=port, listening=listening, allow_anonymous=allow_anonymous)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        await self._application(scope, receive, send)

    # --- paths ----------------------------------------------------------------------------------------

    def receive(self, data: bytes, path: Path) -> None:
        """One message has arrived on ``path``, whatever its bytes are. Never blocks or raises."""
        self._feed(Arrived(path=self._number(path), data=data))

    def open(self, path: Path) -> None:
        """A connection stands: it is told when the server goes away, also if it never says a word."""
        self._number(path)

    def open_stream(self, path: Path, *, session: str, server: str, last_event_id: str) -> None:
        """A client wants its stream of pushes on ``path``; it is closed if the session is not known."""
        number = self._name(path)
        self._feed(
            StreamOpened(
                path=number,
                session=session,
                server=server,
                last_event_id=last_event_id,
                max_message_bytes=path.max_message_bytes,
            )
        )

    def drop(self, path: Path) -> None:
        """This path is gone; a second time changes nothing."""
        number = self._numbers.pop(path, None)
        if number is not None:
            self._paths.pop(number, None)
            if self._tasks is not None:
                self._feed(PathClosed(path=number))

    def _number(self, path: Path) -> int:
        number = self._numbers.get(path)
        if number is None:
            number = self._name(path)
            self._feed(
                PathOpened(path=number, transport=path.transport, max_message_bytes=path.max_message_bytes)
            )
        return number

    def _name(self, path: Path) -> int:
        self._count += 1
        self._numbers[path] = self._count
        self._paths[self._count] = path
        return self._count

    # --- the pump -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._service.next_deadline()

    def handle_deadline(self, *, now: float) -> None:
        self._service.handle_deadline(now=now, wall=int(self.clock.wall() * 1000))
        self._carry_out()

    def _feed(self, item: ServiceInput) -> None:
        self._inbox.append(item)
        if self._busy:
            return  # what is being handled now comes first
        self._busy = True
        try:
            while self._inbox:
                now, wall = self.clock.now(), int(self.clock.wall() * 1000)
                self._service.receive(self._inbox.pop(0), now=now, wall=wall)
                self._carry_out()
        finally:
            self._busy = False

    def _carry_out(self) -> None:
        for effect in self._service.drain_effects():
            match effect:
                case SendTo():
                    path = self._paths.get(effect.path)
                    if path is not None:
                        path.send(
                            effect.data,
                            reply_to=effect.reply_to,
                            position=effect.position,
                            accepted=effect.accepted,
                            error=effect.error,
                        )
                case RunHandler():
                    if self._tasks is not None:
                        scope = self._runs[effect.run] = anyio.CancelScope()
                        self._tasks.start_soon(self._run, effect, scope)
                case CancelHandler():
                    self._runs[effect.run].cancel()  # it is there until its end is told
                case ClosePath():
                    # it keeps its number until it is dropped: what still comes on it is for nobody, and must not
                    # be taken for a new path without a session
                    path = self._paths.pop(effect.path, None)
                    if path is not None:
                        path.close(effect.code, effect.error.code)
        self._alarm.nudge(self._service.next_deadline())

    # --- running handlers -----------------------------------------------------------------------------

    def _error_id(self) -> str:
        return self._dice.token(8)

    async def _run(self, run: RunHandler, scope: anyio.CancelScope) -> None:
        # what is told if the handler is cancelled, by us or by something that it waited for
        error: ErrorBody | None = ErrorBody(code="cancelled", message="cancelled", outcome="executed")
        payload = b"null"
        try:
            with scope:
                payload, error = await answer(
                    self._handlers[run.type], run, audit=self._audit, make_error_id=self._error_id
                )
        finally:
            del self._runs[run.run]
            self._feed(HandlerEnded(run=run.run, payload=payload, error=error))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
