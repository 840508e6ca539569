"""What the doctor reads from its surroundings: real files of other machines, and variables of other people."""

from __future__ import annotations

from pathlib import Path

import pytest

import devpipe
from devpipe import Finding, Status
from devpipe.adapters.doctor.surroundings import (
    Sources,
    clock,
    container,
    file_system,
    inotify,
    proxies,
    survey,
    wsl,
)

URL = "http://api.example.com:8000"

WSL_2 = "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc 11.2.0) #1 SMP\n"
WSL_1 = "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0) #1237-Microsoft\n"
LINUX = "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP\n"

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
31 27 0:40 / /srv/shared rw,relatime shared:2 - nfs4 files:/export rw,vers=4.2
32 27 0:41 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync
33 27 0:42 / /srv/my\\040disk ro,relatime - ext4 /dev/vdb1 rw
34 27 0:43 / /srv/hidden rw - ext4 /dev/vdc1 rw
35 27 0:44 / /srv/hidden rw - tmpfs none ro
a line that nobody knows
"""


class Machine:
    """A machine made of files."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.root = root
        self.sources = Sources(environ=environ, proc=root / "proc", root=root)

    def write(self, name: str, text: str = "") -> Machine:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return self


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- proxies --------------------------------------------------------------------------------------------------


def test_without_a_variable_there_is_no_proxy() -> None:
    found = proxies({"PATH": "/bin", "HTTP_PROXY": ""}, URL)
    assert (found.status, found.words, found.remedy) == (Status.OK, "no proxy variable is set", None)


@pytest.mark.parametrize(
    ("environ", "url", "way"),
    [
        ({"HTTP_PROXY": "http://u:secret@proxy:3128"}, URL, "proxy (HTTP_PROXY)"),
        ({"all_proxy": "proxy:3128"}, URL, "proxy (all_proxy)"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "https://x.example", "b (https_proxy)"),
        ({"ALL_PROXY": "http://a:1", "http_proxy": "http://b:1"}, URL, "b (http_proxy)"),
    ],
)
def test_the_proxy_in_use_is_named_with_its_variable_and_without_its_password(
    environ: dict[str, str], url: str, way: str
) -> None:
    found = proxies(environ, url)
    assert found.status is Status.OK
    assert found.words.endswith(f"is reached through {way}")
    assert "secret" not in found.words


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://127.0.0.1:8000"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "example.com"}, URL),
        ({"HTTPS_PROXY": "http://proxy:3128"}, URL),
    ],
)
def test_a_proxy_that_is_set_and_not_used_is_said(environ: dict[str, str], url: str) -> None:
    found = proxies(environ, url)
    assert found.status is Status.OK
    assert "set, not used for" in found.words


@pytest.mark.parametrize("host", ["10.1.2.3", "buildbox"])
def test_a_neighbour_behind_a_proxy_is_warned_of(host: str) -> None:
    found = proxies({"HTTP_PROXY": "http://proxy:3128"}, f"http://{host}:8000")
    assert found.status is Status.WARNING
    assert found.remedy is not None and f"`export NO_PROXY={host}`" in found.remedy


def test_a_proxy_that_speaks_socks_fails_without_showing_its_password() -> None:
    found = proxies({"ALL_PROXY": "socks5://u:secret@proxy:1080"}, URL)
    assert found.status is Status.FAILED
    assert "ALL_PROXY" in found.words and "secret" not in found.words
    assert found.remedy is not None and "HTTP proxies only" in found.remedy


def test_a_proxy_given_by_hand_wins_over_the_environment() -> None:
    found = proxies({"HTTP_PROXY": "http://other:1"}, URL, given="http://mine:3128")
    assert found.words == "api.example.com is reached through mine (proxy=)"


# --- container and WSL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_its_marker(machine: Machine, marker: str) -> None:
    assert container(machine.sources) is None
    assert container(machine.write(marker).sources) == f"/{marker} is there"


@pytest.mark.parametrize("name", ["KUBERNETES_SERVICE_HOST", "container"])
def test_a_container_is_known_by_its_variables(tmp_path: Path, name: str) -> None:
    assert container(Machine(tmp_path, **{name: "x"}).sources) == f"{name} is set"


def test_a_container_is_known_by_its_control_group(machine: Machine) -> None:
    machine.write("proc/1/cgroup", "0::/init.scope\n")
    assert container(machine.sources) is None
    machine.write("proc/1/cgroup", "5:devices:/kubepods/burstable/pod1\n")
    assert container(machine.sources) == "/proc/1/cgroup says kubepods"


@pytest.mark.parametrize(("text", "version"), [(WSL_2, 2), (WSL_1, 1), (LINUX, None)])
def test_wsl_is_known_by_the_name_of_its_kernel(machine: Machine, text: str, version: int | None) -> None:
    assert wsl(machine.write("proc/version", text).sources) == version


def test_without_the_name_of_the_kernel_there_is_no_wsl(machine: Machine) -> None:
    assert wsl(machine.sources) is None


@pytest.mark.parametrize(("url", "said"), [("http://127.0.0.1:8000", True), (URL, False)])
def test_loopback_inside_of_something_is_not_what_is_around_it(
    machine: Machine, url: str, said: bool
) -> None:
    machine.write(".dockerenv").write("proc/version", WSL_2)
    found = all_of(devpipe.PipeConfig(server_url=url), machine)
    assert ("127.0.0.1 is the container itself" in found["container"].words) is said
    if "wsl" in found:  # on Linux alone
        assert ("127.0.0.1 is Linux, not Windows" in found["wsl"].words) is said


