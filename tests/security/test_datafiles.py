"""Datafiles and directories of data where other users may make files, or own the directory itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, atomic_write
from dogpile_fs._datafile import atomic
from dogpile_fs._datafile.hidden_directory import HiddenDirectory
from dogpile_fs._layout import temp_affixes
from dogpile_fs._os import replace as swap
from tests.support.places import files_in, left_beside, writing

from .neighbours import NEIGHBOUR, OTHER, ROOT, Outside, acting_as, as_user, outcome


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory that belongs to the neighbour, where root has work to do: a web application's, for instance."""
    directory = place / "theirs"
    directory.mkdir()
    os.chown(directory, NEIGHBOUR, NEIGHBOUR)
    return directory


def create(path: Path) -> bool:
    return bool(Datafile(path, 0, writing("ours"), backoff=None).refresh())


def write(path: Path) -> None:
    with atomic_write(path, "w") as file:
        file.write("ours")


def create_directory(path: Path) -> bool:
    return bool(DataDirectory(path, 0, os.mkdir).refresh())


def roll_back(path: Path) -> None:
    Datafile(path).rollback()


# A name in a sticky directory that every user may write, where a neighbour came first.


@pytest.mark.parametrize("uid", [ROOT, OTHER])
@pytest.mark.parametrize("leads", ["canary", "new"])
@pytest.mark.parametrize("make", [create, write])
def test_a_planted_link_makes_no_process_replace_or_make_a_file_elsewhere(
    make: Callable[[Path], object], leads: str, uid: int, sticky: Path, outside: Outside
) -> None:
    path = sticky / "report"
    with acting_as(NEIGHBOUR):
        path.symlink_to(outside.directory / leads)
    told = outcome(uid, lambda: make(path))
    for part in ("DatafileError", f"belongs to user {NEIGHBOUR}", "may have been planted", "Hint: remove it"):
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


def test_a_planted_earlier_version_of_a_directory_is_not_rolled_back_to(sticky: Path) -> None:
    path = sticky / "report"
    index = DataDirectory(path, 0, os.mkdir, keep=1)
    index.refresh()
    begin, end = temp_affixes("dir", str(path))
    with acting_as(NEIGHBOUR):
        (sticky / f"{begin}0-0{end}").mkdir()
    with pytest.raises(DatafileError, match="no earlier version"):
        index.rollback()


@pytest.mark.parametrize("make", [create, write])
def test_what_is_built_in_a_directory_of_others_can_be_entered_by_its_user_alone(
    make: Callable[[Path], object], sticky: Path, theirs: Path
) -> None:
    def make_and_look(path: Path, mode: int | None = None) -> None:
        """Make it; *mode*: what another process of this user has given the sub-directory before."""
        with HiddenDirectory(str(path)):
            hidden = path.parent / f".dogpile-{os.geteuid()}"
            if mode is not None:
                hidden.chmod(mode)
            make(path)
            found = hidden.stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())

    for directory in (sticky, theirs):
        as_user(ROOT, partial(make_and_look, directory / "report"), mask=0)
    as_user(OTHER, lambda: make_and_look(sticky / "other"), mask=0)
    as_user(OTHER, lambda: make_and_look(sticky / "other", 0o777))


@pytest.mark.parametrize("plant", ["link", "directory", "file"])
@pytest.mark.parametrize("make", [create, write, create_directory, roll_back])
def test_a_planted_hidden_directory_is_neither_entered_nor_followed(
    make: Callable[[Path], object], plant: str, sticky: Path, outside: Outside
) -> None:
    path, hidden = sticky / "report", sticky / f".dogpile-{OTHER}"
    if make is roll_back:
        as_user(OTHER, lambda: Datafile(path, 0, writing("ours"), keep=1).refresh())
    with acting_as(NEIGHBOUR, mask=0):
        if plant == "link":
            hidden.symlink_to(outside.directory)
        elif plant == "directory":
            hidden.mkdir()
            (hidden / ("{}7{}".format(*temp_affixes("kept", str(path))))).write_text("theirs")
        else:
            hidden.touch()
    told = outcome(OTHER, lambda: make(path))
    for part in ("DatafileError", repr(str(hidden)), f"{NEIGHBOUR}", "Hint: remove it"):
        assert part in told, told
    assert hidden.is_symlink() == (plant == "link")
    assert make is not roll_back or path.read_text() == "ours"


