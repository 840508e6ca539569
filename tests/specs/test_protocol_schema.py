"""What our code says on the wire, held against the schemas of the protocol page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]  # it has no types
from referencing import Registry, Resource

import devpipe
from devpipe.machines.protocols.folder import beat_data, push_name, request_name, response_name

SCHEMAS = {
    file.name: json.loads(file.read_text())
    for file in (files("devpipe.specs") / "schema").iterdir()
    if file.name.endswith(".json")
}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
SESSION = "0123456789abcdef"
BOUND = 20.0


def check(value: object, schema: str) -> None:
    """``schema``: a file, or ``file#part``."""
    name, _, part = schema.partition("#")
    ref = f"{name}.json" + (f"#/$defs/{part}" if part else "")
    Draft202012Validator({"$ref": ref}, registry=REGISTRY).validate(value)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_each_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_the_page_says_where_the_schemas_are() -> None:
    assert "(schema/)" in (Path(__file__).parents[2] / "specs" / "protocol.md").read_text()


PUSH = {"type": "x", "timestamp": 1, "epoch": "e", "offset": 1, "payload": None}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("request", {"id": "x-1"}),
        ("request", {"type": "x", "id": "../x"}),
        ("request", {"type": "x", "session": SESSION, "id": "x-1"}),
        ("request", {"type": "x", "session": SESSION, "server": "s", "id": "x"}),
        ("request", {"type": "x", "session": "short", "server": "s", "id": "x-1"}),
        ("request", {"type": "x", "priority": "urgent"}),
        ("request", {"type": "x", "expiresAt": "tomorrow"}),
        ("reply", {"type": "response", "timestamp": 1, "success": False}),
        (
            "reply",
            {"type": "response", "timestamp": 1, "success": True, "error": {"code": "x", "message": ""}},
        ),
        ("reply", {"type": "response", "timestamp": 1, "success": False, "error": {"code": "x"}}),
        ("reply", {"type": "accepted", "timestamp": 1}),
        ("error", {"code": "x", "message": "", "outcome": "maybe"}),
        ("push", {**PUSH, "offset": 0}),
        ("push", {**PUSH, "replyTo": "x-1"}),
        ("hello#request", {"protocol": 2, "session": SESSION, "resume": False, "nonce": ""}),
        ("hello#answer", {"protocol": 1, "server": "s", "nonce": "", "time": 1}),
        ("hello#unknown", {"protocol": 1, "server": "s", "nonce": "", "time": 1, "session": SESSION}),
        ("control#attach", {"number": -1}),
        ("control#pushed", {}),
        ("control#cancel", {"id": "x"}),
        ("control#polled", {"messages": [{"type": 1}]}),
        ("headers#stream", {"devpipe-session": SESSION}),
        ("headers", {"last-event-id": "e:x"}),
        ("paths", {"message": "GET /message"}),
        ("folder#request", "requests/request_../x.json"),
        ("folder#push", "clients/c/push_x.json"),
        ("folder#beat", {"server": "s"}),
    ],
)
def test_what_is_wrong_is_refused_by_its_schema(schema: str, value: object) -> None:
    with pytest.raises(ValidationError):
        check(value, schema)


def test_folder_names_and_beats_are_as_the_page_says() -> None:
    check("requests/" + request_name("abc-1"), "folder#request")
    check("claims/" + request_name("abc-1"), "folder#claim")
    check("clients/abc/" + response_name("abc-1"), "folder#response")
    check("clients/abc/" + push_name(17), "folder#push")
    check(json.loads(beat_data("server", 3)), "folder#beat")


