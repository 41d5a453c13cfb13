"""Datafiles of several hosts that share an origin. A host is a directory of its own here."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Backoff,
    CreationFailed,
    Datafile,
    DatafileError,
    FileMutex,
    LockTimeout,
    Origin,
    OriginError,
    Outcome,
)
from dogpile_fs._datafile import transfer
from dogpile_fs._dogpile.head import Blob
from dogpile_fs._layout import FETCH_SUFFIX
from dogpile_fs.origin import UNCHANGED, Down, Sink
from dogpile_fs.origin.shared_directory import SharedDirectory
from tests.support import servers
from tests.support.processes import wait_for
from tests.unit.origin.conftest import KINDS, new_url

HOUR = 3600
#: Of tests in which hosts shall see what others do soon.
CHECK = 0.1


class Host:
    """A host that has a replica, and counts how often it creates."""

    def __init__(self, root: Path, name: str, origin: Origin, expiretime: float = HOUR, **options: Any) -> None:
        self.name, self.created = name, 0
        self.path = root / name / "report"
        self.path.parent.mkdir()
        options.setdefault("timeout", 60)
        self.report = Datafile(self.path, expiretime, self.create, origin=origin, **options)

    def create(self, target: str) -> None:
        self.created += 1
        Path(target).write_text(f"{self.name} {self.created}")

    def read(self) -> str:
        with self.report.open("r") as file:
            return file.read()

    def sees(self, contents: str) -> None:
        wait_for(lambda: self.read() == contents, f"{contents!r} on {self.name}")


Hosts = Callable[..., list[Host]]


@pytest.fixture
def hosts(url: str, tmp_path: Path) -> Hosts:
    def made(
        *names: str, ttl: float = 30, check: float = CHECK, outage: Any = "stale", **options: Any
    ) -> list[Host]:
        origin = Origin(url, ttl=ttl, check=check, outage=outage)
        return [Host(tmp_path, name, origin, **options) for name in names]

    return made


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "origin")


def test_one_host_creates_and_the_others_fetch(hosts: Hosts) -> None:
    one, other, third = hosts("one", "other", "third")
    assert [host.read() for host in (one, other, third)] == ["one 1"] * 3
    assert (one.created, other.created, third.created) == (1, 0, 0)
    statuses = [host.report.status() for host in (one, other, third)]
    assert {status.generation for status in statuses} == {1}
    assert {status.pid for status in statuses} == {os.getpid()}
    assert max(s.createdtime or 0 for s in statuses) - min(s.createdtime or 0 for s in statuses) < 5


def test_the_status_tells_the_sha256_unless_another_program_has_replaced_the_file(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    assert one.report.status().content is None
    assert one.read() == other.read()
    digest = hashlib.sha256(b"one 1").hexdigest()
    assert one.report.status().content == other.report.status().content == digest
    new = one.path.with_name("new")
    new.write_text("another program's")
    new.replace(one.path)
    assert one.report.status().content is None


def test_an_expired_version_is_created_once_and_fetched_by_all_others(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    assert one.read() == other.read() == "one 1"
    one.report._dogpile.createdtime = time.time() - 2 * HOUR
    other.sees("other 1")
    one.sees("other 1")
    assert one.created == 1


def test_a_forced_refresh_reaches_the_others_although_their_version_is_fresh(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    assert one.read() == other.read() == "one 1"
    assert other.report.refresh(force=True) == Outcome.created
    one.sees("other 1")
    assert one.report.status().generation == 2


def test_a_version_of_another_host_is_told_as_a_swap_and_the_callback_may_use_the_datafile(hosts: Hosts) -> None:
    told: list[tuple[str, int, str]] = []
    one, other = hosts("one", "other")
    one.read()

    def on_event(event: Any) -> None:
        told.append((event.kind, event.generation, other.read() if event.kind == "swapped" else ""))

    other.read()
    other.report._dogpile._shared.scope.on_event = on_event
    one.report.refresh(force=True)
    other.sees("one 2")
    assert told == [("swapped", 2, "one 2")]


def test_a_refresh_of_what_another_host_has_created_creates_nothing(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    one.read()
    assert other.report.refresh() == Outcome.fresh
    assert other.read() == "one 1"


@pytest.mark.parametrize("hard", [False, True])
def test_an_invalidation_reaches_all_hosts(hosts: Hosts, hard: bool) -> None:
    one, other = hosts("one", "other")
    assert one.read() == other.read() == "one 1"
    one.report.invalidate(hard)
    other.sees("other 1")
    one.sees("other 1")
    assert one.created == 1


def test_a_touch_reaches_all_hosts_and_nothing_is_fetched_again(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    assert one.read() == other.read()
    one.report.invalidate()
    one.report.touch()
    inode = os.stat(other.path).st_ino
    wait_for(lambda: other.read() and other.report.status().generation == 2, "the touch")
    assert (one.created, other.created) == (1, 0)
    assert os.stat(other.path).st_ino == inode
    assert one.report.status().state == other.report.status().state == "fresh"


def test_a_rollback_reaches_all_hosts(hosts: Hosts) -> None:
    one, other = hosts("one", "other", keep=2)
    one.read()
    one.report.refresh(force=True)
    other.sees("one 2")
    one.report.rollback()
    assert one.read() == "one 1"
    other.sees("one 1")
    assert one.report.status().generation == other.report.status().generation == 3
    with pytest.raises(DatafileError, match="no earlier version"):
        one.report.rollback()
    assert one.report.refresh(force=True)  # the attempt of the rollback that failed keeps no host from creating


def test_a_replica_that_was_removed_or_replaced_is_fetched_again(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    assert one.read() == other.read() == "one 1"
    other.path.unlink()
    assert other.read() == "one 1"
    other.path.write_text("by hand")
    other.sees("one 1")
    assert (one.created, other.created) == (1, 0)


def test_a_host_that_has_the_contents_already_fetches_nothing(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    one.report._creator = lambda target: Path(target).write_text("the same")
    assert one.read() == other.read() == "the same"
    inode = os.stat(other.path).st_ino
    one.report.refresh(force=True)
    wait_for(lambda: other.read() and other.report.status().generation == 2, "the second version")
    assert os.stat(other.path).st_ino == inode


def test_what_the_creator_says_of_a_version_reaches_all_hosts(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    seen: list[str] = []

    def create(target: Any) -> object:
        seen.append(target.note)
        if target.note == "etag-1":
            return target.unchanged()
        Path(target).write_text("contents")
        target.note = "etag-1"
        target.expires_in(1000)
        return None

    one.report._creator = other.report._creator = create
    one.read()
    assert other.report.refresh(force=True) == Outcome.unchanged
    assert seen == ["", "etag-1"]
    wait_for(lambda: one.read() and one.report.status().generation == 2, "the stamp")
    assert (one.report.status().remaining or 0) <= HOUR


def test_a_failure_counts_for_all_hosts(hosts: Hosts) -> None:
    backoff = Backoff(initial=600, maximum=600, jitter=0)
    one, other = hosts("one", "other", backoff=backoff)

    def fail(target: str) -> None:
        one.created += 1
        raise ZeroDivisionError

    one.report._creator = fail
    with pytest.raises(ZeroDivisionError):
        one.report.refresh()
    with pytest.raises(CreationFailed, match="ZeroDivisionError"):
        other.report.path(timeout=60)
    status = other.report.status()
    assert (status.failures, status.failed_type) == (1, "ZeroDivisionError")
    assert (one.created, other.created) == (1, 0)
    assert other.report.refresh(force=True) == Outcome.created

    def is_told() -> bool:
        with suppress(CreationFailed):  # until this host has asked again
            return one.read() == "other 1"
        return False

    wait_for(is_told, "the version of the other host")
    assert one.report.status().failures == 0


def test_what_validate_refuses_on_the_host_that_fetches_is_not_put_in_place(hosts: Hosts, url: str) -> None:
    one, other = hosts("one", "other")
    other.report._validate = lambda path: Path(path).read_text() != "one 2"
    assert one.read() == other.read() == "one 1"
    one.report.refresh(force=True)
    asked = other.report.status().origin_asked_at
    wait_for(lambda: other.read() and other.report.status().origin_asked_at != asked, "a question")
    assert other.read() == "one 1"
    one.report.refresh(force=True)
    other.sees("one 3")


def test_a_version_that_cannot_be_put_in_place_is_no_failed_creation(hosts: Hosts) -> None:
    one, other = hosts("one", "other")

    def refuse(path: str) -> None:
        raise ZeroDivisionError("a look at it")

    one.read()
    other.report._validate = refuse
    with pytest.raises(OriginError, match=r"generation 1 of another host .* ZeroDivisionError: a look at it"):
        other.read()
    assert other.report.status().failures == other.created == 0
    other.report._validate = None
    other.sees("one 1")
    other.report._validate = refuse
    one.report.refresh(force=True)
    asked = other.report.status().origin_asked_at
    wait_for(lambda: other.read() and other.report.status().origin_asked_at != asked, "a question")
    assert other.read() == "one 1"  # a reader with a version has no error


def test_a_touch_of_a_host_that_has_only_fetched_says_that_the_origin_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    origin = Origin(tmp_path / "mount" / "origin", check=CHECK)
    one, other = (Host(tmp_path, name, origin) for name in ("one", "other"))
    assert one.read() == other.read()
    (tmp_path / "mount").rename(tmp_path / "elsewhere")
    for act in (other.report.touch, other.report.invalidate):
        with pytest.raises(OriginError, match="does not answer"):
            act()


def test_what_takes_long_to_store_and_to_fetch_is_told(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer, "_LARGE", 1)
    monkeypatch.setattr(transfer, "_TELL_EVERY", 0.0)
    one, other = hosts("one", "other")
    with caplog.at_level(logging.INFO, "dogpile_fs"):
        assert one.read() == other.read()
    stored, fetched = repr(str(one.path)), repr(str(other.path))
    told = [text for text in caplog.messages if " MB" in text]
    assert [text.partition(" in ")[0] for text in told] == [
        f"{stored}: storing 0 MB for other hosts",
        f"{stored}: stored 0 MB",
        f"{fetched}: fetched 0 of 0 MB",
    ]


def test_an_answer_that_breaks_off_says_that_the_next_try_begins_anew(tmp_path: Path) -> None:
    class Broken(SharedDirectory):
        def get(self, name: str, file: Sink, size: int) -> None:
            file.write(b"half")
            raise Down("the connection was reset")

    with pytest.raises(Down, match=r"reset: after 4 of 8 bytes, and the next try begins anew"):
        transfer.fetch_file(Broken(str(tmp_path)), Blob("0" * 64, 8), str(tmp_path / "new"), "'report'")


def test_an_origin_that_was_emptied_is_filled_by_a_creation_and_not_from_a_replica(
    tmp_path: Path, directory: str
) -> None:
    origin = Origin(directory, check=CHECK)
    one, other = Host(tmp_path, "one", origin), Host(tmp_path, "other", origin)
    assert one.read() == other.read() == "one 1"
    os.rename(directory, directory + ".gone")
    other.sees("other 1")
    one.sees("other 1")
    assert (one.created, other.created) == (1, 1)


def test_an_origin_that_was_set_back_is_not_believed(tmp_path: Path, directory: str) -> None:
    origin = Origin(directory, check=CHECK)
    one, other = Host(tmp_path, "one", origin), Host(tmp_path, "other", origin)
    one.read()
    os.system(f"cp -a {directory} {directory}.backup")
    for _ in range(3):
        one.report.refresh(force=True)
    other.sees("one 4")
    os.rename(directory, directory + ".gone")
    os.rename(directory + ".backup", directory)
    wait_for(lambda: other.read() == "other 1" or one.read() == "one 5", "a new creation")
    newest = other.read() if other.created else one.read()
    one.sees(newest)
    other.sees(newest)
    assert one.report.status().generation == other.report.status().generation == 5


def test_a_host_whose_version_the_origin_has_lost_gets_the_one_that_has_its_number_now(
    tmp_path: Path, directory: str
) -> None:
    origin = Origin(directory, check=CHECK)
    one, other = Host(tmp_path, "one", origin), Host(tmp_path, "other", origin)
    assert one.read() == other.read() == "one 1"
    shutil.copytree(directory, directory + ".backup")
    one.report.refresh(force=True)
    # As in a failover of Redis that loses its last write; and the first host does not ask in between.
    os.rename(directory, directory + ".gone")
    os.rename(directory + ".backup", directory)
    other.report.refresh(force=True)
    one.sees("other 1")
    assert one.report.status().generation == other.report.status().generation


def test_without_an_answer_a_host_goes_on_with_its_replica_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mnt").mkdir()
    one = Host(tmp_path, "one", Origin(tmp_path / "mnt" / "origin", check=CHECK), expiretime=0.5)
    assert one.read() == "one 1"
    assert one.report.status().origin_down_since is None
    (tmp_path / "mnt").rename(tmp_path / "away")
    wait_for(lambda: one.read() and one.report.status().origin_down_since is not None, "the outage")
    for _ in range(20):
        assert one.read() == "one 1"
    assert len([each for each in caplog.records if "does not answer" in each.getMessage()]) == 1
    with pytest.raises(OriginError, match="does not answer"):
        one.report.refresh(force=True)
    with pytest.raises(OriginError, match="does not answer"):
        one.report.invalidate()
    (tmp_path / "away").rename(tmp_path / "mnt")
    one.sees("one 2")
    assert one.report.status().origin_down_since is None
    assert "answers again" in caplog.text


def test_without_an_answer_and_a_replica_callers_wait_for_their_timeout(tmp_path: Path) -> None:
    one = Host(tmp_path, "one", Origin(tmp_path / "mnt" / "origin"), timeout=0.5)
    with pytest.raises(LockTimeout, match="does not answer"):
        one.read()
    assert one.report.status().failures == 0
    assert one.created == 0


def test_a_host_may_create_for_itself_while_the_origin_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    origin = Origin(tmp_path / "mnt" / "origin", check=CHECK, outage="create")
    one, other = (Host(tmp_path, name, origin, expiretime=0.5) for name in ("one", "other"))
    assert one.read() == "one 1"
    (tmp_path / "mnt").rename(tmp_path / "away")
    one.sees("one 2")
    assert other.read() == "other 1"
    (tmp_path / "away").rename(tmp_path / "mnt")
    wait_for(lambda: one.read() == other.read(), "one version for both")


def test_an_attempt_that_is_not_heard_of_is_taken_over_after_its_ttl(hosts: Hosts, url: str) -> None:
    from dogpile_fs._dogpile.head import decode_head, encode_head, new_nonce
    from dogpile_fs._sidecar.record import Attempt

    one, other = hosts("one", "other", ttl=1)
    one.read()
    engine = Origin(url)._engine()
    found = engine.read()
    assert found is not None
    assert found != UNCHANGED
    head = decode_head(found[0]).invalidated(new_nonce(), hard=False, now=time.time())
    begun = head.begun(Attempt("gone", 1, time.time()), new_nonce(), 1.0, None)
    engine.swap(encode_head(begun, new_nonce()), found[1])
    began = time.monotonic()
    assert other.read() == "one 1"  # there is a version, and another host creates
    other.sees("other 1")
    assert time.monotonic() - began > 0.9
    status = other.report.status()
    assert (status.failures_total, status.generation) == (1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_that_are_signed_with_another_key_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_url(kind, tmp_path, monkeypatch)
    one = Host(tmp_path, "one", Origin(url, key="secret"))
    other = Host(tmp_path, "other", Origin(url, key="another"), timeout=5)
    plain = Host(tmp_path, "plain", Origin(url), timeout=5)
    assert one.read() == "one 1"
    with pytest.raises(OriginError, match="not signed with this key"):
        other.read()
    assert plain.read() == "one 1"  # to demand a key is up to each host
    assert (other.created, plain.created) == (0, 0)


def test_an_origin_in_which_another_program_has_written_is_refused(url: str, hosts: Hosts) -> None:
    (one,) = hosts("one")
    Origin(url)._engine().swap(b"scribble\n", None)
    with pytest.raises(OriginError, match="no head of dogpile_fs"):
        one.read()
    assert one.created == 0


def test_a_blob_that_is_damaged_is_not_put_in_place_and_the_version_is_created_anew(
    tmp_path: Path, directory: str, caplog: pytest.LogCaptureFixture
) -> None:
    origin = Origin(directory, check=CHECK)
    one, other = Host(tmp_path, "one", origin), Host(tmp_path, "other", origin)
    one.read()
    (blob,) = Path(directory, "blobs").iterdir()
    blob.write_text("one 9")
    caplog.clear()
    assert other.read() == "other 1"
    assert "5 bytes that are not the 5 that were published" in caplog.text
    one.sees("other 1")


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_version_whose_blob_is_gone_is_created_anew(tmp_path: Path, directory: str, is_forced: bool) -> None:
    origin = Origin(directory, check=CHECK)
    one, other = Host(tmp_path, "one", origin), Host(tmp_path, "other", origin)
    one.read()
    for blob in Path(directory, "blobs").iterdir():
        blob.unlink()
    assert other.report.refresh(is_forced) == Outcome.created
    one.sees("other 1")


def test_a_host_fetches_while_its_own_creator_runs(tmp_path: Path, directory: str) -> None:
    import threading

    origin = Origin(directory, check=CHECK, ttl=1)
    one, other = Host(tmp_path, "one", origin), Host(tmp_path, "other", origin)
    assert one.read() == other.read()
    told: list[tuple[str, str]] = []
    for host in (one, other):
        host.report._dogpile._shared.scope.on_event = lambda event, host=host: told.append((host.name, event.kind))
    runs, go_on = threading.Event(), threading.Event()

    def create(target: str) -> None:
        runs.set()
        go_on.wait(60)
        Path(target).write_text("late")

    one.report._creator = create
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(one.report.refresh(force=True)))
    thread.start()
    runs.wait(60)
    engine = origin._engine()
    stolen = Origin(directory)._engine().read()
    assert isinstance(stolen, tuple)
    # Another host has seen nothing of this one for its ttl.
    from dogpile_fs._dogpile.head import decode_head, encode_head, new_nonce

    while True:
        found = engine.read()
        assert isinstance(found, tuple)
        try:
            engine.swap(encode_head(decode_head(found[0]).ended(), new_nonce()), found[1])
            break
        except Exception:
            continue
    assert other.report.refresh(force=True) == Outcome.created
    reader = Datafile(one.path, HOUR, origin=origin, timeout=60)
    wait_for(lambda: Path(reader.path()).read_text() == "other 1", "the version of the other host")
    go_on.set()
    thread.join()
    assert outcomes == [Outcome.fenced]
    assert [kind for name, kind in told if name == "one"] == ["creating", "fenced"]
    assert [kind for name, kind in told if name == "other"] == ["creating", "swapped", "created"]
    assert one.read() == other.read() == "other 1"
    assert one.report.status().generation == 2


def test_a_process_that_asks_for_others_waits_for_a_slow_origin(tmp_path: Path) -> None:
    redis = pytest.importorskip("redis")
    port = servers.redis().port
    origin = Origin(f"redis://127.0.0.1:{port}/0/{secrets.token_hex(4)}", check=10)
    one, other = (Host(tmp_path, name, origin) for name in ("one", "other"))
    assert one.read() == other.read() == "one 1"
    one.report.refresh(force=True)
    asking = other.report._dogpile._shared.host
    assert asking is not None
    with redis.Redis(port=port) as client:
        client.client_pause(1200)  # milliseconds in which no command is answered
        asking.ask(ahead=HOUR)
    assert other.report.status().origin_down_since is None
    assert other.read() == "one 2"


def test_an_elected_reader_does_not_wait_for_a_process_that_stands_still_while_it_fetches(
    directory: str, tmp_path: Path
) -> None:
    host = Host(tmp_path, "one", Origin(directory, check=CHECK), expiretime=0.2, timeout=20)
    assert host.read() == "one 1"
    fetching = FileMutex(str(host.path) + FETCH_SUFFIX)
    with fetching:
        wait_for(lambda: host.report.status().state == "stale", "the expiry")
        began = time.monotonic()
        assert host.read() == "one 1"
        assert time.monotonic() - began < 5
        with pytest.raises(LockTimeout):
            host.report.refresh(timeout=0.1)
        assert host.report.status().failures == 0
    host.sees("one 2")


def test_a_load_has_the_object_of_another_hosts_version(hosts: Hosts) -> None:
    one, other = hosts("one", "other")
    for host in (one, other):
        host.report._creator = lambda target: Path(target).write_text(json.dumps(time.time()))
    first = one.report.load(json.load)
    assert other.report.load(json.load) == first
    one.report.refresh(force=True)
    wait_for(lambda: other.report.load(json.load) != first, "the new object")
    assert other.report.load(json.load) == one.report.load(json.load)


def test_a_datafile_with_an_origin_can_be_pickled(hosts: Hosts) -> None:
    (one,) = hosts("one")
    one.report._creator = None
    copy = pickle.loads(pickle.dumps(one.report))
    assert copy._origin == one.report._origin
    assert copy.status().origin == one.report.status().origin


def test_the_status_tells_the_origin_and_when_it_was_asked(hosts: Hosts, url: str) -> None:
    (one,) = hosts("one")
    assert one.report.status().origin == url
    assert one.report.status().origin_asked_at is None
    before = time.time()
    one.read()
    assert before - 1 <= (one.report.status().origin_asked_at or 0) <= time.time() + 1


def test_options_that_do_not_go_with_an_origin_are_refused(tmp_path: Path, directory: str) -> None:
    with pytest.raises(ValueError, match="directory="):
        Datafile(tmp_path / "report", HOUR, origin=directory, directory=tmp_path)
    with pytest.raises(ValueError, match="depends_on="):
        Datafile(tmp_path / "report", HOUR, origin=directory, depends_on=[tmp_path])


def test_nothing_is_touched_before_the_first_use(tmp_path: Path, directory: str) -> None:
    report = Datafile(tmp_path / "report", HOUR, lambda target: None, origin=directory)
    report.status()
    assert os.listdir(tmp_path) == []
    assert logging.getLogger("dogpile_fs")


def write_pid(target: str) -> None:
    """A creator that another process can import."""
    Path(target).write_text(str(os.getpid()))


@pytest.mark.parametrize("background", ["thread", "process"])
def test_a_creation_in_the_background_is_published(tmp_path: Path, directory: str, background: Any) -> None:
    reports = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        origin = Origin(directory, check=CHECK)
        path = tmp_path / name / "report"
        reports.append(Datafile(path, HOUR, write_pid, origin=origin, background=background, timeout=60))
    one, other = reports
    contents = [Path(report.path()).read_text() for report in reports]
    assert contents[0] == contents[1]
    assert (contents[0] == str(os.getpid())) == (background == "thread")
    one.invalidate()
    wait_for(lambda: other.path() and other.status().generation == 2, "the second version")
    wait_for(lambda: one.path() and one.status().generation == 2, "the second version on the other host")
