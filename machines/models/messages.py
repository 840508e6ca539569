"""The types of messages about models, in both spellings that deployed programs use."""

from __future__ import annotations

from enum import Enum

__all__ = ["MessageType"]


class MessageType(str, Enum):
    """``MessageType("model_selection_request")`` is the same as ``MessageType("model-selection-request")``."""

    MODEL_SELECTION = "model-selection-request"
    MODEL_SELECTION_RESPONSE = "model-selection-response"
    HEALTH_CHECK = "health-check-request"
    HEALTH_CHECK_RESPONSE = "health-check-response"
    PERFORMANCE_METRICS = "performance-metrics-request"
    PERFORMANCE_METRICS_RESPONSE = "performance-metrics-response"
    PREFERENCES_UPDATE = "preferences-update"
    PREFERENCES_REQUEST = "preferences-request"
    STATUS_UPDATE = "status-update"
    ERROR_REPORT = "error-report"

    @classmethod
    def _missing_(cls, value: object) -> MessageType | None:
        if isinstance(value, str) and "_" in value:
            dashed = value.replace("_", "-")
            return next((member for member in cls if member.value == dashed), None)
        return None
