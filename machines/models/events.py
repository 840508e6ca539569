"""What a program can hear from a ``ModelSelector``."""

from __future__ import annotations

from dataclasses import dataclass

from devpipe.machines.events import Event, SwitchReason
from devpipe.machines.models.choice import ModelChoice
from devpipe.machines.models.types import (
    ModelHealth,
    ModelSelectionRequest,
    PerformanceMetrics,
    Preferences,
)

__all__ = [
    "EVENTS",
    "ConnectionFailed",
    "HealthOfModelUpdated",
    "ModelSelected",
    "PerformanceMeasured",
    "PreferencesUpdated",
    "SelectionFailed",
    "SelectorConnected",
    "SelectorDisconnected",
    "TransportChanged",
    "TransportHealth",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorConnected(Event):
    """The server can be reached, over this transport at first."""

    name = "connected"
    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorDisconnected(Event):
    """No transport reaches the server now. ``reason`` in words."""

    name = "disconnected"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportChanged(Event):
    """Selections take another way from now on."""

    name = "transport_changed"
    from_: str | None
    to: str
    reason: SwitchReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFailed(Event):
    """The active transport was lost. ``timestamp``: when, in seconds of the monotonic clock."""

    name = "connection_error"
    transport: str
    timestamp: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionFailed(Event):
    """The server gave no answer that can be used; told before anything stands in. ``context``: what was being done."""

    name = "transport_error"
    error: Exception
    context: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportHealth(Event):
    """The health status of a transport has changed."""

    name = "transport_health"
    transport: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthOfModelUpdated(Event):
    """A model's health has changed, as the server pushed it or a poll found it."""

    name = "health_updated"
    health: ModelHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceMeasured(Event):
    """New performance metrics of a model."""

    name = "performance_metrics"
    metrics: PerformanceMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSelected(Event):
    """A model was chosen, by whom its ``source`` says."""

    name = "model_selected"
    request: ModelSelectionRequest
    choice: ModelChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencesUpdated(Event):
    """The preferences have changed. ``synced``: the server has them too."""

    name = "preferences_updated"
    preferences: Preferences
    synced: bool


EVENTS = frozenset(
    kind.name
    for kind in (
        SelectorConnected,
        SelectorDisconnected,
        TransportChanged,
        ConnectionFailed,
        SelectionFailed,
        TransportHealth,
        HealthOfModelUpdated,
        PerformanceMeasured,
        ModelSelected,
        PreferencesUpdated,
    )
)