def test_a_hidden_directory_that_its_owner_exchanges_meanwhile_leads_no_swap_and_no_removal_elsewhere(
    theirs: Path, place: Path
) -> None:
    """Root keeps secrets under the same names in a directory of its own."""
    secret = place / "secret"
    secret.mkdir(mode=0o700)
    for text in ("secret", "newer"):
        Datafile(secret / "report", 0, writing(text), keep=1).refresh()
    before = files_in(secret / ".dogpile")

    def exchange(target: str) -> None:
        with acting_as(NEIGHBOUR):
            (theirs / ".dogpile-0").rename(theirs / "away")
            (theirs / ".dogpile-0").symlink_to(secret / ".dogpile")

    Datafile(theirs / "report", 0, writing("old")).refresh()
    report = Datafile(theirs / "report", 0, writing("new"), keep=1, validate=exchange)
    with pytest.raises(DatafileError, match="is no directory"):
        report.refresh()
    with pytest.raises(DatafileError, match="is no directory"):
        report.rollback()
    assert (theirs / "report").read_text() == "old"
    assert files_in(secret / ".dogpile") == before


def test_a_file_under_the_name_of_an_earlier_version_of_a_directory_is_skipped(path: str) -> None:
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


# Root works in a directory that belongs to another user.


@pytest.mark.parametrize("make", [create, write])
def test_root_follows_a_users_link_only_to_directories_that_this_user_owns(
    make: Callable[[Path], object], theirs: Path, outside: Outside
) -> None:
    path = theirs / "report"
    with acting_as(NEIGHBOUR):
        path.symlink_to(outside.canary)
    told = outcome(ROOT, lambda: make(path))
    for part in ("DatafileError", f"link of user {NEIGHBOUR}'s", "root does not follow it", "Hint: name where"):
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
    """A user who may write the directory may put another file at that name anyway."""
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with acting_as(NEIGHBOUR):
        (shared / "report-7").write_text("old")
        (shared / "report").symlink_to("report-7")
    as_user(ROOT, lambda: make(shared / "report"))
    assert (shared / "report-7").read_text() == "ours"


@pytest.mark.parametrize("make", [create, write])
def test_a_process_that_is_not_root_follows_the_links_of_the_directorys_owner(
    make: Callable[[Path], object], place: Path, theirs: Path
) -> None:
    """An application is deployed with a link to a directory that it may write."""
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


def test_permissions_and_owner_are_not_given_to_the_target_of_a_link(theirs: Path, outside: Outside) -> None:
    path = theirs / "report"
    with acting_as(NEIGHBOUR):
        path.write_text("theirs, so that root's new version would be as well")
    validate = replaced_by(lambda target: os.symlink(outside.canary, target))
    with pytest.raises(DatafileError, match="symbolic link"):
        Datafile(path, 0, writing("ours"), validate=validate).refresh()


def test_permissions_and_owner_are_not_given_to_a_file_with_another_name(theirs: Path) -> None:
    path = theirs / "report"
    secret = theirs.parent / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    with acting_as(NEIGHBOUR):
        path.write_text("theirs")
    validate = replaced_by(lambda target: os.link(secret, target))
    with pytest.raises(DatafileError, match=r"hard link, one of 2 names.*Hint: let the creator make a copy"):
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


def test_permissions_and_owner_of_a_directory_are_not_given_to_the_target_of_a_link(
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


def test_a_fifo_in_the_place_of_a_file_hangs_no_process(theirs: Path) -> None:
    path = theirs / "report"
    path.write_text("old")
    with pytest.raises(DatafileError, match="no regular file"):
        Datafile(path, 0, writing("new"), validate=replaced_by(os.mkfifo)).refresh()

    def put_a_fifo(target: str) -> None:
        path.unlink()
        os.mkfifo(path)

    with pytest.raises(DatafileError, match="no regular file"):
        Datafile(path, 0, writing("new"), validate=put_a_fifo, skip_unchanged=True).refresh(force=True)
    assert "no regular file" in outcome(OTHER, lambda: Datafile(path).open().__enter__())


def test_a_kept_copy_is_not_written_through_a_link(
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


def test_a_write_goes_to_the_file_that_was_made_and_to_no_other(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = atomic._TempFile._takes

    def take_and_put_another(self: atomic._TempFile, path: str, mode: int) -> bool:
        taken = takes(self, path, mode)
        os.unlink(path)
        os.link(outside.canary, path)
        return taken

    monkeypatch.setattr(atomic._TempFile, "_takes", take_and_put_another)
    with pytest.raises(DatafileError, match="another file in its place"):
        write(theirs / "report")
    assert files_in(theirs) == []


def test_removing_leftovers_gives_permissions_to_no_file_elsewhere(
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
