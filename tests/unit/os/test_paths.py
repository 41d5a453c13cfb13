"""Paths on which other programs replace links."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, PathError
from dogpile_fs._os import replace
from dogpile_fs._os.paths import realpath
from tests.support.processes import wait_for

#: A link that comes and goes, and a file in its place.
_REPLACES = """
import os, sys
path = sys.argv[1]
while True:
    os.symlink("nowhere", path)
    os.unlink(path)
    open(path, "w").close()
    os.unlink(path)
"""


@pytest.fixture
def replaced(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "link"
    with subprocess.Popen([sys.executable, "-c", _REPLACES, str(path)]) as process:
        try:
            wait_for(lambda: os.path.lexists(path), "the link")
            yield str(path)
        finally:
            process.kill()


def test_a_link_that_is_replaced_all_the_while_is_no_error(replaced: str) -> None:
    ends, count = time.monotonic() + 1, 0
    wanted = {replaced, os.path.join(os.path.dirname(replaced), "nowhere")}
    while time.monotonic() < ends or not count:
        assert realpath(replaced) in wanted
        assert replace.resolved(replaced) in wanted
        assert replace.real_path(replaced) in wanted
        count += 1


def test_a_strict_look_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        realpath(tmp_path / "nothing", strict=True)
    assert realpath(tmp_path / "nothing") == str(tmp_path / "nothing")


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EINVAL])
def test_the_link_of_a_directory_may_vanish_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    index = DataDirectory(tmp_path / "index", 3600, os.mkdir)
    index.refresh()
    read = os.readlink
    failed: list[str] = []

    def readlink(path: str) -> str:
        if path == str(tmp_path / "index") and not failed:
            failed.append(path)
            raise OSError(code, os.strerror(code), path)
        return read(path)

    monkeypatch.setattr(os, "readlink", readlink)
    assert index.refresh(force=True)
    assert failed


def test_a_link_into_a_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    (tmp_path / "index").symlink_to("away/index")
    with pytest.raises(PathError, match="link to 'away/index', but there is no directory"):
        Datafile(tmp_path / "index", 3600)
