"""The disk that remembers, and the cuts made of that: they lose what a power cut may lose, and no more.

What the campaign finds with them is no matter for a quick test: ``python -m tests.campaign.power``.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.campaign.blocklog import recorded
from tests.campaign.cuts import Cut, Replay, copy
from tests.campaign.mounts import (
    CannotMount,
    keep_mounts_to_ourselves,
    make_image,
    mounted,
    refuse_unless_mountable,
)
from tests.support.processes import ended_well, in_child

_SIZE = 32 << 20


def write(path: Path, *, synced: bool) -> float:
    """Write a file; when that was done."""
    with open(path, "wb") as file:
        file.write(path.name.encode() * 10_000)
        file.flush()
        if synced:
            os.fsync(file.fileno())
    return time.monotonic()


def names_after(cut: Cut, replay: Replay, directory: Path) -> set[str]:
    """Which files are there, and whole, after *cut*."""
    replay.make(cut, directory / "cut", random.Random(1))
    with mounted("ext4", directory / "cut", directory / "after") as place:
        return {
            path.name
            for path in place.iterdir()
            if path.is_file() and path.read_bytes() == path.name.encode() * 10_000
        }


@pytest.mark.parametrize("fate", ["none", "half", "all"])
def test_a_cut_leaves_all_that_was_synced_before_it_and_nothing_that_was_written_after_it(
    tmp_path: Path, fate: str
) -> None:
    try:
        refuse_unless_mountable("ext4", "fuse")
    except CannotMount as error:
        pytest.skip(str(error))

    def live() -> None:
        keep_mounts_to_ourselves()
        base, disk, device, log = (tmp_path / name for name in ("base", "disk", "device", "log"))
        make_image(base, "ext4", _SIZE)
        copy(base, disk)
        with recorded(disk, log, device), mounted("ext4", device, tmp_path / "live") as place:
            begun = time.monotonic()
            first = write(place / "first", synced=True)
            write(place / "unsynced", synced=False)
            second = write(place / "second", synced=True)
        replay = Replay(base, log, tmp_path)
        assert names_after(replay.at(begun, fate), replay, tmp_path) == set()
        assert names_after(replay.at(first, fate), replay, tmp_path) == {"first"}
        assert names_after(replay.at(second, fate), replay, tmp_path) in (
            {"first", "second"},
            {"first", "second", "unsynced"},
        )
        replay.close()

    assert ended_well(in_child(live))
