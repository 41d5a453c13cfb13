"""Row 18: the cost of swapping a directory of many small files, beside that of copying it and syncing the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.measures import SECONDS, Check, Figure, Plot, Ratio, Scenario, Spread, paired, rotated

__all__ = ["COPY", "measure", "scenario"]

KB = 1024
DATADIRECTORY = "DataDirectory.refresh, durable"
COPY = "cp -r, sync"
BY_HAND = "cp -r, sync, flip of a link, rm -r of the old one"
EACH = "cp -r, fsync of each file and directory"
TIME = "from calling to returning"


@dataclass(frozen=True)
class Size:
    rounds: int
    files: int
    #: Files in each sub-directory.
    files_in_one: int = 100


FULL = Size(rounds=15, files=2000)
QUICK = Size(rounds=2, files=200)

Swap = Callable[[], object]


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    place = Path(tempfile.mkdtemp(dir=scratch))
    source = _source(place, size)
    swaps = _contenders(place, source)
    found: dict[str, list[float]] = {name: [] for name in swaps}
    wrong: list[str] = []
    for swap, _ in swaps.values():  # once before: so that there is an old version to remove
        swap()
    for number in range(size.rounds):
        for name in rotated(list(swaps), number):
            swap, made = swaps[name]
            _make_room(name, made)
            os.sync()  # the bytes of other contenders are not to be written during this one
            started = time.perf_counter()
            swap()
            found[name].append(time.perf_counter() - started)
            if _contents(made) != _contents(source):
                wrong.append(f"{name}, round {number}")
    wrong += [path.name for path in place.glob(".dogpile/*")]
    shutil.rmtree(place)
    return [scenario(found, wrong, size.files)]


# Measuring


def _source(place: Path, size: Size) -> Path:
    source = place / "source"
    for number in range(size.files):
        directory = source / str(number // size.files_in_one)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.bin").write_bytes(os.urandom(KB))
    return source


def _contenders(place: Path, source: Path) -> dict[str, tuple[Swap, Path]]:
    """Return functions that copy *source*, by name, and where each has put the copy."""
    from dogpile_fs import DataDirectory

    def creator(target: str) -> None:
        subprocess.run(["cp", "-r", source, target], check=True)

    def shell(script: str, name: str) -> tuple[Swap, Path]:
        made = place / name
        return lambda: subprocess.run(["sh", "-ec", script, "sh", source, made], check=True), made

    directory = DataDirectory(place / "datadirectory", 3600, creator)
    flip = (
        'new="$2.$$"; old=$(readlink "$2" || true); cp -r "$1" "$new"; sync; '
        'ln -s "$new" "$2.link"; mv -T "$2.link" "$2"; rm -rf "$old"'
    )
    return {
        DATADIRECTORY: (lambda: directory.refresh(force=True), place / "datadirectory"),
        COPY: shell('cp -r "$1" "$2"; sync', "copy"),
        BY_HAND: shell(flip, "by-hand"),
        EACH: shell('cp -r "$1" "$2"; find "$2" -exec sync {} +', "each"),
    }


def _make_room(name: str, made: Path) -> None:
    """Remove the copy before, where the contender does not do that itself."""
    if name in (COPY, EACH):
        shutil.rmtree(made)


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.glob("*/*")}


# Computing


def scenario(found: dict[str, list[float]], wrong: list[str], files: int) -> Scenario:
    """Return the row, from the seconds of each swap, round by round."""
    row = Scenario(
        number=18,
        title="Swapping a directory",
        setting=f"From calling to returning: copy a directory of {files:,} files of 1 KB, in sub-directories of "
        "100 each, by ``cp -r``, and have the copy on the disk. DataDirectory then flips the link, stamps, and "
        "removes the version before. All take the same files from the system's cache.",
        ours=[DATADIRECTORY],
        limit=COPY,
        notes=[
            "``cp -r, sync`` has a copy on the disk, and puts it in no other one's place. The third one does "
            "so in a shell, without a mutex, a stamp or a look whether the copy is finished.",
            "``sync`` waits for what all programs have written, and reports no error of the disk. DataDirectory "
            "syncs each file and each directory of the new version instead, after it has begun to write all of "
            "them. The last contender does so one after the other.",
        ],
        plots=[Plot("bars", "Swapping a directory", TIME, y="seconds")],
    )
    for name, costs in found.items():
        row.figures.append(Figure(name, TIME, SECONDS, Spread.of(costs)))
        if name != COPY:
            row.ratios.append(Ratio(name, COPY, TIME, paired(costs, found[COPY])))
    row.checks.append(Check("every version is whole, and nothing is left beside it", not wrong, f"{wrong}"))
    return row
