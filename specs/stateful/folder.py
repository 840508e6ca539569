"""The programs of the shared folder against a table of names: two servers and two clients, each stopped between any two
steps for as long as you like, killed there, or refused by the disk; sweeps in between, and strangers' files.

A message is for one run of one server, which alone would run it, or for anybody; only the first kind is sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO
from typing import Any, ClassVar, assert_never

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from devpipe.machines.protocols.folder import (
    client_of,
    request_id,
    request_name,
    response_name,
    scan_client,
    scan_requests,
)
from devpipe.machines.protocols.folder_steps import (
    Answer,
    Collected,
    Link,
    Linked,
    Look,
    Move,
    Place,
    Program,
    Read,
    Remove,
    Seen,
    Step,
    Taken,
    Write,
    collect,
    give,
    sweep,
    take,
    withdraw,
)
from devpipe.specs.models.folder import STRANGER, FolderModel

__all__ = ["AGE", "FolderMachine", "Process"]

AGE = 60.0
LIMIT = 1000
ENOUGH = 99
SERVERS, CLIENTS = ["s1", "s2"], ["a", "b"]
#: How far a process gets before the next one has its turn.
STEPS = st.sampled_from([ENOUGH, ENOUGH, 1, 2, 3, 4])
FAULTS = st.sampled_from(["none"] * 7 + ["refused", "killed", "killed in mid-write"])


class Process:
    """Somebody at the folder: one program at a time, and nothing of it outlives a kill."""

    def __init__(self, name: str, model: FolderModel) -> None:
        self.name = name
        self.model = model
        self.held: list[str] = []  #: ids that this server took and has not answered
        self.left: list[str] = []  #: names that this client took and could not remove
        self.starts = 1
        self._program: Program[Any] | None = None
        self._home = name
        self._then: Callable[[Any], None] = lambda result: None
        self._failed: Callable[[], None] = lambda: None
        self._step: Step | None = None

    @property
    def identity(self) -> str:
        """Who this is, until it is killed."""
        return f"{self.name}, start {self.starts}"

    @property
    def busy(self) -> bool:
        """In the middle of a program."""
        return self._program is not None

    def begin(
        self,
        program: Program[Any],
        *,
        home: str = "",
        then: Callable[[Any], None] = lambda result: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start a program, and stop before its first step. ``then`` gets its result, ``failed`` hears of errors."""
        self._program, self._home, self._then, self._failed = program, home or self.name, then, failed
        self._resume(lambda: next(program))

    def run(self, steps: int, fault: str = "none") -> None:
        """Do so many steps; the last one meets the fault."""
        for left in range(steps, 0, -1):
            if self._program is None:
                return
            self._one("none" if left > 1 and steps != ENOUGH else fault)
            fault = "none" if steps == ENOUGH else fault

    def kill(self) -> None:
        """It ends here, and remembers nothing."""
        self._program, self._step = None, None
        self.held.clear()
        self.left.clear()
        self.starts += 1

    def _one(self, fault: str) -> None:
        program, step = self._program, self._step
        assert program is not None and step is not None  # it is busy
        if fault.startswith("killed"):
            if isinstance(step, Write) and fault == "killed in mid-write":
                try:
                    self._write(step, whole=False)
                except FileExistsError:
                    pass  # it was killed before it could hear that
            self.kill()
        elif fault == "refused":
            self._resume(lambda: program.throw(OSError(EIO, "refused")))
        else:
            try:
                answer = self._do(step)
            except OSError as error:
                refusal = error  # the name ends with the clause
                self._resume(lambda: program.throw(refusal))
            else:
                self._resume(lambda: program.send(answer))

    def _resume(self, resume: Callable[[], Step]) -> None:
        try:
            self._step = resume()
        except StopIteration as end:
            self._program = None
            self._then(end.value)
        except OSError:
            self._program = None
            self._failed()

    def _do(self, step: Step) -> Answer:
        who, model, at = self.name, self.model, self._at
        match step:
            case Write():
                self._write(step, whole=True)
                return None
            case Move(source, name, target, new):
                model.move(who, at(source), name, at(target), new)
                return None
            case Link(source, name, target):
                return Linked(model.link(who, at(source), name, at(target)))
            case Remove(place, name):
                return model.remove(who, at(place), name)
            case Read(place, name):
                return model.read(who, at(place), name)
            case Look(place, name):
                seen = model.look(who, at(place), name)
                return None if seen is None else Seen(modified=seen[0], now=seen[1])
            case _ as never:
                assert_never(never)

    def _write(self, step: Write, *, whole: bool) -> None:
        self.model.write(self.name, self._at(step.place), step.name, step.data, whole=whole)

    def _at(self, place: Place) -> str:
        return f"home of {self._home}" if place is Place.HOME else place.value


