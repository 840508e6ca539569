"""What the server chose before, by request: bounded in number and in age."""

from __future__ import annotations

from collections import OrderedDict

import msgspec
from msgspec import structs

from devpipe.machines.models.choice import ModelChoice, remembered
from devpipe.machines.models.types import ModelSelectionRequest

__all__ = ["ChoiceCache"]

_encode = msgspec.json.Encoder(order="sorted").encode


def _key(request: ModelSelectionRequest) -> bytes:
    """What is asked for; how long the asker waits for it makes it no other question."""
    if request.timeout_ms is not None:
        request = structs.replace(request, timeout_ms=None)
    return _encode(request)


class ChoiceCache:
    """Choices of the last ``duration`` seconds, ``limit`` of them at most; the one unused for longest goes first."""

    def __init__(self, *, duration: float, limit: int = 256) -> None:
        self.duration = duration
        self.era = 0  #: another one after each ``clear``: an answer that was asked for in an earlier one came too late
        self._limit = limit
        self._choices: OrderedDict[bytes, tuple[ModelChoice, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._choices)

    def put(self, request: ModelSelectionRequest, choice: ModelChoice, *, now: float) -> None:
        """Remember what the server has just chosen."""
        key = _key(request)
        self._choices[key] = (choice, now)
        self._choices.move_to_end(key)
        if len(self._choices) > self._limit:
            self._choices.popitem(last=False)

    def get(
        self,
        request: ModelSelectionRequest,
        *,
        now: float,
        max_age: float | None = None,
        stand_in_for: str | None = None,
    ) -> ModelChoice | None:
        """The choice for this request, whatever its timeout, marked ``cache`` with its age, or None if there is none young enough.

        ``max_age`` in seconds; no choice older than the cache's duration is ever given.
        """
        key = _key(request)
        found = self._choices.get(key)
        if found is None:
            return None
        choice, at = found
        age = now - at
        if age > self.duration:
            del self._choices[key]
            return None
        if max_age is not None and age > max_age:
            return None
        self._choices.move_to_end(key)
        return remembered(choice, age=age, stand_in_for=stand_in_for)

    def forget_model(self, model_id: str) -> None:
        """Forget every choice of this model: it went offline."""
        for key in [k for k, (choice, _) in self._choices.items() if choice.selected_model.id == model_id]:
            del self._choices[key]

    def clear(self) -> None:
        """Forget everything: what was asked for means something else now."""
        self.era += 1
        self._choices.clear()
