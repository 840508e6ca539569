"""A service with paths that write down what they are sent: everything that its tests share."""

from __future__ import annotations

from typing import Any

import msgspec

from devpipe.machines.config import ServerConfig
from devpipe.machines.protocols.service import Service
from devpipe.machines.protocols.serving import (
    Arrived,
    HandlerEnded,
    PathOpened,
    Pushed,
    RunHandler,
    SendTo,
    ServiceEffect,
    ServiceInput,
    StreamOpened,
)

__all__ = [
    "SESSION",
    "OTHER",
    "WALL",
    "World",
    "body",
    "one",
    "code",
    "run_of",
    "sent",
    "offsets",
    "REFUSED",
    "poll",
]

SESSION = "0123456789abcdef"
OTHER = "fedcba9876543210"
WALL = 1_000_000


class World:
    """A service, its clock, and what it asked for."""

    def __init__(self, **config: Any) -> None:
        self.types = {"echo", "slow"}
        self.service = Service(
            config=ServerConfig(**config), identity="server", epochs="epoch", types=self.types
        )
        self.now = 100.0
        self.count = 0

    def feed(self, item: ServiceInput) -> list[ServiceEffect]:
        self.service.receive(item, now=self.now, wall=WALL)
        return self.service.drain_effects()

    def wait(self, seconds: float) -> list[ServiceEffect]:
        self.now += seconds
        self.service.handle_deadline(now=self.now, wall=WALL)
        return self.service.drain_effects()

    def open(self, path: int, transport: str = "websocket", limit: int = 100_000) -> None:
        assert self.feed(PathOpened(path=path, transport=transport, max_message_bytes=limit)) == []

    def send(self, path: int, type: str, payload: object = None, **fields: Any) -> list[ServiceEffect]:
        envelope = {"type": type, "payload": payload, **fields}
        return self.feed(Arrived(path=path, data=msgspec.json.encode(envelope)))

    def hello(self, path: int, session: str = SESSION, **fields: Any) -> dict[str, Any]:
        self.count += 1
        payload = {"session": session, "nonce": "n", "protocol": 1, **fields}
        return one(self.send(path, "hello", payload, id=f"hello-{self.count}"))

    def socket(self, path: int, session: str = SESSION) -> None:
        self.open(path)
        assert self.hello(path, session)["success"] is True

    def post(self, path: int, type: str, payload: object = None, **fields: Any) -> list[ServiceEffect]:
        """One HTTP exchange of the session."""
        self.open(path, "http")
        return self.send(path, type, payload, **{"session": SESSION, "server": "server", **fields})

    def stream(self, path: int, *, session: str = SESSION, server: str = "server", seen: str = "") -> Any:
        return self.feed(
            StreamOpened(
                path=path, session=session, server=server, last_event_id=seen, max_message_bytes=100_000
            )
        )

    def push(self, n: int = 1, *, session: str | None = None) -> list[ServiceEffect]:
        return self.feed(Pushed(type="news", payload=b"%d" % n, session=session))

    def end(self, effects: list[ServiceEffect], payload: bytes = b"1") -> list[ServiceEffect]:
        return self.feed(HandlerEnded(run=run_of(effects).run, payload=payload))


def body(effect: ServiceEffect) -> dict[str, Any]:
    assert isinstance(effect, SendTo)
    decoded: dict[str, Any] = msgspec.json.decode(effect.data)
    return decoded


def one(effects: list[ServiceEffect]) -> dict[str, Any]:
    [effect] = effects
    return body(effect)


def code(effects: list[ServiceEffect]) -> tuple[str, str]:
    error = one(effects)["error"]
    assert one(effects)["success"] is False
    return error["code"], error["outcome"]


def run_of(effects: list[ServiceEffect]) -> RunHandler:
    [run] = [effect for effect in effects if isinstance(effect, RunHandler)]
    return run


def sent(effects: list[ServiceEffect]) -> list[tuple[int, str | None]]:
    return [(effect.path, effect.reply_to) for effect in effects if isinstance(effect, SendTo)]


def offsets(effects: list[ServiceEffect]) -> list[tuple[int, int]]:
    return [
        (effect.path, effect.position.offset)
        for effect in effects
        if isinstance(effect, SendTo) and effect.position is not None
    ]


REFUSED = "rejected"


def poll(world: World, path: int, **payload: Any) -> list[ServiceEffect]:
    world.count += 1
    return world.post(path, "poll", payload, id=f"poll-{world.count}")