class FolderMachine(RuleBasedStateMachine):
    """Programs begin, go on, are killed; the model watches every step."""

    #: what is tested; a planted bug takes its place
    give: ClassVar[Callable[..., Program[None]]] = staticmethod(give)
    take: ClassVar[Callable[..., Program[Taken | None]]] = staticmethod(take)
    withdraw: ClassVar[Callable[..., Program[bool]]] = staticmethod(withdraw)
    sweep: ClassVar[Callable[..., Program[bool]]] = staticmethod(sweep)

    @initialize(links=st.booleans())
    def the_file_system_is_of_this_kind(self, links: bool) -> None:
        self.model = FolderModel(age=AGE, links=links)
        # where files have one name only, one server is all that is promised
        self.servers = SERVERS if links else SERVERS[:1]
        self.people = {name: Process(name, self.model) for name in SERVERS + CLIENTS}
        self.sent: dict[str, bytes] = {}  #: the last file of each id
        self.addressed: dict[bytes, str | None] = {}  #: for whom a file is; None: for anybody
        self.got: list[tuple[str, bytes]] = []
        self.strange: set[tuple[str, str]] = set()
        self.count = 0

    def names(self, place: str) -> list[str]:
        return sorted(name for where, name in self.model.names if where == place)

    def pick(self, data: st.DataObject, people: list[str]) -> Process | None:
        """One of these who has nothing to do."""
        free = [name for name in people if not self.people[name].busy]
        return self.people[data.draw(st.sampled_from(free))] if free else None

    def number(self) -> int:
        self.count += 1
        return self.count

    # --- clients ------------------------------------------------------------------------------------------

    @rule(data=st.data(), again=st.booleans(), steps=STEPS, fault=FAULTS)
    def a_client_sends(self, data: st.DataObject, again: bool, steps: int, fault: str) -> None:
        client = self.pick(data, CLIENTS)
        if client is None:
            return
        mine = [id for id, file in self.sent.items() if client_of(id) == client.name and self.addressed[file]]
        if again and mine:
            id = mine[-1]
            whom = self.addressed[self.sent[id]]
        else:
            id = f"{client.name}-{self.number()}"
            whom = data.draw(st.sampled_from([None, *(self.people[name].identity for name in self.servers)]))
        content = b"%s, file %d" % (id.encode(), self.number())
        self.sent[id] = content
        self.addressed[content] = whom

        def failed() -> None:
            if content in self.model.files:
                self.model.disown(content)

        client.begin(
            self.give(f"draft_{self.number()}", content, Place.REQUESTS, request_name(id)), failed=failed
        )
        client.run(steps, fault)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), steps=STEPS, fault=FAULTS)
    def a_client_takes_back(self, data: st.DataObject, steps: int, fault: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.sent)))
        client = self.people[client_of(id) or ""]
        if client.busy or self.sent[id] not in self.model.files:
            return
        content = self.sent[id]

        def then(won: bool) -> None:
            if won:
                self.model.disown(content)

        client.begin(self.withdraw(request_name(id), f"draft_{self.number()}"), then=then)
        client.run(steps, fault)

    @rule(data=st.data(), steps=STEPS, fault=FAULTS)
    def a_client_reads(self, data: st.DataObject, steps: int, fault: str) -> None:
        client = self.pick(data, CLIENTS)
        if client is None:
            return
        names = scan_client(self.names(f"home of {client.name}")).names
        names = tuple(name for name in names if name not in client.left)
        if names:
            name = names[0]

            def then(collected: Collected) -> None:
                got = (client.identity, collected.data)
                assert got not in self.got, f"{got} was delivered twice"
                self.got.append(got)
                if collected.left is not None:
                    client.left.append(name)

            client.begin(collect(name, limit=LIMIT), then=then)
            client.run(steps, fault)

    # --- servers ------------------------------------------------------------------------------------------

    def begin_taking(self, server: Process, name: str) -> None:
        id = request_id(name)
        assert id is not None  # a scan names requests only

        def then(taken: Taken | None) -> None:
            if taken is not None and taken.data is not None:
                if self.addressed[taken.data] in (None, server.identity):
                    self.model.ran(server.name, taken.data)
                server.held.append(id)  # a refusal is an answer too

        server.begin(self.take(name, age=AGE, limit=LIMIT), then=then)

    @rule(data=st.data(), steps=STEPS, fault=FAULTS)
    def a_server_takes(self, data: st.DataObject, steps: int, fault: str) -> None:
        server = self.pick(data, self.servers)
        names = scan_requests(self.names("requests")).names
        if server is not None and names:
            self.begin_taking(server, data.draw(st.sampled_from(names)))
            server.run(steps, fault)

    @rule(data=st.data(), steps=STEPS, fault=FAULTS)
    def a_server_answers(self, data: st.DataObject, steps: int, fault: str) -> None:
        server = self.pick(data, [name for name in self.servers if self.people[name].held])
        if server is None:
            return
        id = server.held.pop(0)
        content = b"answer %d" % self.number()

        def answer() -> Program[None]:
            yield from self.give(f"draft_{self.number()}", content, Place.HOME, response_name(id))
            yield Remove(Place.CLAIMS, request_name(id))

        server.begin(answer(), home=client_of(id) or "")
        server.run(steps, fault)

    @rule(
        data=st.data(),
        place=st.sampled_from([Place.CLAIMS, Place.TMP, Place.HOME, Place.REQUESTS]),
        steps=STEPS,
    )
    def a_server_sweeps(self, data: st.DataObject, place: Place, steps: int) -> None:
        server = self.pick(data, self.servers)
        home = data.draw(st.sampled_from(CLIENTS))
        names = self.names(f"home of {home}" if place is Place.HOME else place.value)
        if server is not None and names:
            name = data.draw(st.sampled_from(names))
            server.begin(self.sweep(place, name, age=AGE), home=home)
            server.run(steps)

    # --- the world ----------------------------------------------------------------------------------------

    @precondition(lambda self: any(process.busy for process in self.people.values()))
    @rule(data=st.data(), steps=STEPS, fault=FAULTS)
    def somebody_goes_on(self, data: st.DataObject, steps: int, fault: str) -> None:
        busy = sorted(name for name, process in self.people.items() if process.busy)
        self.people[data.draw(st.sampled_from(busy))].run(steps, fault)

    @rule(name=st.sampled_from(SERVERS + CLIENTS))
    def somebody_is_killed(self, name: str) -> None:
        self.people[name].kill()

    @rule(span=st.sampled_from([AGE / 3, AGE / 2, AGE / 2, AGE + 1]))
    def time_passes(self, span: float) -> None:
        self.model.now += span

    @precondition(lambda self: len(self.strange) < 3)
    @rule(
        place=st.sampled_from(["requests", "claims", "tmp", "home of a", "home of b"]),
        name=st.sampled_from(
            ["notes.txt", "request_.json", "draft", "draft_é", "response_a.tmp", "push_x.json"]
        ),
    )
    def a_stranger_writes(self, place: str, name: str) -> None:
        if (place, name) not in self.model.names:
            self.model.write(STRANGER, place, name, b"of a stranger, %d" % self.number())
            self.strange.add((place, name))

    # --- the end of the story -------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for process in self.people.values():
            process.run(ENOUGH)
        self.what_nobody_holds_is_run()
        for process in self.people.values():
            process.kill()
        self.model.now += AGE + 1
        self.nothing_is_left_but_what_strangers_wrote()

    def what_nobody_holds_is_run(self) -> None:
        for name in scan_requests(self.names("requests")).names:
            file = self.model.names["requests", name]
            whom = self.addressed[file.content]
            for server in (self.people[name] for name in self.servers):
                free = ("claims", name) not in self.model.names and not self.model.expired(file)
                if free and whom in (None, server.identity):
                    self.begin_taking(server, name)
                    server.run(ENOUGH)
                    assert file.runs == 1, f"{file.content!r} was never run"

    def nothing_is_left_but_what_strangers_wrote(self) -> None:
        server = self.people["s1"]
        for place in (Place.CLAIMS, Place.TMP, Place.HOME):
            for home in CLIENTS:
                for name in self.names(f"home of {home}" if place is Place.HOME else place.value):
                    server.begin(self.sweep(place, name, age=AGE), home=home)
                    server.run(ENOUGH)
        for name in scan_requests(self.names("requests")).names:
            self.begin_taking(server, name)
            server.run(ENOUGH)
        assert set(self.model.names) == self.strange
