"""Ctrl-C in a program with a blocking pipe: a real SIGINT to a process of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

#: What has not happened by then does not happen (seconds).
PATIENCE = 20.0

HEAD = """
    import contextlib, sys, threading
    import devpipe.blocking

    def say(*words):
        print(*words, flush=True)

    def in_flight(pipe, count):  # the server has it, or nobody
        while pipe.metrics()["in_flight"] != count:
            pass

    def interrupted(call):
        try:
            say("ready")
            call()
        except KeyboardInterrupt:
            say("interrupted")
        else:
            say("not interrupted")
"""


@contextlib.contextmanager
def program(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    code = textwrap.dedent(HEAD) + textwrap.dedent(text)
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt_and_read(process: subprocess.Popen[str], *lines: str) -> tuple[str, str]:
    """Wait for these lines, press Ctrl-C, and give all that comes after."""
    assert process.stdout is not None
    for line in lines:
        assert process.stdout.readline() == f"{line}\n"
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)


def test_a_send_that_waits_ends_at_once_is_cancelled_and_the_pipe_goes_on(served: Any, backend: str) -> None:
    text = """
        with devpipe.blocking.connect(sys.argv[1], backend=sys.argv[2]) as pipe:
            threading.Thread(target=lambda: (in_flight(pipe, 1), say("waits")), daemon=True).start()
            interrupted(lambda: pipe.send("wait", timeout=600))
            in_flight(pipe, 0)
            say("cancelled", pipe.send("echo", 1).payload)
    """
    with program(text, served.url, backend) as process:
        out, error = interrupt_and_read(process, "ready", "waits")
        assert (process.returncode, out, error) == (0, "interrupted\ncancelled 1\n", "")


def test_waiting_for_a_push_ends_at_once_and_no_push_is_lost(served: Any, backend: str) -> None:
    text = """
        with devpipe.blocking.connect(sys.argv[1], backend=sys.argv[2]) as pipe:
            pushes = pipe.receive()
            pipe.send("echo")

            def tell():
                while not pipe._run(pushes._turn.locked):
                    pass
                say("waits")

            threading.Thread(target=tell, daemon=True).start()
            interrupted(lambda: next(pushes))
            while pipe._run(pushes._turn.locked):
                pass
            say("cancelled")
            say(pushes.next(timeout=20).payload)
    """
    with program(text, served.url, backend) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "waits\n"]
        process.send_signal(signal.SIGINT)
        assert [process.stdout.readline() for _ in range(2)] == ["interrupted\n", "cancelled\n"]
        served.push("news", 7)
        assert process.communicate(timeout=PATIENCE) == ("7\n", "")
        assert process.returncode == 0


def test_connecting_ends_at_once_and_leaves_nothing_behind(backend: str) -> None:
    text = """
        import socket

        silent = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing

        def enter():
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with devpipe.blocking.connect(url, connect_timeout=600, backend=sys.argv[1]):
                pass

        def accept():
            connection, _ = silent.accept()
            with connection, contextlib.suppress(ConnectionError):  # however the other end hangs up
                connection.recv(1)
                say("dialled")
                while connection.recv(1000):
                    pass

        threading.Thread(target=accept, daemon=True, name="silent").start()
        interrupted(enter)
        for thread in threading.enumerate():
            if thread.name in ("devpipe", "silent"):
                thread.join(20)
        silent.close()
        say([thread.name for thread in threading.enumerate()])
    """
    with program(text, backend) as process:
        out, error = interrupt_and_read(process, "ready", "dialled")
        assert (process.returncode, out, error) == (0, "interrupted\n['MainThread']\n", "")


def test_the_block_is_left_and_the_pipe_closed_while_other_threads_wait(served: Any, backend: str) -> None:
    text = """
        def wait():
            try:
                pipe.send("wait", timeout=600)
            except devpipe.PipeClosed as error:
                say("closed", error.outcome.value)

        with devpipe.blocking.connect(sys.argv[1], backend=sys.argv[2]) as pipe:
            thread = threading.Thread(target=wait)
            thread.start()
            in_flight(pipe, 1)
            say("ready")
            for item in pipe.receive():
                say("a push")
    """
    with program(text, served.url, backend) as process:
        out, error = interrupt_and_read(process, "ready")
        assert out == "closed maybe_executed\n"
        assert error.splitlines()[-1] == "KeyboardInterrupt"
        assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("around", ["asyncio", "trio"])
def test_in_a_program_with_an_event_loop_its_own_interruption_ends_the_pipe(
    served: Any, backend: str, around: str
) -> None:
    text = """
        import anyio

        ended = threading.Event()

        def use():
            with devpipe.blocking.connect(sys.argv[1], backend=sys.argv[2]) as pipe:
                close.append(pipe.close)
                say("ready")
                try:
                    pipe.send("wait", timeout=600)
                except devpipe.PipeClosed:
                    ended.set()

        async def main():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, use)
                try:
                    await anyio.sleep_forever()
                finally:
                    close[0]()

        close = []
        try:
            anyio.run(main, backend=sys.argv[3])
        except KeyboardInterrupt:
            say("interrupted", ended.wait(20))
        except BaseExceptionGroup as group:
            say("interrupted" if group.split(KeyboardInterrupt)[1] is None else group, ended.wait(20))
    """
    with program(text, served.url, backend, around) as process:
        out, error = interrupt_and_read(process, "ready")
        assert (process.returncode, out, error) == (0, "interrupted True\n", "")


def test_leaving_that_does_not_end_is_ended_by_ctrl_c(backend: str) -> None:
    text = """
        import anyio

        class Stuck:
            async def __aenter__(self):
                return self

            async def __aexit__(self, *error):
                say("leaves")
                await anyio.sleep_forever()

        face = devpipe.blocking.Face(Stuck(), backend=sys.argv[1])
        face.__enter__()
        interrupted(face.close)
        say([thread.name for thread in threading.enumerate()])
    """
    with program(text, backend) as process:
        out, error = interrupt_and_read(process, "ready", "leaves")
        assert (process.returncode, out, error) == (0, "interrupted\n['MainThread']\n", "")
