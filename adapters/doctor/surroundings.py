"""What the place where we run says about which transports can work: read, not tried.

Every check takes what it reads as an argument, so that it can be shown another machine than this one.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from devpipe.adapters.doctor.report import Finding, Status
from devpipe.adapters.environment import supports_websockets
from devpipe.adapters.ports.dial import environment_proxy, is_loopback, split_proxy
from devpipe.machines.config import PipeConfig
from devpipe.machines.errors import ConfigurationError

__all__ = ["Sources", "clock", "container", "file_system", "inotify", "proxies", "survey", "wsl"]

#: File systems on which what another machine writes is not told to us: only reading the listing shows it.
NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "ceph", "cifs", "drvfs", "fuse.glusterfs", "fuse.sshfs", "fuse.vmhgfs-fuse", "glusterfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs"}
)
#: What kernels give by default; with less, other programs have soon used them up.
FEW_WATCHES = 8192
FEW_INSTANCES = 128
#: Clocks that differ by less than this (seconds) are as good as equal: HTTP tells whole seconds.
SKEW = 2.0
#: No machine is in an earlier year: its clock was never set.
FIRST_YEAR = 2025
_CGROUPS = ("docker", "kubepods", "containerd", "libpod", "lxc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where to look: the environment, the folders ``/proc`` and ``/``, and the wall clock (seconds since 1970)."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    proc: Path = Path("/proc")
    root: Path = Path("/")
    wall: Callable[[], float] = time.time


def survey(config: PipeConfig, sources: Sources, *, proxy: str | None = None) -> Iterator[Finding]:
    """Everything but the clock, which wants a server to be compared with. ``proxy``: one that was given by hand.

    Reads small files only; a folder on a dead network file system may hold it up.
    """
    url, wsl_version = config.server_url, wsl(sources)
    if url is not None:
        yield _sockets()
        yield proxies(sources.environ, url, given=proxy)
    yield _container(sources, url)
    if sys.platform == "linux":
        yield _wsl(wsl_version, url)
        if config.folder is not None:
            polling = config.folder_options.polling
            yield file_system(Path(config.folder), sources, polling=polling, on_wsl=wsl_version is not None)
            yield inotify(sources, polling=polling)


# --- the network ------------------------------------------------------------------------------------------


def _sockets() -> Finding:
    if supports_websockets():
        return Finding(check="sockets", status=Status.OK, words="this process may open sockets")
    return Finding(
        check="sockets",
        status=Status.FAILED,
        words="this process may not open sockets",
        remedy="Run it outside of the sandbox, or use a shared folder: --folder DIR.",
    )


def proxies(environ: Mapping[str, str], url: str, *, given: str | None = None) -> Finding:
    """Which proxy, if any, stands between us and ``url``, and who says so."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    found, names = _proxy_variables(environ)
    # where there are no variables, these two have settings of their own
    asked = None if not found and sys.platform in ("win32", "darwin") else found
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxy = given or environment_proxy(parts.scheme, host, port, found=asked)
    if proxy is None:
        words = "no proxy variable is set"
        if names:
            words = f"{', '.join(sorted(names.values()))} set, not used for {host}"
        return Finding(check="proxy", status=Status.OK, words=words)
    name = names.get(parts.scheme if parts.scheme in found else "all", "the system's settings")
    name, away = ("proxy=", "give none") if given else (name, f"take it out of {name}")
    try:
        way = split_proxy(proxy)
    except ConfigurationError as error:  # socks, or no address at all
        return Finding(
            check="proxy",
            status=Status.FAILED,
            words=f"{name}: {error}",
            remedy=f"devpipe speaks to HTTP proxies only: {away}, or run `export NO_PROXY={host}`.",
        )
    words = f"{host} is reached through {way.hostname} ({name})"
    if _is_near(host):
        return Finding(
            check="proxy",
            status=Status.WARNING,
            words=f"{words}, though it looks like a neighbour",
            remedy=f"If the proxy is not meant for it, run `export NO_PROXY={host}`.",
        )
    return Finding(check="proxy", status=Status.OK, words=words)


