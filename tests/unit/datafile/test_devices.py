"""Two files, or directories, with equal inode, size and mtime on different devices are two.

So it is with images that have fixed times, with snapshots, and with subvolumes of btrfs (inode 256 each).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile
from tests.hostile.test_broken_environments import may_mount, mounted
from tests.support.processes import wait_for

__all__ = ["may_mount", "mounted"]  # fixtures

MTIME = 1_700_000_000

Mounted = Callable[..., None]
Kind = type[Datafile | DataDirectory]


def make(kind: Kind, path: str | Path, text: str) -> None:
    """Make what has the same size and mtime whatever *text* is, if that has one character."""
    if kind is DataDirectory:
        os.mkdir(path)
        (Path(path) / "text").write_text(text)
    else:
        Path(path).write_text(text)
    os.utime(path, (MTIME, MTIME))


def read(given: Any) -> str:
    return str((Path(given) / "text").read_text() if isinstance(given, str) else given.read().decode())


def identity(path: Path) -> tuple[int, int, int]:
    st = os.stat(path)
    return st.st_ino, st.st_size, st.st_mtime_ns


def on_two_devices(mounted: Mounted, root: Path, action: Callable[[], None]) -> None:
    """Call *action* in a process that sees two new tmpfs, ``a`` and ``b``, and a link ``at`` to the first."""
    (root / "b").mkdir()
    (root / "at").symlink_to("a")

    def in_own_mounts() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(root / "b")], check=True)
        action()

    mounted(root / "a", "size=1m", in_own_mounts)


def flip(root: Path, name: str) -> None:
    (root / "next").symlink_to(name)
    os.replace(root / "next", root / "at")


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_a_path_that_came_to_lead_to_another_device_is_loaded_anew(
    tmp_path: Path, mounted: Mounted, kind: Kind
) -> None:
    def load_both() -> None:
        for name in "ab":
            make(kind, tmp_path / name / "report", name)
        assert identity(tmp_path / "a/report") == identity(tmp_path / "b/report")
        data = kind(tmp_path / "at" / "report")
        assert data.load(read) == "a"
        before = data._dogpile.version
        flip(tmp_path, "b")
        wait_for(lambda: data.load(read) == "b", "the version on the other device")
        assert data._dogpile.version != before
        assert data.load(lambda given: [read(given)]) == ["b"]
        assert data.status().version == data._dogpile.version

    on_two_devices(mounted, tmp_path, load_both)


@pytest.mark.parametrize("record", ["of the link", "copied"])
@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_what_was_swapped_in_on_another_device_is_loaded_anew_by_all(
    tmp_path: Path, mounted: Mounted, kind: Kind, record: str
) -> None:
    """The record is one and the same: it is beside the link, or was copied with the file system."""
    text = ["a"]
    options: dict[str, Any] = {"creator": lambda target: make(kind, target, text[0]), "durable": False}

    def swap_on_both() -> None:
        path = tmp_path / "at" / "report"
        if record == "of the link" and kind is Datafile:
            path = tmp_path / "report"
            path.symlink_to("at/report")
        ours, others = kind(path, **options), kind(path, **options)
        ours.refresh(force=True)
        assert (ours.load(read), others.load(read)) == ("a", "a")
        flip(tmp_path, "b")
        text[0] = "b"
        if path.parent != tmp_path:
            for name in ("report.dogpile.lock", "report.dogpile"):
                (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
        ours.refresh(force=True)
        wait_for(lambda: (ours.load(read), others.load(read)) == ("b", "b"), "the version on the other device")

    on_two_devices(mounted, tmp_path, swap_on_both)


def test_a_version_that_stays_because_it_is_equal_is_not_loaded_again(tmp_path: Path) -> None:
    loads: list[str] = []
    datafile = Datafile(
        tmp_path / "report", 3600, lambda target: make(Datafile, target, "a"), skip_unchanged=True, durable=False
    )

    def loader(given: Any) -> None:
        loads.append(read(given))

    for _ in range(3):
        datafile.refresh(force=True)
        datafile.load(loader)
    assert loads == ["a"]
