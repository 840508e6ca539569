"""``ModelSelector``: ask for a model in one line, and get one even when no transport works."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import anyio
from anyio.abc import TaskGroup
from msgspec import structs

from devpipe.adapters.client.connect import PipeOptions, connect
from devpipe.adapters.client.explain import Explanation
from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.listeners import Listener, Listeners
from devpipe.adapters.models.asking import Asking, read_answer
from devpipe.adapters.models.news import News
from devpipe.adapters.models.table import load_table
from devpipe.adapters.models.wishes import Wishes
from devpipe.adapters.ports.clock import SystemClock
from devpipe.machines.errors import ConfigurationError, ModelSelectionError, PipeClosed
from devpipe.machines.models.arguments import check_age, report_of, request_of
from devpipe.machines.models.cache import ChoiceCache
from devpipe.machines.models.choice import ModelChoice, answered
from devpipe.machines.models.context import context_of
from devpipe.machines.models.events import EVENTS, ModelSelected, SelectionFailed
from devpipe.machines.models.preferring import DEFAULT_USER, change_by_name
from devpipe.machines.models.static import choose_static
from devpipe.machines.models.types import (
    ModelHealth,
    ModelSelectionRequest,
    ModelSelectionResponse,
    PerformanceMetrics,
    Preferences,
    Quality,
    TaskType,
    decode,
    encode,
)
from devpipe.machines.models.verdicts import is_answer, is_unknown, selects_none

if TYPE_CHECKING:
    from devpipe.adapters.server.server import Server

__all__ = ["ModelSelector"]

log = logging.getLogger("devpipe.models")


class ModelSelector:
    """Chooses models by asking a server: ``async with devpipe.ModelSelector("http://127.0.0.1:8000") as models``.

    It enters while all transports are down. ``server_url`` and the other keywords are those of ``connect``; ``pipe``
    takes an open pipe instead. ``user``: whose preferences they are; ``preferences``: these instead of those that the
    server has kept. ``max_age``: an answer so young (seconds) is given again without asking; 0 always asks.

    When the server gives no answer and ``fallback_enabled``: its answer to the same request of the last
    ``cache_duration`` seconds stands in, else the static table (``fallback_table``: a TOML or JSON file of one's own);
    ``source`` and ``stand_in_for`` of the choice say so. ``patience``: seconds without any transport after which that
    happens, however long the timeout; in the beginning it counts from the failure of the first attempts. ``monitoring_interval``: how often the health of the models is polled (seconds).

    Raises ``ConfigurationError`` that names what is wrong.
    """

    def __init__(
        self,
        server_url: str | Server | None = None,
        *,
        pipe: Pipe | None = None,
        user: str = DEFAULT_USER,
        preferences: Preferences | None = None,
        fallback_enabled: bool = True,
        fallback_table: str | os.PathLike[str] | None = None,
        cache_duration: float = 300.0,
        max_age: float = 0.0,
        patience: float = 1.0,
        monitoring_interval: float = 30.0,
        **options: Unpack[PipeOptions],
    ) -> None:
        unknown = sorted(options.keys() - PipeOptions.__optional_keys__)
        if unknown:  # connect would refuse it too, in its own name
            raise TypeError(f"ModelSelector() got an unexpected keyword argument {unknown[0]!r}")
        _check(cache_duration=cache_duration, max_age=max_age, patience=patience)
        _check(above=True, monitoring_interval=monitoring_interval)
        if pipe is not None and (server_url is not None or options):
            raise ConfigurationError("pipe= is given: give no address and no options of connect beside it")
        self.pipe = connect(server_url, wait=False, **options) if pipe is None else pipe
        self._own_pipe = pipe is None
        self.fallback_enabled = fallback_enabled
        self.max_age = max_age
        self._patience = patience
        self._interval = monitoring_interval
        self._cache = ChoiceCache(duration=cache_duration)
        self._table = load_table(fallback_table)
        self._listeners = Listeners(EVENTS, logger=log)
        self._wishes = Wishes(
            user=user, given=preferences, listeners=self._listeners, forget=self._cache.clear
        )
        self._warned = False  #: that the server selects no models
        self._tasks: TaskGroup | None = None

    # --- life -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> ModelSelector:
        if self._own_pipe:
            await self.pipe.__aenter__()
        self._clock = SystemClock()
        self._asking = Asking(self.pipe, patience=self._patience)
        self._wishes.start(self._asking)
        self._news = News(
            pipe=self.pipe,
            asking=self._asking,
            listeners=self._listeners,
            cache=self._cache,
            interval=self._interval,
            sync=self._wishes.sync,
        )
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        try:
            self._listeners.start(tasks)
            self._news.start(tasks)
        except BaseException as error:
            # the pipe of another, which is closed already: the task group is left all the same
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # entered before
        tasks, self._tasks = self._tasks, None
        self._news.stop()
        tasks.cancel_scope.cancel()
        try:
            await tasks.__aexit__(None, None, None)
        finally:
            if self._own_pipe:
                await self.pipe.__aexit__(kind, error, trace)

    # --- selecting --------------------------------------------------------------------------------------

    async def select(
        self,
        task_type: TaskType,
        *,
        quality: Quality | None = None,
        max_cost_usd: float | None = None,
        context_length: int | None = None,
        providers: tuple[str, ...] | list[str] = (),
        timeout: float | None = None,
        max_age: float | None = None,
    ) -> ModelChoice:
        """Choose a model for a task.

        ``max_cost_usd``: for the whole request; ``context_length`` in tokens; ``timeout`` in seconds;
        ``max_age``: an answer of the last so many seconds will do. Raises ``ModelSelectionError``: ``BUDGET_EXCEEDED``,
        ``NO_HEALTHY_MODELS`` or ``INVALID_REQUEST`` as the server's answer, ``TIMEOUT`` or ``SERVICE_UNAVAILABLE`` only
        without fallback; ``PipeClosed`` outside ``async with``.
        """
        request = request_of(
            task_type=task_type,
            quality=quality,
            max_cost_usd=max_cost_usd,
            context_length=context_length,
            providers=providers,
            timeout=timeout,
        )
        return await self._choose(request, max_age=max_age)

    async def select_for_task(self, task_type: TaskType, quality: Quality | None = None) -> ModelChoice:
        """Choose a model that does this task, at this quality."""
        return await self.select(task_type, quality=quality)

    async def select_cost_optimized(self, task_type: TaskType, max_cost_usd: float = 0.01) -> ModelChoice:
        """Choose the model that costs least, and at most this (US dollars)."""
        request = request_of(task_type=task_type, max_cost_usd=max_cost_usd)
        return await self._by_priority("cost", request)

    async def select_high_performance(self, task_type: TaskType) -> ModelChoice:
        """Choose the best model, whatever it costs within the preferences."""
        request = request_of(task_type=task_type, quality="high")
        return await self._by_priority("performance", request)

    async def _by_priority(self, priority: str, request: ModelSelectionRequest) -> ModelChoice:
        said = {"priority": priority}
        wishes = change_by_name(self._wishes.value, said)
        return await self._choose(structs.replace(request, user_preferences=wishes), said=said)

    async def choose(self, request: ModelSelectionRequest, *, max_age: float | None = None) -> ModelChoice:
        """Choose a model for a whole request; the rest as for ``select``."""
        # whoever made it may have put anything in: a limit that is no number would be no limit to the server
        request = decode(encode(request), ModelSelectionRequest, what="the request")
        return await self._choose(request, max_age=max_age)

    async def _choose(
        self,
        request: ModelSelectionRequest,
        *,
        max_age: float | None = None,
        said: dict[str, Any] | None = None,
    ) -> ModelChoice:
        """``said``: what of the request's preferences it says itself, where the rest of them is this selector's."""
        if self._tasks is None:
            raise PipeClosed("the model selector is not open: use it inside 'async with'")
        check_age(max_age)
        preferences = request.user_preferences or self._wishes.value
        oldest = self.max_age if max_age is None else max_age
        choice = self._cache.get(request, now=self._now(), max_age=oldest) if oldest > 0 else None
        if choice is None:
            choice = await self._ask(request, preferences, said)
        self._listeners.tell(ModelSelected(request=request, choice=choice))
        return choice

    async def _ask(
        self, request: ModelSelectionRequest, preferences: Preferences, said: dict[str, Any] | None
    ) -> ModelChoice:
        fallback = self.fallback_enabled and preferences.fallback_enabled
        era = self._cache.era
        try:
            reply = await self._asking.ask(
                "model-selection-request",
                self._wishes.on_the_wire(request, said),
                context_of(request, preferences),
                patient=not fallback,
            )
            response = read_answer(reply, ModelSelectionResponse)
        except ModelSelectionError as error:
            if is_answer(error):
                raise
            told = self._selects_none(error) if is_unknown(error) else error
            self._listeners.tell(SelectionFailed(error=told, context="model_selection"))
            if not fallback:
                raise told from error.__cause__
            return self._stand_in(request, preferences, told)
        choice = answered(response)
        health = self.health.get(choice.selected_model.id)
        # one that was chosen by preferences of before, or is offline since, must not come out again
        if era == self._cache.era and (health is None or health.status != "offline"):
            self._cache.put(request, choice, now=self._now())
        return choice

    def _now(self) -> float:
        """By this an answer grows old while the machine sleeps, too."""
        return self._clock.now() + self._clock.slept()

    def _selects_none(self, error: ModelSelectionError) -> ModelSelectionError:
        """Something would stand in for this server for ever: that is said aloud, once."""
        config = self.pipe.config
        told = selects_none(error, server=str(config.server_url or config.folder))
        if not self._warned:
            self._warned = True
            log.warning("%s; until then something stands in", told)
        return told

    def _stand_in(
        self, request: ModelSelectionRequest, preferences: Preferences, error: ModelSelectionError
    ) -> ModelChoice:
        why = str(error)
        log.info("no answer to a model selection, something stands in: %s", why)
        choice = self._cache.get(request, now=self._now(), stand_in_for=why)
        if choice is not None:
            return choice
        try:
            return choose_static(self._table, request, preferences, stand_in_for=why)
        except ModelSelectionError as refused:
            raise refused from error

    # --- models, their health and their use -----------------------------------------------------------------

    @property
    def health(self) -> Mapping[str, ModelHealth]:
        """The health of each model as it was last heard of, pushed or polled; empty before anything was."""
        return self._news.health

    async def model_health(self, model_id: str | None = None) -> tuple[ModelHealth, ...]:
        """Ask the server for the health of one model, or of all.

        Raises ``ModelSelectionError`` (``SERVICE_UNAVAILABLE``, ``TIMEOUT``): nothing stands in for health.
        """
        return await self._opened().ask_health(model_id)

    async def performance_metrics(
        self, model_id: str | None = None, task_type: TaskType | None = None
    ) -> tuple[PerformanceMetrics, ...]:
        """What the server has measured of a model, of a task, or of everything. Raises as ``model_health`` does."""
        return await self._opened().ask_metrics(model_id, task_type)

    async def report(
        self,
        model_id: str,
        task_type: TaskType,
        *,
        success: bool,
        response_time: float,
        cost_usd: float = 0.0,
        satisfaction: float | None = None,
    ) -> None:
        """Tell the server how one use of a model went; health and metrics are measured from this.

        ``response_time`` in seconds, ``satisfaction`` from 0 to 1. Raises ``ModelSelectionError``.
        """
        report = report_of(
            model_id=model_id,
            task_type=task_type,
            success=success,
            response_time=response_time,
            cost_usd=cost_usd,
            satisfaction=satisfaction,
        )
        self._opened()
        await self._asking.ask("status-update", encode(report))

    # --- preferences ------------------------------------------------------------------------------------------

    @property
    def preferences(self) -> Preferences:
        """The preferences that selections go by."""
        return self._wishes.value

    async def update_preferences(self, **changes: Any) -> Preferences:
        """Change some preferences, here and on the server; one that cannot be reached gets them when it can.

        Raises ``ModelSelectionError`` (``INVALID_REQUEST``) that names what is unknown or out of range; then nothing
        has changed.
        """
        self._opened()
        return await self._wishes.update(changes, connected=self.connected)

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """True while a transport reaches the server."""
        return self._tasks is not None and self.pipe.active is not None

    def on(self, name: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener(event)``, sync or async, at each event ``name``; returns what removes it again.

        The events and their fields are in ``devpipe.machines.models.events``. Raises ``ConfigurationError`` if there is no
        such event.
        """
        return self._listeners.on(name, listener)

    def off(self, name: str, listener: Listener) -> None:
        """Remove a listener."""
        self._listeners.off(name, listener)

    def explain(self) -> Explanation:
        """Why messages to the server go the way they go."""
        return self.pipe.explain()

    def clear_cache(self) -> None:
        """Forget what the server has chosen before."""
        self._cache.clear()

    def _opened(self) -> News:
        if self._tasks is None:
            raise PipeClosed("the model selector is not open: use it inside 'async with'")
        return self._news

    def __repr__(self) -> str:
        state = "closed" if self._tasks is None else "connected" if self.connected else "not connected"
        return f"<ModelSelector {state}>"


def _check(*, above: bool = False, **seconds: object) -> None:
    for name, value in seconds.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
        if not number or (above and value == 0):
            least = "above 0" if above else "at least 0"
            raise ConfigurationError(f"{name} = {value!r} is not allowed: give seconds, {least}")
