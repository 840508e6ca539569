"""A plugin that lives for days inside an editor: it keeps one selector open, follows what is pushed, and never blocks.

python plugin.py http://127.0.0.1:8000 .devpipe
"""

from __future__ import annotations

import sys

import anyio

import devpipe


class Plugin:
    """Answers the editor from whatever is there: a server, its last answer, or the static table."""

    def __init__(self, server: str, folder: str) -> None:
        self.models = devpipe.ModelSelector(server, folder=folder, max_age=30)

    async def run(self, questions: list[str]) -> None:
        async with self.models as models:
            models.on("transport_changed", lambda event: print(f"now over {event.to} ({event.reason.value})"))
            models.on("connected", lambda event: print("the server is there"))
            models.on("disconnected", lambda event: print(f"the server is gone: {event.reason}"))
            models.on(
                "health_updated", lambda event: print(f"{event.health.model_id}: {event.health.status}")
            )
            for question in questions:
                await self.answer(models, question)

    async def answer(self, models: devpipe.ModelSelector, task: str) -> None:
        try:
            choice = await models.select(task)  # type: ignore[arg-type]  # a wrong task is answered below
        except devpipe.ModelSelectionError as error:
            print(f"{task}: {error.code}: {error}", *error.suggestions, sep="\n  ")
            return
        note = "" if choice.live else f" ({choice.source})"
        print(f"{task}: {choice.selected_model.name}{note}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python plugin.py SERVER FOLDER")
    anyio.run(Plugin(sys.argv[1], sys.argv[2]).run, ["chat", "chat", "code-generation", "poetry"])
