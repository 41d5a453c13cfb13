"""The system calls of a swap, each with what the system may return."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import DatafileError
from dogpile_fs._os import replace
from tests.hostile.test_broken_environments import Unprivileged, foreign, may_mount, mounted, tells, unprivileged

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures


def tree(path: Path) -> str:
    """A directory with some of everything in it."""
    (path / "sub" / "empty").mkdir(parents=True)
    (path / "file").write_text("text")
    (path / "sub" / "file").write_text("text")
    (path / "link").symlink_to("file")
    (path / "sub" / "up").symlink_to("..")
    (path / "dangling").symlink_to("nowhere")
    os.mkfifo(path / "fifo")
    return str(path)


# Where a path leads, and what is there.


def test_where_a_path_leads_is_found_through_all_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("../file")
    for given in ("dir/link", "real/link", "file", "dir/../file"):
        assert replace.real_path(str(tmp_path / given)) == str(tmp_path / "file")


def test_a_path_that_leads_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DatafileError) as caught:
        replace.real_path(str(tmp_path / "a"))
    assert caught.value.errno == errno.ELOOP
    tells(caught.value, repr(str(tmp_path / "a")), "Hint: ")


def test_what_is_at_a_path_is_distinguished_from_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("file")
    at = {name: str(tmp_path / name) for name in ("file", "directory", "link", "missing")}
    assert replace.regular_at(at["file"]) == os.stat(at["file"])
    assert replace.regular_at(at["missing"]) is replace.lstat(at["missing"]) is None
    for name in ("directory", "link"):
        with pytest.raises(DatafileError) as caught:
            replace.regular_at(at[name])
        tells(caught.value, repr(at[name]), "mode", "Hint: ")
    found = replace.lstat(at["link"])
    assert found is not None
    assert stat.S_ISLNK(found.st_mode)


def test_a_path_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatafileError) as caught:
        replace.regular_at(str(tmp_path / "file" / "file"))
    assert caught.value.errno == errno.ENOTDIR


# Swaps.


def test_a_new_version_that_was_removed_before_the_rename_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(DatafileError) as caught:
        replace.rename(str(tmp_path / "new"), str(tmp_path / "file"))
    assert caught.value.errno == errno.ENOENT
    tells(caught.value, repr(str(tmp_path / "new")), "was removed before", "Hint: find the program")


def test_a_rename_that_the_system_refuses_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "directory").mkdir()
    with pytest.raises(DatafileError) as caught:
        replace.rename(str(tmp_path / "new"), str(tmp_path / "directory"))
    assert caught.value.errno == errno.EISDIR
    tells(caught.value, repr(str(tmp_path / "directory")))
    assert (tmp_path / "new").read_text() == "new"


def test_a_link_is_made_once_and_not_through_a_symbolic_link(tmp_path: Path) -> None:
    file, name = str(tmp_path / "file"), str(tmp_path / "name")
    Path(file).touch()
    replace.link(file, name)
    assert os.path.samefile(file, name)
    with pytest.raises(FileExistsError):
        replace.link(file, name)
    with pytest.raises(DatafileError) as caught:
        replace.link(str(tmp_path / "missing"), name + ".2")
    assert caught.value.errno == errno.ENOENT
    os.symlink("file", tmp_path / "symbolic")
    replace.link(str(tmp_path / "symbolic"), name + ".3")
    assert os.path.islink(name + ".3")


def test_an_exchange_lets_two_change_places_whatever_they_are(tmp_path: Path) -> None:
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other\n\udcff")
    inodes = os.stat(one).st_ino, os.stat(other).st_ino
    replace.exchange(one, other)
    assert (os.stat(other).st_ino, os.stat(one).st_ino) == inodes
    Path(tmp_path / "file").touch()
    replace.exchange(str(tmp_path / "file"), one)
    assert os.path.isfile(one)
    assert (tmp_path / "file").is_dir()


@pytest.mark.parametrize("missing", ["one", "other"])
def test_an_exchange_with_a_missing_name_is_an_error_and_changes_nothing(tmp_path: Path, missing: str) -> None:
    tree(tmp_path / ("other" if missing == "one" else "one"))
    with pytest.raises(DatafileError) as caught:
        replace.exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert caught.value.errno == errno.ENOENT
    assert not (tmp_path / missing).exists()


def test_an_exchange_across_file_systems_is_an_error(mounted: Callable[..., None], tmp_path: Path) -> None:
    place = tmp_path / "mount"
    tree(tmp_path / "one")

    def exchange() -> None:
        tree(place / "other")
        with pytest.raises(DatafileError) as caught:
            replace.exchange(str(tmp_path / "one"), str(place / "other"))
        assert caught.value.errno == errno.EXDEV
        with pytest.raises(DatafileError) as caught:  # busy: something is mounted on it
            replace.exchange(str(tmp_path / "one"), str(place))
        tells(caught.value, repr(str(place)))

    mounted(place, "size=1m", exchange)


def test_an_exchange_that_the_system_does_not_have_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._os.linux._libc", object)
    with pytest.raises(DatafileError) as caught:
        replace.exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert caught.value.errno == errno.ENOSYS
    tells(caught.value, repr(str(tmp_path / "other")), "Hint: move it away")


# Trees.


def test_a_tree_is_removed_but_not_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    path = tree(tmp_path / "tree")
    os.symlink(tmp_path / "outside", path + "/outside")
    replace.remove_tree(path)
    replace.remove_tree(path)
    assert os.listdir(tmp_path) == ["outside"]
    assert (tmp_path / "outside" / "file").exists()


@pytest.mark.parametrize("where", [".", "sub", "sub/empty"])
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_tree_whose_owner_made_it_read_only_is_removed_too(
    unprivileged: Unprivileged, mode: int, where: str
) -> None:
    # As of a read-only tree that `cp -a` has made, or of a package manager's store.
    unprivileged.writable()

    def make_and_remove() -> None:
        path = tree(unprivileged.directory / "tree")
        os.chmod(os.path.join(path, where), mode)
        try:
            replace.remove_tree(path)
            assert not os.path.exists(path)
        finally:
            subprocess.run(["chmod", "-Rf", "u+rwx", path], check=False)

    unprivileged.run(make_and_remove)
