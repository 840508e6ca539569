"""One question to the server and its end, in the words of model selection."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import Struct

from devpipe.adapters.client.pipe import Pipe
from devpipe.adapters.models.patience import Patience
from devpipe.machines.errors import DevPipeError, ModelSelectionError, Outcome, PipeClosed
from devpipe.machines.message import Message, Priority
from devpipe.machines.models.context import SelectionContext
from devpipe.machines.models.types import decode
from devpipe.machines.models.verdicts import as_selection_error

__all__ = ["Asking", "read_answer"]


T = TypeVar("T", bound=Struct)


def read_answer(reply: Message, kind: type[T]) -> T:
    """The reply as this type; raises ``ModelSelectionError`` (``SERVICE_UNAVAILABLE``) that names what does not fit."""
    try:
        payload = reply.payload
    except DevPipeError as error:  # the bytes are no JSON
        raise as_selection_error(error) from error
    return decode(payload, kind, what="the server's answer", code="SERVICE_UNAVAILABLE")


class Asking:
    """Sends over the pipe; knows since when nothing can be reached."""

    def __init__(self, pipe: Pipe, *, patience: float) -> None:
        self._pipe = pipe
        self.patience = Patience(patience, first_seconds=pipe.config.connect_timeout)

    async def ask(
        self,
        type: str,
        payload: dict[str, Any],
        context: SelectionContext | None = None,
        *,
        patient: bool = True,
    ) -> Message:
        """The reply; not ``patient``: do not wait the whole timeout while nothing can be reached, something will stand in.

        Raises ``ModelSelectionError``, and ``PipeClosed``.
        """
        if context is None:
            timeout, priority, realtime = self._pipe.config.timeout, Priority.NORMAL, False
        else:
            timeout, priority = min(context.timeout, self._pipe.config.timeout), context.priority
            realtime = context.realtime and self._has_realtime()
        try:
            if patient:
                return await self._pipe.send(
                    type, payload, timeout=timeout, priority=priority, realtime=realtime
                )
            if not self.patience.over:
                with self.patience.waiting():
                    return await self._pipe.send(
                        type, payload, timeout=timeout, priority=priority, realtime=realtime
                    )
        except PipeClosed:  # the program is leaving: that is no failure of the server
            raise
        except DevPipeError as error:
            raise as_selection_error(error) from error
        raise ModelSelectionError(
            f"no transport reaches the server ({self.why()})",
            code="SERVICE_UNAVAILABLE",
            outcome=Outcome.MAYBE_EXECUTED,
        )

    def why(self) -> str:
        """The last failure of each transport, in one line."""
        transports = self._pipe.explain().transports
        return "; ".join(f"{t.name}: {t.last_failure or t.state}" for t in transports)

    def _has_realtime(self) -> bool:
        """A person who waits is better served over a folder than not at all."""
        return any(t.ready and t.capabilities.supports_realtime for t in self._pipe.transports)
