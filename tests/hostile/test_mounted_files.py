"""A file or directory that is mounted by itself, as a container has it.

Nothing takes its place there, and ``status`` tells when another version has taken it where it comes from. Each
test mounts in a process of its own.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, Dogpile, atomic_write
from tests.campaign.mounts import CannotMount, keep_mounts_to_ourselves, mount, refuse_unless_mountable
from tests.support.places import left_beside, writing
from tests.support.processes import ended_well, in_child

_BIND = 4096

#: Calls its last argument with a path in a container, at which alone the file or directory is mounted.
Contained = Callable[[Path, Callable[[str], object]], None]


@pytest.fixture(params=["resource", "with spaces\tand \\ in\nit"])
def contained(request: pytest.FixtureRequest, tmp_path: Path) -> Contained:
    try:
        refuse_unless_mountable("tmpfs")
    except CannotMount as error:
        pytest.skip(str(error))

    def call(source: Path, use: Callable[[str], object]) -> None:
        place = tmp_path / "container" / request.param

        def live() -> None:
            keep_mounts_to_ourselves()
            place.parent.mkdir()
            if source.is_dir():
                place.mkdir()
            else:
                place.touch()
            mount(str(source), place, "none", flags=_BIND)
            use(str(place))

        assert ended_well(in_child(live))

    return call


def unwanted(target: str) -> None:
    raise AssertionError(f"the creator was called with {target!r}")


def refused(call: Callable[[], object], path: str) -> None:
    with pytest.raises(DatafileError) as caught:
        call()
    assert caught.value.errno == errno.EBUSY
    for part in (f"cannot replace {path!r}", "mount point", "Hint: ", "mount its directory"):
        assert part in str(caught.value)
    assert left_beside(path) == []


def test_a_mounted_file_is_refused_before_the_creator_runs(contained: Contained, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("shipped")

    def use(path: str) -> None:
        datafile = Datafile(path, 3600, unwanted, keep=1)
        assert datafile.load(lambda file: file.read()) == b"shipped"
        refused(lambda: datafile.refresh(force=True), path)
        refused(datafile.rollback, path)
        link = path + "-link"
        os.symlink(path, link)
        refused(lambda: Datafile(link, 3600, unwanted).refresh(force=True), path)
        refused(lambda: atomic_write(path).__enter__(), path)
        with pytest.raises(FileExistsError):
            atomic_write(path, overwrite=False).__enter__()
        command = [sys.executable, "-m", "dogpile_fs", "run", "--force", "--expire", "0", "--output", path]
        ended = subprocess.run([*command, "--", "false"], capture_output=True, text=True)
        assert (ended.returncode, "mount its directory" in ended.stderr) == (73, True), ended.stderr
        beside = os.path.join(os.path.dirname(path), "another")
        assert Datafile(beside, 3600, writing("new")).refresh()

    contained(source, use)


def test_a_mounted_directory_is_refused_before_the_creator_runs(contained: Contained, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("shipped")

    def use(path: str) -> None:
        directory = DataDirectory(path, 3600, unwanted)
        refused(lambda: directory.refresh(force=True), path)
        refused(directory.rollback, path)
        # Its files are not mounted by themselves.
        assert Datafile(os.path.join(path, "file"), 3600, writing("new")).refresh(force=True)

    contained(source, use)


def test_the_status_tells_that_a_mounted_file_was_replaced_where_it_comes_from(
    contained: Contained, tmp_path: Path
) -> None:
    outside = Datafile(tmp_path / "source", 3600, writing("old"))
    outside.refresh()

    def use(path: str) -> None:
        def command(*options: str) -> str:
            words = [sys.executable, "-m", "dogpile_fs", "status", *options, path]
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout

        inside: list[Datafile | Dogpile] = [Datafile(path, 3600), Dogpile(3600, path, resource="file")]
        assert [each.status().unlinked for each in inside] == [False, False]
        assert "mount its directory" not in command()
        outside._creator = writing("new")
        outside.refresh(force=True)
        assert not outside.status().unlinked
        assert Path(path).read_text() == "old"
        assert [each.status().unlinked for each in inside] == [True, True]
        assert inside[0].status().state == "fresh"
        assert "replaced where it is mounted from: mount its directory" in command()
        assert json.loads(command("--json"))[0]["unlinked"] is True

    contained(tmp_path / "source", use)


def test_the_status_tells_that_a_mounted_directory_was_removed(contained: Contained, tmp_path: Path) -> None:
    def creator(target: str) -> None:
        os.mkdir(target)

    outside = DataDirectory(tmp_path / "source", 3600, creator)
    outside.refresh()

    def use(path: str) -> None:
        inside = DataDirectory(path, 3600)
        assert not inside.status().unlinked
        outside.refresh(force=True)
        assert inside.status().unlinked

    contained(Path(os.path.realpath(tmp_path / "source")), use)


def test_what_is_in_a_mounted_directory_of_its_own_is_replaced_as_ever(
    contained: Contained, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    outside = Datafile(source / "file", 3600, writing("old"))
    outside.refresh()

    def use(path: str) -> None:
        inside = Datafile(os.path.join(path, "file"), 3600, unwanted)
        outside._creator = writing("new")
        outside.refresh(force=True)
        assert inside.load(lambda file: file.read()) == b"new"
        assert (inside.status().unlinked, inside.status().generation) == (False, 2)

    contained(source, use)
