"""Datafiles and directories of data where other users may make files, or own the directory itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, atomic_write
from dogpile_fs._datafile import atomic
from dogpile_fs._os import replace as swap
from tests.support.places import left_beside, writing

from .neighbours import NEIGHBOUR, OTHER, ROOT, Outside, acting_as, as_user, outcome


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory that belongs to the neighbour, where root has work to do: a web application's, for instance."""
    directory = place / "theirs"
    directory.mkdir()
    os.chown(directory, NEIGHBOUR, NEIGHBOUR)
    return directory


def create(path: Path) -> bool:
    return Datafile(path, 0, writing("ours")).refresh()


def write(path: Path) -> None:
    with atomic_write(path, "w") as file:
        file.write("ours")


def create_directory(path: Path) -> bool:
    return DataDirectory(path, 0, os.mkdir).refresh()


# A name in a sticky directory that everybody may write, where a neighbour was there first.


@pytest.mark.parametrize("uid", [ROOT, OTHER])
@pytest.mark.parametrize("leads", ["canary", "new"])
@pytest.mark.parametrize("make", [create, write])
def test_a_planted_link_makes_nobody_replace_or_make_a_file_elsewhere(
    make: Callable[[Path], object], leads: str, uid: int, sticky: Path, outside: Outside
) -> None:
    path = sticky / "report"
    with acting_as(NEIGHBOUR):
        path.symlink_to(outside.directory / leads)
    told = outcome(uid, lambda: make(path))
    for part in ("DatafileError", f"belongs to user {NEIGHBOUR}", "may have been planted", "Cure: remove it"):
        assert part in told
    assert path.is_symlink()


@pytest.mark.parametrize("uid", [ROOT, OTHER])
@pytest.mark.parametrize("make", [create, write])
def test_a_planted_file_does_not_make_its_owner_that_of_the_next_version(
    make: Callable[[Path], object], uid: int, sticky: Path
) -> None:
    path = sticky / "report"
    with acting_as(NEIGHBOUR, mask=0):
        path.write_text("theirs")
    assert "may have been planted" in outcome(uid, lambda: make(path), mask=0o077)
    assert path.read_text() == "theirs"
    assert left_beside(str(path)) == []


@pytest.mark.parametrize("uid", [ROOT, OTHER])
@pytest.mark.parametrize("plant", ["link", "directory"])
def test_a_planted_directory_does_not_make_its_owner_that_of_the_next_version(
    plant: str, uid: int, sticky: Path, outside: Outside
) -> None:
    path = sticky / "index"
    with acting_as(NEIGHBOUR, mask=0):
        if plant == "link":
            path.symlink_to(outside.within)
        else:
            path.mkdir()
    assert "may have been planted" in outcome(uid, lambda: create_directory(path))
    assert os.lstat(path).st_uid == NEIGHBOUR
    assert left_beside(str(path)) == []


@pytest.mark.parametrize("make", [create, write])
def test_ones_own_link_in_a_sticky_directory_is_followed(
    make: Callable[[Path], object], place: Path, sticky: Path
) -> None:
    path = sticky / "report"
    own = place / "own"
    own.mkdir()
    os.chown(own, OTHER, OTHER)
    with acting_as(OTHER):
        (own / "report").write_text("old")
        path.symlink_to(own / "report")
    as_user(OTHER, lambda: make(path))
    assert path.is_symlink()
    assert (own / "report").read_text() == "ours"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_planted_earlier_version_is_not_rolled_back_to(kind: str, sticky: Path) -> None:
    path = sticky / "report"
    resource: Any = (
        Datafile(path, 0, writing("ours"), keep=1) if kind == "file" else DataDirectory(path, 0, os.mkdir, keep=1)
    )
    resource.refresh()
    with acting_as(NEIGHBOUR):
        if kind == "file":
            begin, end = swap.marked("kept", str(path))
            (sticky / f"{begin}7{end}").write_text("theirs")
        else:
            begin, end = swap.marked("dir", str(path))
            (sticky / f"{begin}0-0{end}").mkdir()
    with pytest.raises(DatafileError, match="no earlier version"):
        resource.rollback()
    assert kind == "directory" or path.read_text() == "ours"


def test_what_is_no_directory_under_the_name_of_an_earlier_version_is_passed_over(path: str) -> None:
    index = DataDirectory(path, 0, os.mkdir, keep=2)
    for _ in range(3):
        index.refresh()
    (last,) = (
        name for name in os.listdir(os.path.dirname(path)) if name.startswith(".dogpile-dir-") and "-2-1" in name
    )
    os.rmdir(os.path.join(os.path.dirname(path), last))
    os.symlink("resource", os.path.join(os.path.dirname(path), last))
    index.rollback()
    assert os.readlink(path).partition("-dir-")[2].partition("-")[2].startswith("1-")


# Root works in a directory that belongs to somebody else.


@pytest.mark.parametrize("make", [create, write])
def test_root_follows_a_users_link_only_to_where_he_could_make_files_himself(
    make: Callable[[Path], object], theirs: Path, outside: Outside
) -> None:
    path = theirs / "report"
    with acting_as(NEIGHBOUR):
        path.symlink_to(outside.canary)
    told = outcome(ROOT, lambda: make(path))
    for part in ("DatafileError", f"link of user {NEIGHBOUR}'s", "root does not follow it", "Cure: name where"):
        assert part in told
    with acting_as(NEIGHBOUR):
        path.unlink()
        (theirs / "real").write_text("old")
        path.symlink_to("real")
    as_user(ROOT, lambda: make(path))
    assert (theirs / "real").read_text() == "ours"


