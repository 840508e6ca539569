"""Servers of another kind: what is asked of them, what they do not have, and servers that are taken for another kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import devpipe
from devpipe import Status

sys.path.insert(0, str(Path(__file__).parent))
from patients import NETWORK, answering, check_broken, diagnose, findings, listening
from support import make_server, serving

pytestmark = pytest.mark.anyio

PROFILE = "vaultpilot"


async def test_a_deployed_server_that_is_well_works_over_every_transport() -> None:
    async with serving(make_server(profile=PROFILE)) as world:
        report = await diagnose(world.url, profile=PROFILE, folder=world.folder)
    assert report.ok and report.working == ("websocket", "http", "folder")
    for trial in report.trials:
        found = findings(report, trial.transport)
        assert {f.check for f in trial.findings if f.status not in (Status.OK, Status.SKIPPED)} == set()
        assert "an answer under our id came" in found["proof"].words
        assert "p50" in found["latency"].words and trial.latency_p50 is not None
        for check in ("push", "size"):
            assert found[check].status is Status.SKIPPED and "this server" in found[check].words
    for name in NETWORK:
        assert findings(report, name)["health"].words.startswith("ok")
    beat = findings(report, "folder")["beat"]
    assert beat.status is Status.SKIPPED and "writes no beat" in beat.words


async def test_a_flat_folder_that_nobody_serves_fails_at_the_proof(tmp_path: Path) -> None:
    report = await diagnose(folder=tmp_path, profile=PROFILE, timeout=1.0)
    assert "serves" in check_broken(report, "folder", "proof")


@pytest.mark.parametrize("source", ["environment", "file", "settings"])
async def test_the_profile_may_come_from_wherever_settings_come_from(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {}
    if source == "environment":
        monkeypatch.setenv("DEVPIPE_PROFILE", PROFILE)
    elif source == "file":
        (tmp_path / "devpipe.toml").write_text(f'profile = "{PROFILE}"\n')
        options = {"config_file": tmp_path / "devpipe.toml"}
    else:
        options = {"settings": {"profile": PROFILE}}  # type: ignore[dict-item]  # what a caller writes
    async with serving(make_server(profile=PROFILE)) as world:
        report = await diagnose(world.url, transports=["http"], **options)
    assert report.ok and findings(report, "http")["size"].status is Status.SKIPPED


async def test_a_wrong_profile_is_refused_by_name() -> None:
    with pytest.raises(
        devpipe.ConfigurationError, match="profile = 'vault' from argument is not allowed: give .*vaultpilot"
    ):
        await devpipe.diagnose("http://127.0.0.1:9", profile="vault")


async def test_a_healthy_page_of_a_deployed_server_is_found_where_its_profile_has_it() -> None:
    async with listening(
        answering("200 OK\r\nContent-Type: application/json", '{"status": "healthy"}')
    ) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", profile=PROFILE, transports=["http"], timeout=1.0)
    assert findings(report, "http")["health"].status is Status.OK


@pytest.mark.parametrize("way", NETWORK)
async def test_a_server_that_has_nothing_at_our_paths_may_be_of_another_kind_or_prefix(way: str) -> None:
    config = devpipe.ServerConfig(prefix="/elsewhere", health_path="/elsewhere/health")
    async with serving(make_server(config=config)) as world:
        report = await diagnose(world.url, transports=[way])
    where = world.url.removeprefix("http://")
    remedy = check_broken(report, way, "proof", "nothing of devpipe at ", f"{where}/devpipe/")
    assert remedy.startswith("Correct the path in the address")
    assert "http.prefix" in remedy and "profile='vaultpilot'" in remedy
    assert "Correct" not in findings(report, way)["proof"].words, "a remedy is told once"
    health = findings(report, way)["health"]
    assert health.words == f"HTTP 404: there is no health page at {world.url}/health"
    assert "correct the path" in (health.remedy or "")


async def test_a_program_that_is_not_ours_and_has_nothing_there_is_told_in_the_same_words() -> None:
    for kind, body in (
        ("application/json", '{"detail": "Not Found"}'),
        ("text/plain; charset=utf-8", "Not Found"),
    ):
        async with listening(answering(f"404 Not Found\r\nContent-Type: {kind}", body)) as port:
            report = await diagnose(f"http://127.0.0.1:{port}/wrong", timeout=1.0)
        for way in NETWORK:
            remedy = check_broken(
                report,
                way,
                "proof",
                f"nothing of devpipe at {'http://' if way == 'http' else ''}127.0.0.1:{port}/wrong/devpipe/",
            )
            assert "a mounted server is at its mount path" in remedy


async def test_a_framework_that_refuses_a_socket_on_a_path_that_it_has_not_may_have_been_asked_on_a_wrong_one() -> (
    None
):
    async with listening(answering("403 Forbidden")) as port:
        report = await diagnose(f"http://127.0.0.1:{port}", transports=["websocket"], timeout=1.0)
    remedy = check_broken(report, "websocket", "proof", "forbidden, or there is nothing of devpipe at")
    assert "Correct the path" in remedy and "the server's list of origins" in remedy
