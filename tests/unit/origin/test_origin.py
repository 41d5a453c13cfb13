"""What an Origin is made of, and what it costs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dogpile_fs import Datafile, Dogpile, Origin, OriginError
from dogpile_fs._dogpile.host_election import HostElection
from tests.support import servers
from tests.support.processes import PATIENCE, wait_for
from tests.unit.origin.conftest import new_url

HOUR = 3600


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://key:secret@bucket/name", "credentials"),
        ("redis://:secret@host/0/name", "credentials"),
        ("s3://bucket", "and a name"),
        ("s3:///name", "and a name"),
        ("s3://bucket/name?region=x", "and a name"),
        ("redis://host:port/0/name", "cannot be read"),
        ("redis://host/name", "a number for db"),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_secret(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Origin(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0.5}, ValueError),
        ({"ttl": float("inf")}, ValueError),
        ({"ttl": "30"}, TypeError),
        ({"check": 0.05}, ValueError),
        ({"outage": "wait"}, ValueError),
        ({"hint": "s3://bucket/name"}, ValueError),
        ({"hint": "redis://:secret@host/0/name"}, ValueError),
        ({"hint": 1}, TypeError),
        ({"key": ""}, ValueError),
        ({"key": 1}, TypeError),
    ],
)
def test_options_that_make_no_origin_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Origin("s3://bucket/name", **options)
    with pytest.raises(TypeError):
        Origin(1)  # type: ignore[arg-type]


def test_an_origin_is_a_value_that_can_be_pickled_and_shows_no_key(tmp_path: Path) -> None:
    origin = Origin("s3://bucket/name", ttl=timedelta(seconds=60), check=1, outage="create", key="secret")
    assert pickle.loads(pickle.dumps(origin)) == origin
    assert repr(origin) == "Origin('s3://bucket/name', ttl=60.0, check=1.0, outage='create', key=...)"
    assert Origin(tmp_path).url == Origin(str(tmp_path)).url == str(tmp_path)
    assert Origin("origin").url == os.path.abspath("origin")


def test_an_engine_of_another_package_is_found_by_its_scheme() -> None:
    with pytest.raises(OriginError, match="no engine is known") as caught:
        Origin("ftp://host/name")._engine()
    assert "dogpile_fs.origins" in str(caught.value)


def test_how_often_a_host_asks_follows_from_the_expiretime() -> None:
    origin = Origin("s3://bucket/name")
    assert [origin._check_after(each) for each in (None, 3600, 50, 0)] == [10.0, 10.0, 5.0, 0.1]
    assert Origin("s3://bucket/name", check=2)._check_after(3600) == 2.0


_WITHOUT = """
import sys
for name in ("obstore", "redis"):
    sys.modules[name] = None
from dogpile_fs import Datafile, Origin, OriginError
for url in ("s3://bucket/name", "az://container/name", "gs://bucket/name", "redis://host/0/name"):
    try:
        Datafile(sys.argv[1], 3600, print, origin=url, timeout=5).refresh()
    except OriginError as error:
        print(error)
try:
    Datafile(sys.argv[1], 3600, print, origin=Origin(sys.argv[2], hint="redis://host/0/name")).refresh()
except OriginError as error:
    print(error)
"""


def test_without_an_extra_the_error_names_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _WITHOUT, str(tmp_path / "report"), str(tmp_path / "origin")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    lines = ended.stdout.splitlines()
    named = [line.partition("dogpile_fs[")[2].partition("]")[0] for line in lines]
    assert named == ["s3", "az", "gs", "redis", "redis"], ended.stderr


def test_the_package_imports_no_engine() -> None:
    script = "import sys, dogpile_fs; dogpile_fs.Origin; print({'obstore', 'redis', 'hashlib'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_plain_http_is_refused_beyond_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for variable, value in servers.ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:1")  # no host has it
    report = Datafile(tmp_path / "report", HOUR, print, origin="s3://bucket/name", timeout=5)
    began = time.monotonic()
    with pytest.raises(OriginError, match=r"[Hh]ttp|URL scheme"):
        report.refresh()
    assert time.monotonic() - began < PATIENCE


def commands(port: int) -> dict[str, int]:
    import redis

    stats = redis.Redis(port=port).info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


def test_what_a_version_costs_is_counted_at_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, port = new_url("redis", tmp_path, monkeypatch), servers.redis().port
    hosts = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        # Several objects stand for several workers.
        path, origin = tmp_path / name / "report", Origin(url, check=0.2)
        hosts.append(
            [Datafile(path, HOUR, lambda target: Path(target).write_text("x"), origin=origin) for _ in "ab"]
        )
    for workers in hosts:
        for worker in workers:
            worker.path()
    before = commands(port)
    hosts[0][0].refresh(force=True)
    after = commands(port)
    assert after["eval"] - before["eval"] == 2
    assert after["set"] - before["set"] <= 1
    assert after["hmget"] - before["hmget"] <= 2
    before = after
    wait_for(lambda: [w.path() for w in hosts[1]] and hosts[1][1].status().generation == 2, "the version")
    after = commands(port)
    assert after.get("eval", 0) == before.get("eval", 0)
    assert after.get("get", 0) - before.get("get", 0) <= 1


def test_a_host_asks_once_in_check_seconds_however_many_workers_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, port = new_url("redis", tmp_path, monkeypatch), servers.redis().port
    origin = Origin(url, check=0.3)
    workers = [
        Datafile(tmp_path / "report", HOUR, lambda target: Path(target).touch(), origin=origin) for _ in "abcd"
    ]
    workers[0].refresh()
    before, began = commands(port)["hmget"], time.monotonic()
    while time.monotonic() - began < 2:
        for worker in workers:
            worker.path()
    lasted = time.monotonic() - began
    assert 1 <= commands(port)["hmget"] - before <= lasted / 0.3 + 1


def test_a_fresh_pass_does_not_go_through_the_election(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Datafile(
        tmp_path / "report", HOUR, lambda target: Path(target).write_text("x"), origin=tmp_path / "origin"
    )
    report.refresh()

    def refused(*arguments: object) -> Any:
        raise AssertionError("a fresh pass has asked")

    for name in ("ask", "is_due", "ask_at"):
        monkeypatch.setattr(HostElection, name, refused)
    for _ in range(5):
        report.path()
        with report.open() as file:
            assert report.load(lambda file: file.read()) == file.read()
        time.sleep(0.012)  # the guard of the last pass is not used again


def _instructions(action: Callable[[], object]) -> int:
    """Return the least number of instructions of the interpreter that *action* takes."""
    counts: list[int] = []

    def count(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts[-1] += event == "opcode"
        return count

    before = sys.gettrace()
    for _ in range(50):  # now and then a pass looks at more: at the path, after some milliseconds
        counts.append(0)
        sys.settrace(count)
        try:
            action()
        finally:
            sys.settrace(before)
    return min(counts)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its tracer counts the same pass differently at times")
def test_a_fresh_pass_takes_no_instruction_more_than_without_an_origin(tmp_path: Path) -> None:
    def costs(directory: Path, **options: Any) -> list[int]:
        directory.mkdir()
        report = Datafile(directory / "report", HOUR, lambda target: Path(target).write_text("{}"), **options)
        report.refresh()
        rows = Dogpile(HOUR, directory / "rows", **options)
        rows.refresh(lambda: None)

        def opened() -> None:
            with report.open():
                pass

        def acquired() -> None:
            with rows.acquire():
                pass

        return [_instructions(action) for action in (opened, lambda: report.load(json.load), acquired)]

    assert costs(tmp_path / "with", origin=tmp_path / "origin") == costs(tmp_path / "without")