@pytest.mark.parametrize("make", [create, write])
def test_root_follows_a_members_link_within_the_directory_of_their_group(
    make: Callable[[Path], object], place: Path
) -> None:
    """Who may write the directory may put another file at that name anyway."""
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with acting_as(NEIGHBOUR):
        (shared / "report-7").write_text("old")
        (shared / "report").symlink_to("report-7")
    as_user(ROOT, lambda: make(shared / "report"))
    assert (shared / "report-7").read_text() == "ours"


@pytest.mark.parametrize("make", [create, write])
def test_who_is_not_root_follows_the_links_of_who_owns_the_directory(
    make: Callable[[Path], object], place: Path, theirs: Path
) -> None:
    """Somebody deploys an application, with a link to where it may write."""
    path = theirs / "report"
    data = place / "data"
    data.mkdir()
    os.chown(data, OTHER, OTHER)
    (data / "report").write_text("old")
    with acting_as(NEIGHBOUR):
        path.symlink_to(data / "report")
    as_user(OTHER, lambda: Datafile(path, 0, writing("ours"), directory=data).refresh())
    assert (data / "report").read_text() == "ours"
    as_user(OTHER, lambda: write(path))


def replaced_by(put: Callable[[str], None]) -> Callable[[str], None]:
    """A ``validate`` that looks on while the owner of the directory puts something else in the target's place."""

    def validate(target: str) -> None:
        os.unlink(target)
        put(target)

    return validate


def test_permissions_and_owner_are_not_given_to_what_a_link_leads_to(theirs: Path, outside: Outside) -> None:
    path = theirs / "report"
    with acting_as(NEIGHBOUR):
        path.write_text("theirs, so that root's new version would be as well")
    validate = replaced_by(lambda target: os.symlink(outside.canary, target))
    with pytest.raises(DatafileError, match="symbolic link"):
        Datafile(path, 0, writing("ours"), validate=validate).refresh()


def test_permissions_and_owner_are_not_given_to_what_has_another_name(theirs: Path) -> None:
    path = theirs / "report"
    secret = theirs.parent / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    with acting_as(NEIGHBOUR):
        path.write_text("theirs")
    validate = replaced_by(lambda target: os.link(secret, target))
    with pytest.raises(DatafileError, match=r"hard link, one of 2 names.*Cure: let the creator make a copy"):
        Datafile(path, 0, writing("ours"), validate=validate).refresh()
    found = secret.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)


def test_a_creator_may_make_a_hard_link_where_no_permissions_change(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_text("built")
    report = Datafile(tmp_path / "report", 0, lambda target: os.link(built, target))
    assert report.refresh()
    assert report.refresh()
    assert report.load(lambda file: file.read()) == b"built"


def test_permissions_and_owner_of_a_directory_are_not_given_to_what_a_link_leads_to(
    theirs: Path, outside: Outside
) -> None:
    path = theirs / "index"
    with acting_as(NEIGHBOUR):
        path.mkdir(mode=0o777)

    def validate(target: str) -> None:
        os.rmdir(target)
        os.symlink(outside.within, target)

    with pytest.raises(DatafileError):
        DataDirectory(path, 0, os.mkdir, validate=validate).refresh()


def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(theirs: Path) -> None:
    path = theirs / "report"
    path.write_text("old")
    with pytest.raises(DatafileError, match="no regular file"):
        Datafile(path, 0, writing("new"), validate=replaced_by(os.mkfifo)).refresh()

    def put_a_fifo(target: str) -> None:
        path.unlink()
        os.mkfifo(path)

    with pytest.raises(DatafileError, match="no regular file"):
        Datafile(path, 0, writing("new"), validate=put_a_fifo, skip_unchanged=True).refresh()
    assert "no regular file" in outcome(OTHER, lambda: Datafile(path).open().__enter__())


def test_a_copy_that_is_kept_is_not_written_through_a_link(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = theirs / "report"
    path.write_text("theirs")

    def no_hard_links(_: str, name: str) -> None:
        os.symlink(outside.canary, name)  # what its owner may do at this moment
        raise DatafileError(1, "this file system has no hard links")

    monkeypatch.setattr(swap, "link", no_hard_links)
    with pytest.raises(DatafileError, match="keep the old version"):
        Datafile(path, 0, writing("ours"), keep=1).refresh()


def test_what_is_written_goes_to_the_file_that_was_made_and_to_no_other(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_another(path: str, own: str = "") -> None:
        os.unlink(own)
        os.link(outside.canary, own)  # what its owner may do at this moment, where hard links are not protected

    monkeypatch.setattr(atomic, "_remove_abandoned", put_another)
    with pytest.raises(DatafileError, match="another file in its place"):
        write(theirs / "report")
    assert list(theirs.iterdir()) == []


def test_removing_what_was_left_gives_permissions_to_nothing_elsewhere(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = theirs / "tree"
    (tree / "a" / "within").mkdir(parents=True)
    chmod = os.chmod

    def chmod_too_late(path: Any, *args: Any, **options: Any) -> None:
        if os.path.basename(path) == "within" and not (tree / "a").is_symlink():
            (tree / "a").rename(theirs / "b")
            (tree / "a").symlink_to(outside.directory)
        chmod(path, *args, **options)

    monkeypatch.setattr(os, "chmod", chmod_too_late)
    swap._permit(str(tree))
    assert (tree / "a").is_symlink()
    assert stat.S_IMODE((theirs / "b" / "within").stat().st_mode) == 0o700
