"""Row 11: the cost of starting: importing, and ``dogpile-fs run`` on a fresh file, as whole processes."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.measures import (
    SECONDS,
    Bar,
    Check,
    Figure,
    Plot,
    Ratio,
    Scenario,
    Spread,
    paired,
    rotated,
)

__all__ = ["Run", "measure", "scenario"]

BARE = "bare interpreter"
RUN, RUN_MODULE, FLOCK = "dogpile-fs run, fresh", "python -m dogpile_fs run, fresh", "flock(1) and true"
WALL, PROCESSOR = "from start to end", "processor time"
MOST = 1.8
IMPORTS = {
    "import dogpile_fs": "import dogpile_fs",
    "Dogpile": "from dogpile_fs import Dogpile",
    "SyncReaderDogpile": "from dogpile_fs import SyncReaderDogpile",
    "Datafile": "from dogpile_fs import Datafile",
    "dogpile.Lock": "from dogpile.lock import Lock",
    "dogpile.cache": "import dogpile.cache",
    "filelock": "import filelock",
    "portalocker": "import portalocker",
    "fasteners": "import fasteners",
    "diskcache": "import diskcache",
}
OURS = (RUN, RUN_MODULE, *list(IMPORTS)[:4])


@dataclass(frozen=True)
class Size:
    rounds: int


FULL = Size(rounds=20)
QUICK = Size(rounds=2)


@dataclass(frozen=True)
class Run:
    """One process: seconds from its start to its end, and of processor time; its status."""

    wall: float
    processor: float
    status: int


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    place = Path(tempfile.mkdtemp(dir=scratch))
    commands = _commands(place)
    for command in commands.values():
        _run(command)  # so that all is in the page cache, and compiled
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(size.rounds):
        for name in rotated(list(commands), number):
            found[name].append(_run(commands[name]))
    return [scenario(found, (place / "created").exists())]


# Measuring


def _commands(place: Path) -> dict[str, list[str]]:
    from dogpile_fs import Datafile

    file = place / "report"
    Datafile(file, 3600, lambda target: Path(target).write_text("the report")).refresh()
    job = ["run", "--expire", "1h", "--output", str(file), "--", "touch", str(place / "created")]
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        RUN_MODULE: [sys.executable, "-m", "dogpile_fs", *job],
        **{name: [sys.executable, "-c", words] for name, words in IMPORTS.items()},
    }
    script = shutil.which("dogpile-fs", path=sysconfig.get_path("scripts"))
    if script is not None:
        commands[RUN] = [script, *job]
    flock = shutil.which("flock")
    if flock is not None:
        commands[FLOCK] = [flock, "-n", str(place / "lock"), "true"]
    return commands


def _run(command: list[str]) -> Run:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, {**os.environ, "PYTHONPATH": paths})
    _, status, usage = os.wait4(pid, 0)
    ended = time.perf_counter()
    return Run(ended - started, usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status))


# Computing


def scenario(found: dict[str, list[Run]], created: bool) -> Scenario:
    """Return the row, from the runs of each command, round by round."""
    row = Scenario(
        number=11,
        title="Starting",
        setting="Whole processes, one after the other, all that they import in the page cache. ``run`` finds "
        "its file fresh, which is the most frequent case under cron.",
        ours=list(OURS),
        limit=BARE,
        notes=[
            "flock(1), a C program, shows whether another process runs, and not whether there is anything to do."
        ],
        plots=[Plot("bars", "Starting: from start to end", WALL, x="seconds")],
    )
    if RUN not in found:
        row.notes.append("The script dogpile-fs is not installed here: only the module was run.")
    for name, runs in found.items():
        wall = [run.wall for run in runs]
        row.figures += [
            Figure(name, WALL, SECONDS, Spread.of(wall)),
            Figure(name, PROCESSOR, SECONDS, Spread.of(run.processor for run in runs)),
        ]
        if name == BARE:
            continue
        times = paired(wall, [run.wall for run in found[BARE]])
        row.ratios.append(Ratio(name, BARE, WALL, times))
        if name in (RUN, RUN_MODULE):
            row.bars.append(
                Bar(f"{name}, against a bare interpreter: at most {MOST:g} times", MOST, "at most", times)
            )
    bad = sorted(name for name, runs in found.items() if any(run.status for run in runs))
    row.checks += [
        Check("every process ends with status 0", not bad, ", ".join(bad) or "all did"),
        Check("run of a fresh file runs no command", not created, "created" if created else "nothing created"),
    ]
    return row
