"""Settings, from where they come: each order of strength, and each way to give a wrong one, on real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import devpipe
from devpipe.adapters.client.config_file import MAX_BYTES, MAX_STATEMENT
from devpipe.adapters.client.configuration import variables

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file under the test's directory, which is a project: the search does not leave it."""
    (tmp_path / ".git").mkdir()

    def write(text: str, name: str = "devpipe.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def texts(settings: devpipe.Settings) -> list[str]:
    return [str(problem) for problem in settings.problems]


# --- which source is stronger ------------------------------------------------------------------------------


def test_an_argument_beats_a_variable_beats_a_file_beats_the_default(write: Write) -> None:
    file = write("timeout = 1\nconnect_timeout = 1\nclose_timeout = 1\n")
    environ = {"DEVPIPE_TIMEOUT": "2", "DEVPIPE_CONNECT_TIMEOUT": "2"}
    settings = devpipe.load_settings({"timeout": 3, "debug": None}, environ=environ, file=file)
    assert not settings.problems and settings.file == file
    found = {
        key: (settings[key].value, settings[key].origin.kind, settings[key].origin.name)
        for key in ("timeout", "connect_timeout", "close_timeout", "health_interval", "debug")
    }
    assert found == {
        "timeout": (3.0, "argument", None),
        "connect_timeout": (2.0, "environment", "DEVPIPE_CONNECT_TIMEOUT"),
        "close_timeout": (1.0, "file", str(file)),
        "health_interval": (30.0, "default", None),
        "debug": (False, "default", None),
    }
    with pytest.raises(KeyError):
        settings["none"]


def test_the_view_and_the_configuration_that_pipes_get_are_the_same(write: Write) -> None:
    file = write(
        'folder = "pipe"\n[http]\nmax_connections = 2\n[failover]\nfallback_chain = ["http", "folder"]\n'
    )
    settings = devpipe.load_settings(environ={"DEVPIPE_HTTP_COST": "0.5"}, file=file)
    config = settings.config()
    assert config == devpipe.PipeConfig(
        folder=str(file.parent / "pipe"),
        http=devpipe.HttpConfig(max_connections=2, cost=0.5),
        failover=devpipe.FailoverConfig(fallback_chain=("http", "folder")),
    )
    defaults = devpipe.load_settings({"server_url": "http://h"}, environ={"DEVPIPE_CONFIG": ""})
    assert defaults.config() == devpipe.PipeConfig(server_url="http://h")


def test_texts_of_the_environment_become_what_the_setting_is() -> None:
    environ = {
        "DEVPIPE_CONFIG": "", "DEVPIPE_DEBUG": "true", "DEVPIPE_RETRY_ATTEMPTS": "7", "DEVPIPE_TIMEOUT": "1.5",
        "DEVPIPE_FAILOVER_FALLBACK_CHAIN": "http, folder", "DEVPIPE_BREAKER_FAILURE_RATE": "0.5",
        "DEVPIPE_FOLDER": "shared", "DEVPIPE_SERVER_URL": "https://h/p",
    }  # fmt: skip
    config = devpipe.load_settings(environ=environ).config()
    assert (config.debug, config.retry_attempts, config.timeout) == (True, 7, 1.5)
    assert config.failover.fallback_chain == ("http", "folder")
    assert (config.breaker.failure_rate, config.folder, config.server_url) == (0.5, "shared", "https://h/p")


def test_a_weaker_wrong_value_is_replaced_by_a_stronger_right_one(write: Write) -> None:
    settings = devpipe.load_settings({"timeout": 3}, environ={}, file=write('timeout = "soon"'))
    assert not settings.problems and settings["timeout"].value == 3.0


def test_no_two_settings_have_one_variable() -> None:
    settings = devpipe.load_settings(environ={"DEVPIPE_CONFIG": ""}).settings
    assert sorted(variables().values()) == sorted(setting.key for setting in settings)


# --- which file ----------------------------------------------------------------------------------------------


def test_the_nearest_file_upwards_is_taken_and_the_search_ends_at_the_repository(
    write: Write, tmp_path: Path
) -> None:
    def found(directory: str) -> Path | None:
        return devpipe.load_settings(environ={}, directory=tmp_path / directory).file

    outside = write("timeout = 1", "outer/devpipe.toml")
    project = write("[project]\nname = 'x'\n", "outer/repository/pyproject.toml").parent
    inside = write("[project]\nname = 'x'\n", "outer/repository/source/deep/pyproject.toml").parent
    assert found("outer/repository/source/deep") == outside
    (project / ".git").mkdir()
    assert found("outer/repository/source/deep") is None
    table = write("[tool.devpipe]\ntimeout = 2\n", "outer/repository/pyproject.toml")
    assert found("outer/repository/source/deep") == table
    beside = write("timeout = 3", "outer/repository/devpipe.toml")
    assert found("outer/repository/source/deep") == beside, "beside a pyproject.toml, devpipe.toml is the one"
    nearest = write("timeout = 4", "outer/repository/source/devpipe.toml")
    assert found("outer/repository/source/deep") == nearest
    assert found("outer") == outside
    assert inside.is_dir()


def test_the_search_ends_at_the_home_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("timeout = 1")
    home = write("", "home/work/notes.txt").parent.parent
    monkeypatch.setenv("HOME", str(home))
    assert devpipe.load_settings(environ={}, directory=home / "work").file is None
    monkeypatch.setenv("HOME", str(home / "elsewhere"))
    assert devpipe.load_settings(environ={}, directory=home / "work").file == tmp_path / "devpipe.toml"


def test_the_search_begins_in_the_working_directory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("timeout = 4")
    monkeypatch.chdir(file.parent)
    for name in [name for name in os.environ if name.startswith("DEVPIPE_")]:
        monkeypatch.delenv(name)
    assert devpipe.connect("http://127.0.0.1:1").config.timeout == 4.0
    assert devpipe.connect("http://127.0.0.1:1", config_file="").config.timeout == 30.0
    monkeypatch.setenv("DEVPIPE_CONFIG", "")
    assert devpipe.connect("http://127.0.0.1:1").config.timeout == 30.0


def test_without_a_working_directory_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert devpipe.load_settings(environ={}).file is None


def test_a_named_file_is_taken_and_none_is_searched_for(write: Write, tmp_path: Path) -> None:
    write("timeout = 1")
    named = write("timeout = 2", "else/other.toml")
    project = write("[tool.devpipe]\ntimeout = 3", "else/pyproject.toml")
    environ = {"DEVPIPE_CONFIG": str(named)}
    assert devpipe.load_settings(environ=environ, directory=tmp_path)["timeout"].value == 2.0
    assert devpipe.load_settings(environ=environ, file=project)["timeout"].value == 3.0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_file_of_another_user_is_taken_when_it_is_named_and_refused_when_it_is_found(write: Write) -> None:
    file = write('server_url = "http://evil.example"')
    os.chown(file, 12345, 12345)
    found = devpipe.load_settings(environ={}, directory=file.parent)
    assert "another user (id 12345)" in texts(found)[0] and "DEVPIPE_CONFIG" in texts(found)[0]
    assert found["server_url"].value is None
    assert not devpipe.load_settings(environ={"DEVPIPE_CONFIG": str(file)}).problems


def test_a_broken_pyproject_is_the_business_of_those_whom_it_mentions(write: Write, tmp_path: Path) -> None:
    write("[project\n", "pyproject.toml")
    assert not devpipe.load_settings(environ={}, directory=tmp_path).problems
    write("[tool.devpipe\n", "pyproject.toml")
    assert "is no TOML" in texts(devpipe.load_settings(environ={}, directory=tmp_path))[0]
    write("dependencies = ['vaultpilot-devpipe']\n", "pyproject.toml")
    assert devpipe.load_settings(environ={}, directory=tmp_path).file is None


# --- where it stands in the file ----------------------------------------------------------------------------


def test_the_line_of_each_setting_is_known(write: Write, tmp_path: Path) -> None:
    write(
        "# [tool.devpipe.http]\n[project]\ntext = '''\n[tool.devpipe]\ntimeout = 5\n'''\n[tool.devpipe]\n"
        "http.max_connections = 3\ntimeout = 1\nbreaker = { failure_threshold = 3 }\n[tool.devpipe.failover]\nfallback_chain = [\n  'http', # first\n]\n"
        "lead = 0.2\n",
        "pyproject.toml",
    )  # fmt: skip
    settings = devpipe.load_settings(environ={}, directory=tmp_path)
    assert not settings.problems
    lines = {s.key: s.origin.line for s in settings.settings if s.origin.kind == "file"}
    assert lines == {
        "timeout": 9, "http.max_connections": 8, "failover.fallback_chain": 12, "failover.lead": 15,
        "breaker.failure_threshold": 10,
    }  # fmt: skip


def test_after_an_endless_statement_the_line_is_not_told_and_the_setting_holds(write: Write) -> None:
    chain = ",\n".join(f"'a{n}'" for n in range(MAX_STATEMENT + 2))
    file = write(f"timeout = 1\nfailover.fallback_chain = [{chain}]\nconnect_timeout = 2\n")
    settings = devpipe.load_settings(environ={}, file=file)
    assert settings["timeout"].origin.line == 1
    assert (settings["connect_timeout"].value, settings["connect_timeout"].origin.line) == (2.0, None)


# --- what is wrong ---------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once_with_where_it_stands(write: Write) -> None:
    file = write(
        "timeout = 'soon'\ntiemout = 1\n[http]\nmax_connections = 0\ncost = 2\n"
        "[folder_options]\ndurability = 'maybe'\n[htpp]\na = 1\n[lifecycle]\nnonsense = 1\n"
    )
    environ = {"DEVPIPE_CONNECT_TIMEOT": "3", "DEVPIPE_RETRY_ATTEMPTS": "many"}
    with pytest.raises(devpipe.ConfigurationError) as failed:
        devpipe.load_settings(
            {"http.max_conections": 1, "selection.cost_weight": 5}, environ=environ, file=file
        ).config()
    found = {(p.key, p.source, p.meant) for p in failed.value.problems}
    place = f"file {file}, line"
    assert found == {
        ("timeout", f"{place} 1", None),
        ("tiemout", f"{place} 2", "timeout"),
        ("http.max_connections", f"{place} 4", None),
        ("http.cost", f"{place} 5", None),
        ("folder_options.durability", f"{place} 7", None),
        ("htpp", f"{place} 8", "http"),
        ("lifecycle.nonsense", f"{place} 11", None),
        ("DEVPIPE_CONNECT_TIMEOT", "environment variable DEVPIPE_CONNECT_TIMEOT", "DEVPIPE_CONNECT_TIMEOUT"),
        ("retry_attempts", "environment variable DEVPIPE_RETRY_ATTEMPTS", None),
        ("http.max_conections", "argument", "http.max_connections"),
        ("selection.cost_weight", "argument", None),
        ("server_url", None, None),
    }
    text = str(failed.value)
    assert text.startswith("12 settings are wrong:") and len(text.splitlines()) == 13
    for problem in failed.value.problems:
        assert str(problem) in text and problem.allowed
    assert "neither server_url nor folder" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timeout = -1", "give a number above 0"),
        ("timeout = nan", "give a number above 0"),
        ("timeout = []", "give a number"),
        ("retry_attempts = 1.5", "give an integer"),
        ("debug = 'perhaps'", "give true or false"),
        ("folder = 5", "give a text"),
        ("folder = {a = 1}", "give a text"),
        ("http = 5", "give a table"),
        ("failover.fallback_chain = 5", "give a list of texts"),
        ("failover.fallback_chain = []", "best first"),
        ("breaker.failure_rate = 2", "give a number from 0 to 1"),
        ("http.prefix = 'no slash'", "a path that begins with /"),
        ("server_url = 'ftp://h'", "give an address like"),
    ],
)
def test_a_wrong_value_in_a_file_is_refused_with_what_is_allowed(write: Write, text: str, words: str) -> None:
    file = write(text)
    settings = devpipe.load_settings(environ={}, file=file)
    assert len(settings.problems) == 1
    assert words in texts(settings)[0] and f"file {file}, line 1" in texts(settings)[0]
    with pytest.raises(devpipe.ConfigurationError, match="line 1"):
        settings.config()