class Recorder(devpipe.Server):
    """Writes down what comes and goes, over every transport."""

    def __init__(self, **options: Any) -> None:
        super().__init__(devpipe.ServerConfig(hold=0.3, accept_after=0.05), **options)
        self.requests: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.transports: set[str] = set()

    def receive(self, data: bytes, path: Any) -> None:
        self.requests.append(json.loads(data))
        self.transports.add(path.transport)
        original = path.send

        def send(data: bytes, **facts: Any) -> None:
            self.answers.append(json.loads(data))
            original(data, **facts)

        if "send" not in vars(path):
            path.send = send
        super().receive(data, path)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            self.headers.append((scope["path"], headers))
        await super().__call__(scope, receive, send)


ANSWERS = {
    "health_pong": "control#pong",
    "pong": "control#pong",
    "attach": "control#attached",
    "health_push": "control#pushed",
    "poll": "control#polled",
}


def parts(requests: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each control message, and the schema of its payload."""
    words = {
        "hello": "hello#request",
        "ping": "control#probe",
        "health_ping": "control#probe",
        "health_push": "control#probe",
    }
    words |= {"attach": "control#attach", "poll": "control#poll", "cancel": "control#cancel"}
    for request in requests:
        if request["type"] in words:
            yield request, words[request["type"]]


@pytest.mark.anyio
async def test_all_that_a_pipe_and_a_server_say_is_as_the_schemas_have_it(tmp_path: Path) -> None:
    server = Recorder(folder=tmp_path / "folder", token="secret")
    listening = anyio.Event()
    urls: list[str] = []

    @server.handler("echo")
    async def echo(message: devpipe.Message) -> Any:
        return message.payload

    @server.handler("slow")
    async def slow(message: devpipe.Message) -> None:
        await anyio.sleep(0.5)

    @server.handler("fail")
    async def fail(message: devpipe.Message) -> None:
        raise devpipe.HandlerError("no", code="no", details=[1])

    def told(url: str) -> None:
        urls.append(url)
        listening.set()

    async def serve() -> None:
        await server.serve(port=0, listening=told)

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await listening.wait()
            async with devpipe.connect(urls[0], folder=str(tmp_path / "folder"), token="secret") as pipe:
                pushes = pipe.receive()
                for transport in ("websocket", "http", "folder"):
                    pipe.use(transport)
                    await pipe.send("echo", {"over": transport}, timeout=5, priority="high")
                    await pipe.send("slow", timeout=5)
                    for type in ("fail", "nope"):
                        with pytest.raises(devpipe.DevPipeError):
                            await pipe.send(type, timeout=5)
                    with pytest.raises(TimeoutError):
                        await pipe.send("slow", timeout=0.1)
                    await server.push("news", {"over": transport})
                    assert (await anext(pushes)).payload == {"over": transport}
                    await pipe.send("health_push", {"nonce": transport}, timeout=5)
                    assert (await anext(pushes)).payload == {"nonce": transport}
            tasks.cancel_scope.cancel()

    assert server.transports >= {"websocket", "http", "folder"}
    for request in server.requests:
        check(request, "request")
    controls = list(parts(server.requests))
    for request, schema in controls:
        check(request["payload"], schema)
    assert {"hello", "attach", "health_push"} <= {request["type"] for request, _ in controls}
    types = {request.get("id"): request["type"] for request in server.requests}
    for answer in server.answers:
        if "offset" in answer:
            check(answer, "push")
            continue
        check(answer, "reply")
        asked = types.get(answer.get("replyTo"))
        if asked == "hello":
            check(answer["payload"], "hello#answer" if answer["success"] else "hello#unknown")
        elif answer["type"] in ANSWERS:
            check(answer["payload"], ANSWERS[answer["type"]])
        elif asked in ANSWERS and answer["success"]:
            check(answer["payload"], ANSWERS[asked])
    assert any("offset" in answer for answer in server.answers)
    assert {answer["type"] for answer in server.answers} >= {"hello", "response", "accepted"}
    for path, headers in server.headers:
        check(headers, "headers#stream" if path.endswith("/stream") else "headers#message")
    assert {path for path, _ in server.headers} >= {"/devpipe/message", "/devpipe/stream"}
