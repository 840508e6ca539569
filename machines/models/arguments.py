"""What a program says to ``ModelSelector``, made into what is sent; whatever is wrong is told by the caller's own names."""

from __future__ import annotations

from collections.abc import Mapping

from devpipe.machines.errors import ModelSelectionError
from devpipe.machines.models.rules import Rule, amount
from devpipe.machines.models.types import REPORT, REQUEST, ModelReport, ModelSelectionRequest, Said, decode

__all__ = ["REQUEST_ARGUMENTS", "check_age", "report_of", "request_of"]

#: The arguments of ``select`` with the fields that they become, and what each may be.
REQUEST_ARGUMENTS: Mapping[str, tuple[str, Rule]] = {
    "task_type": ("task_type", REQUEST["task_type"]),
    "quality": ("quality_requirement", REQUEST["quality_requirement"]),
    "max_cost_usd": ("max_cost", REQUEST["max_cost"]),
    "context_length": ("context_length", REQUEST["context_length"]),
    "providers": ("preferred_providers", REQUEST["preferred_providers"]),
    "timeout": ("timeout_ms", amount("seconds", above=True)),
}
_REPORT_ARGUMENTS: Mapping[str, tuple[str, Rule]] = {
    "model_id": ("model_id", REPORT["model_id"]),
    "task_type": ("task_type", REPORT["task_type"]),
    "success": ("success", REPORT["success"]),
    "response_time": ("response_time_ms", amount("seconds")),
    "cost_usd": ("cost", REPORT["cost"]),
    "satisfaction": ("satisfaction", REPORT["satisfaction"]),
}
_SECONDS = ("timeout", "response_time")
_AGE = amount("seconds")


def request_of(**arguments: object) -> ModelSelectionRequest:
    """The request that ``select`` was called for.

    Raises ``ModelSelectionError`` (``INVALID_REQUEST``) that names each wrong argument, its value and what is allowed.
    """
    said = _said(arguments, REQUEST_ARGUMENTS, needed=("task_type",))
    fields = _fields(arguments, REQUEST_ARGUMENTS)
    return decode(fields, ModelSelectionRequest, what="the request", said=said)


def check_age(max_age: float | None) -> None:
    """Raises ``ModelSelectionError`` (``INVALID_REQUEST``) if ``max_age`` is given, and is no age."""
    if max_age is not None and not _AGE.accepts(max_age):
        words = _AGE.refusal("max_age", max_age)
        raise ModelSelectionError(
            f"the request is not valid: {words}",
            code="INVALID_REQUEST",
            details={"wrong": {"max_age": words}},
            suggestions=(f"max_age: give {_AGE.allowed}",),
        )


def report_of(**arguments: object) -> ModelReport:
    """The report of one use of a model; raises as ``request_of`` does."""
    needed = ("model_id", "task_type", "success", "response_time")
    said = _said(arguments, _REPORT_ARGUMENTS, needed=needed)
    return decode(_fields(arguments, _REPORT_ARGUMENTS), ModelReport, what="the report", said=said)


def _said(
    arguments: Mapping[str, object], known: Mapping[str, tuple[str, Rule]], *, needed: tuple[str, ...]
) -> Said:
    return Said(values=arguments, rules={name: rule for name, (_, rule) in known.items()}, needed=needed)


def _fields(arguments: Mapping[str, object], known: Mapping[str, tuple[str, Rule]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in arguments.items():
        if name in _SECONDS and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = value * 1000
        fields[known[name][0]] = value
    return fields
