"""The model selector for programs without an event loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from devpipe.adapters.blocking.listening import Listening
from devpipe.adapters.blocking.loop import Backend
from devpipe.adapters.blocking.pipe import Token, check_place
from devpipe.adapters.client.connect import ChoiceOptions
from devpipe.adapters.client.explain import Explanation
from devpipe.adapters.models import selector as asynchronous
from devpipe.machines.models.choice import ModelChoice
from devpipe.machines.models.preferring import DEFAULT_USER
from devpipe.machines.models.types import (
    ModelHealth,
    ModelSelectionRequest,
    PerformanceMetrics,
    Preferences,
    Quality,
    TaskType,
)

__all__ = ["ModelSelector"]


class ModelSelector(Listening[asynchronous.ModelSelector]):
    """Chooses models by asking a server: ``with devpipe.blocking.ModelSelector("http://127.0.0.1:8000") as models``.

    Arguments, methods and errors are those of ``devpipe.ModelSelector``, with the differences that ``connect`` has. Threads
    and Ctrl-C are as with a blocking ``Pipe``. ``backend``: the event loop in its thread, ``asyncio`` or ``trio``.
    """

    def __init__(
        self,
        server_url: str | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        user: str = DEFAULT_USER,
        preferences: Preferences | None = None,
        fallback_enabled: bool = True,
        fallback_table: str | os.PathLike[str] | None = None,
        cache_duration: float = 300.0,
        max_age: float = 0.0,
        patience: float = 1.0,
        monitoring_interval: float = 30.0,
        backend: Backend = "asyncio",
        **options: Unpack[ChoiceOptions],
    ) -> None:
        check_place(server_url, backend)
        super().__init__(
            asynchronous.ModelSelector(
                server_url,
                token=Token(token) if callable(token) else token,
                user=user,
                preferences=preferences,
                fallback_enabled=fallback_enabled,
                fallback_table=fallback_table,
                cache_duration=cache_duration,
                max_age=max_age,
                patience=patience,
                monitoring_interval=monitoring_interval,
                **options,
            ),
            backend=backend,
        )

    # --- selecting --------------------------------------------------------------------------------------

    def select(
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
        """Choose a model for a task; raises ``ModelSelectionError``."""
        return self._call(
            self._subject.select,
            task_type,
            quality=quality,
            max_cost_usd=max_cost_usd,
            context_length=context_length,
            providers=providers,
            timeout=timeout,
            max_age=max_age,
        )

    def select_for_task(self, task_type: TaskType, quality: Quality | None = None) -> ModelChoice:
        """Choose a model that does this task, at this quality."""
        return self._call(self._subject.select_for_task, task_type, quality)

    def select_cost_optimized(self, task_type: TaskType, max_cost_usd: float = 0.01) -> ModelChoice:
        """Choose the model that costs least, and at most this (US dollars)."""
        return self._call(self._subject.select_cost_optimized, task_type, max_cost_usd)

    def select_high_performance(self, task_type: TaskType) -> ModelChoice:
        """Choose the best model, whatever it costs within the preferences."""
        return self._call(self._subject.select_high_performance, task_type)

    def choose(self, request: ModelSelectionRequest, *, max_age: float | None = None) -> ModelChoice:
        """Choose a model for a whole request."""
        return self._call(self._subject.choose, request, max_age=max_age)

    # --- models, their health and their use -----------------------------------------------------------------

    @property
    def health(self) -> Mapping[str, ModelHealth]:
        """The health of each model as it was last heard of."""
        return self._run(lambda: dict(self._subject.health))

    def model_health(self, model_id: str | None = None) -> tuple[ModelHealth, ...]:
        """Ask the server for the health of one model, or of all."""
        return self._call(self._subject.model_health, model_id)

    def performance_metrics(
        self, model_id: str | None = None, task_type: TaskType | None = None
    ) -> tuple[PerformanceMetrics, ...]:
        """What the server has measured of a model, of a task, or of everything."""
        return self._call(self._subject.performance_metrics, model_id, task_type)

    def report(
        self,
        model_id: str,
        task_type: TaskType,
        *,
        success: bool,
        response_time: float,
        cost_usd: float = 0.0,
        satisfaction: float | None = None,
    ) -> None:
        """Tell the server how one use of a model went; ``response_time`` in seconds."""
        self._call(
            self._subject.report,
            model_id,
            task_type,
            success=success,
            response_time=response_time,
            cost_usd=cost_usd,
            satisfaction=satisfaction,
        )

    # --- preferences ------------------------------------------------------------------------------------------

    @property
    def preferences(self) -> Preferences:
        """The preferences that selections go by."""
        return self._run(lambda: self._subject.preferences)

    def update_preferences(self, **changes: Any) -> Preferences:
        """Change some preferences, here and on the server."""
        return self._call(self._subject.update_preferences, **changes)

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """True while a transport reaches the server."""
        return self._run(lambda: self._subject.connected)

    def explain(self) -> Explanation:
        """Why messages to the server go the way they go."""
        return self._run(self._subject.explain)

    def clear_cache(self) -> None:
        """Forget what the server has chosen before."""
        self._run(self._subject.clear_cache)
