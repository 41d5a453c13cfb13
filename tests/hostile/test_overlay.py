"""On overlayfs, as in a container, files of the image are coordinated like files that were made in place.

A file of a lower layer is copied to the upper one when it is first written, and may then have another inode;
a directory of a lower layer cannot be renamed. Each test mounts its own layers, in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, Dogpile, FileMutex, LockTimeout, atomic_write
from tests.campaign.mounts import CannotMount, keep_mounts_to_ourselves, mount, refuse_unless_mountable
from tests.support.places import left_beside, writing
from tests.support.processes import ended_well, in_child

InContainer = Callable[[Callable[[Path], object], Callable[[Path], object]], None]


@pytest.fixture(params=["one file system", "two file systems", "two file systems, xino=off"])
def in_container(request: pytest.FixtureRequest, tmp_path: Path) -> InContainer:
    """Calls its first argument with an image's directory, its second with the same directory in a container."""
    try:
        refuse_unless_mountable("tmpfs", "overlay")
    except CannotMount as error:
        pytest.skip(str(error))
    layers, _, option = request.param.partition(", ")

    def call(ship: Callable[[Path], object], use: Callable[[Path], object]) -> None:
        def live() -> None:
            keep_mounts_to_ourselves()
            mount("tmpfs", tmp_path, "tmpfs")
            lower, above, merged = (tmp_path / name for name in ("lower", "above", "merged"))
            for directory in (lower, above, merged):
                directory.mkdir()
            if layers == "two file systems":
                mount("tmpfs", lower, "tmpfs")
            (above / "upper").mkdir()
            (above / "work").mkdir()
            ship(lower)
            options = [f"lowerdir={lower}", f"upperdir={above / 'upper'}", f"workdir={above / 'work'}", option]
            mount("overlay", merged, "overlay", ",".join(filter(None, options)))
            use(merged)

        assert ended_well(in_child(live))

    return call


def making(text: str) -> Callable[[str], None]:
    """A creator that makes a directory with a file of *text*."""

    def creator(target: str) -> None:
        os.mkdir(target)
        Path(target, "text").write_text(text)

    return creator


def shipped(image: Path) -> None:
    assert Datafile(image / "report", None, writing("shipped")).refresh()


def elsewhere(action: Callable[[], object]) -> None:
    """Have another process do *action*."""
    assert ended_well(in_child(action))


def test_a_reader_of_a_shipped_file_reads_the_version_that_another_process_creates(
    in_container: InContainer,
) -> None:
    def use(container: Path) -> None:
        report = Datafile(container / "report", 3600)
        status = report.status()
        assert (status.state, status.generation) == ("fresh", 1)
        assert report.load(lambda file: file.read()) == b"shipped"
        elsewhere(lambda: Datafile(container / "report", 3600, writing("new")).refresh(force=True))
        time.sleep(0.011)  # for 10 ms a pass may trust a sidecar
        assert report.load(lambda file: file.read()) == b"new"
        assert report.status().generation == 2
        assert left_beside(str(container / "report")) == []

    in_container(shipped, use)


def test_an_invalidation_of_a_shipped_file_is_seen_by_a_process_that_passed_before(
    in_container: InContainer,
) -> None:
    def use(container: Path) -> None:
        report = Datafile(container / "report", 3600)
        with report.open():
            pass
        elsewhere(Datafile(container / "report").invalidate)
        time.sleep(0.011)
        assert report._dogpile.fresh_version() is None
        assert report.status().state == "stale"

    in_container(shipped, use)


def test_a_shipped_file_is_not_younger_after_it_was_copied_up(in_container: InContainer) -> None:
    def use(container: Path) -> None:
        before = Datafile(container / "report").status().createdtime
        (container / "report").chmod(0o600)
        assert before is not None
        after = Datafile(container / "report").status()
        assert after.state == "fresh"
        assert after.createdtime is not None
        assert before - 0.011 <= after.createdtime <= before  # by its stamp, or by its mtime

    in_container(shipped, use)


