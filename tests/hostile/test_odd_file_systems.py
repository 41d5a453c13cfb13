"""File systems that lack hard links, locks or permissions, and files that may not be replaced."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dogpile_fs import (
    DataDirectory,
    Datafile,
    DatafileError,
    DatafileExists,
    Dogpile,
    LockFileError,
    SidecarError,
    SyncReaderDogpile,
    atomic_write,
)
from dogpile_fs.cli import exits
from tests.support.places import left_beside, writing
from tests.support.processes import ended_well, in_child
from tests.support.refusals import refuse_calls, skip_unless_refusable

#: Linux's own ENOTSUPP.
ENOTSUPP = 524
NO_LINKS = [errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.EXDEV]

Where = Callable[[Callable[[], object]], None]


def where(**refused: int) -> Where:
    """Return what calls a function in a child of which the kernel refuses these calls."""
    skip_unless_refusable()

    def call(action: Callable[[], object]) -> None:
        def live() -> None:
            refuse_calls(**refused)
            action()

        assert ended_well(in_child(live))

    return call


def write(path: str, contents: bytes = b"new", overwrite: bool = True, preserve: bool = True) -> None:
    with atomic_write(path, overwrite=overwrite, preserve=preserve) as file:
        file.write(contents)


def raises(kind: type[Exception], call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


# Hard links.


@pytest.mark.parametrize("code", NO_LINKS)
def test_without_hard_links_atomic_write_still_overwrites_no_file(path: str, code: int) -> None:
    def without_links() -> None:
        write(path, overwrite=False)
        raises(DatafileExists, lambda: write(path, b"other", overwrite=False), repr(path))

        def write_meanwhile() -> None:
            with atomic_write(path + "2", overwrite=False) as file:
                file.write(b"late")
                Path(path + "2").write_text("first")

        raises(DatafileExists, write_meanwhile, repr(path + "2"))

    where(link=code)(without_links)
    assert (Path(path).read_bytes(), Path(path + "2").read_text()) == (b"new", "first")
    assert left_beside(path) == []


def _write_own(path: str) -> None:
    try:
        write(path, str(os.getpid()).encode(), overwrite=False)
    except DatafileExists:
        os._exit(3)


def test_without_hard_links_one_of_many_writers_makes_the_file(path: str) -> None:
    def without_links() -> None:
        writers = [in_child(lambda: _write_own(path)) for _ in range(8)]
        statuses = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in writers}
        assert sorted(statuses.values()) == [0] + [3] * 7
        assert statuses[int(Path(path).read_text())] == 0
        assert left_beside(path) == []

    where(link=errno.EPERM)(without_links)


def test_without_hard_links_and_such_a_rename_the_error_says_what_is_missing(path: str) -> None:
    def without_both() -> None:
        raises(DatafileError, lambda: write(path, overwrite=False), repr(path), "neither hard links nor", "Hint: ")
        write(path)

    where(link=errno.EPERM, renameat2=errno.EINVAL)(without_both)
    assert left_beside(path) == []


@pytest.mark.parametrize("code", NO_LINKS)
def test_without_hard_links_earlier_versions_are_kept_as_copies(path: str, code: int) -> None:
    def without_links() -> None:
        datafile = Datafile(path, 3600, writing("1"), keep=1)
        datafile.refresh()
        datafile._creator = writing("2")
        datafile.refresh(force=True)
        datafile.rollback()
        assert Path(path).read_text() == "1"

    where(link=code)(without_links)


# Locks.


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (ENOTSUPP, "this file system gives no locks: pass directory= with a local directory"),
        (errno.EBADF, "on a network file system only a file that this user may write can be locked"),
        (errno.ENOLCK, "this file system gives no locks: pass directory= with a local directory"),
    ],
)
def test_a_lock_that_the_file_system_refuses_is_an_error_with_a_hint(path: str, code: int, hint: str) -> None:
    def without_locks() -> None:
        for dogpile in (Dogpile(3600, path), SyncReaderDogpile(3600, path)):
            raises(LockFileError, partial(dogpile.refresh, list), path, f"Hint: {hint}")
        raises(LockFileError, Datafile(path, 3600, writing("x")).refresh, path, f"Hint: {hint}")
        raises(DatafileError, lambda: write(path), os.path.dirname(path), "Hint: put the datafile on a local file")
        words = [sys.executable, "-m", "dogpile_fs", "run", "--expire", "0", "--output", path, "--", "false"]
        ended = subprocess.run(words, capture_output=True, text=True)
        assert ended.returncode == (exits.IOERR if code == errno.EBADF else exits.OSERR)
        assert hint.replace("directory=", "--directory") in ended.stderr

    where(flock=code)(without_locks)


# Permissions.


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_chmod_is_refused_a_file_whose_mode_stays_is_replaced_and_another_error_says_why(
    path: str, code: int
) -> None:
    Path(path).write_text("old")
    os.chmod(path, 0o644)

    def without_chmod() -> None:
        os.umask(0o022)
        assert Datafile(path, 3600, writing("new")).refresh(force=True)
        write(path, preserve=False)
        write(path + ".first")
        os.umask(0o077)
        why = "its file system has given it mode 0600 and does not make that 0644"
        parts = (os.path.dirname(path), why, "Hint: let the creator give it")
        raises(DatafileError, lambda: Datafile(path, 3600, writing("x")).refresh(force=True), *parts)
        raises(DatafileError, lambda: write(path), *parts)
        assert Path(path).read_bytes() == b"new"
        assert left_beside(path) == []

    where(fchmod=code)(without_chmod)


def test_where_chmod_is_refused_coordination_files_have_the_mode_that_they_get(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def without_chmod() -> None:
        os.umask(0o022)
        assert Datafile(path, 3600, writing("new"), mode=0o666, readers=True).refresh()
        assert "its file system refuses chmod" in caplog.text
        assert os.stat(path + ".dogpile").st_mode & 0o777 == 0o644

    where(fchmod=errno.EPERM)(without_chmod)


# Attributes.


@pytest.fixture
def attribute(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Sets an attribute of a file, until the test ends; with "", takes them all away."""
    if os.geteuid() != 0 or shutil.which("chattr") is None:
        pytest.skip("needs root and chattr(1)")
    changed: list[str] = []

    def change(path: str, name: str) -> None:
        changed.append(path)
        how = ["+" + name] if name else ["-i", "-a"]
        ended = subprocess.run(["chattr", *how, path], capture_output=True, text=True)
        if ended.returncode != 0:
            pytest.skip(f"this file system has no attributes: {ended.stderr.strip()}")

    yield change
    for path in changed:
        subprocess.run(["chattr", "-i", "-a", path], check=True)