def test_a_wrong_address_is_not_called_a_missing_one(write: Write) -> None:
    with pytest.raises(devpipe.ConfigurationError) as failed:
        devpipe.load_settings(environ={}, file=write("server_url = 5")).config()
    assert len(failed.value.problems) == 1 and "neither" not in str(failed.value)


def test_a_name_in_the_wrong_table_is_refused_with_where_it_belongs(write: Write) -> None:
    for text, meant in (
        ("max_connections = 1", "http.max_connections"),
        ("[http]\nserver_url = 'x'", "server_url"),
        ("[htttp]\nmax_connections = 1", "http"),
    ):
        problems = devpipe.load_settings({}, environ={}, file=write(text)).problems
        assert [problem.meant for problem in problems] == [meant]
    problem = devpipe.load_settings({"htp.max_connections": 1}, environ={"DEVPIPE_CONFIG": ""}).problems[0]
    assert problem.meant == "http.max_connections"


def test_an_unknown_name_like_no_other_is_refused_with_those_beside_it(write: Write) -> None:
    for text, there in (("zzz = 1", "http,"), ("[selection]\nzzz = 1", "selection.latency_weight")):
        assert there in texts(devpipe.load_settings(environ={}, file=write(text)))[0]


def test_variables_of_others_with_our_prefix_are_left_alone_and_named() -> None:
    environ = {
        "DEVPIPE_CONFIG": "",
        "DEVPIPE_SERVICE_HOST": "10.0.0.1",
        "DEVPIPE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    }
    settings = devpipe.load_settings(environ=environ)
    assert not settings.problems
    assert settings.left_alone == ("DEVPIPE_PORT_8000_TCP", "DEVPIPE_SERVICE_HOST")


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("DEVPIPE_HTTP_X", "DEVPIPE_HTTP_PREFIX"),
        ("DEVPIPE_FOLDER_OPTIONS_NONSENSE", "DEVPIPE_FOLDER_OPTIONS_POLLING"),
    ],
)
def test_a_variable_that_begins_with_a_table_and_is_none_of_its_settings_is_refused_with_those_that_are(
    name: str, there: str
) -> None:
    settings = devpipe.load_settings(environ={"DEVPIPE_CONFIG": "", name: "hunter2"})
    assert [problem.key for problem in settings.problems] == [name] and settings.left_alone == ()
    assert f"{name} is not a setting: there are " in texts(settings)[0] and there in texts(settings)[0]
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("name", ["SERVICE_HOST", "SERVICE_PORT_WEB", "PORT", "PORT_80_TCP_ADDR"])
def test_what_kubernetes_says_of_a_service_that_is_called_like_a_table_is_left_alone(name: str) -> None:
    settings = devpipe.load_settings(environ={"DEVPIPE_CONFIG": "", f"DEVPIPE_HTTP_{name}": "x"})
    assert settings.left_alone == (f"DEVPIPE_HTTP_{name}",) and not settings.problems