def test_a_shipped_file_is_kept_and_rolled_back_to(in_container: InContainer) -> None:
    def use(container: Path) -> None:
        report = Datafile(container / "report", 3600, writing("new"), keep=1)
        assert report.refresh(force=True)
        report.rollback()
        assert report.load(lambda file: file.read()) == b"shipped"

    in_container(shipped, use)


def test_a_lock_on_a_shipped_lock_file_excludes_callers_that_come_after_it_was_copied_up(
    in_container: InContainer,
) -> None:
    def use(container: Path) -> None:
        lock = container / "report.dogpile.lock"
        with open(lock, "rb") as file:  # as of a process that may only read: nothing is copied up
            flock(file, LOCK_EX)

            def is_excluded() -> None:
                with open(lock, "r+b"):  # copied up
                    pass
                assert FileMutex(lock).acquire(wait=False) is False

            elsewhere(is_excluded)
            assert Dogpile(None, container / "report").status().creating
        elsewhere(lambda: FileMutex(lock).acquire(timeout=5))

    in_container(shipped, use)


def test_no_swap_happens_while_a_reader_of_a_shipped_file_is_inside(in_container: InContainer) -> None:
    def ship(image: Path) -> None:
        assert Datafile(image / "report", None, writing("shipped"), readers=True).refresh()
        with Datafile(image / "report", readers=True).acquire():
            pass  # so that all coordination files are there

    def use(container: Path) -> None:
        def swap(timeout: float) -> None:
            report = Datafile(container / "report", None, writing("new"), readers=True, timeout=timeout)
            report.refresh(force=True)

        def cannot_swap() -> None:
            with pytest.raises(LockTimeout):
                swap(0.05)

        reader = Datafile(container / "report", readers=True)
        with reader.acquire() as path:
            elsewhere(cannot_swap)
            assert Path(path).read_text() == "shipped"
        elsewhere(lambda: swap(5))
        with reader.acquire() as path:
            assert Path(path).read_text() == "new"

    in_container(ship, use)


def test_a_shipped_file_is_replaced_by_an_atomic_write(in_container: InContainer) -> None:
    def use(container: Path) -> None:
        with atomic_write(container / "report", "w") as file:
            file.write("new")
        assert (container / "report").read_text() == "new"
        assert left_beside(str(container / "report")) == []

    in_container(shipped, use)


def test_a_shipped_version_of_a_directory_stays_quietly_when_it_is_replaced(
    in_container: InContainer, caplog: pytest.LogCaptureFixture
) -> None:
    def use(container: Path) -> None:
        index = DataDirectory(container / "index", 3600, making("new"))
        with index.open() as version:
            assert index.refresh(force=True)
            assert Path(version, "text").read_text() == "shipped"
        assert index.refresh(force=True)
        with index.open() as version:
            assert Path(version, "text").read_text() == "new"
        versions = sorted(name.split("-")[3] for name in os.listdir(container) if name.startswith(".dogpile-dir-"))
        assert versions == ["1", "3"]
        assert caplog.messages == []

    in_container(lambda image: DataDirectory(image / "index", None, making("shipped")).refresh(), use)


def test_a_shipped_plain_directory_cannot_be_replaced_and_the_error_says_what_to_do(
    in_container: InContainer,
) -> None:
    def use(container: Path) -> None:
        index = DataDirectory(container / "index", 3600, making("new"))
        with pytest.raises(DatafileError, match="Hint: move it away; then a symbolic link is put there"):
            index.refresh(force=True)
        with index.open() as version:
            assert Path(version, "text").read_text() == "shipped"
        assert os.listdir(container / "index") == ["text"]
        assert left_beside(str(container / "index")) == []
        shutil.move(container / "index", container / "moved")  # by copying, as mv(1) does
        assert index.refresh(force=True)
        with index.open() as version:
            assert Path(version, "text").read_text() == "new"

    in_container(lambda image: making("shipped")(str(image / "index")), use)
