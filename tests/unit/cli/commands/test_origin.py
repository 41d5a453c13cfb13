"""``run --origin``, ``origin`` and ``follow``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dogpile_fs import Datafile, Origin, OriginError
from tests.support import servers
from tests.support.processes import PATIENCE, wait_for
from tests.unit.origin.conftest import KINDS, listeners, new_url

HOUR = 3600


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return new_url(request.param, tmp_path, monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "origin")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "dogpile_fs", *map(str, words)]


def done(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=PATIENCE)


def run(host: Path, url: str, *options: object, contents: str = "") -> subprocess.CompletedProcess[str]:
    host.mkdir(exist_ok=True)
    script = f'printf "{contents or host.name}" > "$DOGPILE_FS_OUTPUT"; echo {host.name} >> {host.parent}/log'
    file = host / "report"
    return done("run", "--expire", "1h", "--output", file, "--origin", url, *options, "--", "sh", "-c", script)


def test_of_the_cron_jobs_of_two_hosts_one_creates(tmp_path: Path, url: str) -> None:
    for name in ("one", "other", "one"):
        ended = run(tmp_path / name, url)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "log").read_text() == "one\n"
    assert (tmp_path / "other" / "report").read_text() == "one"


def test_a_forced_run_reaches_the_other_host_with_its_next_question(tmp_path: Path, directory: str) -> None:
    run(tmp_path / "one", directory)
    run(tmp_path / "other", directory)
    assert run(tmp_path / "other", directory, "--force", contents="new").returncode == 0
    report = Datafile(tmp_path / "one" / "report", HOUR, origin=Origin(directory, check=0.1))
    wait_for(lambda: Path(report.path()).read_text() == "new", "the new version")


def test_a_run_without_the_origin_is_refused(tmp_path: Path, directory: str) -> None:
    run(tmp_path / "one", directory)
    file = tmp_path / "one" / "report"
    ended = done("run", "--expire", "0", "--output", file, "--", "sh", "-c", "echo > $DOGPILE_FS_OUTPUT")
    assert ended.returncode != 0
    assert f"this host's copy of what the origin '{directory}' has" in ended.stderr
    assert file.read_text() == "one"
    with pytest.raises(OriginError, match="--origin"):
        Datafile(file, 0, lambda target: Path(target).touch()).refresh()


def test_an_origin_that_does_not_answer_is_an_error_of_its_own(tmp_path: Path) -> None:
    ended = run(tmp_path / "one", str(tmp_path / "mnt" / "origin"))
    assert ended.returncode == 69
    assert "does not answer" in ended.stderr
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://key:secret@bucket/name", "credentials"),
        ("s3://bucket", "a scheme, a bucket or server, and a name"),
        ("redis://host/name", "with a number for db"),
    ],
)
def test_a_wrong_url_is_a_usage_error_that_shows_no_secret(tmp_path: Path, url: str, complaint: str) -> None:
    for ended in (run(tmp_path / "one", url), done("origin", "check", url)):
        assert ended.returncode == 64
        assert complaint in ended.stderr
        assert "secret" not in ended.stderr


def test_options_that_do_not_go_with_an_origin_are_usage_errors(tmp_path: Path, directory: str) -> None:
    for options in (("--directory", tmp_path), ("--depends-on", tmp_path)):
        ended = run(tmp_path / "one", directory, *options)
        assert ended.returncode == 64
        assert "each host has files of its own" in ended.stderr
    alone = ["run", "--expire", "1h", "--output", "x", "--hint", "redis://127.0.0.1/0/hint", "--", "true"]
    for complaint, ended in (
        (
            "--hint goes with --origin",
            done(*alone),
        ),
        ("hint must be redis://", run(tmp_path / "one", directory, "--hint", "http://127.0.0.1/hint")),
    ):
        assert ended.returncode == 64
        assert complaint in ended.stderr


def test_origin_check_tells_whether_it_is_fit(url: str) -> None:
    ended = done("origin", "check", url)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("fit: ")
    assert lines[1].startswith("a question takes ")
    assert "this host's" in lines[2]
    facts = json.loads(done("origin", "check", "--json", url).stdout)
    assert list(facts) == ["fit", "question", "clock_ahead"]
    assert facts["fit"] is True
    assert 0 < facts["question"] < PATIENCE


def test_origin_check_of_what_is_not_there(tmp_path: Path) -> None:
    ended = done("origin", "check", tmp_path / "mnt" / "origin")
    assert ended.returncode == 69
    assert "Hint: mount it, or make it" in ended.stderr


def test_origin_status_tells_the_version(tmp_path: Path, url: str) -> None:
    ended = done("origin", "status", url)
    assert (ended.returncode, ended.stdout) == (2, f"{url} is empty: no host has published yet\n")
    assert done("origin", "status", "--json", url).stdout == "null\n"
    run(tmp_path / "one", url)
    assert done("origin", "status", url).stdout.startswith("generation 1, 3 bytes, ")
    told = json.loads(done("origin", "status", "--json", url).stdout)
    assert (told["generation"], told["size"], told["creating_host"]) == (1, 3, None)


def test_origin_prune_removes_what_no_recent_version_has(tmp_path: Path, url: str) -> None:
    assert done("origin", "prune", url).returncode == 2
    run(tmp_path / "one", url)
    (tmp_path / "blob").write_text("left by a host that died")
    engine = Origin(url)._engine()
    engine.put("f" * 64, str(tmp_path / "blob"))
    assert done("origin", "prune", url).stdout == "0 blobs removed\n"
    assert done("origin", "prune", "--json", url).stdout == '{"removed": 0}\n'
    assert done("origin", "prune", "--older-than", "0", url).stdout in ("1 blob removed\n", "0 blobs removed\n")
    wait_for(lambda: done("origin", "prune", "--older-than", "0", url).stdout == "0 blobs removed\n", "the end")
    assert len(list(engine.blobs())) == 1
    assert run(tmp_path / "other", url).returncode == 0
    assert (tmp_path / "other" / "report").read_text() == "one"


def test_follow_keeps_a_copy_up_to_date_tells_when_it_is_ready_and_ends_cleanly(
    tmp_path: Path, directory: str
) -> None:
    copy, ready = tmp_path / "other" / "report", tmp_path / "ready"
    copy.parent.mkdir()
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / "notify"))
    notices.settimeout(PATIENCE)
    words = command("follow", "--origin", directory, "--ready-file", ready, copy)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            run(tmp_path / "one", directory, contents="first")
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert notices.recv(100) == b"READY=1"
            assert ready.exists()
            assert copy.read_text() == "first"
            run(tmp_path / "one", directory, "--force", contents="second")
            wait_for(lambda: copy.read_text() == "second", "the second version")
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert notices.recv(100) == b"STOPPING=1"
    notices.close()
    assert not ready.exists()
    # It remembers which origin the copy has.
    with subprocess.Popen(command("follow", copy), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_run_tells_of_its_version_where_a_follower_listens(tmp_path: Path, directory: str) -> None:
    hint, copy = f"redis://127.0.0.1:{servers.redis().port}/0/{tmp_path.name}", tmp_path / "other" / "report"
    copy.parent.mkdir()
    run(tmp_path / "one", directory, "--hint", hint, contents="first")
    words = command("follow", "--origin", directory, "--hint", hint, copy)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            wait_for(lambda: listeners(hint) == 1, "the follower to listen")
            run(tmp_path / "one", directory, "--force", "--hint", hint, contents="second")
            wait_for(lambda: copy.read_text() == "second", "the second version")
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
    wait_for(lambda: listeners(hint) == 0, "the end of the connection")


def test_follow_says_if_no_origin_is_known(tmp_path: Path) -> None:
    ended = done("follow", tmp_path / "report")
    assert ended.returncode == 64
    assert "give --origin" in ended.stderr
