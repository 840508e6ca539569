"""The profile ``vaultpilot`` against peers written with nothing of ours: Node's ``fetch`` and ``fs``, and ``ws``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support import World, make_server, serving

import devpipe
from devpipe.adapters.client.pipe import Pipe

PEERS = Path(__file__).parent / "peers"
NODE = shutil.which("node")
#: Nothing here takes so long unless it hangs (seconds).
BOUND = 30.0

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        NODE is None or not (PEERS / "node_modules" / "ws").is_dir(),
        reason="needs node and ws (npm install in tests/end_to_end/peers)",
    ),
]

#: The three transports of a deployed server.
WAYS = ["websocket", "http", "folder"]


class Peer:
    """A process of Node that says one line of JSON after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._heard: list[dict[str, Any]] = []

    def say(self, **document: Any) -> None:
        self._stdin.write(json.dumps(document) + "\n")
        self._stdin.flush()

    async def hear(self, **wanted: Any) -> dict[str, Any]:
        """The next document with these fields; others wait for whoever wants them."""
        with anyio.fail_after(BOUND):
            while True:
                for document in self._heard:
                    if all(document.get(key) == value for key, value in wanted.items()):
                        self._heard.remove(document)
                        return document
                line = await anyio.to_thread.run_sync(self._stdout.readline, abandon_on_cancel=True)
                assert line, "the peer has ended"
                self._heard.append(json.loads(line))

    async def ask(self, via: str, type: str, payload: object = None) -> dict[str, Any]:
        """Let it send a message; what it was answered."""
        self.say(via=via, type=type, payload=payload)
        return await self.hear(via=via, type=type)


