"""Permission bits, owner, group and access control list: what the next file takes over."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, atomic_write
from dogpile_fs._os import permissions

from .test_broken_environments import Unprivileged, foreign, may_mount, mounted, unprivileged

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures

pytestmark = pytest.mark.permissions

ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
_NOBODY = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20


def acl(**entries: int) -> bytes:
    """Return an access control list in the kernel's form (linux/posix_acl_xattr.h); *named*: for user 1234."""
    tags = {"user": _USER_OBJ, "named": _USER, "group": _GROUP_OBJ, "mask": _MASK, "other": _OTHER}
    lines = [(tags[name], bits, 1234 if name == "named" else _NOBODY) for name, bits in entries.items()]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *line) for line in lines)


#: User 1234 may read, the group may not.
NAMED = acl(user=6, named=4, group=0, mask=4, other=0)


def give(path: Path, name: str, value: bytes) -> None:
    if sys.platform != "linux":
        pytest.skip("POSIX access control lists, as Linux has them")
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no access control lists on this file system")
        raise


def acl_of(path: Path) -> bytes | None:
    return permissions.of(os.stat(path), str(path.resolve())).acl


def bits_of(path: Path) -> str:
    return f"{stat.S_IMODE(os.stat(path).st_mode):04o}"


def inherit(before: Path, after: Path) -> None:
    fd = os.open(after, os.O_RDONLY)
    try:
        permissions.inherit(fd, permissions.of(os.stat(before), str(before)))
    finally:
        os.close(fd)


def _write(target: str) -> None:
    Path(target).write_text("new")


def _make(target: str) -> None:
    os.mkdir(target)


def _write_atomically(path: Path) -> None:
    with atomic_write(path, "w") as file:
        file.write("new")


def _swap(path: Path) -> None:
    Datafile(path, 3600, _write).refresh(force=True)


def _swap_directory(path: Path) -> None:
    DataDirectory(path, 3600, _make).refresh(force=True)


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o4711, 0o2755, 0o1777], ids="{:04o}".format)
def test_a_file_and_a_directory_inherit_the_bits(tmp_path: Path, mode: int) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "new").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "old").chmod(mode)
    for name in ("new", "directory"):
        inherit(tmp_path / "old", tmp_path / name)
        assert bits_of(tmp_path / name) == f"{mode:04o}"


def test_the_group_is_inherited_even_where_the_owner_cannot_be(foreign: Unprivileged) -> None:
    foreign.writable()
    Path(foreign.path).touch()
    os.chown(foreign.path, 1234, 65534)
    os.chmod(foreign.path, 0o6770)
    own = Path(foreign.path + ".own")

    def take_over() -> None:
        own.touch()
        inherit(Path(foreign.path), own)

    foreign.run(take_over)
    st = os.stat(own)
    assert (st.st_uid, st.st_gid, f"{stat.S_IMODE(st.st_mode):04o}") == (65534, 65534, "0770")


# Access control lists.


@pytest.mark.parametrize("replace", [_write_atomically, _swap, _swap_directory])
def test_the_replacement_of_a_file_with_a_list_has_that_list(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    path = tmp_path / "data"
    if replace is _swap_directory:
        path.mkdir(0o700)
    else:
        path.touch(0o600)
    give(path, ACL, NAMED)
    before = bits_of(path)
    replace(path)
    assert acl_of(path) == NAMED
    assert bits_of(path) == before


def test_for_no_moment_may_the_group_do_what_the_mask_of_a_dropped_list_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch(0o600)
    old.chmod(0o600)
    give(tmp_path, DEFAULT_ACL, acl(user=7, named=7, group=0, mask=7, other=0))
    new.touch()
    assert bits_of(new) == "0660", "the list's mask"
    seen = []
    remove = os.removexattr

    def remove_and_look(fd: int, name: str) -> None:
        remove(fd, name)
        seen.append(bits_of(new))

    monkeypatch.setattr(os, "removexattr", remove_and_look)
    inherit(old, new)
    assert (seen, bits_of(new), acl_of(new)) == (["0600"], "0600", None)


@pytest.mark.parametrize("replace", [_write_atomically, _swap])
def test_the_replacement_of_a_file_without_a_list_has_none_though_its_directory_has_a_default_one(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    path = tmp_path / "data"
    path.touch()
    path.chmod(0o640)
    give(tmp_path, DEFAULT_ACL, acl(user=7, named=6, group=5, mask=7, other=5))
    replace(path)
    assert acl_of(path) is None
    assert bits_of(path) == "0640"


def test_a_version_that_is_kept_as_a_copy_has_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.touch(0o600)
    give(path, ACL, NAMED)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)  # as vfat, and others' files with fs.protected_hardlinks, do
    Datafile(path, 3600, _write, keep=1).refresh(force=True)
    (kept,) = tmp_path.glob(".dogpile/.dogpile-kept-*")
    assert acl_of(kept) == NAMED


def test_where_the_group_cannot_be_kept_the_list_is_dropped_and_the_group_has_the_permissions_of_others(
    foreign: Unprivileged,
) -> None:
    foreign.writable()
    old, own = Path(foreign.path), Path(foreign.path + ".own")
    old.touch(0o600)
    os.chown(old, 1234, 1234)
    give(old, ACL, acl(user=6, named=6, group=6, mask=6, other=4))

    def take_over() -> None:
        own.touch(0o600)
        inherit(old, own)

    foreign.run(take_over)
    assert acl_of(own) is None
    assert bits_of(own) == "0644"
