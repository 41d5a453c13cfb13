"""Hosts as processes of their own: stopped, killed, cut off, and without an answer."""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile, DogpileError, Origin, OriginError
from tests.support import servers
from tests.support.processes import PATIENCE, Processes, Record, wait_for
from tests.support.proxy import Proxy
from tests.unit.origin.conftest import new_url

HOUR = 3600


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.end()


def report_of(
    root: Path, name: str, url: str, expiretime: float, creator: Any = None, ttl: float = 1.0
) -> Datafile:
    (root / name).mkdir(exist_ok=True)
    return Datafile(
        root / name / "report", expiretime, creator, origin=Origin(url, ttl=ttl, check=0.1), timeout=PATIENCE
    )


def creating(record: Record, name: str, seconds: float) -> Any:
    def create(target: str) -> None:
        nonce = f"{name}-{os.getpid()}-{time.monotonic_ns()}"
        record.write("begun", host=name, nonce=nonce)
        time.sleep(seconds)
        Path(target).write_text(json.dumps(nonce))
        record.write("made", host=name, nonce=nonce)

    return create


def refresh_once(root: Path, name: str, url: str, record: Record, seconds: float) -> None:
    report = report_of(root, name, url, HOUR, creating(record, name, seconds))
    record.write("ended", host=name, outcome=str(report.refresh(force=True)))


def read_until(root: Path, name: str, url: str, record: Record, expiretime: float, seconds: float) -> None:
    report = report_of(root, name, url, expiretime, creating(record, name, seconds))
    while not record.events("over"):
        began = time.monotonic()
        nonce = report.load(json.load)
        generation = report.status().generation
        record.write("seen", host=name, nonce=nonce, generation=generation, waited=time.monotonic() - began)
        time.sleep(0.02)


def read_once(root: Path, name: str, url: str, record: Record) -> None:
    report = report_of(root, name, url, HOUR, creating(record, name, 0.3), ttl=30)
    record.write("seen", nonce=report.load(json.load))


def started(url: str) -> str:
    """How processes are started: obstore does not work in a child of one that has used it."""
    return "spawn" if url.startswith("s3:") else "fork"


def test_many_processes_of_five_hosts_that_start_cold_create_once(
    tmp_path: Path, url: str, processes: Processes, record: Record
) -> None:
    for number in range(15 if started(url) == "spawn" else 50):
        processes.start(read_once, tmp_path, f"host-{number % 5}", url, record, method=started(url))
    processes.join()
    assert len(record.events("begun")) == 1
    assert len({each.more["nonce"] for each in record.events("seen")}) == 1


def test_what_a_host_has_made_that_was_stopped_beyond_its_ttl_is_never_seen(
    tmp_path: Path, url: str, processes: Processes, record: Record
) -> None:
    other = report_of(tmp_path, "other", url, HOUR, creating(record, "other", 0.0))
    first = other.load(json.load)
    process = processes.start(refresh_once, tmp_path, "stopped", url, record, 0.5, method=started(url))
    wait_for(lambda: [each for each in record.events("begun") if each.more["host"] == "stopped"], "its creation")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        other.refresh(force=True)
        second = other.load(json.load)
        assert second != first
    finally:
        os.kill(process.pid, signal.SIGCONT)
    processes.join()
    (ended,) = record.events("ended")
    assert ended.more["outcome"] == "fenced"
    stopped = report_of(tmp_path, "stopped", url, HOUR)
    for _ in range(20):
        assert stopped.load(json.load) == other.load(json.load) == second
        time.sleep(0.02)
    assert stopped.status().generation == other.status().generation == 2


def test_a_host_whose_creator_is_killed_is_taken_over_from_and_no_reader_with_a_version_waits(
    tmp_path: Path, url: str, processes: Processes, record: Record
) -> None:
    other = report_of(tmp_path, "other", url, HOUR, creating(record, "other", 0.0))
    other.load(json.load)
    process = processes.start(refresh_once, tmp_path, "killed", url, record, 600.0, method=started(url))
    wait_for(lambda: [each for each in record.events("begun") if each.more["host"] == "killed"], "its creation")
    process.kill()
    process.join()
    other.invalidate()
    began = time.monotonic()
    while other.status().generation == 1:
        before = time.monotonic()
        other.load(json.load)
        assert time.monotonic() - before < 10
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.01)
    assert other.status().failures_total == 1


def test_readers_and_creators_of_three_hosts_agree_while_creators_are_killed(
    tmp_path: Path, url: str, processes: Processes, record: Record
) -> None:
    for name in ("one", "two", "three"):
        for _ in range(2):
            processes.start(read_until, tmp_path, name, url, record, 0.5, 0.1, method=started(url))
    for kill in range(3):
        wait_for(lambda least=3 * kill: len(record.events("begun")) > least, "a creation")  # type: ignore[misc]
        begun = record.events("begun")[-1]
        with suppress(ProcessLookupError):
            os.kill(int(begun.more["nonce"].split("-")[1]), signal.SIGKILL)
        processes.start(read_until, tmp_path, begun.more["host"], url, record, 0.5, 0.1, method=started(url))
    count = len(record.events("made"))
    wait_for(lambda: len(record.events("made")) >= count + 3, "three more creations")
    record.write("over")
    for process in processes.started:
        process.join(PATIENCE)
    made = {each.more["nonce"] for each in record.events("made")}
    assert {each.more["nonce"] for each in record.events("seen")} <= made


