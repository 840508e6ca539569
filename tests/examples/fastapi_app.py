"""A FastAPI application with a devpipe server inside: its pages and its pipe share one process and one port.

uvicorn fastapi_app:app        or: hypercorn fastapi_app:app

A pipe reaches it at http://127.0.0.1:8000/pipe.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

import devpipe

server = devpipe.Server()


@server.handler("summarize")
async def summarize(message: devpipe.Message) -> dict[str, Any]:
    words = str(message.payload["text"]).split()
    return {"summary": " ".join(words[:5]), "words": len(words)}


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with server:  # a mounted application gets no lifespan of its own
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/pipe", server)


@app.post("/announce/{text}")
async def announce(text: str) -> dict[str, str]:
    """A page that tells every program on the pipe."""
    await server.push("announcement", {"text": text})
    return {"announced": text}


if __name__ == "__main__":
    sys.exit("usage: uvicorn fastapi_app:app")
