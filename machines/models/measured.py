"""How the models do, measured from what clients report of their use.

Each model has a window of its last reports, bounded in count and in age. Its error rate decides its status; a better status
is reached only a little below the rate that took it away, so that one report more or less changes nothing. Reports that
age out change it too: a model that is offline gets none, and comes back when its failures are old. Under
``minimum`` reports nothing is known: the model counts as healthy, and has no metrics.

What it cannot know: whether a report is true. ``now`` is monotonic, in seconds; ``wall`` is milliseconds since 1970, for the
moments that are told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.rules import show, similar
from devpipe.machines.models.types import HealthWord, ModelHealth, ModelReport, PerformanceMetrics

__all__ = ["HealthChanged", "Measured", "MeasuredConfig", "MeasuredEvent", "MetricsChanged", "unknown_model"]

Field = Literal["average_response_time", "average_cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredConfig:
    """What is remembered (``max_reports`` of one model, ``max_age`` seconds), and what is made of it."""

    max_reports: int = 200
    max_age: float = 300.0
    minimum: int = 5  #: fewer reports than this say nothing
    degraded_at: float = 0.1  #: error rates, from 0 to 1
    offline_at: float = 0.5
    recovery: float = 0.8  #: a status is left for a better one under this share of its rate
    share_step: float = 0.05  #: rates and satisfactions that moved less are not worth a push
    ratio_step: float = 0.2  #: the same for times and costs, as a share of what was told last
    push_interval: float = 5.0  #: seconds between two pushes of the metrics of one model at one task


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChanged:
    """The status of a model is another one now."""

    health: ModelHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsChanged:
    """The metrics of a model at a task have moved enough to matter."""

    metrics: PerformanceMetrics


MeasuredEvent: TypeAlias = HealthChanged | MetricsChanged
_Task: TypeAlias = tuple[str, str]  #: the id of a model, and a task type


@dataclass(slots=True)
class _Window:
    reports: deque[tuple[float, ModelReport]]
    status: HealthWord = "healthy"


class Measured:
    """Told each report; says how each model does, and what of that is news."""

    def __init__(self, models: Iterable[str] = (), *, config: MeasuredConfig | None = None) -> None:
        self._config = config or MeasuredConfig()
        self._windows: dict[str, _Window] = {}
        self._health: dict[str, ModelHealth] = {}
        self._metrics: dict[_Task, PerformanceMetrics] = {}
        self._told: dict[_Task, tuple[float, PerformanceMetrics]] = {}
        self._events: list[MeasuredEvent] = []
        self.keep(models)

    def keep(self, models: Iterable[str]) -> None:
        """These are the models from now on: what is known of others is forgotten."""
        kept = {id: self._windows.get(id) or _Window(deque()) for id in models}
        for id in self._windows.keys() - kept.keys():
            self._health.pop(id, None)
            for table in (self._metrics, self._told):
                for key in [key for key in table if key[0] == id]:
                    del table[key]
        self._windows = kept

    def receive(self, report: ModelReport, *, now: float, wall: float) -> None:
        """Somebody has used a model. Raises ``ModelSelectionError`` (``INVALID_REQUEST``) if nobody knows the model."""
        window = self._windows.get(report.model_id)
        if window is None:
            raise unknown_model(report.model_id, self._windows)
        window.reports.append((now, report))
        tasks: set[str] = {report.task_type}
        if len(window.reports) > self._config.max_reports:
            tasks.add(window.reports.popleft()[1].task_type)
        tasks |= self._forget(window, now=now)
        self._assess(report.model_id, window, tasks, now=now, wall=wall)

    def handle_deadline(self, *, now: float, wall: float) -> None:
        """Forget reports that are too old; call it before ``health`` and ``metrics`` are read, too."""
        for id, window in self._windows.items():
            tasks = self._forget(window, now=now)
            if tasks:
                self._assess(id, window, tasks, now=now, wall=wall)

    def next_deadline(self) -> float | None:
        """When a model may get better by itself, because its failures are old then."""
        ends = [
            w.reports[0][0] + self._config.max_age for w in self._windows.values() if w.status != "healthy"
        ]
        return min(ends, default=None)

    def drain_events(self) -> list[MeasuredEvent]:
        """What has changed since the last time."""
        events, self._events = self._events, []
        return events

    @property
    def health(self) -> Mapping[str, ModelHealth]:
        """By model id; models of which too little has been reported are not in it."""
        return self._health

    @property
    def metrics(self) -> Mapping[_Task, PerformanceMetrics]:
        """By model id and task type, where enough has been reported."""
        return self._metrics

    # --- one model ------------------------------------------------------------------------------------

    def _forget(self, window: _Window, *, now: float) -> set[str]:
        """Drop what is too old; the tasks of which something was dropped."""
        tasks: set[str] = set()
        oldest = now - self._config.max_age
        while window.reports and window.reports[0][0] <= oldest:
            tasks.add(window.reports.popleft()[1].task_type)
        return tasks

    def _assess(self, id: str, window: _Window, tasks: set[str], *, now: float, wall: float) -> None:
        reports = [report for _, report in window.reports]
        before = window.status
        rate = sum(not report.success for report in reports) / len(reports) if reports else 0.0
        known = len(reports) >= self._config.minimum
        window.status = self._status(rate, before) if known else "healthy"
        health = ModelHealth(
            model_id=id,
            status=window.status,
            response_time=_response_time(reports),
            error_rate=rate,
            last_check=wall,
            availability_percentage=100 * (1 - rate),
        )
        if known:
            self._health[id] = health
        else:
            self._health.pop(id, None)
        if window.status != before:
            self._events.append(HealthChanged(health=health))
        for task in tasks:
            self._measure((id, task), [r for r in reports if r.task_type == task], now=now, wall=wall)

    def _status(self, rate: float, before: HealthWord) -> HealthWord:
        config = self._config
        offline, degraded = config.offline_at, config.degraded_at
        if before == "offline":
            offline *= config.recovery
        if before != "healthy":
            degraded *= config.recovery
        return "offline" if rate >= offline else "degraded" if rate >= degraded else "healthy"

    def _measure(self, key: _Task, reports: list[ModelReport], *, now: float, wall: float) -> None:
        count = len(reports)
        if count < self._config.minimum:
            self._metrics.pop(key, None)
            self._told.pop(key, None)
            return
        satisfactions = [report.satisfaction for report in reports if report.satisfaction is not None]
        metrics = self._metrics[key] = PerformanceMetrics(
            model_id=key[0],
            task_type=reports[0].task_type,
            success_rate=sum(report.success for report in reports) / count,
            average_response_time=_response_time(reports),
            average_cost=_mean([report.cost for report in reports]),
            user_satisfaction_score=_mean(satisfactions) if satisfactions else None,
            last_updated=wall,
        )
        told = self._told.get(key)
        if told is None or (now - told[0] >= self._config.push_interval and self._matters(told[1], metrics)):
            self._told[key] = (now, metrics)
            self._events.append(MetricsChanged(metrics=metrics))

    def _matters(self, old: PerformanceMetrics, new: PerformanceMetrics) -> bool:
        step, ratio = self._config.share_step, self._config.ratio_step
        liked = (old.user_satisfaction_score, new.user_satisfaction_score)
        return (
            abs(new.success_rate - old.success_rate) >= step
            or abs(new.average_response_time - old.average_response_time) > ratio * old.average_response_time
            or abs(new.average_cost - old.average_cost) > ratio * old.average_cost
            or (None in liked and liked != (None, None))
            or abs((liked[1] or 0.0) - (liked[0] or 0.0)) >= step
        )


def unknown_model(id: str, known: Iterable[str]) -> ModelSelectionError:
    """Nobody knows a model of this name."""
    guess = similar(id, known)
    return ModelSelectionError(
        f"model_id = {show(id)} is in no catalogue here{guess}",
        code="INVALID_REQUEST",
        details={"model_id": id},
        suggestions=("ask health-check-request without model_id for all models",),
    )


def _response_time(reports: list[ModelReport]) -> float:
    """Of the answers that came; what failed may have failed at once, or at a time limit."""
    times = [report.response_time_ms for report in reports if report.success]
    return _mean(times or [report.response_time_ms for report in reports])


def _mean(values: list[float]) -> float:
    """Divided before it is summed up: a sum of huge values would be infinite, which is no JSON."""
    count = len(values) or 1
    return sum(value / count for value in values)