def redis_through(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0/{os.urandom(4).hex()}"


@pytest.mark.parametrize("lost", range(1, 12))
def test_an_answer_that_is_lost_makes_no_second_version(tmp_path: Path, record: Record, lost: int) -> None:
    with Proxy(servers.redis().port) as proxy:
        url = redis_through(proxy)
        one = report_of(tmp_path, "one", url, HOUR, creating(record, "one", 0.0), ttl=30)
        other = report_of(tmp_path, "other", url, HOUR, creating(record, "other", 0.0), ttl=30)
        one.load(json.load)
        other.load(json.load)
        waits = threading.Event()

        def lose() -> None:
            waits.wait(0.003 * lost)
            proxy.losses = 1

        thread = threading.Thread(target=lose)
        thread.start()
        with suppress(DogpileError):
            one.refresh(force=True)
        thread.join()
        proxy.losses = 0
        newest = wait_for(lambda: _agreed(one, other), "one version for both")
        assert newest in {each.more["nonce"] for each in record.events("made")}
        assert one.status().generation == other.status().generation <= len(record.events("made"))


def _agreed(*reports: Datafile) -> Any:
    seen = {report.load(json.load) for report in reports}
    generations = {report.status().generation for report in reports}
    return seen.pop() if len(seen) == len(generations) == 1 else None


def test_a_host_that_is_cut_off_while_it_creates_is_fenced_or_publishes_and_all_agree(
    tmp_path: Path, record: Record
) -> None:
    with Proxy(servers.redis().port) as proxy:
        near = f"redis://127.0.0.1:{servers.redis().port}/0/"
        name = os.urandom(4).hex()
        cut_off = report_of(
            tmp_path, "cut", f"redis://127.0.0.1:{proxy.port}/0/{name}", HOUR, creating(record, "cut", 0.5)
        )
        other = report_of(tmp_path, "other", near + name, HOUR, creating(record, "other", 0.0))
        first = cut_off.load(json.load)
        assert other.load(json.load) == first
        outcomes: list[str] = []

        def refresh() -> None:
            try:
                outcomes.append(str(cut_off.refresh(force=True)))
            except DogpileError as error:
                outcomes.append(type(error).__name__)

        thread = threading.Thread(target=refresh)
        begun = len(record.events("begun"))
        thread.start()
        wait_for(lambda: len(record.events("begun")) > begun, "its creation")
        proxy.cut()
        assert other.refresh(force=True)
        newest = other.load(json.load)
        thread.join()
        assert cut_off.load(json.load) == first  # it goes on with what it has
        proxy.mode = "through"
        wait_for(lambda: _agreed(cut_off, other) == newest, "the version of the other host")
        assert outcomes in (["OriginError"], ["fenced"])


def test_a_redis_that_has_lost_everything_is_filled_anew(tmp_path: Path, record: Record) -> None:
    server = servers.new_redis()
    try:
        url = f"redis://127.0.0.1:{server.port}/0/report"
        one = report_of(tmp_path, "one", url, HOUR, creating(record, "one", 0.0))
        other = report_of(tmp_path, "other", url, HOUR, creating(record, "other", 0.0))
        assert one.load(json.load) == other.load(json.load)
        server.restart()
        wait_for(lambda: _agreed(one, other) and len(record.events("made")) >= 2, "a new version for both")
    finally:
        server.end()


def test_a_child_of_a_process_that_has_used_object_storage_goes_on_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes, record: Record
) -> None:
    url = new_url("s3", tmp_path, monkeypatch)
    one = report_of(tmp_path, "one", url, HOUR, creating(record, "one", 0.0))
    one.load(json.load)

    def use() -> None:
        copy = report_of(tmp_path, "one", url, 0.0, creating(record, "one", 0.0))
        assert Path(copy.path()).exists()
        with pytest.raises(OriginError, match="which has forked this one"):
            copy.refresh()

    processes.start(use)
    processes.join()
    assert len(record.events("made")) == 1


def test_a_hard_link_in_the_place_of_the_file_of_what_was_seen_is_not_written(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    url = str(tmp_path / "origin")
    one = report_of(tmp_path, "one", url, HOUR, creating(record, "one", 0.0))
    victim, seen = tmp_path / "victim", tmp_path / "one" / "report.dogpile.fetch"
    victim.write_text("precious")
    first = one.load(json.load)
    seen.unlink()
    os.link(victim, seen)
    time.sleep(0.15)
    assert one.load(json.load) == first
    assert "has another name too" in caplog.text
    with pytest.raises(DogpileError, match="has another name too"):
        one.refresh(force=True)
    assert victim.read_text() == "precious"
    seen.unlink()
    assert one.refresh(force=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_process_that_may_only_read_passes_and_leaves_the_questions_to_others(
    processes: Processes, record: Record
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as root:  # pytest's own is closed to other users
        os.chmod(root, 0o755)
        url = os.path.join(root, "origin")
        one = report_of(Path(root), "one", url, HOUR, creating(record, "one", 0.0))
        first = one.load(json.load)
        warnings: list[logging.LogRecord] = []

        class Kept(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                warnings.append(record)

        def read() -> None:
            os.setgid(65534)
            os.setuid(65534)
            logging.getLogger("dogpile_fs").addHandler(Kept())
            reader = report_of(Path(root), "one", url, HOUR)
            time.sleep(0.15)
            for _ in range(10):
                assert reader.load(json.load) == first
            assert ["does not ask the origin" in each.getMessage() for each in warnings] == [True]

        processes.start(read)
        processes.join()
