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
from dogpile_fs._sidecar.fingerprint import Standing, corrected, standing_at, standing_of, stands
from dogpile_fs._sidecar.reconciled import ObservedRecord
from dogpile_fs._sidecar.record import DAMAGED, NOTHING, About, Invalidated, Record
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


def test_what_stands_at_a_path_is_told_by_size_mtime_and_inode(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory"):
        os.utime(tmp_path / name, ns=(1, 1_500_000_001))
        (tmp_path / f"link to {name}").symlink_to(name)
        found = os.stat(tmp_path / name)
        size = 5 if name == "file" else -1
        for way in (name, f"link to {name}"):
            assert standing_at(str(tmp_path / way)) == ((size, 1_500_000_001, found.st_ino), found.st_mtime)


@pytest.mark.parametrize("where", ["missing", "missing/file", "file/file", "dangling"])
def test_nothing_stands_where_nothing_is(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert standing_at(str(tmp_path / where)) is None


def test_what_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        standing_at(str(tmp_path / "loop"))


# What it makes of the record.

ABOUT: About = (5, 1_000_000_000, 77, 3)
STAMPED = Record(createdtime=2000.0, generation=3, cost=0.5, host="here", pid=7, expiretime=60.0, about=ABOUT)
SAME: tuple[Standing, float] = (ABOUT[:3], 1.0)
OTHER: tuple[Standing, float] = ((5, 1_500_000_000_000, 78), 1500.0)


def _described(record: Record) -> tuple[int, ...]:
    """What *record* describes, which nobody has stamped."""
    assert record.about is not None
    assert record.about[3] <= 0
    return record.about[:3]


def test_what_was_stamped_and_still_stands_is_as_the_record_says() -> None:
    assert corrected(STAMPED, SAME) is STAMPED


def test_what_was_removed_is_nothing_yet_but_what_else_is_known_stays() -> None:
    record = corrected(STAMPED, None)
    assert record.state(2000.0, None) == "nothing"
    assert not record.has_value
    assert (record.generation, record.cost, record.about) == (3, 0.5, None)


@pytest.mark.parametrize(
    "standing",
    [
        (6, ABOUT[1], ABOUT[2]),
        (5, ABOUT[1] + 1, ABOUT[2]),
        (5, ABOUT[1] - 1, ABOUT[2]),
        (5, ABOUT[1], 78),
        (-1, 1, 2),
    ],
    ids=["size", "later", "earlier", "inode", "directory"],
)
def test_what_was_replaced_counts_by_its_mtime_and_nobody_made_it(standing: Standing) -> None:
    record = corrected(STAMPED, (standing, 1234.5))
    assert (record.createdtime, record.host, record.pid) == (1234.5, "", 0)
    assert _described(record) == standing
    assert (record.generation, record.cost, record.expiretime) == (3, 0.5, 60.0)


@pytest.mark.parametrize("invalidated", ["soft", "hard"])
def test_an_invalidation_stays_in_force(invalidated: Invalidated) -> None:
    expected = "nothing" if invalidated == "hard" else "stale"
    for before in (STAMPED, NOTHING):
        record = before.replace(invalidated=invalidated, invalidations=1)
        assert corrected(record, OTHER).state(1500.0, None) == expected
        assert corrected(record, None).state(1500.0, None) == "nothing"


def test_what_is_there_without_a_record_counts_by_its_mtime() -> None:
    record = corrected(NOTHING, OTHER)
    assert (record.createdtime, record.generation, _described(record)) == (1500.0, 0, OTHER[0])
    assert record.state(1500.0, 1) == "fresh"


def test_what_is_there_with_a_damaged_record_is_stale() -> None:
    assert corrected(DAMAGED, OTHER).state(1500.0, None) == "stale"
    assert corrected(DAMAGED, None).state(1500.0, None) == "nothing"


@pytest.mark.parametrize("mtime", [0.0, -1.0, -1e10, 0.5])
def test_what_claims_to_be_from_before_1970_is_old_but_there(mtime: float) -> None:
    record = corrected(NOTHING, ((1, int(mtime * 1e9), 2), mtime))
    assert record.has_value
    assert (record.state(2000.0, 60), record.state(2000.0, None)) == ("stale", "fresh")


def test_what_was_stamped_by_somebody_who_did_not_look_is_as_old_as_the_stamp() -> None:
    record = STAMPED.replace(about=None)
    assert corrected(record, OTHER) is record
    assert corrected(record, None).state(2000.0, None) == "nothing"


def test_a_directory_in_which_something_was_left_is_the_same_but_not_one_with_an_earlier_mtime() -> None:
    record = STAMPED.replace(about=(-1, 1000, 77, 3))
    assert corrected(record, ((-1, 2000, 77), 2e-6)) is record
    for standing in ((-1, 999, 77), (-1, 2000, 78), (5, 2000, 77)):
        assert corrected(record, (standing, 1.5)).createdtime == 1.5


def test_a_directory_that_was_marked_is_the_same_with_its_mark_alone() -> None:
    record = STAMPED.replace(about=(-2, 1000, 77, 3))
    assert corrected(record, ((-2, 1000, 77), 2e-6)) is record
    for standing in ((-2, 1001, 77), (-2, 1000, 78), (-1, 1000, 77), (-1, 2000, 77)):
        assert corrected(record, (standing, 1.5)).createdtime == 1.5
    assert corrected(STAMPED.replace(about=(-1, 1000, 77, 3)), ((-2, 2000, 77), 1.5)).createdtime == 1.5


def test_where_a_mark_cannot_be_read_a_directory_with_a_later_mtime_is_the_same() -> None:
    marked, unmarked, untold = ((kind, 1000, 77) for kind in (-2, -1, -3))
    for stamped, found in ((marked, untold), (unmarked, untold), (untold, unmarked), (untold, marked)):
        record = STAMPED.replace(about=(*stamped, 3))
        for mtime, inode, same in ((1000, 77, True), (2000, 77, True), (999, 77, False), (1000, 78, False)):
            assert (corrected(record, ((found[0], mtime, inode), 1.5)) is record) == same
    assert not stands((*untold, 3), (5, 1000, 77))


def test_who_may_not_read_a_directory_goes_by_what_its_creator_stamped(unprivileged: Unprivileged) -> None:
    path = str(unprivileged.directory / "index")

    def creator(target: str) -> None:
        os.mkdir(target)
        os.utime(target, (1e9, 1e9))
        os.chmod(target, 0o711)

    directory = DataDirectory(path, 3600, creator)
    directory.refresh()

    def ask() -> None:
        status = Dogpile(3600, path, resource="directory").status()
        assert (status.state, status.generation) == ("fresh", 1)

    unprivileged.directory.chmod(0o755)
    for file in unprivileged.directory.iterdir():
        if file.is_file():
            file.chmod(0o644)
    unprivileged.run(ask)


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
    assert standing_of(found, str(tmp_path)) == (-1, found.st_mtime_ns, found.st_ino)


numbers = st.integers(-1, 2**63)
records = st.builds(
    Record,
    createdtime=st.sampled_from([-1.0, 0.0]) | st.floats(0.001, 4e9),
    generation=st.integers(0, 9),
    invalidated=st.sampled_from([None, "soft", "hard"]),
    about=st.none() | st.tuples(numbers, numbers, numbers, st.integers(0, 9)),
)
findings = st.none() | st.tuples(st.tuples(numbers, numbers, numbers), st.floats(-1e9, 4e9))


@given(records, findings, st.floats(1, 4e9), st.none() | st.floats(0, 1e6))
def test_whatever_stands_there_the_corrected_record_makes_sense(
    record: Record, found: tuple[Standing, float] | None, now: float, expiretime: float | None
) -> None:
    after = corrected(record, found)
    state = after.state(now, expiretime)
    if found is None or record.invalidated == "hard":
        assert state == "nothing"
    else:
        assert state == "stale" if record.invalidated == "soft" else state != "nothing"
    assert (after.generation, after.invalidated) == (record.generation, record.invalidated)
    assert corrected(after, found) == after
    assert after.version == corrected(record, found).version


# Observed.


@pytest.fixture
def observed(path: str) -> ObservedRecord:
    return ObservedRecord(Sidecar(path + ".dogpile"), path)


def test_a_read_tells_what_a_look_tells_a_moment_after_anything_happened(observed: ObservedRecord) -> None:
    sidecar, path = Sidecar(observed.path + ".dogpile"), Path(observed.path)

    def stamp() -> None:
        standing = observed.standing()
        assert standing is not None
        sidecar.change(lambda record: STAMPED.replace(about=(*standing, 1), generation=record.generation + 1))

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
        for how in (observed.sight, observed.look, observed.sight):
            record = how().record
            mtime = os.stat(path).st_mtime if os.path.exists(path) else -1
            assert record.createdtime == (expected or mtime), step


def test_a_look_sees_at_once_what_a_read_may_not(
    observed: ObservedRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.reconciled._LOOK_EVERY", 3600.0)
    Path(observed.path).touch()
    Sidecar(observed.path + ".dogpile").change(lambda record: record)
    assert observed.sight().record.has_value
    os.unlink(observed.path)
    assert observed.sight().record.has_value
    assert not observed.look().record.has_value
    assert not observed.sight().record.has_value


def test_a_change_of_the_sidecar_is_seen_at_once(
    observed: ObservedRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.reconciled._LOOK_EVERY", 3600.0)
    Path(observed.path).touch()
    Sidecar(observed.path + ".dogpile").change(lambda record: record.replace(generation=1))
    for number in range(2, 20):
        observed.sight()
        Sidecar(observed.path + ".dogpile").change(lambda record, number=number: record.replace(generation=number))  # type: ignore[misc]
        assert observed.sight().record.generation == number


def test_what_cannot_be_looked_at_is_a_path_error(observed: ObservedRecord) -> None:
    os.symlink(os.path.basename(observed.path), observed.path)
    for use in (observed.sight, observed.look, observed.standing):
        with pytest.raises(PathError) as caught:
            use()
        tells(caught.value, repr(observed.path), "Cure: ")


def test_a_directory_that_may_not_be_entered_is_a_path_error(unprivileged: Unprivileged) -> None:
    unprivileged.directory.chmod(0)

    def look() -> None:
        dogpile = Dogpile(3600, unprivileged.path, resource="file")
        for use in (dogpile.status, lambda: dogpile.acquire(unwanted).__enter__(), dogpile.fresh_version):
            with pytest.raises(OSError, match="Permission denied"):
                use()

    unprivileged.run(look)


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


def test_what_stands_at_the_path_must_be_of_its_kind(tmp_path: Path) -> None:
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
def test_removed_is_nothing_yet_and_replaced_is_as_old_as_its_mtime(
    path: str, kind: type[Dogpile], resource: Literal["file", "directory"]
) -> None:
    dogpile = kind(3600, path, resource=resource)
    assert dogpile.status().state == "nothing"
    dogpile.refresh(lambda: _make(path, resource))
    assert dogpile.status().state == "fresh"
    with dogpile.acquire(unwanted):
        pass

    _remove(path, resource)
    time.sleep(A_MOMENT)
    assert (dogpile.status().state, dogpile.has_value, dogpile.is_expired) == ("nothing", False, True)
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


def test_without_resource_nothing_is_looked_at(path: str) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.refresh(nothing)
    Path(path).touch()
    os.utime(path, (1000, 1000))
    assert dogpile.status().state == "fresh"
    os.unlink(path)
    assert dogpile.status().state == "fresh"
    assert dogpile.status().about is None


def test_a_creator_that_makes_nothing_is_called_by_each_who_comes(path: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    calls: list[int] = []
    for _ in range(3):
        with dogpile.acquire(lambda: calls.append(1)):
            pass
    assert calls == [1, 1, 1]
    assert dogpile.status().state == "nothing"


def test_in_a_window_between_what_stands_and_the_stamp_it_is_never_older_than_it_was(path: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    other = Dogpile(3600, path, resource="file")

    def creator() -> None:
        Path(path).write_text("x")
        assert other.status().createdtime == os.stat(path).st_mtime
        os.utime(path, (1000, 1000))
        assert other.status().state == "stale"

    dogpile.refresh(creator)
    assert other.status().state == "fresh"


def test_what_stands_there_may_be_declared_created(path: str) -> None:
    Path(path).touch()
    os.utime(path, (1000, 1000))
    dogpile = Dogpile(3600, path, resource="file")
    dogpile.createdtime = 5000.0
    assert (dogpile.createdtime, dogpile.status().about) == (5000.0, (*_standing(path), 1))
    os.utime(path, (2000, 2000))
    assert dogpile.createdtime == 2000.0
    os.unlink(path)
    assert Dogpile(3600, path, resource="file", init=True).status().state == "nothing"


def _standing(path: str) -> Standing:
    found = standing_at(path)
    assert found is not None
    return found[0]


@both_kinds
def test_it_is_pickled_with_its_resource(path: str, kind: type[Dogpile]) -> None:
    dogpile = kind(3600, path, resource="file")
    copy = pickle.loads(pickle.dumps(dogpile))
    Path(path).touch()
    assert copy.status().state == "fresh"


def test_who_waits_without_a_creator_sees_what_a_foreign_hand_puts_there(
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


def test_who_waits_for_a_first_creation_passes_when_it_ends(
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
def test_what_is_no_file_is_looked_at_without_hanging(path: str, make: str) -> None:
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


def test_every_version_is_told_from_all_others_that_were_in_place(path: str) -> None:
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


def test_a_creation_that_left_in_place_what_was_there_is_no_new_version(path: str) -> None:
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


def test_what_is_not_fresh_has_no_version(path: str) -> None:
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
def test_who_has_opened_what_was_shipped_has_passed_unless_it_was_invalidated(path: str, hard: bool) -> None:
    Path(path).write_text("shipped")
    dogpile = Dogpile(3600, path, resource="file")
    assert dogpile.pass_with(os.stat(path)) is not None
    assert Dogpile(0, path, resource="file").pass_with(os.stat(path)) is None
    Dogpile(3600, path).invalidate(hard)
    assert dogpile.pass_with(os.stat(path)) is None
    dogpile.refresh(lambda: None)
    assert dogpile.pass_with(os.stat(path)) is not None
    Path(path).write_text("replaced behind our back")
    assert dogpile.pass_with(os.stat(path)) is None