# --- the folder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "status", "words"),
    [
        ("/home/me/.devpipe", Status.OK, "ext4 at '/'"),
        ("/srv/shared/pipe", Status.WARNING, "nfs4 at '/srv/shared' does not tell what other machines write"),
        ("/srv/shareddisk", Status.OK, "ext4 at '/'"),
        ("/mnt/c/pipe", Status.WARNING, "9p at '/mnt/c' does not tell what other machines write"),
        ("/srv/my disk/pipe", Status.FAILED, "ext4 at '/srv/my disk' is read-only"),
        ("/srv/hidden/pipe", Status.FAILED, "tmpfs at '/srv/hidden' is read-only"),
    ],
)
def test_the_file_system_under_a_folder_is_found(
    machine: Machine, folder: str, status: Status, words: str
) -> None:
    machine.write("proc/self/mountinfo", MOUNTS)
    found = file_system(Path(folder), machine.sources, polling=False)
    assert (found.status, found.words) == (status, words)
    assert (found.remedy is None) is (status is Status.OK)


def test_remedies_for_a_folder_say_what_to_run(machine: Machine) -> None:
    machine.write("proc/self/mountinfo", MOUNTS)
    read_only = file_system(Path("/srv/hidden/x"), machine.sources, polling=False)
    assert read_only.remedy is not None and "`sudo mount -o remount,rw /srv/hidden`" in read_only.remedy
    windows = file_system(Path("/mnt/c/x"), machine.sources, polling=False, on_wsl=True)
    assert windows.remedy is not None and "take a folder inside Linux" in windows.remedy
    assert "`export DEVPIPE_FOLDER_OPTIONS_POLLING=true`" in windows.remedy


def test_the_variable_of_that_remedy_is_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVPIPE_FOLDER_OPTIONS_POLLING", "true")
    assert devpipe.connect(folder="x").config.folder_options.polling is True


def test_a_folder_on_a_network_that_is_polled_is_fine(machine: Machine) -> None:
    machine.write("proc/self/mountinfo", MOUNTS)
    assert file_system(Path("/srv/shared/x"), machine.sources, polling=True).status is Status.OK


def test_without_a_list_of_mounts_nothing_is_said_about_them(machine: Machine) -> None:
    assert file_system(Path("/"), machine.sources, polling=False).status is Status.SKIPPED


def test_a_folder_behind_links_in_a_ring_is_left_to_its_trial(machine: Machine, tmp_path: Path) -> None:
    machine.write("proc/self/mountinfo", MOUNTS)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert file_system(tmp_path / "a", machine.sources, polling=False).status is Status.SKIPPED


@pytest.mark.parametrize(
    ("watches", "instances", "remedy"),
    [
        (65536, 128, None),
        (100, 128, "Run `sudo sysctl fs.inotify.max_user_watches=524288`."),
        (65536, 8, "Run `sudo sysctl fs.inotify.max_user_instances=1024`."),
        (1, 1, "Run `sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=1024`."),
    ],
)
def test_few_watches_are_warned_of(
    machine: Machine, watches: int, instances: int, remedy: str | None
) -> None:
    machine.write("proc/sys/fs/inotify/max_user_watches", f"{watches}\n")
    machine.write("proc/sys/fs/inotify/max_user_instances", f"{instances}\n")
    found = inotify(machine.sources, polling=False)
    assert found.status is (Status.OK if remedy is None else Status.WARNING)
    assert found.remedy == remedy


def test_watches_are_not_asked_for_where_none_are_needed_or_none_are_told(machine: Machine) -> None:
    assert inotify(machine.sources, polling=False).status is Status.SKIPPED
    assert "polled" in inotify(machine.sources, polling=True).words


# --- the clock ------------------------------------------------------------------------------------------------

NOON = 1_790_000_000.0  #: in 2026


@pytest.mark.parametrize(
    ("wall", "offset", "status", "words"),
    [
        (NOON, None, Status.OK, "no server to compare it with"),
        (NOON, 0.4, Status.OK, "the same as the server's"),
        (NOON, -1.9, Status.OK, "the same as the server's"),
        (NOON, 5.0, Status.WARNING, "the server's clock is 5 s ahead of ours"),
        (NOON, -300.0, Status.WARNING, "the server's clock is 5 minutes behind ours"),
        (NOON, 36_000.0, Status.WARNING, "the server's clock is 10 hours ahead of ours"),
        (NOON, 864_000.0, Status.WARNING, "the server's clock is 10 days ahead of ours"),
        (0.0, 1.0, Status.FAILED, "1970-01-01 00:00 UTC cannot be"),
    ],
)
def test_a_clock_is_compared_with_the_server_s(
    wall: float, offset: float | None, status: Status, words: str
) -> None:
    found = clock(wall, offset)
    assert found.status is status
    assert words in found.words
    assert (found.remedy is None) is (status is Status.OK)


# --- all together -----------------------------------------------------------------------------------------------


def all_of(config: devpipe.PipeConfig, machine: Machine) -> dict[str, Finding]:
    return {finding.check: finding for finding in survey(config, machine.sources)}


def test_only_what_concerns_the_transports_is_looked_at(machine: Machine, tmp_path: Path) -> None:
    network = all_of(devpipe.PipeConfig(server_url=URL), machine)
    folder = all_of(devpipe.PipeConfig(folder=str(tmp_path)), machine)
    assert {"sockets", "proxy", "container"} <= set(network) and not {"sockets", "proxy"} & set(folder)
    assert not {"file system", "inotify"} & set(network)
