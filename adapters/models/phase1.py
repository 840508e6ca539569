"""``ModelSelectionService``: the face that Phase 1 programs know, over a pipe with all its transports.

New programs use ``ModelSelector``. What changed for old ones stands in ``specs/migration.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast

from devpipe.adapters.background import Background
from devpipe.adapters.client.explain import TransportExplanation
from devpipe.adapters.listeners import Listener
from devpipe.adapters.models.selector import ModelSelector
from devpipe.machines.errors import ConfigurationError, PipeClosed
from devpipe.machines.models.choice import ModelChoice
from devpipe.machines.models.events import EVENTS
from devpipe.machines.models.phase1 import (
    ModelSelectionConfig,
    OldSpelling,
    read_config,
    read_request,
    respell,
    settings_of,
)
from devpipe.machines.models.types import (
    ModelHealth,
    ModelSelectionRequest,
    PerformanceMetrics,
    Preferences,
    Quality,
    TaskType,
)

__all__ = ["ModelSelectionService"]

F = TypeVar("F", bound=Callable[..., Any])


def _warn(old: str, new: str, *, level: int) -> None:
    warnings.warn(f"{old} is an old spelling: write {new}", DeprecationWarning, stacklevel=level + 1)


def _old(name: str, new: str, now: F) -> F:
    """A method under its old name."""

    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        _warn(name, new, level=2)
        return now(self, *args, **keywords)

    call.__name__, call.__doc__ = name, f"The old spelling of ``{new}``."
    return cast("F", call)


class ModelSelectionService:
    """Phase 1's service: ``initialize()``, questions, ``disconnect()``.

    ``options``: Phase 1's, in milliseconds, as a mapping or as keywords: ``monitoring_interval`` 30000,
    ``fallback_enabled`` true, ``cache_duration`` 300000, ``retry_attempts`` 3, ``timeout`` 30000, ``debug_mode`` false, and
    Phase 2's ``transport``. A camelCase spelling works and gives one ``DeprecationWarning`` that names the new one.

    Raises ``ConfigurationError`` that names each wrong option and what is allowed.
    """

    def __init__(
        self,
        server_url: str = "",
        devpipe_path: str = "",
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        config, found = read_config(server_url, devpipe_path, {**(options or {}), **more})
        for spelling in found:
            _warn(spelling.old, spelling.new, level=2)
        self._config = config
        self._heard: list[tuple[str, Listener]] = []
        self._models: ModelSelector | None = self._make()  # a wrong address is refused here
        self._background: Background[ModelSelector] | None = None

    def _make(self) -> ModelSelector:
        config = self._config
        models = ModelSelector(
            config.server_url or None,
            folder=config.devpipe_path or None,
            settings=settings_of(config),
            fallback_enabled=config.fallback_enabled,
            cache_duration=config.cache_duration / 1000,
            monitoring_interval=config.monitoring_interval / 1000,
        )
        for name, listener in self._heard:
            models.on(name, listener)
        return models

    # --- life -----------------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Begin to connect; it may be called, and ``disconnect`` too, by any task. A second time changes nothing.

        When it returns, models can be asked for: whichever task has begun it.
        """
        while self._background is not None:
            if await self._background.opened():  # by another task, perhaps just now
                return
        self._models = self._models or self._make()
        background = self._background = Background(self._models)
        try:
            await background.open()
        except BaseException:  # it did not begin, so it may be tried again
            if self._background is background:
                self._background = self._models = None
            raise

    async def disconnect(self) -> None:
        """End everything; ``initialize`` begins anew."""
        background, self._background, self._models = self._background, None, None
        if background is not None:
            await background.close()

    async def __aenter__(self) -> ModelSelectionService:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    # --- selecting --------------------------------------------------------------------------------------

    async def select_model(self, request: ModelSelectionRequest | Mapping[str, Any]) -> ModelChoice:
        """Choose a model. The answer has Phase 1's fields, and ``source``: ``server``, ``cache`` or ``static``.

        Raises ``ModelSelectionError``; ``INVALID_REQUEST`` for a name in the request that is none, too.
        """
        if not isinstance(request, ModelSelectionRequest):
            request = read_request(self._respelled(request))
        return await self._opened().choose(request)

    async def select_for_task(self, task_type: TaskType, quality: Quality = "medium") -> ModelChoice:
        """Choose a model for a task at this quality."""
        return await self._opened().select_for_task(task_type, quality)

    async def select_cost_optimized(self, task_type: TaskType, max_cost: float = 0.01) -> ModelChoice:
        """Choose the model that costs least, and at most this (US dollars)."""
        return await self._opened().select_cost_optimized(task_type, max_cost)

    async def select_high_performance(self, task_type: TaskType) -> ModelChoice:
        """Choose the best model."""
        return await self._opened().select_high_performance(task_type)

    # --- health, metrics, preferences ---------------------------------------------------------------------

    async def get_model_health(self, model_id: str | None = None) -> tuple[ModelHealth, ...]:
        """Ask the server for the health of one model, or of all."""
        return await self._opened().model_health(model_id)

    async def refresh_model_health(self) -> tuple[ModelHealth, ...]:
        """Ask for the health of all models now, not when the next interval comes."""
        return await self._opened().model_health()

    def get_cached_health(self, model_id: str) -> ModelHealth | None:
        """The health of a model as it was last heard of."""
        return self._opened().health.get(model_id)

    def is_healthy(self, model_id: str) -> bool:
        """True if the last that was heard of the model was ``healthy``."""
        health = self.get_cached_health(model_id)
        return health is not None and health.status == "healthy"

    async def get_performance_metrics(
        self, model_id: str | None = None, task_type: TaskType | None = None
    ) -> tuple[PerformanceMetrics, ...]:
        """What the server has measured."""
        return await self._opened().performance_metrics(model_id, task_type)

    async def update_preferences(self, preferences: Mapping[str, Any]) -> Preferences:
        """Change some preferences, here and on the server."""
        return await self._opened().update_preferences(**self._respelled(preferences))

    def get_preferences(self) -> Preferences:
        """The preferences that selections go by."""
        return self._opened().preferences

    # --- looking ------------------------------------------------------------------------------------------

    def is_connected(self) -> bool:
        """True while a transport reaches the server."""
        return self._models is not None and self._models.connected

    def get_config(self) -> ModelSelectionConfig:
        """The configuration with its defaults, in milliseconds."""
        return self._config

    def get_transport_status(self) -> tuple[TransportExplanation, ...]:
        """Each transport: state, health, breaker, score, last failure."""
        return self._opened().explain().transports

    def on(self, event: str, listener: Listener) -> ModelSelectionService:
        """Call ``listener(event)`` at each of these events, before ``initialize`` and after ``disconnect`` too.

        Raises ``ConfigurationError`` if there is no such event.
        """
        if event not in EVENTS:
            raise ConfigurationError(f"no event is called {event!r}: there are {', '.join(sorted(EVENTS))}")
        self._heard.append((event, listener))
        if self._models is not None:
            self._models.on(event, listener)
        return self

    def off(self, event: str, listener: Listener) -> ModelSelectionService:
        """Remove a listener; nothing happens if it is not there."""
        self._heard = [heard for heard in self._heard if heard != (event, listener)]
        if self._models is not None:
            self._models.off(event, listener)
        return self

    def _opened(self) -> ModelSelector:
        if self._background is None or self._models is None:
            raise PipeClosed("the service is not open: await initialize() first")
        return self._models

    def _respelled(self, value: Mapping[str, Any]) -> dict[str, Any]:
        found: list[OldSpelling] = []
        plain = cast("dict[str, Any]", respell(value, found))
        for spelling in found:
            _warn(spelling.old, spelling.new, level=3)
        return plain

    # --- the names of Phase 1 -------------------------------------------------------------------------------

    selectModel = _old("selectModel", "select_model", select_model)
    selectForTask = _old("selectForTask", "select_for_task", select_for_task)
    selectCostOptimized = _old("selectCostOptimized", "select_cost_optimized", select_cost_optimized)
    selectHighPerformance = _old("selectHighPerformance", "select_high_performance", select_high_performance)
    getModelHealth = _old("getModelHealth", "get_model_health", get_model_health)
    refreshModelHealth = _old("refreshModelHealth", "refresh_model_health", refresh_model_health)
    getCachedHealth = _old("getCachedHealth", "get_cached_health", get_cached_health)
    isHealthy = _old("isHealthy", "is_healthy", is_healthy)
    getPerformanceMetrics = _old("getPerformanceMetrics", "get_performance_metrics", get_performance_metrics)
    updatePreferences = _old("updatePreferences", "update_preferences", update_preferences)
    getPreferences = _old("getPreferences", "get_preferences", get_preferences)
    isConnected = _old("isConnected", "is_connected", is_connected)
    getConfig = _old("getConfig", "get_config", get_config)
    getTransportStatus = _old("getTransportStatus", "get_transport_status", get_transport_status)
