"""A cron job of root beside a web user, under different umasks: which user can do what with the other's files.

Files of a creation get the permissions that the umask leaves, or ``mode=``. Then the other user can do everything,
or can only read, or gets an error that names the obstacle; nothing hangs.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dogpile_fs import DataDirectory, Datafile, Dogpile, SyncReaderDogpile
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import writing

from .neighbours import NEIGHBOUR as WEB
from .neighbours import ROOT, acting_as, as_user, outcome

__all__ = ["bytecode", "cli"]


class Use:
    """What one process does with the resource at *path*."""

    def __init__(self, kind: str, path: str, mode: int | None) -> None:
        options: dict[str, Any] = {"mode": mode, "timeout": 1}
        self.reading: Any
        self.creating: Any
        if kind == "Datafile":
            self.creating = Datafile(path, 3600, writing("contents"), readers=True, **options)
            self.reading = Datafile(path, readers=True, **options)
        elif kind == "DataDirectory":
            self.creating = DataDirectory(path, 3600, os.mkdir, **options)
            self.reading = DataDirectory(path, **options)
        else:
            self.creating = (Dogpile if kind == "Dogpile" else SyncReaderDogpile)(3600, path, **options)
            self.reading = self.creating

    def read(self) -> str:
        with self.reading.acquire() if isinstance(self.reading, Dogpile) else self.reading.open():
            return "has read"

    def create(self) -> bool:
        if not isinstance(self.creating, Dogpile):
            return bool(self.creating.refresh(force=True))
        return bool(self.creating.refresh(self._swap, force=True))

    def _swap(self) -> None:
        if isinstance(self.creating, SyncReaderDogpile):
            with self.creating.acquire_write_lock():
                pass


kinds = pytest.mark.parametrize("kind", ["Dogpile", "SyncReaderDogpile", "Datafile", "DataDirectory"])


@pytest.fixture
def webs(place: Path) -> str:
    """A resource in a directory that the web user owns."""
    directory = place / "webs"
    directory.mkdir()
    os.chown(directory, WEB, WEB)
    return str(directory / "resource")


def uses(kind: str, path: str, mode: int | None, uid: int, mask: int) -> dict[str, str]:
    """How reading and creating end for the user *uid*: done, or with which error, and which file it is about."""
    ends = {}
    for name, deed in {"read": Use.read, "create": Use.create}.items():
        told = outcome(uid, lambda deed=deed: deed(Use(kind, path, mode)), mask)  # type: ignore[misc]
        if told in ("True", "'has read'"):
            ends[name] = "done"
        else:
            assert "Hint: " in told
            assert "user " in told
            ends[name] = told.partition(":")[0].rpartition(".")[2]
    return ends


@kinds
@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_root_reads_and_replaces_a_version_of_the_web_user_and_both_go_on(kind: str, mask: int, webs: str) -> None:
    as_user(WEB, lambda: Use(kind, webs, None).create(), mask)
    assert uses(kind, webs, None, ROOT, mask) == {"read": "done", "create": "done"}
    # Root has made no coordination file anew, and what it swapped in has the owner of the version before.
    assert uses(kind, webs, None, WEB, mask) == {"read": "done", "create": "done"}
    if kind.startswith("Data"):
        assert os.stat(webs).st_uid == WEB


@kinds
def test_a_version_that_root_creates_under_umask_022_is_read_by_the_web_user_whose_creation_raises_an_error(
    kind: str, webs: str
) -> None:
    as_user(ROOT, lambda: Use(kind, webs, None).create(), 0o022)
    assert uses(kind, webs, None, WEB, 0o022) == {"read": "done", "create": "SidecarError"}


@kinds
@pytest.mark.parametrize("mode", [None, 0o660])
def test_a_version_that_root_creates_under_umask_077_raises_an_error_for_the_web_user(
    kind: str, mode: int | None, webs: str
) -> None:
    as_user(ROOT, lambda: Use(kind, webs, mode).create(), 0o077)
    ends = uses(kind, webs, mode, WEB, 0o022)
    assert ends["create"] == "LockFileError"
    assert ends["read"] == ("DatafileError" if kind == "DataDirectory" else "LockFileError")


@kinds
def test_with_mode_666_both_create_under_any_umask_but_the_datafile_has_its_creators_permissions(
    kind: str, webs: str
) -> None:
    as_user(ROOT, lambda: Use(kind, webs, 0o666).create(), 0o077)
    ends = uses(kind, webs, 0o666, WEB, 0o077)
    assert ends == {"read": "DatafileError" if kind.startswith("Data") else "done", "create": "done"}
    for suffix in (".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock"):
        if os.path.exists(webs + suffix):
            assert stat.S_IMODE(os.stat(webs + suffix).st_mode) == 0o666


def test_a_caller_that_may_not_read_the_sidecar_waits_until_its_timeout_and_the_log_says_why(
    webs: str, capfd: pytest.CaptureFixture[str]
) -> None:
    as_user(ROOT, lambda: Dogpile(3600, webs, init=True), 0o077)
    assert os.listdir(os.path.dirname(webs)) == ["resource.dogpile"]

    def wait() -> None:
        logging.getLogger("dogpile_fs").addHandler(logging.StreamHandler())
        with Dogpile(3600, webs).acquire(timeout=0.05):
            pass

    assert "LockTimeout" in outcome(WEB, wait)
    told = capfd.readouterr().err
    assert told.count("Until then it counts as no creation yet.") == 1
    assert "mode 0600, owner 0" in told


@pytest.mark.parametrize("first", [ROOT, WEB])
def test_in_a_sticky_directory_only_its_owner_replaces_a_datafile(first: int, sticky: Path) -> None:
    path = str(sticky / "resource")
    second = WEB if first == ROOT else ROOT
    as_user(first, lambda: Use("Datafile", path, 0o666).create())
    assert uses("Datafile", path, 0o666, second, 0o022) == {"read": "done", "create": "DatafileError"}
    told = outcome(second, lambda: Use("Datafile", path, 0o666).create())
    assert ("may have been planted" if second == ROOT else "only its owner may replace it") in told
    # The lock alone may be shared there.
    as_user(first, lambda: Use("Dogpile", path + "2", 0o666).create())
    assert uses("Dogpile", path + "2", 0o666, second, 0o022) == {"read": "done", "create": "done"}


def test_a_cron_job_of_root_under_umask_077_sets_another_umask_in_its_line(place: Path, cli: Cli) -> None:
    file = place / "report"
    words = ("run", "--force", "--expire", "1h", "--output", str(file), "--stdout", "--", "echo", "new")
    cli.run(*words, umask=0o077)
    assert "DatafileError" in outcome(WEB, lambda: Datafile(file).load(bytes_of))
    for made in place.iterdir():
        if made.is_file():
            made.unlink()
    cli.run(*words, umask=0o022)
    assert outcome(WEB, lambda: Datafile(file).load(bytes_of)) == r"b'new\n'"


def bytes_of(file: BinaryIO) -> bytes:
    return file.read()


@pytest.mark.parametrize("mode", [None, 0o600, 0o666])
def test_no_new_file_can_be_executed_or_has_more_permissions_than_requested(mode: int | None, webs: str) -> None:
    with acting_as(WEB, 0o027):
        Use("SyncReaderDogpile", webs, mode).create()
        Use("Datafile", webs, mode).create()
    for found in (path.stat() for path in Path(webs).parent.glob("*.dogpile*") if path.is_file()):
        assert stat.S_IMODE(found.st_mode) == (0o640 if mode is None else mode)
