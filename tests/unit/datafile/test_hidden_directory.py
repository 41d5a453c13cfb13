"""The hidden sub-directory: what stands in it, who may enter it, and what is refused in its place."""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import stat
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, PathError, atomic_write
from dogpile_fs._datafile.hidden_directory import HiddenDirectory
from dogpile_fs._layout import is_hidden_directory, temp_affixes
from dogpile_fs._os.openfile import OpenFile
from tests.hostile.test_broken_environments import (
    Unprivileged,
    foreign,
    may_mount,
    mounted,
    tells,
    unprivileged,
)
from tests.hostile.test_permissions import ACL, DEFAULT_ACL, NAMED, acl, give
from tests.support.places import hidden, left_beside, umask, writing
from tests.support.processes import Processes

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures


def create(path: str) -> None:
    Datafile(path, 3600, writing("new")).refresh(force=True)


def create_with_atomic_write(path: str) -> None:
    def creator(target: str) -> None:
        with atomic_write(target, "w") as file:
            file.write("new")

    Datafile(path, 3600, creator).refresh(force=True)


def create_directory(path: str) -> None:
    DataDirectory(path, 3600, os.mkdir).refresh(force=True)


def write(path: str) -> None:
    with atomic_write(path, "w") as file:
        file.write("new")


WAYS = [create, create_directory, write]


def names_that_match(pattern: str, directory: str) -> dict[str, list[str]]:
    """Return the names that the usual ways to collect files find."""
    names = os.listdir(directory)
    return {
        "Path.glob": sorted(path.name for path in Path(directory).glob(pattern)),
        "glob": sorted(os.path.basename(name) for name in glob.glob(os.path.join(directory, pattern))),
        "endswith": sorted(name for name in names if name.endswith(pattern.removeprefix("*"))),
        "fnmatch": sorted(fnmatch.filter(names, pattern)),
    }


def assert_only(found: list[str], directory: str) -> None:
    wrong = {how: names for how, names in names_that_match("*.prom", directory).items() if names != found}
    assert wrong == {}


@pytest.mark.parametrize("readers", [True, False])
def test_no_pattern_matches_what_is_built_or_kept(tmp_path: Path, readers: bool) -> None:
    there: list[str] = []

    def creator(target: str) -> None:
        Path(target).write_text("half")
        assert_only(there, str(tmp_path))

    def validate(target: str) -> None:
        assert_only(there, str(tmp_path))
        assert target.endswith(".shop.prom")

    shop = Datafile(tmp_path / "shop.prom", 3600, creator, validate=validate, keep=2, readers=readers)
    for _ in range(4):
        shop.refresh(force=True)
        there = ["shop.prom"]
        assert_only(there, str(tmp_path))
    shop.rollback()
    assert_only(there, str(tmp_path))


def test_no_pattern_matches_what_is_written(tmp_path: Path) -> None:
    there: list[str] = []
    for overwrite in (False, True):
        with atomic_write(tmp_path / "shop.prom", "w", overwrite=overwrite) as file:
            file.write("half")
            file.flush()
            assert_only(there, str(tmp_path))
        there = ["shop.prom"]
        assert_only(there, str(tmp_path))


def test_no_pattern_matches_a_directory_that_is_built(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "set.prom")

    def creator(target: str) -> None:
        os.mkdir(target)
        assert_only(["set.prom"], str(tmp_path))

    for _ in range(2):
        DataDirectory(tmp_path / "set.prom", 3600, creator).refresh(force=True)
        assert_only(["set.prom"], str(tmp_path))


@pytest.mark.parametrize("way", [create_with_atomic_write, create_directory])
def test_what_is_built_by_our_own_means_is_in_the_same_sub_directory(
    way: Callable[[str], None], path: str
) -> None:
    way(path)
    assert not os.path.lexists(hidden(path)), "nothing is kept in it"