@pytest.mark.parametrize(
    ("name", "meant"),
    [("DEVPIPE_TOKN", "DEVPIPE_TOKEN"), ("DEVPIPE_CONFG", "DEVPIPE_CONFIG"), ("DEVPIPE_HTTP_MAX_CONECTIONS", "DEVPIPE_HTTP_MAX_CONNECTIONS")],
)  # fmt: skip
def test_a_misspelt_variable_is_refused_with_the_one_that_is_meant_and_its_value_is_not_shown(
    name: str, meant: str
) -> None:
    settings = devpipe.load_settings(environ={"DEVPIPE_CONFIG": "", name: "hunter2"})
    assert [problem.meant for problem in settings.problems] == [meant]
    assert "hunter2" not in repr(settings) and f"did you mean {meant}?" in texts(settings)[0]


def test_secrets_are_nowhere_in_what_is_said(write: Write) -> None:
    file = write('token = "hunter2"\nserver_url = "http://me:hunter2@h"\n')
    settings = devpipe.load_settings(environ={"DEVPIPE_TOKEN": "hunter2"}, file=file)
    assert settings.token and len(settings.problems) == 2
    assert "hunter2" not in repr(settings) and "hunter2" not in "".join(texts(settings))
    assert "DEVPIPE_TOKEN" in texts(settings)[0]


