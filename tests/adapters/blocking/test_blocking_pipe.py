"""The blocking pipe against a real server: messages, pushes, listeners, threads, and its end."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import Queue
from typing import Any, TypeVar

import anyio
import pytest

import devpipe
from devpipe.blocking import Face

T = TypeVar("T")
#: What has not happened by then does not happen (seconds).
PATIENCE = 20.0


def in_thread(function: Callable[[], T]) -> Future[T]:
    """Call it in a thread that keeps no test from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # shown to who asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], bool]) -> None:
    """Return when it is true; each look goes through the pipe, which takes its time."""
    end = threading.Event()
    timer = threading.Timer(PATIENCE, end.set)
    timer.daemon = True
    timer.start()
    try:
        while not condition():
            assert not end.is_set(), "it did not happen"
    finally:
        timer.cancel()


@contextmanager
def opened(served: Any, backend: str, **options: Any) -> Iterator[devpipe.blocking.Pipe]:
    with devpipe.blocking.connect(served.url, backend=backend, **options) as pipe:
        yield pipe


# --- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["websocket", "http", "folder"])
def test_a_message_is_answered_over_each_transport(served: Any, backend: str, transport: str) -> None:
    with devpipe.blocking.connect(
        served.url, folder=served.folder, transports=[transport], backend=backend
    ) as pipe:
        reply = pipe.send("echo", {"n": 1}, timeout=PATIENCE, priority="high")
        assert (reply.payload, reply.transport, pipe.active) == ({"n": 1}, transport, transport)
        assert pipe.transports == (transport,)