@pytest.mark.parametrize(("name", "what"), [("i", "immutable"), ("a", "append-only")])
def test_an_immutable_or_append_only_file_is_named_with_a_hint_at_lsattr(
    path: str, attribute: Callable[[str, str], None], name: str, what: str
) -> None:
    parts = (f"{path!r} is {what}", "Hint: look at its attributes (lsattr -d)")
    datafile = Datafile(path, 3600, writing("old"))
    datafile.refresh()
    attribute(path, name)
    raises(DatafileError, lambda: datafile.refresh(force=True), *parts)
    raises(DatafileError, lambda: write(path), *parts)
    assert left_beside(path) == []
    attribute(path, "")
    attribute(path + ".dogpile", name)
    raises(SidecarError, datafile.invalidate, f"{path + '.dogpile'!r} is {what}", "lsattr")


def test_an_immutable_directory_is_named_with_a_hint_at_lsattr(
    tmp_path: Path, attribute: Callable[[str, str], None]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = str(place / "resource")
    attribute(str(place), "i")
    parts = (f"{str(place)!r} is immutable", "Hint: look at its attributes (lsattr -d)")
    raises(LockFileError, Datafile(path, 3600, writing("x")).refresh, *parts)
    raises(LockFileError, DataDirectory(path, 3600, os.mkdir).refresh, *parts)
    raises(LockFileError, lambda: Dogpile(3600, path).refresh(list), *parts)
    raises(DatafileError, lambda: write(path), *parts)
