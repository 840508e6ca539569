"""The server behind ``devpipe serve`` when no module is named: ``echo`` and a first ``model-selection-request``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import devpipe

__all__ = ["builtin_server"]

#: A cheap general model and a stronger one: enough to answer with until a catalogue is served.
_MODELS = {
    "general": {
        "id": "general-small",
        "name": "General, small",
        "provider": "built-in",
        "max_tokens": 16_000,
    },
    "strong": {
        "id": "general-large",
        "name": "General, large",
        "provider": "built-in",
        "max_tokens": 128_000,
    },
}
_STRONG_TASKS = frozenset({"code-generation", "analysis", "planning", "workflow-execution"})


def builtin_server(
    *, token: str | None, folder: Path | None, execution_log: Path | None, profile: str | None = None
) -> devpipe.Server:
    """A server that echoes, and names a model for a task."""
    server = devpipe.Server(profile=profile, token=token, folder=folder, execution_log=execution_log)

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    @server.handler("model-selection-request")
    async def select(message: devpipe.Message) -> Any:
        payload: Any = message.payload
        request = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}
        task = request.get("task_type")
        if not isinstance(task, str):
            raise devpipe.RequestRefused("task_type is missing or no text", code="INVALID_REQUEST")
        kind = (
            "strong" if task in _STRONG_TASKS or request.get("quality_requirement") == "high" else "general"
        )
        return {
            "selected_model": _MODELS[kind],
            "reasoning": f"{task} is answered with the {kind} built-in model",
            "fallback_models": [model for name, model in _MODELS.items() if name != kind],
        }

    return server