def _proxy_variables(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Proxies by scheme, and the variables that name them; in small letters they win, as everywhere."""
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    for name in sorted(environ):  # capitals stand first
        scheme = name.lower().removesuffix("_proxy")
        if scheme in ("http", "https", "all", "no") and name.lower() != scheme and environ[name]:
            found[scheme] = environ[name]
            if scheme != "no":
                names[scheme] = name
    return found, names


def _is_near(host: str) -> bool:
    """True for private addresses and for names without a dot."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name
        return "." not in host


# --- the machine ------------------------------------------------------------------------------------------


def container(sources: Sources) -> str | None:
    """What shows that this is a container, None if nothing does."""
    for marker in (".dockerenv", "run/.containerenv"):
        if (sources.root / marker).exists():
            return f"/{marker} is there"
    for name in ("KUBERNETES_SERVICE_HOST", "container"):
        if sources.environ.get(name):
            return f"{name} is set"
    groups = _read(sources.proc / "1/cgroup") or ""
    word = next((word for word in _CGROUPS if word in groups), None)
    return None if word is None else f"/proc/1/cgroup says {word}"


def _container(sources: Sources, url: str | None) -> Finding:
    sign = container(sources)
    if sign is None:
        return Finding(check="container", status=Status.OK, words="no sign of one")
    words = f"in a container ({sign})"
    host = "" if url is None else urlsplit(url).hostname or ""
    if is_loopback(host):
        words += f"; {host} is the container itself, not the machine around it"
    return Finding(check="container", status=Status.OK, words=words)


def wsl(sources: Sources) -> int | None:
    """1 or 2 under the Windows Subsystem for Linux, None elsewhere."""
    version = (_read(sources.proc / "version") or "").lower()
    if "microsoft" not in version:
        return None
    return 2 if "wsl2" in version or "microsoft-standard" in version else 1


def _wsl(version: int | None, url: str | None) -> Finding:
    words = "no sign of it" if version is None else f"WSL {version}"
    host = "" if url is None else urlsplit(url).hostname or ""
    if version == 2 and is_loopback(host):
        words += f"; {host} is Linux, not Windows, unless its network is mirrored"
    return Finding(check="wsl", status=Status.OK, words=words)


# --- the folder -------------------------------------------------------------------------------------------


def file_system(folder: Path, sources: Sources, *, polling: bool, on_wsl: bool = False) -> Finding:
    """On what kind of file system the folder is: one that is read-only cannot work, one on a network tells nobody."""
    text = _read(sources.proc / "self/mountinfo")
    try:
        mount = None if text is None else _mount_of(folder.resolve(), text)
    except (OSError, RuntimeError):  # links in a ring: the trial of the folder says so
        mount = None
    if mount is None:
        words = "it cannot be said on which one the folder is"
        return Finding(check="file system", status=Status.SKIPPED, words=words)
    words = f"{mount.type} at {mount.point!r}"
    if mount.read_only:
        return Finding(
            check="file system",
            status=Status.FAILED,
            words=f"{words} is read-only",
            remedy=f"Run `sudo mount -o remount,rw {shlex.quote(mount.point)}`, or take a folder that is elsewhere.",
        )
    if mount.type in NETWORK_FILE_SYSTEMS:
        if polling:
            return Finding(check="file system", status=Status.OK, words=f"{words}; the folder is polled")
        elsewhere = "take a folder inside Linux, like ~/.devpipe, or " if on_wsl else ""
        return Finding(
            check="file system",
            status=Status.WARNING,
            words=f"{words} does not tell what other machines write",
            remedy=f"To be sure, {elsewhere}run `export DEVPIPE_FOLDER_OPTIONS_POLLING=true`.",
        )
    return Finding(check="file system", status=Status.OK, words=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    point: str
    type: str
    read_only: bool


def _mount_of(path: Path, mountinfo: str) -> _Mount | None:
    """The mount that ``path`` is on (proc(5) has the format); of two at one place the later one hides the other."""
    found: _Mount | None = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not separator or len(fields) < 6 or len(kind) < 3:
            continue  # a line that proc(5) does not know
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if path.is_relative_to(point) and (found is None or len(point) >= len(found.point)):
            read_only = "ro" in fields[5].split(",") or "ro" in kind[2].split(",")
            found = _Mount(point=point, type=kind[0], read_only=read_only)
    return found


def inotify(sources: Sources, *, polling: bool) -> Finding:
    """Whether this system has room for watching a folder."""
    if polling:
        return Finding(
            check="inotify", status=Status.SKIPPED, words="not needed: the folder is polled, as it is set to"
        )
    limits = sources.proc / "sys/fs/inotify"
    watches = _number(limits / "max_user_watches")
    instances = _number(limits / "max_user_instances")
    if watches is None or instances is None:
        words = "this system does not say how many watches there are"
        return Finding(check="inotify", status=Status.SKIPPED, words=words)
    words = f"{watches} watches and {instances} instances for each user"
    wanted: list[str] = []
    if watches < FEW_WATCHES:
        wanted.append("fs.inotify.max_user_watches=524288")
    if instances < FEW_INSTANCES:
        wanted.append("fs.inotify.max_user_instances=1024")
    if wanted:
        return Finding(
            check="inotify",
            status=Status.WARNING,
            words=f"only {words}: editors use them up",
            remedy=f"Run `sudo sysctl {' '.join(wanted)}`.",
        )
    return Finding(check="inotify", status=Status.OK, words=words)


# --- the clock --------------------------------------------------------------------------------------------


def clock(wall: float, offset: float | None) -> Finding:
    """Whether our clock can be right. ``wall`` in seconds since 1970, ``offset``: the server's minus ours."""
    now = datetime.fromtimestamp(wall, UTC)
    said = f"{now:%Y-%m-%d %H:%M} UTC"
    remedy = "Set the clock that is wrong; `sudo timedatectl set-ntp true` keeps it right."
    if now.year < FIRST_YEAR:
        return Finding(check="clock", status=Status.FAILED, words=f"{said} cannot be", remedy=remedy)
    if offset is None:
        return Finding(check="clock", status=Status.OK, words=f"{said}; no server to compare it with")
    if abs(offset) < SKEW:
        return Finding(check="clock", status=Status.OK, words=f"{said}, the same as the server's")
    way = "ahead of" if offset > 0 else "behind"
    return Finding(
        check="clock",
        status=Status.WARNING,
        words=f"{said}; the server's clock is {_span(abs(offset))} {way} ours",
        remedy=remedy,
    )


def _span(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- inside -----------------------------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or a sandbox that hides it
        return None


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None
