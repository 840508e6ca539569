"""A server that answers questions about models as a test wants it to."""

from __future__ import annotations

from typing import Any

import devpipe

__all__ = ["MODEL", "RESPONSE", "ModelPeer"]

MODEL: dict[str, Any] = {
    "id": "m-1",
    "name": "Model One",
    "provider": "acme",
    "capabilities": [{"type": "chat", "score": 0.9}],
    "cost_per_token": 0.000001,
    "max_tokens": 8000,
    "response_time_avg_ms": 700,
    "availability_score": 0.99,
    "quality_score": 0.8,
}
RESPONSE: dict[str, Any] = {
    "selected_model": MODEL,
    "reasoning": "it does chat well",
    "fallback_models": [],
    "estimated_cost": 0.001,
    "estimated_time_ms": 700,
    "selection_metadata": {
        "selection_time_ms": 1,
        "factors_considered": ["task"],
        "confidence_score": 0.9,
    },
}


class ModelPeer:
    """``answer`` is what a selection gets: a payload, or an exception that the handler raises."""

    def __init__(self) -> None:
        self.answer: Any = RESPONSE
        self.requests: list[dict[str, Any]] = []
        self.messages: list[devpipe.Message] = []
        self.health: list[dict[str, Any]] = [{"model_id": "m-1", "status": "healthy"}]
        self.preferences: dict[str, dict[str, Any]] = {}
        self.refuse_preferences: Exception | None = None
        self.reports: list[dict[str, Any]] = []

    def server(self, *, complete: bool = True, **options: Any) -> devpipe.Server:
        """A server with these answers; not ``complete``: it knows the selection and nothing else."""
        server = devpipe.Server(**options)

        @server.handler("model-selection-request")
        async def select(message: devpipe.Message) -> Any:
            self.messages.append(message)
            self.requests.append(message.payload)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        @server.handler("echo")
        async def echo(message: devpipe.Message) -> Any:
            return message.payload

        if not complete:
            return server

        @server.handler("health-check-request")
        async def health(message: devpipe.Message) -> Any:
            wanted = message.payload.get("model_id")
            return {"models": [h for h in self.health if wanted in (None, h["model_id"])]}

        @server.handler("performance-metrics-request")
        async def metrics(message: devpipe.Message) -> Any:
            return {
                "metrics": [
                    {
                        "model_id": "m-1",
                        "task_type": message.payload.get("task_type", "chat"),
                        "success_rate": 0.9,
                        "average_response_time": 800,
                    }
                ]
            }

        @server.handler("preferences-request")
        async def get(message: devpipe.Message) -> Any:
            return {"preferences": self.preferences.get(message.payload["user"], {})}

        @server.handler("preferences-update")
        async def update(message: devpipe.Message) -> Any:
            if self.refuse_preferences is not None:
                raise self.refuse_preferences
            kept = self.preferences.setdefault(message.payload.get("user", "default"), {})
            kept.update(message.payload.get("preferences", message.payload))
            return {"preferences": kept}

        @server.handler("status-update")
        async def report(message: devpipe.Message) -> Any:
            self.reports.append(message.payload)
            return {"accepted": True}

        return server