def test_a_file_that_cannot_be_used_is_named_with_the_reason_and_the_variable(
    write: Write, tmp_path: Path
) -> None:
    wrong = {
        tmp_path / "none.toml": "cannot be read: No such file",
        tmp_path: "cannot be read: Is a directory",
        write("a b", "broken.toml"): "is no TOML",
        write("[project]", "else/pyproject.toml"): r"has no table [tool.devpipe]",
        write("tool = 5", "number/pyproject.toml"): r"has no table [tool.devpipe]",
        write(f"# {'x' * MAX_BYTES}", "large.toml"): "is larger than",
        write("timeout = " + "[" * 100_000, "deep.toml"): "is no TOML",
    }
    (tmp_path / "bytes.toml").write_bytes(b"timeout = '\xff'")
    wrong[tmp_path / "bytes.toml"] = "is no TOML"
    for path, words in wrong.items():
        by_variable = devpipe.load_settings(environ={"DEVPIPE_CONFIG": str(path), "DEVPIPE_TIMEOUT": "x"})
        first, second = texts(by_variable)
        assert words in first and repr(str(path)) in first and "(DEVPIPE_CONFIG names it)" in first
        assert second.startswith("timeout = 'x'"), "the rest is said, too"
        with pytest.raises(devpipe.ConfigurationError, match="cannot be read|TOML|table|larger"):
            devpipe.connect("http://127.0.0.1:1", config_file=path)
    assert "cannot be read" in texts(devpipe.load_settings(environ={}, file="a\0b"))[0]


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_used_and_not_none(
    write: Write, tmp_path: Path
) -> None:
    above = write("timeout = 1")
    link = tmp_path / "a" / "devpipe.toml"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "unmounted" / "devpipe.toml")
    settings = devpipe.load_settings(environ={}, directory=link.parent)
    assert texts(settings) == [
        f"the configuration file {str(link)!r} cannot be read: No such file or directory"
    ]
    link.unlink()
    assert devpipe.load_settings(environ={}, directory=link.parent).file == above


def test_an_integer_without_an_end_is_told_as_a_file_that_is_no_toml(write: Write) -> None:
    file = write("timeout = 1" + "0" * 5000)
    [text] = texts(devpipe.load_settings(environ={}, file=file))
    assert str(file) in text and "is no TOML" in text


def test_tables_made_by_hand_say_all_that_is_wrong_with_them() -> None:
    with pytest.raises(devpipe.ConfigurationError) as failed:
        devpipe.HttpConfig(prefix="x", max_connections=0, cost=3)
    assert [problem.key for problem in failed.value.problems] == [
        "http.prefix",
        "http.max_connections",
        "http.cost",
    ]
    assert all(problem.source is None for problem in failed.value.problems)
