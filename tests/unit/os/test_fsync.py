"""Writing to the disk itself: the calls, and the errors that the disk may return."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dogpile_fs import DatafileError, Dogpile
from dogpile_fs._os import fsync
from tests.hostile.test_broken_environments import Unprivileged, foreign, may_mount, mounted, tells, unprivileged
from tests.support.failing import Outcome, calls_of, met
from tests.support.places import descriptors
from tests.support.processes import Processes
from tests.support.ptracing import NotTraceable

from .test_replace import tree

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures


def test_a_tree_is_synced_whatever_is_in_it(tmp_path: Path) -> None:
    path = tree(tmp_path / "tree")
    before = descriptors()
    fsync.sync_tree(path)
    assert descriptors() == before


def test_a_file_of_a_tree_that_is_missing_or_cannot_be_opened_is_an_error(unprivileged: Unprivileged) -> None:
    unprivileged.writable()

    def sync() -> None:
        with pytest.raises(FileNotFoundError):
            fsync.sync_tree(str(unprivileged.directory / "missing"))
        path = tree(unprivileged.directory / "tree")
        os.chmod(path + "/sub/file", 0)
        with pytest.raises(PermissionError):
            fsync.sync_tree(path)
        shutil.rmtree(path)

    unprivileged.run(sync)


_CREATE = "create, nothing yet, DataDirectory"  # of one with two files


def created_despite(call: str, code: int, directory: Path, number: int = 1) -> Outcome:
    """The outcome of a creation while *call* fails."""
    try:
        outcome = met(_CREATE, number, code, directory, call)
    except NotTraceable as error:
        pytest.skip(str(error))
    assert outcome is not None
    return outcome


def test_all_files_of_a_tree_are_begun_to_be_written_before_the_first_is_waited_for(tmp_path: Path) -> None:
    calls = [call for call in synced_by(_CREATE, tmp_path) if ".dogpile-" not in call]
    assert sorted(calls[:2]) == ["sync_file_range(one)", "sync_file_range(two)"]
    assert calls[2:4] == calls[:2]  # waits
    assert sorted(calls[4:6]) == ["fsync(one)", "fsync(two)"]
    assert calls[6:] == ["fsync(in)"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EOPNOTSUPP])
@pytest.mark.parametrize(("call", "number"), [("sync_file_range(", 1), ("sync_file_range(", 3), ("fsync(", 1)])
def test_a_disk_that_fails_while_a_tree_is_synced_is_an_error(
    call: str, number: int, code: int, tmp_path: Path
) -> None:
    outcome = created_despite(call, code, tmp_path, number)
    assert (outcome.kind, outcome.wrong) == ("clear error", [])


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINTR])
def test_a_tree_is_synced_also_where_writing_cannot_be_begun_early(code: int, tmp_path: Path) -> None:
    outcome = created_despite("sync_file_range(", code, tmp_path)
    assert (outcome.kind, outcome.wrong) == ("correct pass", [])


def test_a_tree_is_synced_also_without_the_system_call_that_begins_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree(tmp_path / "tree")
    synced: list[tuple[int, int]] = []

    def sync(fd: int) -> None:
        synced.append((os.fstat(fd).st_dev, os.fstat(fd).st_ino))

    monkeypatch.setattr("dogpile_fs._os.linux._libc", object)
    monkeypatch.setattr(fsync, "sync", sync)
    fsync.sync_tree(path)
    all_in_it = [path, path + "/file", path + "/sub", path + "/sub/empty", path + "/sub/file"]
    assert sorted(synced) == sorted((os.stat(each).st_dev, os.stat(each).st_ino) for each in all_in_it)


def test_a_directory_that_cannot_be_read_is_not_synced_and_one_that_is_missing_is_an_error(
    unprivileged: Unprivileged, processes: Processes
) -> None:
    unprivileged.directory.chmod(0o333)
    unprivileged.run(lambda: fsync.sync_directory(str(unprivileged.directory)))
    with pytest.raises(DatafileError) as caught:
        fsync.sync_directory(unprivileged.path)
    assert caught.value.errno == errno.ENOENT
    tells(caught.value, repr(unprivileged.path))


# Datafiles.


@pytest.mark.parametrize("kind", ["Datafile", "DataDirectory", "plain DataDirectory"])
def test_a_new_version_is_on_the_disk_before_the_swap_and_its_name_before_the_stamp(
    kind: str, tmp_path: Path
) -> None:
    try:
        calls = calls_of(f"create, stale, {kind}", tmp_path)
    except NotTraceable as error:
        pytest.skip(str(error))
    of_the_version = [call for call in calls if call.startswith("fsync(") and call != "fsync(in)"]
    swap = next(call for call in calls if call.startswith("rename") and call.endswith(" data.txt)"))
    stamp = len(calls) - 1 - calls[::-1].index("pwrite64(data.txt.dogpile)")
    assert len(of_the_version) == (1 if kind == "Datafile" else 3)  # the directory and its two files
    assert max(map(calls.index, of_the_version)) < calls.index(swap) < calls.index("fsync(in)") < stamp


# Invalidations.


def synced_by(scene: str, directory: Path) -> list[str]:
    try:
        return [call for call in calls_of(scene, directory) if "sync" in call]
    except NotTraceable as error:
        pytest.skip(str(error))


def test_an_invalidation_of_a_datafile_is_synced_and_so_is_the_name_of_the_sidecar(tmp_path: Path) -> None:
    assert synced_by("invalidate hard, Datafile", tmp_path) == ["fsync(data.txt.dogpile)", "fsync(in)"]


def test_an_invalidation_that_is_not_durable_waits_for_no_disk(tmp_path: Path) -> None:
    assert synced_by("invalidate, Dogpile", tmp_path) == []


@pytest.mark.parametrize("call", ["fsync(data.txt.dogpile)", "fsync(in)"])
def test_a_disk_that_fails_an_invalidation_is_an_error_and_the_invalidation_counts(
    call: str, tmp_path: Path
) -> None:
    try:
        outcome = met("invalidate hard, Datafile", 1, errno.EIO, tmp_path, call)
    except NotTraceable as error:
        pytest.skip(str(error))
    assert outcome is not None
    assert (outcome.kind, outcome.wrong) == ("clear error", [])


def test_without_a_path_there_is_nothing_to_have_on_the_disk() -> None:
    dogpile = Dogpile(3600, init=True)
    dogpile.invalidate(durable=True)
    assert dogpile.is_expired
