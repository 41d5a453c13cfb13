"""What is on the disk itself: the calls that see to it, and what the disk may answer."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dogpile_fs import DatafileError, Dogpile
from dogpile_fs._os import fsync as durability
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
    durability.sync_tree(path)
    assert descriptors() == before


def test_what_is_missing_or_cannot_be_opened_of_a_tree_is_told(unprivileged: Unprivileged) -> None:
    unprivileged.writable()

    def sync() -> None:
        with pytest.raises(FileNotFoundError):
            durability.sync_tree(str(unprivileged.directory / "missing"))
        path = tree(unprivileged.directory / "tree")
        os.chmod(path + "/sub/file", 0)
        with pytest.raises(PermissionError):
            durability.sync_tree(path)
        shutil.rmtree(path)

    unprivileged.run(sync)


_CREATE = "create, nothing yet, DataDirectory"  # of one with two files


def created_despite(call: str, code: int, directory: Path, number: int = 1) -> Outcome:
    """What comes of a creation while *call* fails."""
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
def test_a_disk_that_fails_while_a_tree_is_synced_is_told(
    call: str, number: int, code: int, tmp_path: Path
) -> None:
    outcome = created_despite(call, code, tmp_path, number)
    assert (outcome.kind, outcome.wrong) == ("clear error", [])


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINTR])
def test_what_cannot_be_begun_early_is_synced_all_the_same(code: int, tmp_path: Path) -> None:
    outcome = created_despite("sync_file_range(", code, tmp_path)
    assert (outcome.kind, outcome.wrong) == ("correct pass", [])


def test_without_such_a_system_call_a_tree_is_synced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree(tmp_path / "tree")
    synced: list[tuple[int, int]] = []

    def sync(fd: int) -> None:
        synced.append((os.fstat(fd).st_dev, os.fstat(fd).st_ino))

    monkeypatch.setattr(durability, "_sync_file_range", lambda: None)
    monkeypatch.setattr(durability, "sync", sync)
    durability.sync_tree(path)
    all_in_it = [path, path + "/file", path + "/sub", path + "/sub/empty", path + "/sub/file"]
    assert sorted(synced) == sorted((os.stat(each).st_dev, os.stat(each).st_ino) for each in all_in_it)


def test_a_directory_that_cannot_be_read_is_not_synced_and_one_that_is_missing_is_told(
    unprivileged: Unprivileged, processes: Processes
) -> None:
    unprivileged.directory.chmod(0o333)
    unprivileged.run(lambda: durability.sync_directory(str(unprivileged.directory)))
    with pytest.raises(DatafileError) as caught:
        durability.sync_directory(unprivileged.path)
    assert caught.value.errno == errno.ENOENT
    tells(caught.value, repr(unprivileged.path))


# Invalidations.


def synced_by(scene: str, directory: Path) -> list[str]:
    try:
        return [call for call in calls_of(scene, directory) if "sync" in call]
    except NotTraceable as error:
        pytest.skip(str(error))


def test_an_invalidated_datafile_is_on_the_disk_as_such_and_so_is_the_sidecars_name(tmp_path: Path) -> None:
    assert synced_by("invalidate hard, Datafile", tmp_path) == ["fsync(data.txt.dogpile)", "fsync(in)"]


def test_an_invalidation_of_what_need_not_last_waits_for_no_disk(tmp_path: Path) -> None:
    assert synced_by("invalidate, Dogpile", tmp_path) == []


@pytest.mark.parametrize("call", ["fsync(data.txt.dogpile)", "fsync(in)"])
def test_a_disk_that_fails_an_invalidation_is_told_and_it_stands_all_the_same(call: str, tmp_path: Path) -> None:
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
