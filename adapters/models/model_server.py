"""The server's side of model selection: handlers for the messages of ``specs/models.md``, and its pushes.

    server = devpipe.Server()
    ModelServer(server, catalogue="models.toml", preferences="preferences.sqlite")
    await server.serve()

Every message is known by both its spellings, ``health-check-request`` and ``health_check_request``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct, structs

from devpipe.adapters.models.catalogue_file import CatalogueFile
from devpipe.adapters.models.preferences_store import PreferencesStore
from devpipe.adapters.server.server import Server
from devpipe.machines.message import Message
from devpipe.machines.models.catalogue import Catalogue
from devpipe.machines.models.measured import (
    HealthChanged,
    Measured,
    MeasuredConfig,
    MetricsChanged,
    unknown_model,
)
from devpipe.machines.models.preferring import overlay, read_update, read_user
from devpipe.machines.models.rules import one_of, text
from devpipe.machines.models.scoring import choose
from devpipe.machines.models.types import (
    TASK_TYPES,
    Model,
    ModelHealth,
    ModelReport,
    ModelSelectionRequest,
    Name,
    Preferences,
    Said,
    TaskType,
    decode,
    encode,
)

__all__ = ["ModelServer"]


class _Query(Struct, frozen=True, kw_only=True):
    """Which of the models, at which task; None is all."""

    model_id: Name | None = None
    task_type: TaskType | None = None


_QUERY = {"model_id": text(), "task_type": one_of(TASK_TYPES)}


class ModelServer:
    """Answers on ``server`` what is asked about models. Make it before the server is entered.

    ``catalogue``: a file of TOML or JSON, read again when it changes; None is the packaged example, whose prices age.
    ``preferences``: an SQLite file; None keeps them in memory. ``measuring``: how reports become health and metrics.

    Raises ``ConfigurationError`` if the catalogue is wrong, or if the server has one of the handlers already. A file of
    preferences that cannot be opened is raised where the server is entered.
    """

    def __init__(
        self,
        server: Server,
        *,
        catalogue: str | os.PathLike[str] | CatalogueFile | None = None,
        preferences: str | os.PathLike[str] | PreferencesStore | None = None,
        measuring: MeasuredConfig | None = None,
    ) -> None:
        self._server = server
        self._file = catalogue if isinstance(catalogue, CatalogueFile) else CatalogueFile(catalogue)
        self._store = (
            preferences if isinstance(preferences, PreferencesStore) else PreferencesStore(preferences)
        )
        self._measured = Measured(self._file.catalogue.ids, config=measuring)
        self._wake = anyio.Event()
        handlers: dict[str, Callable[[Message], Awaitable[Any]]] = {
            "model-selection-request": self._select,
            "health-check-request": self._health,
            "performance-metrics-request": self._metrics,
            "preferences-update": self._update_preferences,
            "preferences-request": self._get_preferences,
            "status-update": self._report,
        }
        for type, handler in handlers.items():
            server.handler(type)(handler)
            server.handler(type.replace("-", "_"))(handler)
        server.attach(self._run)

    @property
    def catalogue(self) -> Catalogue:
        """What is chosen from now."""
        return self._file.catalogue

    # --- handlers -------------------------------------------------------------------------------------

    async def _select(self, message: Message) -> Any:
        clock = self._server.clock
        began = clock.now()
        request = decode(message.payload, ModelSelectionRequest, what="the request")
        stored = await self._store.get(read_user(message.payload))
        self._forget()
        answer = choose(
            _with_own_wishes(request, message.payload, stored),
            models=self.catalogue.models,
            preferences=stored,
            health=self._measured.health,
            metrics=self._measured.metrics,
        )
        took = max(0.0, (clock.now() - began) * 1000)
        metadata = structs.replace(answer.selection_metadata, selection_time_ms=took)
        return encode(structs.replace(answer, selection_metadata=metadata))

    async def _health(self, message: Message) -> Any:
        query = self._query(message)
        self._forget()
        return {
            "models": [
                encode(self._measured.health.get(model.id) or _assumed(model))
                for model in self.catalogue.models
                if query.model_id in (None, model.id)
            ]
        }

    async def _metrics(self, message: Message) -> Any:
        query = self._query(message)
        self._forget()
        return {
            "metrics": [
                encode(metrics)
                for (model, task), metrics in sorted(self._measured.metrics.items())
                if query.model_id in (None, model) and query.task_type in (None, task)
            ]
        }

    async def _update_preferences(self, message: Message) -> Any:
        user, change = read_update(message.payload)
        return {"preferences": encode(await self._store.update(user, change))}

    async def _get_preferences(self, message: Message) -> Any:
        return {"preferences": encode(await self._store.get(read_user(message.payload)))}

    async def _report(self, message: Message) -> Any:
        report = decode(message.payload, ModelReport, what="the report")
        self._measured.receive(report, now=self._server.clock.now(), wall=self._wall())
        self._wake.set()
        return {"accepted": True}

    def _query(self, message: Message) -> _Query:
        payload: object = message.payload
        values = cast("dict[str, object]", payload) if isinstance(payload, dict) else {}
        said = Said(values=values, rules=_QUERY)
        query = decode({} if payload is None else payload, _Query, what="the question", said=said)
        if query.model_id is not None and query.model_id not in self.catalogue.ids:
            raise unknown_model(query.model_id, self.catalogue.ids)
        return query

    # --- what is measured, and pushed -------------------------------------------------------------------

    def _wall(self) -> float:
        return float(int(self._server.clock.wall() * 1000))

    def _forget(self) -> None:
        """What is read now is not older than it may be."""
        self._measured.handle_deadline(now=self._server.clock.now(), wall=self._wall())
        self._wake.set()

    def _changed(self, catalogue: Catalogue) -> None:
        self._measured.keep(catalogue.ids)
        self._wake.set()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        async with self._store, anyio.create_task_group() as tasks:
            tasks.start_soon(self._file.watch, self._changed)
            task_status.started()
            while True:
                self._wake = anyio.Event()
                now = self._server.clock.now()
                self._measured.handle_deadline(now=now, wall=self._wall())
                await self._push()
                deadline = self._measured.next_deadline()
                with anyio.move_on_after(None if deadline is None else max(0.0, deadline - now)):
                    await self._wake.wait()

    async def _push(self) -> None:
        """Only here, so that news of one model keeps its order."""
        for event in self._measured.drain_events():
            match event:
                case HealthChanged():
                    await self._server.push("health_update", encode(event.health))
                case MetricsChanged():
                    await self._server.push("performance_metrics", encode(event.metrics))


def _with_own_wishes(
    request: ModelSelectionRequest, payload: object, stored: Preferences
) -> ModelSelectionRequest:
    """Preferences that come with a request change the stored ones for this request alone, and only where they say so."""
    if request.user_preferences is None:
        return request
    named = cast("dict[str, dict[str, object]]", payload)[
        "user_preferences"
    ]  # it has just been read from there
    return structs.replace(request, user_preferences=overlay(stored, request.user_preferences, named=named))


def _assumed(model: Model) -> ModelHealth:
    """Of a model that too little was reported of: what the catalogue says; ``last_check`` 0 is never."""
    return ModelHealth(
        model_id=model.id,
        status="healthy",
        response_time=model.response_time_avg_ms,
        availability_percentage=100 * model.availability_score,
    )
