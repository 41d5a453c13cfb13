"""``directory=``: whichever way leads to a resource, it has the same coordination files, and no other has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, Dogpile, LockTimeout, SyncReaderDogpile, WouldDeadlock
from dogpile_fs._dogpile import following_scope
from dogpile_fs._os import directory_mark
from tests.hostile.test_broken_environments import promptly
from tests.unit.locks.test_readwrite import in_thread

HOUR = 3600


def mark_of(directory: Path) -> str:
    """Return the name of the attribute that holds the mark of *directory*."""
    return f"user.dogpile_fs.mark.{directory.stat().st_ino}"


Flip = Callable[[str], None]


@pytest.fixture
def flip(tmp_path: Path) -> Flip:
    """Has the link ``current`` lead to a release; to "1" at first."""

    def flipped(release: str) -> None:
        (tmp_path / "next").symlink_to(release)
        os.replace(tmp_path / "next", tmp_path / "current")

    for release in ("1", "2", "locks"):
        (tmp_path / release).mkdir()
    flipped("1")
    if directory_mark.mark(str(tmp_path / "locks")) is None:
        pytest.skip("no extended attributes here")
    return flipped


def dogpile_at(root: Path, name: str = "current/report") -> Dogpile:
    return Dogpile(HOUR, root / name, directory=root / "locks")


def test_objects_from_before_and_after_a_flip_have_the_same_mutex(tmp_path: Path, flip: Flip) -> None:
    before = dogpile_at(tmp_path)
    before.refresh(lambda: None)
    flip("2")
    after = dogpile_at(tmp_path)
    for one, other in ((before, after), (after, before)):
        assert one.dogpilelock.acquire()
        assert not other.dogpilelock.acquire(wait=False)
        one.dogpilelock.release()
    assert not before.has_value
    after.refresh(lambda: None)
    assert before.has_value
    before.invalidate(hard=True)
    assert not after.has_value
    flip("1")
    assert before.has_value
    assert after.has_value


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_a_creator_from_before_a_flip_and_one_from_after_it_do_not_build_at_the_same_time(
    tmp_path: Path, flip: Flip, kind: type[Datafile | DataDirectory]
) -> None:
    goes_on, builds = threading.Event(), threading.Event()

    def make(target: str) -> None:
        if kind is DataDirectory:
            os.mkdir(target)
        else:
            Path(target).touch()

    def slowly(target: str) -> None:
        make(target)
        builds.set()
        assert goes_on.wait(30)

    def data(creator: Callable[[str], None]) -> Datafile | DataDirectory:
        return kind(tmp_path / "current" / "report", HOUR, creator, directory=tmp_path / "locks")

    before = data(slowly)
    flip("2")
    thread = threading.Thread(target=before.refresh)
    thread.start()
    assert builds.wait(30)
    try:
        with pytest.raises(LockTimeout):
            data(make).refresh(force=True, timeout=0.05)
    finally:
        goes_on.set()
        thread.join(30)
    assert (tmp_path / "2" / "report").exists()
    assert not (tmp_path / "1" / "report").exists()
    assert data(make).status().state == "fresh"


def test_a_renamed_directory_keeps_its_record(tmp_path: Path, flip: Flip) -> None:
    dogpile = dogpile_at(tmp_path, "1/report")
    dogpile.refresh(lambda: None)
    (tmp_path / "1").rename(tmp_path / "moved")
    assert dogpile_at(tmp_path, "moved/report").has_value
    assert not dogpile_at(tmp_path, "2/report").has_value
    assert not dogpile_at(tmp_path, "moved/other").has_value
    (tmp_path / "1").mkdir()
    assert not dogpile.has_value


def test_a_directory_that_was_copied_with_its_mark_has_another_record(tmp_path: Path, flip: Flip) -> None:
    dogpile_at(tmp_path, "1/report").refresh(lambda: None)
    shutil.copytree(tmp_path / "1", tmp_path / "copy")
    mark = mark_of(tmp_path / "1")
    assert os.getxattr(tmp_path / "copy", mark) == os.getxattr(tmp_path / "1", mark)
    copy = dogpile_at(tmp_path, "copy/report")
    assert not copy.has_value
    assert copy.refresh(lambda: None)
    assert os.getxattr(tmp_path / "copy", mark_of(tmp_path / "copy")) != os.getxattr(tmp_path / "1", mark)
    dogpile_at(tmp_path, "1/report").invalidate(hard=True)
    assert copy.has_value


@pytest.mark.parametrize("mark", [b"", b"scribble", b"\xff" * 32, b"../../../../etc/passwd 1", b"f" * 31])
def test_an_attribute_that_another_program_has_written_is_no_mark_and_the_log_tells_that(
    tmp_path: Path, flip: Flip, mark: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    following_scope._told.clear()
    os.setxattr(tmp_path / "1", mark_of(tmp_path / "1"), mark)
    dogpile = dogpile_at(tmp_path)
    assert dogpile.refresh(lambda: None)
    assert dogpile_at(tmp_path).has_value
    assert os.getxattr(tmp_path / "1", mark_of(tmp_path / "1")) == mark
    assert "holds something else" in caplog.text


def test_reading_alone_marks_nothing(tmp_path: Path, flip: Flip) -> None:
    dogpile = dogpile_at(tmp_path)
    assert not dogpile.has_value
    assert dogpile.createdtime == -1
    assert mark_of(tmp_path / "1") not in os.listxattr(tmp_path / "1")


def test_a_reader_sees_the_record_that_came_with_the_first_mark(tmp_path: Path, flip: Flip) -> None:
    reader, creator = dogpile_at(tmp_path), dogpile_at(tmp_path)
    assert reader.fresh_version() is None
    thread = threading.Thread(target=lambda: reader.acquire(timeout=30).__enter__())
    thread.start()
    creator.refresh(lambda: None)
    thread.join(10)
    assert not thread.is_alive()
    assert reader.has_value


@pytest.mark.parametrize("copied", [False, True])
def test_many_that_mark_a_directory_at_the_same_time_agree(tmp_path: Path, flip: Flip, copied: bool) -> None:
    directory_mark.mark(str(tmp_path / "1"))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that one looks before another marks, and marks after it
    try:
        for number in range(200):
            directory = tmp_path / f"many-{number}"
            directory.mkdir()
            if copied:
                shutil.copystat(tmp_path / "1", directory)
            places = all_mark(str(directory))
            assert len(set(places)) == 1
            assert places[0] == directory_mark.find(str(directory))
    finally:
        sys.setswitchinterval(interval)


def all_mark(directory: str) -> list[directory_mark.Place | None]:
    places: list[directory_mark.Place | None] = []
    start = threading.Barrier(8)

    def mark() -> None:
        start.wait(30)
        places.append(directory_mark.mark(directory))

    threads = [threading.Thread(target=mark) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(places) == len(threads)
    return places


def test_a_directory_that_cannot_be_marked_is_known_by_its_path_and_the_log_tells_that_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    following_scope._told.clear()
    for _ in range(2):
        dogpile = Dogpile(HOUR, "/proc/report", directory=tmp_path)
        dogpile.refresh(lambda: None)
        assert Dogpile(HOUR, "/proc/report", directory=tmp_path).has_value
    (told,) = [each.message for each in caplog.records if "cannot be marked" in each.message]
    assert "'/proc/report': the directory '/proc' cannot be marked" in told
    assert "Hint: give the same path everywhere" in told


def test_a_reader_that_is_inside_where_the_path_has_led_keeps_no_writer_out_where_it_leads_now(
    tmp_path: Path, flip: Flip
) -> None:
    def dogpile() -> SyncReaderDogpile:
        return SyncReaderDogpile(HOUR, tmp_path / "current" / "report", directory=tmp_path / "locks", init=True)

    reader, writer = dogpile(), dogpile()
    with reader.acquire():
        flip("2")
        assert not writer.has_value
        with writer.acquire_write_lock(timeout=0):
            pass
        writer.createdtime = 1.0
        flip("1")
        assert writer.has_value
        with pytest.raises(LockTimeout):
            writer.acquire_write_lock(timeout=0).__enter__()
    flip("2")
    assert reader.has_value
    assert writer.has_value
    with reader.acquire():  # by a slot that has been idle since
        assert not in_thread(lambda: writer.readwritelock.acquire_write_lock(wait=False))


def test_a_creator_that_met_a_flip_does_not_wait_for_itself(tmp_path: Path, flip: Flip) -> None:
    dogpile = dogpile_at(tmp_path)

    def creator() -> None:
        flip("2")
        with pytest.raises(WouldDeadlock):
            dogpile.acquire(lambda: None).__enter__()

    promptly(lambda: dogpile.refresh(creator))
    assert not dogpile.has_value


def test_two_mounts_of_one_volume_share_the_mutex_and_the_record(tmp_path: Path) -> None:
    for name in ("volume", "mounted", "locks"):
        (tmp_path / name).mkdir()
    program = """
import sys
from dogpile_fs import Dogpile
one, other = (Dogpile(3600, f"{name}/report", directory="locks") for name in ("volume", "mounted"))
open("volume/report", "w").close()
open("mounted/report").close()
one.refresh(lambda: None)
assert other.has_value
with one.dogpilelock:
    assert not other.dogpilelock.acquire(wait=False)
other.invalidate(hard=True)
assert not one.has_value
"""
    mounted = 'mount --bind volume mounted || exit 42; exec "$0" -c "$1"'
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ended.returncode == 42 or "unshare" in ended.stderr:
        pytest.skip(f"nothing can be mounted here: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
