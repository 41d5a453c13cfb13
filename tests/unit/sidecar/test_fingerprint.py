"""What stands at a path, what it makes of the record, and a Dogpile that looks at it."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogpile_fs import DataDirectory, Dogpile, LockTimeout, PathError, SyncReaderDogpile
from dogpile_fs._sidecar.file import Sidecar
from dogpile_fs._sidecar.fingerprint import KINDS as FINGERPRINT_KINDS
from dogpile_fs._sidecar.fingerprint import Fingerprint, fingerprint_at, fingerprint_of
from dogpile_fs._sidecar.reconciled import ReconciledRecord
from dogpile_fs._sidecar.record import DAMAGED, MISSING, Invalidated, Record
from tests.hostile.test_broken_environments import Unprivileged, promptly, tells, unprivileged
from tests.support.processes import Processes, ended_well, in_child, wait_for, waiters_for
from tests.support.processes import Record as Diary

__all__ = ["unprivileged"]  # fixtures

#: For as long as a look at the path is believed, and a little more.
A_MOMENT = 0.001

KINDS: list[type[Dogpile]] = [Dogpile, SyncReaderDogpile]
both_kinds = pytest.mark.parametrize("kind", KINDS)


def unwanted() -> None:
    raise AssertionError("the creator was called")


def nothing() -> None:
    pass


# What stands there.


def test_a_fingerprint_holds_kind_size_mtime_and_inode(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory"):
        os.utime(tmp_path / name, ns=(1, 1_500_000_001))
        (tmp_path / f"link to {name}").symlink_to(name)
        found = os.stat(tmp_path / name)
        kind, size = ("file", 5) if name == "file" else ("untagged", 0)
        for way in (name, f"link to {name}"):
            fingerprint = Fingerprint(kind, size, 1_500_000_001, found.st_ino)
            assert fingerprint_at(str(tmp_path / way)) == (fingerprint, found.st_mtime, found.st_dev)


@pytest.mark.parametrize("where", ["missing", "missing/file", "file/file", "dangling"])
def test_a_missing_file_has_no_fingerprint(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert fingerprint_at(str(tmp_path / where)) is None


def test_a_failing_stat_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        fingerprint_at(str(tmp_path / "loop"))


# What it makes of the record.

FILE = Fingerprint("file", 5, 1_000_000_000, 77)
STAMPED = Record(
    createdtime=2000.0,
    generation=3,
    cost=0.5,
    host="here",
    pid=7,
    expiretime=60.0,
    fingerprint=FILE,
    fingerprint_generation=3,
)
OTHER = Fingerprint("file", 5, 1_500_000_000_000, 78)


def directory(kind: str, mtime_ns: int = 1000, inode: int = 77) -> Fingerprint:
    return Fingerprint(kind, 0, mtime_ns, inode)


def test_a_stamped_file_is_as_the_record_says() -> None:
    assert STAMPED.reconcile((FILE, 1.0)) is STAMPED


def test_a_removed_file_is_missing_but_the_rest_of_the_record_stays() -> None:
    record = STAMPED.reconcile(None)
    assert record.state(2000.0, None) == "missing"
    assert not record.has_value
    assert (record.generation, record.cost, record.fingerprint) == (3, 0.5, None)


@pytest.mark.parametrize(
    "found",
    [
        FILE._replace(size=6),
        FILE._replace(mtime_ns=FILE.mtime_ns + 1),
        FILE._replace(mtime_ns=FILE.mtime_ns - 1),
        FILE._replace(inode=78),
        directory("untagged"),
    ],
    ids=["size", "later", "earlier", "inode", "directory"],
)
def test_a_replaced_file_counts_by_its_mtime_and_has_no_author(found: Fingerprint) -> None:
    record = STAMPED.reconcile((found, 1234.5))
    assert (record.createdtime, record.host, record.pid) == (1234.5, "", 0)
    assert (record.fingerprint, record.fingerprint_generation) == (found, 4)
    assert (record.generation, record.cost, record.expiretime) == (3, 0.5, 60.0)


@pytest.mark.parametrize("invalidated", ["soft", "hard"])
def test_an_invalidation_stays_in_force(invalidated: Invalidated) -> None:
    expected = "missing" if invalidated == "hard" else "stale"
    for before in (STAMPED, MISSING):
        record = before.replace(invalidated=invalidated, invalidations=1)
        assert record.reconcile((OTHER, 1500.0)).state(1500.0, None) == expected
        assert record.reconcile(None).state(1500.0, None) == "missing"


def test_a_file_without_a_record_counts_by_its_mtime() -> None:
    record = MISSING.reconcile((OTHER, 1500.0))
    assert (record.createdtime, record.generation, record.fingerprint) == (1500.0, 0, OTHER)
    assert record.state(1500.0, 1) == "fresh"


def test_a_file_with_a_damaged_record_is_stale() -> None:
    assert DAMAGED.reconcile((OTHER, 1500.0)).state(1500.0, None) == "stale"
    assert DAMAGED.reconcile(None).state(1500.0, None) == "missing"


@pytest.mark.parametrize("mtime", [0.0, -1.0, -1e10, 0.5])
def test_a_file_with_an_mtime_before_1970_is_old_but_there(mtime: float) -> None:
    record = MISSING.reconcile((Fingerprint("file", 1, int(mtime * 1e9), 2), mtime))
    assert record.has_value
    assert (record.state(2000.0, 60), record.state(2000.0, None)) == ("stale", "fresh")


def test_a_file_stamped_without_a_fingerprint_is_as_old_as_the_stamp() -> None:
    record = STAMPED.replace(fingerprint=None)
    assert record.reconcile((OTHER, 1500.0)) is record
    assert record.reconcile(None).state(2000.0, None) == "missing"


def test_a_directory_in_which_a_file_was_left_is_the_same_but_not_one_with_an_earlier_mtime() -> None:
    record = STAMPED.replace(fingerprint=directory("untagged"))
    assert record.reconcile((directory("untagged", 2000), 2e-6)) is record
    for other in (directory("untagged", 999), directory("untagged", 2000, 78), Fingerprint("file", 5, 2000, 77)):
        assert record.reconcile((other, 1.5)).createdtime == 1.5


def test_a_directory_that_was_tagged_is_the_same_with_its_tag_alone() -> None:
    record = STAMPED.replace(fingerprint=directory("tagged"))
    assert record.reconcile((directory("tagged"), 2e-6)) is record
    others = (directory("tagged", 1001), directory("tagged", 1000, 78), directory("untagged"))
    for other in (*others, directory("untagged", 2000)):
        assert record.reconcile((other, 1.5)).createdtime == 1.5
    untagged = STAMPED.replace(fingerprint=directory("untagged"))
    assert untagged.reconcile((directory("tagged", 2000), 1.5)).createdtime == 1.5


def test_where_a_tag_cannot_be_read_a_directory_with_a_later_mtime_is_the_same() -> None:
    for stamped, found in (
        ("tagged", "unknown"),
        ("untagged", "unknown"),
        ("unknown", "untagged"),
        ("unknown", "tagged"),
    ):
        record = STAMPED.replace(fingerprint=directory(stamped))
        for mtime, inode, same in ((1000, 77, True), (2000, 77, True), (999, 77, False), (1000, 78, False)):
            assert (record.reconcile((directory(found, mtime, inode), 1.5)) is record) == same
    assert not directory("unknown").matches(Fingerprint("file", 5, 1000, 77))


def test_a_user_that_may_not_read_a_directory_goes_by_its_stamp(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    path = str(unprivileged.directory / "index")

    def creator(target: str) -> None:
        os.mkdir(target)
        os.utime(target, (1e9, 1e9))

    directory = DataDirectory(path, 3600, creator)
    directory.refresh()
    os.chmod(os.path.realpath(path), 0o311)  # not even by its owner

    def ask() -> None:
        status = Dogpile(3600, path, resource="directory").status()
        assert (status.state, status.generation) == ("fresh", 1)

    unprivileged.directory.chmod(0o755)
    for file in unprivileged.directory.iterdir():
        if file.is_file():
            file.chmod(0o644)
    unprivileged.run(ask)
    os.chmod(os.path.realpath(path), 0o755)  # so that it can be removed


@pytest.mark.parametrize(
    "said",
    [b"", b"1", b"1 2 3", b"one two", b"1 2" + b" " * 99, b"9" * 45 + b" 7", b"\xff \xfe", b"5 %d"],
)
def test_a_mark_that_is_not_ours_is_none(tmp_path: Path, said: bytes) -> None:
    found = os.stat(tmp_path)
    try:
        os.setxattr(tmp_path, "user.dogpile_fs", said.replace(b"%d", b"%d" % (found.st_ino + 1)))
    except OSError:
        pytest.skip("no extended attributes on this file system")
    assert fingerprint_of(found, str(tmp_path)) == (
        "untagged",
        0,
        found.st_mtime_ns,
        found.st_ino,
    )


numbers = st.integers(0, 2**63)
fingerprints = st.builds(Fingerprint, st.sampled_from(FINGERPRINT_KINDS), numbers, numbers, numbers)
records = st.builds(
    Record,
    createdtime=st.sampled_from([-1.0, 0.0]) | st.floats(0.001, 4e9),
    generation=st.integers(0, 9),
    invalidated=st.sampled_from([None, "soft", "hard"]),
    fingerprint=st.none() | fingerprints,
    fingerprint_generation=st.integers(0, 9),
)
findings = st.none() | st.tuples(fingerprints, st.floats(-1e9, 4e9))


@given(records, findings, st.floats(1, 4e9), st.none() | st.floats(0, 1e6))
def test_any_reconciled_record_makes_sense(
    record: Record, found: tuple[Fingerprint, float] | None, now: float, expiretime: float | None
) -> None:
    after = record.reconcile(found)
    state = after.state(now, expiretime)
    if found is None or record.invalidated == "hard":
        assert state == "missing"
    else:
        assert state == "stale" if record.invalidated == "soft" else state != "missing"
    assert (after.generation, after.invalidated) == (record.generation, record.invalidated)
    assert after.reconcile(found) == after
    assert after.version == record.reconcile(found).version


# Observed.


@pytest.fixture
def reconciled(path: str) -> ReconciledRecord:
    return ReconciledRecord(Sidecar(path + ".dogpile"), path)


def test_a_peek_gives_the_same_as_a_read_a_moment_after_any_event(reconciled: ReconciledRecord) -> None:
    sidecar, path = Sidecar(reconciled.path + ".dogpile"), Path(reconciled.path)

    def stamp() -> None:
        found = reconciled.fingerprint()
        assert found is not None
        sidecar.change(lambda record: STAMPED.replace(fingerprint=found, generation=record.generation + 1))

    steps: list[tuple[Callable[[], object], float]] = [
        (nothing, -1),
        (lambda: path.write_text("x"), 0),
        (stamp, 2000),
        (lambda: path.write_text("xy"), 0),
        (lambda: os.utime(path, (1000, 1000)), 1000),
        (stamp, 2000),
        (path.unlink, -1),
        (path.mkdir, 0),
        (stamp, 2000),
        (path.rmdir, -1),
        (lambda: path.symlink_to("nowhere"), -1),
    ]
    for step, expected in steps:
        step()
        time.sleep(A_MOMENT)
        for how in (reconciled.peek, reconciled.read, reconciled.peek):
            record = how().record
            mtime = os.stat(path).st_mtime if os.path.exists(path) else -1
            assert record.createdtime == (expected or mtime), step


def test_a_read_sees_at_once_a_removal_that_a_peek_may_miss(
    reconciled: ReconciledRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.reconciled._LOOK_EVERY", 3600.0)
    monkeypatch.setattr("dogpile_fs._sidecar.file.LOOK_EVERY", 3600.0)
    Path(reconciled.path).touch()
    Sidecar(reconciled.path + ".dogpile").change(lambda record: record)
    assert reconciled.peek().record.has_value
    os.unlink(reconciled.path)
    assert reconciled.peek().record.has_value
    assert not reconciled.read().record.has_value
    assert not reconciled.peek().record.has_value


def test_a_change_of_the_sidecar_is_seen_at_once(
    reconciled: ReconciledRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.reconciled._LOOK_EVERY", 3600.0)
    Path(reconciled.path).touch()
    Sidecar(reconciled.path + ".dogpile").change(lambda record: record.replace(generation=1))
    for number in range(2, 20):
        reconciled.peek()
        Sidecar(reconciled.path + ".dogpile").change(
            lambda record: record.replace(generation=record.generation + 1)
        )
        assert reconciled.peek().record.generation == number


def test_a_path_that_cannot_be_looked_at_is_a_path_error(reconciled: ReconciledRecord) -> None:
    os.symlink(os.path.basename(reconciled.path), reconciled.path)
    for use in (reconciled.peek, reconciled.read, reconciled.fingerprint):
        with pytest.raises(PathError) as caught:
            use()
        tells(caught.value, repr(reconciled.path), "Hint: ")


def test_a_directory_that_may_not_be_entered_is_a_path_error(unprivileged: Unprivileged) -> None:
    unprivileged.directory.chmod(0)

    def read() -> None:
        dogpile = Dogpile(3600, unprivileged.path, resource="file")
        for use in (dogpile.status, lambda: dogpile.acquire(unwanted).__enter__(), dogpile.fresh_version):
            with pytest.raises(OSError, match="Permission denied"):
                use()

    unprivileged.run(read)


# Dogpile(resource=...).


@both_kinds
@pytest.mark.parametrize("resource", ["File", "dir", "", 1, True, b"file"])
def test_a_resource_is_a_file_or_a_directory_or_not_looked_at(
    kind: type[Dogpile], path: str, resource: Any
) -> None:
    with pytest.raises(ValueError, match="resource must be 'file', 'directory' or None"):
        kind(3600, path, resource=resource)
    with pytest.raises(TypeError, match="give one"):
        kind(3600, resource="file")


def test_the_file_at_the_path_must_be_of_the_kind_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(PathError, match="is a directory"):
        Dogpile(3600, tmp_path / "directory", resource="file")
    with pytest.raises(PathError, match="is no directory"):
        Dogpile(3600, tmp_path / "file", resource="directory")
    Dogpile(3600, tmp_path / "file", resource="file")
    Dogpile(3600, tmp_path / "directory", resource="directory")
    Dogpile(3600, f"{tmp_path}/directory/", resource="directory")
    with pytest.raises(PathError):
        Dogpile(3600, f"{tmp_path}/directory/")
    (tmp_path / "dangling").symlink_to("nowhere")
    Dogpile(3600, tmp_path / "dangling", resource="directory")
    Dogpile(3600, tmp_path / "dangling", resource="file")


def _make(path: str, resource: str) -> None:
    if resource == "file":
        Path(path).write_text("x")
    else:
        os.mkdir(path)


def _remove(path: str, resource: str) -> None:
    if resource == "file":
        os.unlink(path)
    else:
        shutil.rmtree(path)


resources = pytest.mark.parametrize("resource", ["file", "directory"])


@both_kinds
@resources
def test_a_removed_resource_is_missing_and_a_replaced_one_as_old_as_its_mtime(
    path: str, kind: type[Dogpile], resource: Literal["file", "directory"]
) -> None:
    dogpile = kind(3600, path, resource=resource)
    assert dogpile.status().state == "missing"
    dogpile.refresh(lambda: _make(path, resource))
    assert dogpile.status().state == "fresh"
    with dogpile.acquire(unwanted):
        pass

    _remove(path, resource)
    time.sleep(A_MOMENT)
    assert (dogpile.status().state, dogpile.has_value, dogpile.is_expired) == ("missing", False, True)
    assert (dogpile.createdtime, dogpile.fresh_version()) == (-1, None)
    with pytest.raises(LockTimeout), dogpile.acquire(timeout=0.01):
        pass

    _make(path, resource)
    os.utime(path, (1000, 1000))
    time.sleep(A_MOMENT)
    assert (dogpile.status().state, dogpile.createdtime) == ("stale", 1000)
    calls: list[int] = []

    def create_anew() -> None:
        _remove(path, resource)
        _make(path, resource)
        calls.append(1)

    for _ in range(3):
        with dogpile.acquire(create_anew):
            pass
    assert calls == [1]
    assert dogpile.status().state == "fresh"


def test_a_change_in_place_that_keeps_size_and_mtime_is_not_noticed(path: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    dogpile.refresh(lambda: Path(path).write_text("one"))
    stamped = os.stat(path)
    with open(path, "r+") as file:
        file.write("two")
    # As if it had been written within the tick of the clock in which it was created.
    os.utime(path, ns=(stamped.st_atime_ns, stamped.st_mtime_ns))
    assert (dogpile.status().generation, dogpile.status().createdtime) == (1, dogpile.createdtime)
    assert dogpile.status().pid == os.getpid()
    with open(path, "r+") as file:
        file.write("three")
    assert dogpile.status().pid is None


def test_without_resource_the_path_is_not_looked_at(path: str) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.refresh(nothing)
    Path(path).touch()
    os.utime(path, (1000, 1000))
    assert dogpile.status().state == "fresh"
    os.unlink(path)
    assert dogpile.status().state == "fresh"
    assert dogpile.status().resource is None


def test_a_creator_that_makes_no_file_is_called_by_each_caller(path: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    calls: list[int] = []
    for _ in range(3):
        with dogpile.acquire(lambda: calls.append(1)):
            pass
    assert calls == [1, 1, 1]
    assert dogpile.status().state == "missing"


def test_between_the_swap_and_the_stamp_a_file_is_never_older_than_before(path: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    other = Dogpile(3600, path, resource="file")

    def creator() -> None:
        Path(path).write_text("x")
        assert other.status().createdtime == os.stat(path).st_mtime
        os.utime(path, (1000, 1000))
        assert other.status().state == "stale"

    dogpile.refresh(creator)
    assert other.status().state == "fresh"


def test_a_file_that_is_there_may_be_declared_created(path: str) -> None:
    Path(path).touch()
    os.utime(path, (1000, 1000))
    dogpile = Dogpile(3600, path, resource="file")
    dogpile.createdtime = 5000.0
    assert (dogpile.createdtime, dogpile.version) == (5000.0, (*_found(path)[1:], 1, os.stat(path).st_dev))
    os.utime(path, (2000, 2000))
    assert dogpile.createdtime == 2000.0
    os.unlink(path)
    assert Dogpile(3600, path, resource="file", init=True).status().state == "missing"


def _found(path: str) -> Fingerprint:
    found = fingerprint_at(path)
    assert found is not None
    return found[0]


@both_kinds
def test_it_is_pickled_with_its_resource(path: str, kind: type[Dogpile]) -> None:
    dogpile = kind(3600, path, resource="file")
    copy = pickle.loads(pickle.dumps(dogpile))
    Path(path).touch()
    assert copy.status().state == "fresh"


def test_a_caller_without_a_creator_sees_a_file_that_another_program_puts_there(
    path: str, record: Diary, processes: Processes, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def wait(directory: Path | None) -> None:
        with Dogpile(3600, path, resource="file", directory=directory).acquire():
            record.write("passed")

    waiters = [processes.start(wait, directory) for directory in (None, elsewhere)]
    wait_for(lambda: all(_has_been_at(waiter.pid, "inotify") for waiter in waiters), "two waiters")
    Path(path).touch()
    processes.join(*waiters)


def _has_been_at(pid: int | None, what: str) -> bool:
    try:
        return any(what in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return False


def test_a_caller_that_waits_for_a_first_creation_passes_when_it_ends(
    path: str, record: Diary, processes: Processes
) -> None:
    def create() -> None:
        def creator() -> None:
            record.write("creating")
            record.wait("go on")
            Path(path).touch()

        Dogpile(3600, path, resource="file").refresh(creator)

    def use() -> None:
        with Dogpile(3600, path, resource="file").acquire(unwanted):
            assert os.path.exists(path)

    creating = processes.start(create)
    record.wait("creating")
    users = processes.start_many(3, use)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 3, "three waiters")
    record.write("go on")
    processes.join(creating, *users)


@pytest.mark.parametrize("make", ["fifo", "socket"])
def test_looking_at_a_fifo_or_socket_does_not_hang(path: str, make: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    if make == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(".", os.O_RDONLY)
            os.chdir(os.path.dirname(path))
            server.bind(os.path.basename(path))
            os.fchdir(here)
            os.close(here)
    promptly(dogpile.status)
    with pytest.raises(PathError, match="is no regular file"):
        Dogpile(3600, path, resource="file")
    assert not stat.S_ISREG(os.lstat(path).st_mode)


# Versions.


def test_every_version_differs_from_all_others_that_were_in_place(path: str) -> None:
    dogpile = Dogpile(None, path, resource="file")
    seen: list[tuple[int, ...] | None] = [dogpile.fresh_version()]

    for _ in range(5):
        dogpile.refresh(lambda: _replace_with_the_same_mtime(path), force=True)
        seen.append(dogpile.fresh_version())
    os.utime(path, (2000, 2000))
    time.sleep(A_MOMENT)
    seen.append(dogpile.fresh_version())
    Path(path).write_text("xy")
    time.sleep(A_MOMENT)
    seen.append(dogpile.fresh_version())
    assert seen[0] is None
    assert None not in seen[1:]
    assert len(set(seen)) == len(seen)


def _replace_with_the_same_mtime(path: str) -> None:
    # By what has an inode that was used before: of two that change places, each time.
    Path(path + ".new").write_text("x")
    os.utime(path + ".new", (1000, 1000))
    os.replace(path + ".new", path)


def test_a_creation_that_left_the_file_in_place_makes_no_new_version(path: str) -> None:
    Path(path).touch()
    dogpile = Dogpile(None, path, resource="file")
    version = dogpile.fresh_version()
    for _ in range(3):
        dogpile.refresh(nothing, force=True)
        assert dogpile.fresh_version() == version
    assert dogpile.status().generation == 3


def test_without_resource_every_creation_is_a_new_version(path: str) -> None:
    for dogpile in (Dogpile(None, path), Dogpile(None)):
        versions = []
        for _ in range(3):
            dogpile.refresh(nothing, force=True)
            versions.append(dogpile.fresh_version())
        assert len(set(versions)) == 3


def test_a_stale_resource_has_no_fresh_version(path: str) -> None:
    Path(path).touch()
    dogpile = Dogpile(3600, path, resource="file")
    assert dogpile.fresh_version() is not None
    dogpile.invalidate()
    assert dogpile.fresh_version() is None
    dogpile.refresh(nothing)
    assert dogpile.fresh_version() is not None
    dogpile.expiretime = 0
    assert dogpile.fresh_version() is None
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    dogpile.expiretime = 3600
    time.sleep(A_MOMENT)
    assert dogpile.fresh_version() is None  # from the future


@both_kinds
def test_it_may_be_used_before_and_after_fork(path: str, kind: type[Dogpile]) -> None:
    dogpile = kind(3600, path, resource="file")
    dogpile.refresh(lambda: _make(path, "file"))
    version = dogpile.fresh_version()

    def in_the_child() -> None:
        assert dogpile.fresh_version() == version
        os.unlink(path)
        time.sleep(A_MOMENT)
        assert dogpile.fresh_version() is None
        dogpile.refresh(lambda: _make(path, "file"))

    assert ended_well(in_child(in_the_child))
    assert dogpile.fresh_version() not in (version, None)


@pytest.mark.parametrize("hard", [False, True])
def test_a_caller_that_has_opened_a_shipped_file_passes_unless_it_was_invalidated(path: str, hard: bool) -> None:
    Path(path).write_text("shipped")
    dogpile = Dogpile(3600, path, resource="file")
    assert dogpile._pass_with(os.stat(path)) is not None
    assert Dogpile(0, path, resource="file")._pass_with(os.stat(path)) is None
    Dogpile(3600, path).invalidate(hard)
    assert dogpile._pass_with(os.stat(path)) is None
    dogpile.refresh(lambda: None)
    assert dogpile._pass_with(os.stat(path)) is not None
    Path(path).write_text("replaced behind our back")
    assert dogpile._pass_with(os.stat(path)) is None
