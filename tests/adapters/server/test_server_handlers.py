"""What a program registers, and what its clients and its log are told."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus

import devpipe
from devpipe.machines.protocols.sessions import session_name

pytestmark = pytest.mark.anyio

SESSION = "0123456789abcdef"
BOUND = 10.0
Serving = Callable[..., AbstractAsyncContextManager[Any]]
Make = Callable[..., devpipe.Server]


async def answer_of(served: Any, type: str, payload: object = None) -> dict[str, Any]:
    answer: dict[str, Any] = (await served.post(type, payload)).json()
    return answer


async def test_a_sync_handler_runs_in_a_thread_of_its_own(serving: Serving) -> None:
    server = devpipe.Server()
    gate = threading.Event()

    @server.handler("block")
    def block(message: devpipe.Message) -> str:
        assert gate.wait(BOUND)
        return threading.current_thread().name

    @server.handler("open")
    def open(message: devpipe.Message) -> None:
        gate.set()

    async with serving(server) as served, anyio.create_task_group() as tasks:
        tasks.start_soon(answer_of, served, "open")
        assert (await answer_of(served, "block"))["payload"] != threading.main_thread().name


async def test_what_can_be_called_is_a_handler(serving: Serving) -> None:
    server = devpipe.Server()

    class Asynchronous:
        async def __call__(self, message: devpipe.Message) -> str:
            return "async object"

    async def later() -> str:
        return "awaitable"

    server.handler("object")(Asynchronous())
    server.handler("lambda")(lambda message: later())
    server.handler("none")(lambda message: None)
    async with serving(server) as served:
        assert (await answer_of(served, "object"))["payload"] == "async object"
        assert (await answer_of(served, "lambda"))["payload"] == "awaitable"
        assert await answer_of(served, "none") | {"timestamp": 0} == {
            "type": "response",
            "timestamp": 0,
            "success": True,
            "payload": None,
        }


async def test_a_handler_sees_who_asked_what_and_how(serving: Serving) -> None:
    server = devpipe.Server()
    seen: list[devpipe.Message] = []
    server.handler("see")(seen.append)
    async with serving(server) as served, served.connected() as socket:
        await socket.hello(SESSION)
        await socket.call("see", {"a": 1}, id="x-1", timestamp=5, priority="critical")
    [message] = seen
    assert (message.id, message.type, message.payload, message.timestamp) == ("x-1", "see", {"a": 1}, 5)
    assert message.priority is devpipe.Priority.CRITICAL and message.transport == "websocket"
    assert message.session == session_name(SESSION) and SESSION not in repr(message)


async def test_a_handler_that_raises_is_an_id_to_the_client_and_a_traceback_in_the_log(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server = devpipe.Server()

    @server.handler("fail")
    async def fail(message: devpipe.Message) -> None:
        raise ValueError("secret words")

    async with serving(server) as served:
        error = (await answer_of(served, "fail"))["error"]
    assert error["code"] == "handler_error" and error["outcome"] == "executed"
    assert "secret" not in json.dumps(error)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert error["details"]["errorId"] in record.getMessage()
    assert record.exc_info is not None and "secret words" in str(record.exc_info[1])


async def test_a_handler_may_say_itself_what_is_wrong(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server = devpipe.Server()

    @server.handler("failed")
    async def failed(message: devpipe.Message) -> None:
        raise devpipe.HandlerError("no luck", code="unlucky", details={"n": 1})

    @server.handler("refused")
    def refused(message: devpipe.Message) -> None:
        raise devpipe.RequestRefused("not you", code="not_yours", details={1, 2})

    async with serving(server) as served:
        error = (await answer_of(served, "failed"))["error"]
        assert error == {
            "code": "unlucky",
            "message": "no luck",
            "details": {"n": 1},
            "outcome": "executed",
        }
        error = (await answer_of(served, "refused"))["error"]
        assert (error["code"], error["outcome"], error["details"]) == ("not_yours", "rejected", [1, 2])
    assert not caplog.records


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({"cheapest": "a"}, {"cheapest": "a", "suggestions": ["wait"]}),
        (None, {"suggestions": ["wait"]}),
        ([1], {"about": [1], "suggestions": ["wait"]}),
        ({"a": object}, {"about": "{'a': <class 'object'>}", "suggestions": ["wait"]}),
    ],
)
async def test_a_model_that_cannot_be_selected_is_told_with_code_details_and_suggestions(
    serving: Serving, caplog: pytest.LogCaptureFixture, details: object, told: dict[str, Any]
) -> None:
    server = devpipe.Server()

    @server.handler("select")
    async def select(message: devpipe.Message) -> None:
        raise devpipe.ModelSelectionError(
            "none", code="NO_HEALTHY_MODELS", details=details, suggestions=("wait",)
        )

    async with serving(server) as served:
        answer = await answer_of(served, "select")
    assert answer["success"] is False
    assert answer["error"] == {
        "code": "NO_HEALTHY_MODELS",
        "message": "none",
        "details": told,
        "outcome": "executed",
    }
    assert not caplog.records


async def test_a_result_that_is_no_json_is_the_handlers_error(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    server = devpipe.Server()
    server.handler("object")(lambda message: object())
    async with serving(server) as served:
        error = (await answer_of(served, "object"))["error"]
    assert error["code"] == "handler_error" and "no JSON" in error["message"]
    assert len(caplog.records) == 1


async def test_a_result_with_a_number_that_json_has_not_is_an_error_and_the_log_says_where(
    serving: Serving, make_server: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    server.handler("mean")(lambda message: {"mean": float("nan")})
    async with serving(server) as served:
        error = (await answer_of(served, "mean"))["error"]
    assert error["code"] == "handler_error" and "no JSON" in error["message"]
    assert "payload['mean'] is nan" in caplog.text and error["details"]["errorId"] in caplog.text


async def test_an_unknown_type_is_refused_by_name(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served:
        answer = await served.post("ech")
        error = answer.json()["error"]
        assert answer.status_code == 200 and error["outcome"] == "rejected"
        assert error["message"] == "no handler for 'ech'; there are: echo, wait"


def test_a_second_handler_for_a_type_is_a_mistake() -> None:
    server = devpipe.Server()
    server.handler("echo")(lambda message: 1)
    with pytest.raises(devpipe.ConfigurationError, match="'echo'"):
        server.handler("echo")(lambda message: 2)
    with pytest.raises(devpipe.InvalidMessage):
        server.handler("")


def test_a_handler_without_its_type_or_that_is_no_function_is_told_what_to_write() -> None:
    server: Any = devpipe.Server()
    with pytest.raises(devpipe.ConfigurationError, match=r'write @server\.handler\("echo"\)'):

        @server.handler
        async def echo(message: devpipe.Message) -> Any:
            return message.payload

    with pytest.raises(devpipe.ConfigurationError, match="handler for 'x' is not allowed: .*, not 5"):
        server.handler("x")(5)
    server.handler("x")(lambda message: 1)


def test_a_folder_that_is_no_path_is_named() -> None:
    folder: Any = 5
    words = "folder = 5 from argument is not allowed: give a path"
    with pytest.raises(devpipe.ConfigurationError, match=words):
        devpipe.Server(folder=folder)
    with pytest.raises(devpipe.ConfigurationError, match=words):
        devpipe.Server().configure(folder=folder)


async def test_a_handler_that_is_cancelled_by_what_it_waits_for_is_answered(serving: Serving) -> None:
    server = devpipe.Server()

    @server.handler("cancelled")
    async def cancelled(message: devpipe.Message) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()

    @server.handler("group")
    async def group(message: devpipe.Message) -> None:
        async with anyio.create_task_group():
            raise KeyError("inside")

    async with serving(server) as served:
        assert (await answer_of(served, "cancelled"))["success"] is True
        assert (await answer_of(served, "group"))["error"]["code"] == "handler_error"


async def test_a_cancel_ends_the_handler_that_runs(serving: Serving) -> None:
    server = devpipe.Server()
    started, ended = anyio.Event(), anyio.Event()

    @server.handler("long")
    async def long(message: devpipe.Message) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with serving(server) as served, served.connected() as socket:
        await socket.hello()
        await socket.send("long", id="x-1")
        with anyio.fail_after(BOUND):
            await started.wait()
            await socket.send("cancel", {"id": "x-1"}, id="x-2")
            error = (await socket.message())["error"]
            await ended.wait()
        assert error["code"] == "cancelled" and error["outcome"] == "executed"


async def test_a_cancel_right_behind_its_message_is_not_lost(serving: Serving) -> None:
    server = devpipe.Server()
    started = ended = 0

    @server.handler("long")
    async def long(message: devpipe.Message) -> None:
        nonlocal started, ended
        started += 1
        try:
            await anyio.sleep_forever()
        finally:
            ended += 1

    async with serving(server) as served, served.connected() as socket:
        await socket.hello()
        for number in range(1, 20, 2):
            await socket.send("long", id=f"x-{number}")
            await socket.send("cancel", {"id": f"x-{number}"}, id=f"x-{number + 1}")
            assert (await socket.message())["error"]["code"] == "cancelled"
        with anyio.fail_after(BOUND):
            while served.server._service.running:
                await anyio.lowlevel.checkpoint()
        assert started == ended


async def test_a_handler_that_hangs_is_ended(serving: Serving, make_server: Make) -> None:
    async with serving(make_server(config={"handler_timeout": 0.05})) as served:
        error = (await answer_of(served, "wait"))["error"]
        assert error["code"] == "handler_timeout" and error["outcome"] == "executed"


async def test_a_payload_that_breaks_when_it_is_read_starts_no_handler(
    serving: Serving, make_server: Make
) -> None:
    async with serving(make_server()) as served:
        body = b'{"type":"echo","payload":"\\ud800"}'
        answer = await served.http.post(
            "/devpipe/message", content=body, headers={"content-type": "application/json"}
        )
        assert answer.json()["error"]["code"] == "bad_message"
        assert answer.json()["error"]["outcome"] == "rejected" and served.server.executed == []


# --- what runs beside the handlers ------------------------------------------------------------------


async def test_what_is_attached_runs_before_anything_is_served_and_ends_with_the_server() -> None:
    server = devpipe.Server()
    lives: list[str] = []

    async def part(*, task_status: TaskStatus[None]) -> None:
        lives.append("starts")
        await anyio.lowlevel.checkpoint()
        lives.append("runs")
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            lives.append("ended")

    server.attach(part)
    for _ in range(2):
        async with server:
            assert lives == ["starts", "runs"]
            with pytest.raises(devpipe.ConfigurationError, match="runs already"):
                server.attach(part)
        assert lives == ["starts", "runs", "ended"]
        lives.clear()


async def test_what_is_attached_and_cannot_start_keeps_the_server_from_running() -> None:
    server = devpipe.Server()
    ended: list[str] = []

    async def first(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("first")

    async def second(*, task_status: TaskStatus[None]) -> None:
        raise devpipe.ConfigurationError("no")

    server.attach(first)
    server.attach(second)
    with pytest.raises(devpipe.ConfigurationError, match="no"):
        async with server:
            pass
    assert ended == ["first"] and not server.running


# --- pushes -----------------------------------------------------------------------------------------


async def test_a_handler_pushes_to_who_asked(serving: Serving) -> None:
    server = devpipe.Server()

    @server.handler("subscribe")
    async def subscribe(message: devpipe.Message) -> None:
        await server.push("news", 1, session=message.session)

    async with serving(server) as served, served.connected() as one, served.connected() as other:
        for socket, session in ((one, SESSION), (other, "f" * 16)):
            await socket.hello(session)
            await socket.call("attach", {"number": 1})
        await one.send("subscribe", id="x-1")
        assert {(await one.message())["type"] for _ in range(2)} == {"news", "response"}
        assert (await other.call("ping"))["type"] == "pong"


async def test_a_push_says_for_how_many_sessions_it_is(serving: Serving, make_server: Make) -> None:
    async with serving(make_server()) as served, served.connected() as one, served.connected() as other:
        push = served.server.push
        assert await push("news") == 0
        await one.hello(SESSION)
        await other.hello("f" * 16)
        assert await push("news") == 2
        assert await push("news", session=session_name(SESSION)) == 1
        assert await push("news", session="nosuch") == 0


async def test_a_push_that_fits_no_transport_is_refused(serving: Serving, make_server: Make) -> None:
    async with serving(make_server(config={"websocket_max_message_bytes": 2000})) as served:
        with pytest.raises(devpipe.MessageTooLarge) as caught:
            await served.server.push("news", "x" * 2000)
        assert caught.value.limit < 2000 < caught.value.size
        assert caught.value.outcome is devpipe.Outcome.NEVER_SENT
        with pytest.raises(devpipe.InvalidMessage):
            await served.server.push("news", object())


async def test_a_push_of_a_server_that_does_not_run_is_refused() -> None:
    with pytest.raises(devpipe.ConfigurationError, match="does not run"):
        await devpipe.Server().push("news", 1)


# --- the execution log ------------------------------------------------------------------------------


async def test_the_execution_log_has_a_line_before_each_handler_starts(
    serving: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "executions.jsonl"
    server = devpipe.Server(execution_log=file)
    seen: list[list[dict[str, Any]]] = []

    @server.handler("look")
    async def look(message: devpipe.Message) -> None:
        seen.append([json.loads(line) for line in file.read_text().splitlines()])

    async with serving(server) as served, served.connected() as socket:
        await socket.hello(SESSION)
        await socket.call("look", id="x-1")
        await socket.call("look", id="x-1")
        await socket.call("nope", id="x-2")
        identity = served.server.identity
    [[entry]] = seen
    assert entry.pop("started") > 1_700_000_000
    assert entry == {
        "server": identity,
        "id": "x-1",
        "session": session_name(SESSION),
        "type": "look",
        "transport": "websocket",
    }
    assert SESSION not in file.read_text() and file.stat().st_mode & 0o077 == 0


async def test_the_execution_log_may_be_a_function(serving: Serving) -> None:
    entries: list[dict[str, Any]] = []
    server = devpipe.Server(execution_log=entries.append)
    server.handler("echo")(lambda message: message.payload)
    async with serving(server) as served:
        await served.post("echo", 1, id="any")
    assert [entry["id"] for entry in entries] == ["any"]


async def test_what_cannot_be_logged_is_not_executed(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def full(entry: dict[str, Any]) -> None:
        raise OSError("no space left")

    executed: list[int] = []
    server = devpipe.Server(execution_log=full)
    server.handler("echo")(lambda message: executed.append(1))
    async with serving(server) as served:
        error = (await answer_of(served, "echo"))["error"]
    assert error["outcome"] == "rejected" and executed == [] and len(caplog.records) == 1