@contextmanager
def node(script: str, *arguments: str) -> Iterator[Peer]:
    assert NODE is not None  # or the test was skipped
    process = subprocess.Popen(
        [NODE, str(PEERS / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Peer(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None  # as above
            try:
                stream.close()
            except BrokenPipeError:
                pass  # what it had not read of a line


# --- our client, their server ---------------------------------------------------------------------------


@asynccontextmanager
async def deployed_server(
    *names: str, option: str = "", settings: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Pipe, Path]]:
    """A pipe over these transports to a deployed server, and its folder."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / ".devpipe"
        folder.mkdir(mode=0o700)
        with node("vaultpilot_server.mjs", str(folder), option) as peer:
            port = json.loads(peer.process.stdout.readline())["port"]  # type: ignore[union-attr]  # it is a pipe
            pipe = devpipe.connect(
                f"http://127.0.0.1:{port}" if set(names) - {"folder"} else None,
                profile="vaultpilot",
                folder=folder if "folder" in names else None,
                transports=names,
                settings=settings,
            )
            with anyio.fail_after(BOUND):
                async with pipe:
                    yield pipe, folder


@pytest.mark.parametrize("way", WAYS)
async def test_a_deployed_server_answers_our_client(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        for value in (None, 1, "é", {"text": "x" * 1000}, [1, {"a": None}]):
            reply = await pipe.send("echo", value, timeout=10)
            assert reply.payload == value and reply.transport == way


@pytest.mark.parametrize("way", WAYS)
async def test_many_calls_at_once_each_get_their_own_reply(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        answers: dict[int, Any] = {}

        async def ask(n: int) -> None:
            answers[n] = (await pipe.send("echo", n, timeout=20)).payload

        async with anyio.create_task_group() as tasks:
            for n in range(30):
                tasks.start_soon(ask, n)
        assert answers == {n: n for n in range(30)}


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_of_a_deployed_server_keeps_its_code_details_and_suggestions(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        with pytest.raises(devpipe.HandlerError, match="too dear") as caught:
            await pipe.send("fail", timeout=10)
        assert caught.value.code == "BUDGET_EXCEEDED"
        assert caught.value.details == {"least": 3, "suggestions": ["pay more"]}
        with pytest.raises(devpipe.HandlerError, match="no nonsense here"):
            await pipe.send("nonsense", timeout=10)


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_says_who_sends_it_to_whom_and_names_no_session(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        request = (await pipe.send("envelope", 5, timeout=10, priority="high")).payload
        assert isinstance(request.pop("id"), str) and isinstance(request.pop("timestamp"), int)
        assert request == {
            "type": "envelope", "payload": 5, "priority": "high",
            "sender": "vaultpilot-plugin", "recipient": "evoagentx-backend",
        }  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_is_selected_by_a_deployed_server(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        async with devpipe.ModelSelector(pipe=pipe) as models:
            choice = await models.select("chat", max_cost_usd=0.1)
            assert (choice.selected_model.id, choice.source) == ("deployed-1", "server")
            assert choice.reasoning == "chosen for chat"
            assert (await models.model_health())[0].status == "healthy"
            assert "sessions: no" in str(models.explain())


async def test_the_first_servers_get_iso_times_and_an_expiry() -> None:
    async with deployed_server("http", settings={"peer.iso_timestamps": True}) as (pipe, _):
        request = (await pipe.send("envelope", timeout=10)).payload
        assert request["timestamp"].endswith("Z") and request["timestamp"] < request["expires_at"]


@pytest.mark.parametrize("type", ["nested", "bare", "late"])
async def test_every_form_of_an_answer_over_http_is_the_reply(type: str) -> None:
    async with deployed_server("http") as (pipe, _):
        assert (await pipe.send(type, {"n": 1}, timeout=10)).payload == {"n": 1}


@pytest.mark.parametrize("way", ["websocket", "http"])
async def test_what_a_deployed_server_pushes_is_heard_once_also_with_a_standby(way: str) -> None:
    async with deployed_server("websocket", "http") as (pipe, _):
        pipe.use(way)
        while pipe.active != way or not all(t.ready for t in pipe.transports):
            await anyio.lowlevel.checkpoint()
        with pipe.receive() as pushes:
            heard: list[Any] = []
            for n in range(3):
                await pipe.send("push", n, timeout=10)
            async for message in pushes:
                if isinstance(message, devpipe.Message):
                    assert message.type == "health_update" and message.timestamp > 1_700_000_000_000
                    heard.append(message.payload)
                    if heard[-1] == 2:
                        break
            await pipe.send("echo", timeout=10)
            await pipe.send("push", "last", timeout=10)
            async for message in pushes:
                assert isinstance(message, devpipe.Message)
                heard.append(message.payload)
                if heard[-1] == "last":
                    break
        assert heard == [0, 1, 2, "last"]


async def test_without_sessions_a_change_of_the_transport_is_a_gap() -> None:
    async with deployed_server("websocket", "http") as (pipe, _):
        with pipe.receive() as pushes:
            with pytest.raises(devpipe.TransportError):
                await pipe.send("cut", timeout=10)
            gap = await anext(aiter(pushes))
            assert isinstance(gap, devpipe.Gap) and gap.after is gap.before is None


async def test_a_stream_that_had_to_be_opened_again_is_a_gap_too() -> None:
    async with deployed_server("http", settings={"lifecycle.backoff_initial": 0.1}) as (pipe, _):
        with pipe.receive() as pushes:
            await pipe.send("hangup", timeout=10)
            gap = await anext(aiter(pushes))
            assert isinstance(gap, devpipe.Gap) and "opened again" in gap.reason
            await pipe.send("push", 1, timeout=10)
            message = await anext(aiter(pushes))
            assert isinstance(message, devpipe.Message) and message.payload == 1


async def test_a_server_without_a_stream_is_used_without_and_explain_says_so() -> None:
    async with deployed_server("http", option="no-stream") as (pipe, _):
        assert (await pipe.send("echo", 1, timeout=10)).payload == 1
        assert "no stream: status 404" in str(pipe.explain())


@pytest.mark.parametrize("way", WAYS)
async def test_one_transport_alone_speaks_to_a_deployed_server_too(way: str) -> None:
    async with deployed_server(way) as (pipe, folder):
        url = pipe.config.server_url
        here = folder if way == "folder" else None
        async with devpipe.connect_single(way, url, profile="vaultpilot", folder=here) as single:
            await single.connect()
            assert (await single.send("echo", 1, timeout=10)).payload == 1
            seen = (await single.send("seen", timeout=10)).payload["seen"]
            assert "attach" not in seen and "hello" not in seen


async def test_a_connection_begins_with_a_handshake_and_pings_of_the_server_are_answered() -> None:
    async with deployed_server("websocket") as (pipe, _):
        (handshake,) = (await pipe.send("seen", timeout=10)).payload["handshakes"]
        assert set(handshake) == {"sessionId", "client", "version", "capabilities"}
        pong = await pipe.send("pinged", timeout=10)
        assert pong.payload == "msg-1751760000000-x8f3k2a9q"


@pytest.mark.parametrize("way", WAYS)
async def test_a_probe_is_answered_by_whoever_answers_anything(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        (transport,) = pipe.transports
        result = await transport.health_check()
        assert result.success, result.error


async def test_a_call_on_a_lost_connection_is_never_sent_again_and_explain_says_why() -> None:
    async with deployed_server("websocket", "http") as (pipe, _):
        while not all(t.ready for t in pipe.transports):
            await anyio.lowlevel.checkpoint()
        with pytest.raises(devpipe.TransportError) as caught:
            await pipe.send("cut", timeout=10)
        assert caught.value.outcome is devpipe.Outcome.MAYBE_EXECUTED
        assert not caught.value.safe_to_resend
        assert (await pipe.send("seen", timeout=10)).payload["seen"]["cut"] == 1
        explanation = pipe.explain()
        assert not explanation.session and explanation.profile == "vaultpilot"
        assert "the peer has no sessions" in str(explanation)


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_that_is_never_answered_may_have_been_executed(way: str) -> None:
    async with deployed_server(way) as (pipe, _):
        with pytest.raises(devpipe.DevPipeError) as caught:
            await pipe.send("silent", timeout=1.5)
        assert caught.value.outcome is devpipe.Outcome.MAYBE_EXECUTED
        assert (await pipe.send("seen", timeout=10)).payload["seen"]["silent"] == 1


async def test_our_client_leaves_the_flat_folder_as_it_was() -> None:
    async with deployed_server("folder") as (pipe, folder):
        for n in range(5):
            await pipe.send("echo", n, timeout=10)
        with pytest.raises(devpipe.DeadlineExceeded):
            await pipe.send("silent", timeout=0.3)
        assert list(folder.iterdir()) == []


# --- our server, their client ----------------------------------------------------------------------------


@asynccontextmanager
async def deployed_client(**options: Any) -> AsyncIterator[tuple[World, Peer]]:
    """Our server in the profile, and a deployed client of it."""
    server = make_server(profile="vaultpilot", **options)

    @server.handler("model-selection-request")
    async def select(message: devpipe.Message) -> Any:
        return {"selected_model": message.payload["task_type"]}

    @server.handler("slow")
    async def slow(message: devpipe.Message) -> Any:
        await anyio.sleep(message.payload)
        return "done"

    with anyio.fail_after(BOUND):
        async with serving(server) as world:
            with node("vaultpilot_client.mjs", world.url, str(world.folder)) as peer:
                yield world, peer


@pytest.mark.parametrize("via", ["http", "first", "websocket", "old-websocket", "folder"])
async def test_a_deployed_client_is_answered(via: str) -> None:
    async with deployed_client() as (_, peer):
        payload = {"text": "é", "n": [1, None]}
        reply = await peer.ask(via, "echo", payload)
        assert (reply.get("broken"), reply["success"], reply["payload"]) == (None, True, payload)


@pytest.mark.parametrize("via", ["http", "first", "websocket", "folder"])
async def test_both_spellings_of_a_type_reach_the_same_handler(via: str) -> None:
    async with deployed_client() as (_, peer):
        for type in ("model_selection_request", "model-selection-request"):
            reply = await peer.ask(via, type, {"task_type": "chat"})
            assert reply["payload"] == {"selected_model": "chat"}


@pytest.mark.parametrize("via", ["http", "websocket", "folder"])
async def test_a_deployed_client_is_told_what_went_wrong(via: str) -> None:
    async with deployed_client() as (_, peer):
        reply = await peer.ask(via, "refuse")
        assert reply["success"] is False
        assert (reply["error"]["code"], reply["error"]["details"]) == ("BUDGET_EXCEEDED", {"least": 3})
        reply = await peer.ask(via, "nonsense")
        assert reply["success"] is False and reply["error"]["code"] == "unknown_type"


async def test_a_client_that_looks_at_nothing_but_the_status_can_be_told_of_errors_too() -> None:
    async with deployed_client(config=devpipe.ServerConfig(error_status=500)) as (world, peer):
        assert "HTTP 500" in (await peer.ask("http", "refuse"))["broken"]
        assert (await peer.ask("http", "echo", 1))["payload"] == 1
        for settings in ({"profile": "vaultpilot"}, {"http.prefix": "/api/v1/devpipe"}):
            async with devpipe.connect(world.url, transports=["http"], settings=settings) as pipe:
                with pytest.raises(devpipe.HandlerError) as caught:
                    await pipe.send("refuse", timeout=10)
                assert caught.value.code == "BUDGET_EXCEEDED"


@pytest.mark.parametrize("via", ["websocket", "stream"])
async def test_a_deployed_client_hears_what_is_pushed_to_all(via: str) -> None:
    async with deployed_client() as (world, peer):
        if via == "stream":
            peer.say(via="stream")
            await peer.hear(open="stream")
        else:
            await peer.ask(via, "ping")
        for n in range(3):
            await world.server.push("health_update", {"n": n})
        for n in range(3):
            push = (await peer.hear(on=via))["push"]
            assert (push["type"], push["payload"]) == ("health_update", {"n": n})
            assert "epoch" not in push and "offset" not in push


async def test_a_late_reply_over_http_comes_on_the_stream_under_its_id() -> None:
    async with deployed_client(config=devpipe.ServerConfig(hold=0.3)) as (_, peer):
        peer.say(via="stream")
        await peer.hear(open="stream")
        reply = await peer.ask("http", "slow", 1.0)
        assert (reply["payload"], reply["late"]) == ("done", True)


async def test_without_a_stream_a_reply_over_http_is_held_for_as_long_as_it_takes() -> None:
    async with deployed_client(config=devpipe.ServerConfig(hold=0.3)) as (_, peer):
        reply = await peer.ask("http", "slow", 1.0)
        assert (reply["payload"], reply["late"]) == ("done", False)


async def test_a_call_that_takes_long_over_a_socket_has_one_answer() -> None:
    async with deployed_client(config=devpipe.ServerConfig(accept_after=0.1)) as (_, peer):
        assert (await peer.ask("websocket", "slow", 0.5))["payload"] == "done"


async def test_pings_of_a_deployed_client_are_answered_in_its_own_words() -> None:
    async with deployed_client() as (_, peer):
        assert (await peer.ask("websocket", "ping"))["payload"] == "pong"
        assert (await peer.ask("websocket", "health_ping"))["payload"] == "health_pong"


async def test_health_is_told_on_both_paths() -> None:
    async with deployed_client() as (_, peer):
        peer.say(via="health")
        answers = (await peer.hear(via="health"))["payload"]
        assert answers == {"/api/v1/devpipe/health": 200, "/status": 200}


async def test_a_deployed_client_and_our_own_may_share_a_server() -> None:
    async with deployed_client() as (world, peer):
        async with devpipe.connect(world.url, profile="vaultpilot", folder=world.folder) as pipe:
            assert (await pipe.send("echo", 1, timeout=10)).payload == 1
            for way in WAYS:
                pipe.use(way)
                while pipe.active != way:
                    await anyio.lowlevel.checkpoint()
                assert (await pipe.send("echo", way, timeout=10)).payload == way
            assert (await peer.ask("http", "echo", 2))["payload"] == 2


async def test_our_client_in_the_profile_gets_late_replies_of_our_server_too() -> None:
    async with deployed_client(config=devpipe.ServerConfig(hold=0.3)) as (world, _):
        async with devpipe.connect(world.url, profile="vaultpilot", transports=["http"]) as pipe:
            assert (await pipe.send("slow", 1.0, timeout=10)).payload == "done"


async def test_a_pipe_with_sessions_is_served_in_the_profile_as_ever() -> None:
    async with deployed_client() as (world, _):
        settings = {"http.prefix": "/api/v1/devpipe", "websocket.path": "/ws/agent"}
        async with devpipe.connect(world.url, settings=settings) as pipe:
            with pipe.receive() as pushes:
                assert (await pipe.send("who", timeout=10)).payload["session"] is not None
                assert pipe.explain().session
                await world.server.push("news", 1)
                message = await anext(aiter(pushes))
            assert isinstance(message, devpipe.Message)
            assert message.position is not None and message.payload == 1


# --- the command line ------------------------------------------------------------------------------------------


async def test_the_command_line_serves_deployed_clients_and_speaks_to_deployed_servers() -> None:
    with tempfile.TemporaryDirectory() as name, anyio.fail_after(BOUND):
        folder = Path(name) / "pipe"
        command = [sys.executable, "-m", "devpipe.cli"]
        serve = ["serve", "--port", "0", "--folder", str(folder), "--profile", "vaultpilot"]
        process = subprocess.Popen([*command, *serve], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None  # it is a pipe
        try:
            url = "http://127.0.0.1:" + process.stdout.readline().split("127.0.0.1:")[1].split()[0]
            with node("vaultpilot_client.mjs", url, str(folder)) as peer:
                for via in ("http", "websocket", "folder"):
                    assert (await peer.ask(via, "echo", via))["payload"] == via
                    for type in ("model-selection-request", "model_selection_request"):
                        chosen = (await peer.ask(via, type, {"task_type": "chat"}))["payload"]
                        assert chosen["selected_model"]["id"]
            ask = ["send", "echo", "5", "--server", url, "--profile", "vaultpilot", "--via", "http"]
            answer = await anyio.run_process([*command, *ask])
            assert answer.stdout.strip() == b"5"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
