"""What ``import devpipe`` brings along, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from benchmarks import imports

#: Only wanted by the server's side, the command line, tests, an event loop that is not the default, or one transport.
ABSENT = frozenset(
    [
        "hypercorn", "starlette", "uvicorn", "click", "rich", "pygments", "hypothesis", "pytest", "_pytest", "jsonschema",
        "importlinter", "mypy", "trio", "websockets", "sqlite3", "unittest", "httpx", "h11", "wsproto", "watchdog",
    ]
)  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The modules that are there after this code, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env=imports.environment(), stdout=subprocess.PIPE, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code", ["import devpipe", "import devpipe; devpipe.connect('http://h', config_file='')"]
)
def test_what_only_servers_commands_tests_and_single_transports_want_is_not_imported(code: str) -> None:
    loaded = loaded_by(code)
    assert not {name.split(".")[0] for name in loaded} & ABSENT
    assert not {name for name in loaded if name.startswith(("devpipe.cli", "devpipe.specs"))}


def test_the_help_of_the_command_line_waits_for_nothing_that_only_a_command_wants() -> None:
    loaded = loaded_by("import devpipe.cli.commands")
    assert not {name.split(".")[0] for name in loaded} & (ABSENT - {"click"})
    assert not {name for name in loaded if name.startswith(("devpipe.specs", "devpipe.adapters.server."))}


def test_the_server_and_the_blocking_face_are_imported_when_somebody_asks_for_them() -> None:
    def ours(code: str) -> set[str]:
        return {name.split(".")[2] for name in loaded_by(code) if name.startswith("devpipe.adapters.")}

    assert not ours("import devpipe") & {"server", "blocking"}
    assert "server" in ours("import devpipe; assert devpipe.Server is devpipe.Server")
    assert "blocking" in ours("import devpipe; devpipe.blocking.connect")
    assert "blocking" in ours("from devpipe import blocking")
    loaded_by("import devpipe; assert {'Server', 'blocking'} <= set(dir(devpipe))")
    loaded_by("import devpipe; assert not hasattr(devpipe, 'Sever')")