def test_it_is_removed_when_nothing_is_kept_in_it_and_no_process_uses_it(path: str) -> None:
    report = Datafile(path, 3600, writing("new"), keep=1)
    report.refresh()
    assert not os.path.lexists(hidden(path))
    report.refresh(force=True)
    assert len(os.listdir(hidden(path))) == 1
    report.rollback()
    assert not os.path.lexists(hidden(path))
    with atomic_write(path + ".other", "w") as file:
        write(path)
        assert os.listdir(hidden(path)) == [os.path.basename(file.name)]
    assert not os.path.lexists(hidden(path))


def test_on_nfs_it_stays_because_another_host_may_build_in_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks on directories are of one host alone there."""
    monkeypatch.setattr("dogpile_fs._os.filesystem.loses_locks", lambda fd, identity: True)
    Datafile(path, 3600, writing("new")).refresh()
    assert os.listdir(hidden(path)) == []


def test_of_two_that_leave_it_at_the_same_moment_the_last_one_removes_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, close = HiddenDirectory(path), HiddenDirectory(path), OpenFile.close

    def close_after_the_other(open_file: OpenFile) -> None:
        monkeypatch.setattr(OpenFile, "close", close)
        other.__exit__(None, None, None)
        open_file.close()

    with other, one:
        monkeypatch.setattr(OpenFile, "close", close_after_the_other)
    assert not os.path.lexists(hidden(path))


def test_one_that_was_made_while_a_block_had_no_lock_is_not_removed_by_that_block(path: str) -> None:
    block, other, third = HiddenDirectory(path), HiddenDirectory(path), HiddenDirectory(path)
    with block:
        with other:
            assert not block.remove_if_empty()
        assert not os.path.lexists(hidden(path))
        third.__enter__()
    assert os.path.lexists(hidden(path))
    third.__exit__(None, None, None)
    assert not os.path.lexists(hidden(path))


def test_it_is_not_removed_under_a_creator_that_has_made_nothing_yet(path: str) -> None:
    def creator(target: str) -> None:
        for _ in range(3):
            write(path + ".other")
        Path(target).write_text("new")

    assert Datafile(path, 3600, creator).refresh()


def test_a_forked_child_that_leaves_the_block_does_not_remove_it(path: str) -> None:
    block = HiddenDirectory(path)
    with block:
        child = os.fork()
        if not child:
            block.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert os.path.isdir(hidden(path))
    assert not os.path.lexists(hidden(path))


def _build_often(path: str, rounds: int) -> None:
    for _ in range(rounds):
        write(path)
        Datafile(path + ".data", 3600, writing("new"), durable=False).refresh(force=True)


def test_processes_that_build_side_by_side_do_not_remove_it_under_each_other(
    path: str, processes: Processes
) -> None:
    for child in [processes.start(_build_often, f"{path}{number}", 100) for number in range(4)]:
        processes.join(child)
    assert not os.path.lexists(hidden(path))


# Permissions.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [0o700, 0o750, 0o775, 0o2770, 0o2755, 0o777, 0o300])
def test_it_has_the_permissions_of_its_directory_as_they_are_at_each_creation(
    way: Callable[[str], None], mode: int, path: str
) -> None:
    for bits in (0o700, mode):
        os.chmod(os.path.dirname(path), bits)
        with HiddenDirectory(path):
            with umask(0o077):
                way(path)
            assert stat.S_IMODE(os.stat(hidden(path)).st_mode) == bits | 0o700
        os.rename(path, path + ".away")


@pytest.mark.parametrize("way", [create, write])
def test_a_file_that_is_built_there_has_the_group_that_it_would_have_beside(
    way: Callable[[str], None], path: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a directory to any group")
    directory = os.path.dirname(path)
    way(path + ".before")
    os.chown(directory, -1, 4321)
    os.chmod(directory, 0o2770)
    way(path)
    assert os.stat(path).st_gid == 4321


@pytest.mark.parametrize("way", [create, write])
def test_a_file_that_is_built_there_has_the_access_control_list_that_it_would_have_beside(
    way: Callable[[str], None], path: str
) -> None:
    directory = Path(path).parent
    way(path + ".before")
    give(directory, ACL, acl(user=7, named=5, group=5, mask=5, other=0))
    give(directory, DEFAULT_ACL, NAMED)
    with HiddenDirectory(path):
        way(path)
        assert os.getxattr(hidden(path), ACL) == os.getxattr(directory, ACL)
    (directory / "beside").touch()
    assert os.getxattr(path, ACL) == os.getxattr(directory / "beside", ACL)
    os.removexattr(directory, DEFAULT_ACL)
    way(path + ".after")
    assert ACL not in os.listxattr(path + ".after")


@pytest.mark.parametrize("way", WAYS)
def test_in_the_directory_of_another_user_it_is_this_users_own(
    way: Callable[[str], None], foreign: Unprivileged
) -> None:
    foreign.writable()

    def build_and_look() -> None:
        with umask(0), HiddenDirectory(foreign.path):
            way(foreign.path)
            found = os.stat(f"{foreign.directory}/.dogpile-{os.geteuid()}")
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())

    foreign.run(build_and_look)
    assert not (foreign.directory / ".dogpile").exists()


@pytest.mark.parametrize("way", WAYS)
def test_in_a_sticky_directory_it_is_this_users_own(way: Callable[[str], None], path: str) -> None:
    os.chmod(os.path.dirname(path), 0o1777)
    with HiddenDirectory(path):
        way(path)
        found = os.stat(os.path.join(os.path.dirname(path), f".dogpile-{os.geteuid()}"))
    assert stat.S_IMODE(found.st_mode) == 0o700


def test_it_is_of_use_whatever_the_umask_takes_away(unprivileged: Unprivileged) -> None:
    unprivileged.writable()

    def write_twice() -> None:
        for _ in range(2):
            with umask(0o777):
                write(unprivileged.path)

    unprivileged.run(write_twice)
    assert os.path.exists(unprivileged.path)


@pytest.mark.parametrize("layout", ["link", "plain"])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_directory_that_its_owner_may_not_write_is_swapped_in_and_stays_so(
    layout: str, keep: int, unprivileged: Unprivileged
) -> None:
    unprivileged.writable()

    def build() -> None:
        path = unprivileged.path

        def creator(target: str) -> None:
            os.mkdir(target)
            Path(target, "file").write_text("x")
            os.chmod(target, 0o555)

        if layout == "plain":
            os.mkdir(path, 0o555)
        index = DataDirectory(path, 3600, creator, keep=keep)
        for _ in range(3):
            index.refresh(force=True)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o555
            assert left_beside(path) == []
        if keep:
            index.rollback()
        assert os.listdir(path) == ["file"]

    unprivileged.run(build)


# What is refused.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["file", "link", "link to nowhere", "FIFO"])
def test_what_is_no_directory_there_is_named(way: Callable[[str], None], what: str, path: str) -> None:
    elsewhere = Path(path).parent / "elsewhere"
    elsewhere.mkdir()
    in_the_way = Path(hidden(path))
    match what:
        case "file":
            in_the_way.touch()
        case "link":
            in_the_way.symlink_to("elsewhere")
        case "link to nowhere":
            in_the_way.symlink_to("x" * 300)
        case _:
            os.mkfifo(in_the_way)
    with pytest.raises(DatafileError) as caught:
        way(path)
    tells(caught.value, repr(str(in_the_way)), "is no directory", "Hint: remove it")
    assert os.listdir(elsewhere) == []
    assert not os.path.lexists(path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [".dogpile", ".dogpile-0"])
def test_no_resource_may_have_its_name(way: Callable[[str], None], name: str, tmp_path: Path) -> None:
    with pytest.raises(PathError, match="Hint: name the resource otherwise"):
        way(str(tmp_path / name))
    (tmp_path / "link").symlink_to(name)
    if way is not create_directory:
        with pytest.raises(PathError, match="Hint: name the resource otherwise"):
            way(str(tmp_path / "link"))
    assert not (tmp_path / name).exists()


def test_a_mount_point_there_is_named(mounted: Callable[..., None], path: str) -> None:
    def build_in_vain() -> None:
        for way in WAYS:
            with pytest.raises(DatafileError) as caught:
                way(path)
            tells(caught.value, repr(hidden(path)), "on another file system", "Hint: unmount it")

    mounted(Path(hidden(path)), "size=64k", build_in_vain)


def test_it_is_made_again_if_it_was_removed(path: str) -> None:
    report = Datafile(path, 3600, writing("new"), keep=1)
    for _ in range(3):
        assert report.refresh(force=True)
        shutil.rmtree(hidden(path), ignore_errors=True)  # after the first creation it is not there
    with pytest.raises(DatafileError, match="no earlier version"):
        report.rollback()


def test_one_that_is_removed_under_a_creator_costs_no_more_than_that_creation(path: str) -> None:
    calls: list[str] = []

    def creator(target: str) -> None:
        calls.append(target)
        Path(target).write_text("new")
        if len(calls) == 1:
            shutil.rmtree(hidden(path))

    report = Datafile(path, 3600, creator)
    with pytest.raises(DatafileError) as caught:
        report.refresh()
    tells(caught.value, repr(calls[0]))
    assert report.refresh(force=True)


def test_no_hidden_directory_is_made_to_read_or_to_look(path: str) -> None:
    Path(path).write_text("shipped")
    report = Datafile(path, 3600, writing("new"))
    with report.open() as file:
        assert file.read() == b"shipped"
    assert report.status().state == "fresh"
    with pytest.raises(DatafileError):
        report.rollback()
    assert not os.path.lexists(hidden(path))


# Leftovers.


def leftover(path: str, kind: str, token: str = "left") -> Path:
    begin, end = temp_affixes(kind, path)
    os.makedirs(hidden(path), exist_ok=True)
    return Path(hidden(path), f"{begin}{token}{end}")


@pytest.mark.parametrize(("way", "kind"), [(create, "new"), (create_directory, "new"), (write, "tmp")])
def test_leftovers_of_any_type_and_permissions_are_removed(
    way: Callable[[str], None], kind: str, path: str
) -> None:
    leftover(path, kind, "file").touch(0o000)
    leftover(path, kind, "tree").joinpath("a", "b").mkdir(parents=True)
    leftover(path, kind, "closed").mkdir(0o000)
    leftover(path, kind, "link").symlink_to("nowhere")
    os.mkfifo(leftover(path, kind, "fifo"))
    Path(str(leftover(path, kind, "file")) + "-wal").touch()
    way(path)
    assert not os.path.lexists(hidden(path))


@pytest.mark.parametrize(("way", "kind"), [(create, "new"), (create_directory, "new"), (write, "tmp")])
def test_what_a_process_has_locked_is_no_leftover(way: Callable[[str], None], kind: str, path: str) -> None:
    used = leftover(path, kind)
    with open(used, "w") as file:
        flock(file, LOCK_EX)
        way(path)
        assert used.exists()
    way(path)
    assert not used.exists()


@pytest.mark.parametrize(("way", "kind"), [(create, "new"), (write, "tmp")])
def test_a_leftover_that_is_a_hard_link_leaves_the_permissions_of_the_file(
    way: Callable[[str], None], kind: str, unprivileged: Unprivileged
) -> None:
    unprivileged.writable()

    def remove() -> None:
        original = Path(f"{unprivileged.directory}/original")
        original.touch(0o000)
        os.link(original, leftover(unprivileged.path, kind))
        way(unprivileged.path)
        assert (stat.S_IMODE(original.stat().st_mode), original.stat().st_nlink) == (0, 1)

    unprivileged.run(remove)


@pytest.mark.parametrize(
    ("name", "is_hidden"),
    [(".dogpile", True), (".dogpile-0", True), (".dogpile-1000", True), (".dogpile-new-0", False),
     (".dogpile-", False), (".dogpile-01", False), ("x.dogpile", False), (".dogpile.lock", False)],
)  # fmt: skip
def test_which_names_are_those_of_hidden_directories(name: str, is_hidden: bool) -> None:
    assert is_hidden_directory(f"/somewhere/{name}") is is_hidden
