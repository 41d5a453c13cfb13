"""What an origin is asked for each version, counted where it arrives: hosts of several processes each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile, Origin, Outcome
from dogpile_fs._dogpile.host_election import HostElection
from dogpile_fs._dogpile.host_scope import HostScope
from dogpile_fs._sidecar import origin_watch
from tests.support.origin_requests import Requests, requests_at
from tests.support.processes import in_child
from tests.unit.origin.conftest import KINDS, new_url

HOUR = 3600
#: A bucket tells whole seconds, so that hosts may be wrong about its clock by one.
WRONG = 1.1
WORKERS = 3
#: Seconds that a creator runs, and more than the steps of a test take.
CREATION, LIFE = 0.2, 3.0
COUNTED = [kind for kind in KINDS if kind != "az"]


@pytest.fixture(params=COUNTED)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "directory" and shutil.which("strace") is None:
        pytest.skip("no strace here")
    return new_url(request.param, tmp_path, monkeypatch)


@pytest.fixture
def requests(url: str) -> Iterator[Requests]:
    counted = requests_at(url)
    yield counted
    counted.close()


class Workers:
    """The processes of one host."""

    def __init__(self, path: Path, url: str, expiretime: float, check: float, requests: Requests) -> None:
        path.parent.mkdir()
        words = [sys.executable, "-m", "tests.support.origin_worker"]
        words += [str(path), url, str(expiretime), str(check), str(CREATION)]
        self.outages = 0
        self._processes = [
            subprocess.Popen(
                requests.command(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for _ in range(WORKERS)
        ]

    def begin(self, command: str, count: int = WORKERS) -> None:
        for process in self._processes[:count]:
            assert process.stdin is not None
            process.stdin.write(f"{command}\n")

    def generation(self, count: int = WORKERS) -> int:
        """Wait until so many workers have done what they were told, and return the generation here."""
        told = []
        for process in self._processes[:count]:
            assert process.stdout is not None
            told.append([int(word) for word in process.stdout.readline().split()])
        self.outages = sum(outages for _, outages in told)
        return max(generation for generation, _ in told)

    def do(self, command: str, count: int = WORKERS) -> int:
        self.begin(command, count)
        return self.generation(count)

    def end(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait()
            process.stdout.close()


@pytest.fixture
def hosts(tmp_path: Path, url: str, requests: Requests) -> Iterator[Any]:
    made: list[Workers] = []

    def make(count: int, expiretime: float, check: float) -> list[Workers]:
        for number in range(count):
            made.append(Workers(tmp_path / f"host{number}" / "report", url, expiretime, check, requests))
        for each in made:
            each.do("start")
        return made

    yield make
    for each in made:
        each.end()


def test_a_version_costs_one_head_read_per_host_and_two_writes(url: str, requests: Requests, hosts: Any) -> None:
    """One host meets each expiry, and then the other one."""
    wrong = WRONG if url.startswith("s3:") else 0.1
    one, other = both = hosts(2, LIFE + 2 * wrong, check=60)
    for host in both:
        host.do("pass", 1)
        generation = host.do("pass")
    counts: list[dict[str, int]] = []
    for _ in range(5):
        outages = one.outages + other.outages
        time.sleep(LIFE + 3 * wrong)
        requests.since_last()
        before = generation
        for host in (one, one, other, one, other):
            generation = host.do("pass")
        counted = requests.since_last()
        # Not where a loaded machine has not answered within half a second, or has let two versions expire.
        if one.outages + other.outages == outages and generation == before + 1:
            counts.append(counted)
        if len(counts) == 2:
            break
    expected = {"blob read": 1, "blob written": 1, "head read": 2, "head written": 2}
    assert counts == [expected] * len(counts)


def test_hosts_that_meet_an_expiry_at_once_read_the_head_once_more_at_most(
    url: str, requests: Requests, hosts: Any
) -> None:
    """The host that does not come first has its write refused, and reads back."""
    wrong = WRONG if url.startswith("s3:") else 0.1
    one, other = both = hosts(2, LIFE + 2 * wrong, check=60)
    for host in both:
        host.do("pass", 1)
        generation = host.do("pass")
    for _ in range(5):
        outages = one.outages + other.outages
        time.sleep(LIFE + 3 * wrong)
        requests.since_last()
        one.begin("pass")
        other.begin("pass")
        generations = sorted((one.generation(), other.generation()))
        counts = requests.since_last()
        if one.outages + other.outages == outages and generations == [generation, generation + 1]:
            break
        # A loaded machine has not answered within half a second, or has let one host come much later.
        generation = max(host.do("refresh", 1) for host in (one, other, one))
    else:
        return
    refused = counts["head written"] - 2
    assert refused in (0, 1)
    assert counts == {"blob written": 1, "head read": 2 + refused, "head written": 2 + refused}
    # A caller that refreshes finds the version; no caller of the other host has to be told.
    for host in both:
        assert host.do("refresh", 1) == generation + 1
    assert requests.since_last() == {"blob read": 1, "head read": 1}


def test_the_first_version_costs_one_head_read_too(url: str, requests: Requests, hosts: Any) -> None:
    (host,) = hosts(1, HOUR, check=60)
    requests.since_last()
    assert host.do("pass") == 1
    if not host.outages:  # else a loaded machine has not answered within half a second
        assert requests.since_last() == {"blob written": 1, "head read": 1, "head written": 2}


def test_the_processes_of_a_host_ask_once_in_check_seconds_together(
    url: str, requests: Requests, hosts: Any
) -> None:
    (host,) = hosts(1, HOUR, check=0.5)
    host.do("pass", 1)
    host.do("pass")
    requests.since_last()
    began = time.monotonic()
    host.do("pass 2")
    lasted = time.monotonic() - began
    counts = requests.since_last()
    assert set(counts) == {"head read"}
    assert 2 <= counts["head read"] <= lasted / 0.5 + 1


# The moment between the publication and the swap.


def creator(name: str) -> Any:
    return lambda target: Path(target).write_text(f"{name} {time.monotonic_ns()}")


def workers_of_a_host(path: Path, url: str, **options: Any) -> tuple[Datafile, Datafile]:
    """Return two objects, as two processes of a host have them."""
    origin = Origin(url, check=0.1, **options)
    one, other = (Datafile(path, HOUR, creator(name), origin=origin) for name in ("one", "other"))
    one.refresh()
    return one, other


def hold_back(monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> None:
    """Have *meanwhile* called between the publication and the swap."""
    put = HostElection._put_in_place

    def put_later(self: HostElection, *arguments: Any) -> Any:
        meanwhile()
        return put(self, *arguments)

    monkeypatch.setattr(HostElection, "_put_in_place", put_later)


@pytest.fixture
def in_this_process(requests: Requests, url: str) -> None:
    if not url.startswith(("redis:", "s3:")):
        pytest.skip("strace counts what other processes do")


@pytest.mark.usefixtures("in_this_process")
def test_a_host_does_not_read_what_it_has_written_itself(
    url: str, requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workers_of_a_host(tmp_path / "report", url)

    def ask() -> None:
        time.sleep(0.15)  # the next question is due
        assert other.status().generation == 1
        other.path()

    hold_back(monkeypatch, ask)
    requests.since_last()
    one.refresh(force=True)
    assert other.status().generation == 2
    counts = requests.since_last()
    assert counts["head read"] >= 1  # it was asked in that moment
    assert "blob read" not in counts


@pytest.mark.usefixtures("in_this_process")
def test_a_host_reads_what_it_has_written_if_its_creator_stands_still(
    url: str, requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = workers_of_a_host(tmp_path / "report", url)

    def ask_twice() -> None:
        for generation in (1, 2):
            time.sleep(0.15)
            other.path()
            assert other.status().generation == generation

    hold_back(monkeypatch, ask_twice)
    requests.since_last()
    one.refresh(force=True)
    assert requests.since_last()["blob read"] == 1
    assert one.status().generation == 2


@pytest.mark.parametrize("kind", ["directory", "redis"])
def test_the_version_of_a_creator_that_was_killed_after_it_was_published_is_fetched(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, other = workers_of_a_host(tmp_path / "report", url := new_url(kind, tmp_path, monkeypatch))
    hold_back(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    killed = Datafile(tmp_path / "report", HOUR, creator("killed"), origin=Origin(url, check=0.1))
    os.waitpid(in_child(lambda: killed.refresh(force=True)), 0)
    monkeypatch.undo()
    time.sleep(0.15)
    assert Path(other.path()).read_text().startswith("killed")
    assert other.status().generation == 2


@pytest.mark.parametrize("kind", ["directory", "redis"])
def test_the_caller_that_is_elected_after_a_killed_creator_fetches_too(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the creation mutex itself: that does not look like a creator that goes on."""
    _, other = workers_of_a_host(tmp_path / "report", url := new_url(kind, tmp_path, monkeypatch))
    hold_back(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    killed = Datafile(tmp_path / "report", HOUR, creator("killed"), origin=Origin(url, check=0.1))
    os.waitpid(in_child(lambda: killed.refresh(force=True)), 0)
    monkeypatch.undo()
    monkeypatch.setattr(HostElection, "ask", lambda self: None)
    (tmp_path / "report").unlink()  # so that there is nothing
    assert Path(other.path()).read_text().startswith("killed")


# The head that a host keeps.


def keeping(
    tmp_path: Path, name: str, url: str, check: float = 60.0, key: str | None = None, contents: str = "x"
) -> Datafile:
    (tmp_path / name).mkdir(exist_ok=True)
    origin = Origin(url, check=check, key=key)
    return Datafile(tmp_path / name / "report", HOUR, creator(contents), origin=origin, timeout=60)


@pytest.fixture(params=[kind for kind in KINDS if kind != "az"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return new_url(request.param, tmp_path, monkeypatch)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tags with which the head has been asked for."""
    asked: list[str] = []
    look = HostScope.look

    def looked(self: HostScope, known: str = "", **more: Any) -> Any:
        asked.append(known)
        return look(self, known, **more)

    monkeypatch.setattr(HostScope, "look", looked)
    return asked


def test_a_forced_refresh_goes_on_with_the_head_that_its_host_has_seen(
    any_url: str, tmp_path: Path, looks: list[str]
) -> None:
    report = keeping(tmp_path, "one", any_url)
    report.refresh()
    looks.clear()
    for generation in (2, 3):
        assert report.refresh(force=True) is Outcome.created
        assert report.status().generation == generation
    assert looks == []


def test_a_host_that_has_missed_a_version_finds_that_out_by_its_write(any_url: str, tmp_path: Path) -> None:
    """The head that it keeps is an old one: its attempt is refused, and it creates on top of the new one."""
    one, other = (keeping(tmp_path, name, any_url, contents=name) for name in ("one", "other"))
    one.refresh()
    other.refresh()
    other.refresh(force=True)
    assert one.status().generation == 1
    assert one.refresh(force=True) is Outcome.created
    assert one.status().generation == 3
    assert other.refresh(force=True) is Outcome.created
    assert other.status().generation == 4


def test_an_origin_that_was_emptied_since_the_last_question_is_begun_anew(
    any_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = keeping(tmp_path, "one", any_url)
    report.refresh()
    report.refresh(force=True)
    Origin(any_url)._engine().discard()
    assert report.refresh(force=True) is Outcome.created
    follower = keeping(tmp_path, "two", any_url)
    follower.refresh()
    assert follower.status().generation == report.status().generation


def test_an_invalidation_by_this_host_does_not_leave_it_with_an_old_head(
    any_url: str, tmp_path: Path, looks: list[str]
) -> None:
    report = keeping(tmp_path, "one", any_url)
    report.refresh()
    report.invalidate()
    looks.clear()
    assert report.refresh() is Outcome.created
    assert len(looks) == 1


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "another key"])
def test_a_kept_head_that_is_damaged_is_read_again(tmp_path: Path, looks: list[str], harm: str) -> None:
    report = keeping(tmp_path, "one", str(tmp_path / "origin"), key="secret")
    report.refresh()
    file = tmp_path / "one" / "report.dogpile.fetch"
    contents = file.read_bytes()
    assert len(contents) > origin_watch._SIZE
    if harm == "another key":
        # As of another program, that can make the checksum and not the signature.
        fd = os.open(file, os.O_RDWR)
        watch = origin_watch.read_watch(fd)
        forged = (origin_watch.read_head(fd, watch) or b"").replace(b'"beat": 0', b'"beat": 1')
        origin_watch.write_watch(fd, origin_watch.with_head(fd, watch, forged, watch.tag))
        os.close(fd)
    else:
        end = {"cut": contents[origin_watch._SIZE : -100], "changed": contents[origin_watch._SIZE :].swapcase()}
        file.write_bytes(contents[: origin_watch._SIZE] + end.get(harm, b""))
    looks.clear()
    assert report.refresh(force=True) is Outcome.created
    assert looks == [""]
    assert report.status().generation == 2


def test_no_head_is_kept_in_a_file_that_has_another_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"of another program")
    os.link(file, tmp_path / "name")
    with open(file, "r+b") as opened:
        watch = origin_watch.with_head(opened.fileno(), origin_watch.NOTHING_SEEN, b"head", "tag")
        assert origin_watch.read_head(opened.fileno(), watch) is None
    assert file.read_bytes() == b"of another program"