def test_errors_are_those_of_the_pipe_and_say_what_is_known(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        with pytest.raises(devpipe.HandlerError) as failed:
            pipe.send("refuse")
        assert failed.value.code == "BUDGET_EXCEEDED" and failed.value.outcome is devpipe.Outcome.EXECUTED
        with pytest.raises(devpipe.DeadlineExceeded) as late:
            pipe.send("wait", timeout=0.05)
        assert late.value.outcome in (devpipe.Outcome.MAYBE_EXECUTED, devpipe.Outcome.EXECUTED)
        with pytest.raises(devpipe.InvalidMessage):
            pipe.send("echo", object())
        with pytest.raises(devpipe.ConfigurationError, match="this pipe has"):
            pipe.use("pigeon")
        assert pipe.send("echo", 1).payload == 1


def test_the_choice_of_the_transport_is_shown_and_made(served: Any, backend: str) -> None:
    with opened(served, backend, timeout=7) as pipe:
        assert pipe.config.timeout == 7
        until(lambda: pipe.active == "websocket" and pipe.metrics()["transports"]["http"] is not None)
        pipe.use("http")
        until(lambda: pipe.active == "http")
        assert pipe.explain().pinned == "http"
        assert pipe.send("echo", 1).transport == "http"
        pipe.use(None)
        assert pipe.select_transport() in ("http", "websocket")
        assert pipe.metrics()["answered"] == 1 and pipe.position is None
        assert repr(pipe) == "<blocking Pipe open>"
    assert repr(pipe) == "<blocking Pipe closed>"


def test_many_threads_use_one_pipe_at_once_and_each_gets_its_own_reply(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe, ThreadPoolExecutor(16) as pool:
        replies = pool.map(lambda n: pipe.send("echo", n, timeout=PATIENCE).payload, range(400))
        assert list(replies) == list(range(400))
        assert pipe.metrics()["answered"] == 400


def test_a_token_may_come_from_a_plain_function_that_takes_its_time(served: Any, backend: str) -> None:
    served.server.configure(token="right")
    threads: list[int] = []

    def give() -> str:
        threads.append(threading.get_ident())
        return "right"

    with opened(served, backend, token=give) as pipe:
        assert pipe.send("echo", 1).payload == 1
        assert threads and not {threading.get_ident(), pipe._loop._thread.ident} & set(threads)


# --- pushes ------------------------------------------------------------------------------------------------------


def test_pushes_come_in_order_and_break_ends_the_subscription(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        subscriptions = pipe._subject._opened().subscriptions
        close, closed_by = subscriptions._close, list[threading.Thread]()

        def watch(subscription: devpipe.Subscription) -> None:
            closed_by.append(threading.current_thread())
            close(subscription)

        subscriptions._close = watch  # type: ignore[method-assign]  # to see who calls it
        pushes = pipe.receive()
        pipe.send("echo")  # the server knows this session
        for n in range(5):
            served.push("news", n)
        got = []
        for item in pushes:
            assert isinstance(item, devpipe.Message)
            got.append(item.payload)
            if len(got) == 5:
                break
        assert got == [0, 1, 2, 3, 4] and pipe.position is not None
        assert len(subscriptions) == 1
        del pushes, item
        until(lambda: pipe._run(lambda: len(subscriptions)) == 0)
        assert closed_by[0] is pipe._loop._thread


def test_a_subscription_is_closed_by_hand_or_by_with_and_then_ends(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        with pipe.receive() as pushes:
            reader = in_thread(lambda: list(pushes))
            until(lambda: pipe._run(lambda: pushes._turn.locked()))
        assert reader.result(PATIENCE) == []
        pushes.close()
        with pytest.raises(devpipe.PipeClosed, match="has ended"):
            pushes.next(timeout=1)


def test_the_next_push_may_be_waited_for_with_a_limit_and_none_is_lost(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe, pipe.receive() as pushes:
        pipe.send("echo")
        with pytest.raises(devpipe.DeadlineExceeded, match=r"0\.05 s"):
            pushes.next(timeout=0.05)
        served.push("news", 1)
        item = pushes.next(timeout=PATIENCE)
        assert isinstance(item, devpipe.Message) and item.payload == 1


def test_threads_may_share_a_subscription_and_each_push_goes_to_one_of_them(
    served: Any, backend: str
) -> None:
    with opened(served, backend) as pipe:
        pushes = pipe.receive()
        pipe.send("echo")
        seen: Queue[Any] = Queue()

        def read() -> None:
            for item in pushes:
                seen.put(item.payload)  # type: ignore[union-attr]  # no gap comes here

        readers = [in_thread(read) for _ in range(4)]
        for n in range(40):
            served.push("news", n)
        assert sorted(seen.get(timeout=PATIENCE) for _ in range(40)) == list(range(40))
    for reader in readers:
        reader.result(PATIENCE)
    assert seen.empty()


def test_what_had_come_before_the_pipe_was_closed_is_still_delivered(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        pushes = pipe.receive()
        other = pipe.receive()
        pipe.send("echo")
        for n in range(3):
            served.push("news", n)
        assert [other.next(timeout=PATIENCE).payload for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]  # no gap
    assert [item.payload for item in pushes] == [0, 1, 2]  # type: ignore[union-attr]  # no gap
    assert list(pushes) == []


# --- listeners ---------------------------------------------------------------------------------------------------


def test_a_listener_runs_in_a_worker_thread_in_order_and_may_use_the_pipe(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        heard: Queue[tuple[int, Any, Any]] = Queue()

        def listen(event: Any) -> None:
            heard.put(
                (threading.get_ident(), event.to, pipe.send("echo", event.to, timeout=PATIENCE).payload)
            )

        remove = pipe.on("transport_switched", listen)
        pipe.use("http")
        thread, first, echoed = heard.get(timeout=PATIENCE)
        assert first == echoed == "http"
        assert thread not in (threading.get_ident(), pipe._loop._thread.ident)
        pipe.use("websocket")
        assert heard.get(timeout=PATIENCE)[1] == "websocket"
        remove()
        remove()
        pipe.on("transport_switched", listen)
        mailboxes = pipe._subject._opened().listeners._mailboxes["transport_switched"]
        assert len(mailboxes) == 1
        pipe.off("transport_switched", listen)
        assert not mailboxes
        with pytest.raises(devpipe.ConfigurationError, match="no event is called"):
            pipe.on("nothing", print)
    remove()


def test_a_listener_that_raises_or_never_returns_harms_nobody(
    served: Any, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, let_go, returned = threading.Event(), threading.Event(), threading.Event()
    try:
        with opened(served, backend) as pipe:

            def hang(event: Any) -> None:
                stuck.set()
                let_go.wait(PATIENCE)
                returned.set()

            pipe.on("transport_switched", hang)
            pipe.on("transport_switched", lambda event: 1 / 0)
            pipe.use("http")
            assert stuck.wait(PATIENCE)
            until(lambda: "ZeroDivisionError" in caplog.text)
            assert pipe.send("echo", 1).payload == 1
        assert pipe._loop.ended and not returned.is_set(), "it does not wait for a listener"
    finally:
        let_go.set()


# --- its end -----------------------------------------------------------------------------------------------------


def test_closing_ends_the_calls_of_other_threads_with_pipe_closed(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        sends = [in_thread(lambda: pipe.send("wait", timeout=60)) for _ in range(3)]
        reader = in_thread(lambda: list(pipe.receive()))
        until(lambda: pipe.metrics()["in_flight"] == 3)
    for waiting in sends:
        assert isinstance(error := waiting.exception(PATIENCE), devpipe.PipeClosed)
        assert error.outcome is devpipe.Outcome.MAYBE_EXECUTED
    assert reader.result(PATIENCE) == []


def test_closed_not_yet_open_and_entered_twice_are_said(served: Any, backend: str) -> None:
    pipe = devpipe.blocking.connect(served.url, backend=backend)  # type: ignore[arg-type]  # one of the two
    pipe.close()
    with pytest.raises(devpipe.PipeClosed, match="use it inside 'with'"):
        pipe.send("echo")
    with pipe:
        pass
    pipe.close()
    for call in (lambda: pipe.send("echo"), pipe.receive, pipe.metrics, lambda: pipe.active):
        with pytest.raises(devpipe.PipeClosed, match="closed"):
            call()
    with pytest.raises(devpipe.ConfigurationError, match="entered once"), pipe:
        pass


def hammer(pipe: devpipe.blocking.Pipe, begun: threading.Barrier) -> str:
    begun.wait(PATIENCE)
    while True:
        try:
            pipe.send("echo", timeout=60)
        except devpipe.PipeClosed:
            return "closed"


def test_closing_while_threads_begin_calls_ends_every_one_of_them(served: Any, backend: str) -> None:
    for _ in range(5):
        with opened(served, backend, transports=["websocket"]) as pipe:
            begun = threading.Barrier(9)
            threads = [in_thread(partial(hammer, pipe, begun)) for _ in range(8)]
            begun.wait(PATIENCE)
        assert [thread.result(PATIENCE) for thread in threads] == ["closed"] * 8


def test_a_server_that_is_not_there_is_said_and_no_thread_is_left(backend: str) -> None:
    with pytest.raises(devpipe.AllTransportsFailed, match="nobody listens"):
        with devpipe.blocking.connect("http://127.0.0.1:9", connect_timeout=0.3, backend=backend):  # type: ignore[arg-type]  # one of the two
            pass
    for thread in threading.enumerate():
        if thread.name == "devpipe":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_an_exception_in_the_block_comes_out_as_it_is(served: Any, backend: str) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, opened(served, backend):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("face", [devpipe.blocking.connect, devpipe.blocking.ModelSelector])
def test_every_option_of_connect_is_one_of_a_face(face: Callable[..., Any]) -> None:
    options: dict[str, Any] = dict.fromkeys(inspect.signature(devpipe.connect).parameters)
    del options["wait"]  # a selector never waits
    assert "profile" in options
    face(**{**options, "server_url": "http://127.0.0.1:9"})
    with pytest.raises(devpipe.ConfigurationError, match="profile"):
        face("http://127.0.0.1:9", profile="nobody")
    with pytest.raises(TypeError, match="colour"):
        face("http://127.0.0.1:9", colour="red")


@pytest.mark.parametrize("face", [devpipe.blocking.connect, devpipe.blocking.ModelSelector])
def test_wrong_arguments_are_said_at_once_and_no_thread_is_started(face: Callable[..., Any]) -> None:
    before = threading.active_count()
    with pytest.raises(devpipe.ConfigurationError, match="give asyncio or trio"):
        face("http://127.0.0.1:9", backend="twisted")
    with pytest.raises(devpipe.ConfigurationError, match="server_url"):
        face(devpipe.Server())  # it lives in another loop
    with pytest.raises(devpipe.ConfigurationError, match="server_url"):
        face("nonsense")
    assert threading.active_count() == before


def test_a_dropped_pipe_is_closed_with_a_warning(served: Any, backend: str) -> None:
    pipe = devpipe.blocking.connect(served.url, backend=backend).__enter__()  # type: ignore[arg-type]  # one of the two
    thread = pipe._loop._thread
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        del pipe
        gc.collect()
    assert [w.category for w in heard] == [ResourceWarning] and "was not closed" in str(heard[0].message)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("via", ["websocket", "folder"])
def test_a_program_that_forgets_to_close_ends_all_the_same_with_a_warning(
    served: Any, backend: str, via: str
) -> None:
    program = f"""
import devpipe
pipe = devpipe.blocking.connect({served.url!r}, folder={str(served.folder)!r}, transports=[{via!r}], backend={backend!r})
pipe.__enter__()
pipe.on("transport_switched", print)
print(pipe.send("echo", 1).payload)
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "ResourceWarning: a blocking Pipe was not closed" in done.stderr
    assert "Traceback" not in done.stderr and "Fatal" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_is_told_and_the_parent_goes_on(served: Any, backend: str) -> None:
    program = f"""
import os, sys, devpipe
with devpipe.blocking.connect({served.url!r}, backend={backend!r}) as pipe:
    pushes = pipe.receive()
    child = os.fork()
    if child == 0:
        for call in (lambda: pipe.send("echo", 1), lambda: next(pushes), pushes.close, pipe.metrics):
            try:
                call()
            except devpipe.PipeClosed as error:
                assert "fork" in str(error), error
            else:
                assert call == pushes.close
        print("told", flush=True)
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(pipe.send("echo", 2).payload, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "told\n2\n"), done.stderr
    assert done.stderr.count("ResourceWarning: a blocking Pipe was open when process") == 1


def test_a_call_in_the_pipes_own_loop_is_refused_instead_of_waiting_for_itself(
    served: Any, backend: str
) -> None:
    with opened(served, backend) as pipe:
        with pytest.raises(devpipe.ConfigurationError, match="would wait for itself"):
            pipe._run(lambda: pipe.send("echo"))


# --- beside an event loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["asyncio", "trio"])
def test_a_program_with_an_event_loop_uses_it_in_a_worker_thread(
    served: Any, backend: str, around: str
) -> None:
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def main() -> object:
        def use() -> object:
            with opened(served, backend) as pipe:
                return [pipe.send("echo", n).payload for n in range(3)]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            got = await anyio.to_thread.run_sync(use)
            tasks.cancel_scope.cancel()
        return got

    assert anyio.run(main, backend=around) == [0, 1, 2]
    assert turns > 10, "the program's own loop went on"


@pytest.mark.parametrize("around", ["asyncio", "trio"])
def test_it_works_in_the_loops_own_thread_too_which_stands_still_meanwhile(
    served: Any, backend: str, around: str
) -> None:
    async def main() -> object:
        with opened(served, backend) as pipe, pipe.receive() as pushes:
            got = pipe.send("echo", 1).payload
            await anyio.lowlevel.checkpoint()
            served.push("news", 2)
            return got, pushes.next(timeout=PATIENCE).payload  # type: ignore[union-attr]  # no gap

    assert anyio.run(main, backend=around) == (1, 2)


# --- the face of another object ----------------------------------------------------------------------------------


class Counter:
    """An asynchronous object as others may have one."""

    def __init__(self) -> None:
        self.tasks: list[object] = []
        self.total = 0

    async def __aenter__(self) -> Counter:
        self.tasks.append(anyio.get_current_task())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tasks.append(anyio.get_current_task())

    async def add(self, number: int, *, twice: bool = False) -> int:
        await anyio.lowlevel.checkpoint()
        self.total += number * (2 if twice else 1)
        return self.total

    def thread(self) -> int:
        return threading.get_ident()


class BlockingCounter(Face[Counter]):
    def add(self, number: int, *, twice: bool = False) -> int:
        return self._call(self._subject.add, number, twice=twice)

    @property
    def total(self) -> int:
        return self._run(lambda: self._subject.total)

    def thread(self) -> int:
        return self._run(self._subject.thread)


def test_another_asynchronous_object_is_faced_by_a_few_lines(backend: str) -> None:
    counter = Counter()
    with BlockingCounter(counter, backend=backend) as face:  # type: ignore[arg-type]  # one of the two
        assert (face.add(1), face.add(2, twice=True), face.total) == (1, 5, 5)
        assert face.thread() == face._loop._thread.ident
    assert counter.tasks[0] == counter.tasks[1], "entered and left by one task"


def test_a_face_may_live_in_the_loop_of_another_one(served: Any, backend: str) -> None:
    with opened(served, backend) as pipe:
        counter = BlockingCounter(Counter(), face=pipe)
        with counter:
            assert counter.thread() == pipe._loop._thread.ident
        assert pipe.send("echo", 1).payload == 1
        late = BlockingCounter(Counter(), face=pipe)
        late.__enter__()
    late.close()
    with pytest.raises(devpipe.PipeClosed):
        late.add(1)


class Failing(Counter):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    async def __aenter__(self) -> Counter:
        if self.where == "enter":
            raise ValueError(self.where)
        return self

    async def __aexit__(self, *_: object) -> None:
        raise ValueError(self.where)


@pytest.mark.parametrize("where", ["enter", "leave"])
def test_what_entering_or_leaving_raises_comes_out_and_the_thread_ends(backend: str, where: str) -> None:
    face = BlockingCounter(Failing(where), backend=backend)  # type: ignore[arg-type]  # one of the two
    with pytest.raises(ValueError, match=where), face:
        assert where == "leave"
    face._loop._thread.join(PATIENCE)
    assert face._loop.ended


def test_whatever_a_call_raises_is_its_callers_alone(backend: str) -> None:
    class Exiting(Counter):
        async def add(self, number: int, *, twice: bool = False) -> int:
            raise SystemExit(number)

    with BlockingCounter(Exiting(), backend=backend) as face:  # type: ignore[arg-type]  # one of the two
        for _ in range(2):
            with pytest.raises(SystemExit):
                face.add(3)
        assert face.total == 0


@pytest.mark.parametrize("failing", [False, True])
def test_a_call_that_has_ended_holds_nothing_back(backend: str, failing: bool) -> None:
    class Thing:
        pass

    class Keeping(Counter):
        async def keep(self, thing: Thing) -> None:
            await anyio.lowlevel.checkpoint()
            if failing:
                raise ValueError(thing)

    with Face(Keeping(), backend=backend) as face:  # type: ignore[arg-type]  # one of the two
        thing = Thing()
        gone = weakref.ref(thing)
        gc.disable()
        try:
            try:
                face._call(face._subject.keep, thing)
            except ValueError:
                assert failing
            face._run(int)  # the loop has come back from the call
            del thing
            assert gone() is None
        finally:
            gc.enable()
