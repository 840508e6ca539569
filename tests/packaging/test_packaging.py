"""The package holds every room, and its rooms keep to their own side."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import tomllib
from pathlib import Path

import pytest

import devpipe

ROOT = Path(__file__).parents[2]
FORBIDDEN = frozenset(
    [
        "asyncio",
        "anyio",
        "trio",
        "time",
        "datetime",
        "random",
        "secrets",
        "uuid",
        "os",
        "socket",
        "ssl",
        "logging",
        "threading",
        "pathlib",
        "subprocess",
        "httpx",
        "watchdog",
        "hypercorn",
        "click",
        "rich",
    ]
)
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MACHINES = sorted((ROOT / "machines").rglob("*.py"))


def listed_folders() -> dict[str, Path]:
    """Each listed package with the folder that it is made of."""
    tool = CONFIG["tool"]["setuptools"]
    folders: dict[str, Path] = {}
    for package in tool["packages"]:
        base = max((b for b in tool["package-dir"] if package == b or package.startswith(b + ".")), key=len)
        rest = package[len(base) :].strip(".").replace(".", "/")
        folders[package] = ROOT / tool["package-dir"][base] / rest
    return folders


def test_every_folder_with_an_init_file_is_listed_so_that_the_wheel_has_it() -> None:
    on_disk = {
        path.parent
        for top in ("machines", "adapters", "specs")
        for path in (ROOT / top).rglob("__init__.py")
        if "__pycache__" not in path.parts
    }
    assert on_disk == set(listed_folders().values())


def test_every_module_can_be_imported_from_what_is_installed() -> None:
    for package in listed_folders():
        module = importlib.import_module(package)
        for found in pkgutil.iter_modules(module.__path__):
            if found.name not in ("__main__", "facade"):
                importlib.import_module(f"{package}.{found.name}")


def test_the_package_is_typed_and_offers_its_transports_and_its_command() -> None:
    assert (Path(devpipe.__file__).parent / "py.typed").exists()
    names = {point.name for point in importlib.metadata.entry_points(group="devpipe.transports")}
    assert names >= {"websocket", "http", "folder"}
    assert importlib.metadata.version("vaultpilot-devpipe") == devpipe.__version__


def test_the_exports_are_sorted_unique_and_there() -> None:
    assert len(set(devpipe.__all__)) == len(devpipe.__all__)
    for name in devpipe.__all__:
        assert hasattr(devpipe, name), name


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_machine_knows_no_clock_no_io_no_chance_and_no_loop(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            imported = [node.module or ""]
        assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await)), "no await in a machine"
        for name in imported:
            top = name.split(".")[0]
            assert top not in FORBIDDEN, f"{name} is not for a machine"
            assert top != "devpipe" or name.startswith("devpipe.machines"), f"{name} is above"
