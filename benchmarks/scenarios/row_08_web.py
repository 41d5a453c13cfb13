"""Row 8: the cost of the lock in a web server: real gunicorn, four workers, one file read for each request.

All variants are paths of one application in one server, driven in turn, so that they share the workers, the file
and the minute. The requests per second depend on the driver and the cores, too. So the workers' processor time for
each request is measured beside them: the cost of the lock is in it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.load import CONNECTIONS, Load, driver
from benchmarks.measuring.load import drive as warm_up
from benchmarks.measuring.measures import (
    PER_SECOND,
    SECONDS,
    SHARE,
    Bar,
    Check,
    Figure,
    Plot,
    Ratio,
    Scenario,
    Spread,
    paired,
    ratio,
    rotated,
)

__all__ = ["Slice", "measure", "scenario"]

WORKERS = 4
KEPT_AT_LEAST = 97.0
_FILE_SIZE = 1024
RATE, COST, KEPT = "requests per second", "workers' processor time per request", "of the rate without a lock"
#: The names in benchmarks.scenarios.row_08_web_app, which only its server can import.
PLAIN, BARE = "no lock", "bare flock, shared and unlock"
OURS = ("Dogpile", "SyncReaderDogpile", "Datafile.open")
PATHS = {
    PLAIN: "/plain",
    OURS[0]: "/dogpile",
    OURS[1]: "/reader",
    OURS[2]: "/datafile",
    BARE: "/flock",
    "dogpile.Lock over filelock": "/over-filelock",
    "filelock ReadWriteLock": "/filelock-rw",
}


@dataclass(frozen=True)
class Size:
    rounds: int
    seconds: float  # of each variant, in each round


# Many short ones: the machine's speed changes from one second to the next, and a round compares neighbours.
FULL = Size(rounds=40, seconds=0.3)
QUICK = Size(rounds=1, seconds=0.4)


@dataclass(frozen=True)
class Slice:
    """The outcome of one variant in one round."""

    load: Load
    #: Seconds of processor time that the workers used meanwhile.
    used: float


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    place = Path(tempfile.mkdtemp(dir=scratch))
    file = place / "file"
    _prepare(file)
    name, drive = driver()
    found: dict[str, list[Slice]] = {variant: [] for variant in PATHS}
    with _gunicorn(place, file) as (port, master):
        for path in PATHS.values():
            warm_up(port, path, 0.2)
        workers = _children(master)
        for number in range(size.rounds):
            for variant in rotated(list(PATHS), number):
                before = _used(workers)
                load = drive(port, PATHS[variant], size.seconds)
                found[variant].append(Slice(load, _used(workers) - before))
        if _children(master) != workers:
            raise RuntimeError("a worker has died")
    return [scenario(found, name)]


# Measuring


def _prepare(file: Path) -> None:
    """Make the file, and sidecars by which it is fresh."""
    from benchmarks.contenders import elections
    from dogpile_fs import Datafile

    def creator(target: str) -> None:
        Path(target).write_bytes(os.urandom(_FILE_SIZE))

    Datafile(file, 3600, creator).refresh()
    elections.JsonSidecar(f"{file}.json", lambda: None).stamp(time.time())


@contextmanager
def _gunicorn(place: Path, file: Path) -> Iterator[tuple[int, int]]:
    """Start a server, wait for its first answers, and yield its port and its process."""
    log = place / "gunicorn.log"
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # The socket is opened here and inherited: no port is guessed, and clients may come before the workers do.
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, log.open("wb") as out:
        port: int = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--timeout", "120"]
        command += ["--no-control-socket", "--bind", f"fd://{listener.fileno()}"]
        command += ["benchmarks.scenarios.row_08_web_app:application"]
        process = subprocess.Popen(
            command,
            env={**os.environ, "BENCHMARK_FILE": str(file), "PYTHONPATH": paths},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # so that all of it can be ended by one signal
        )
    try:
        _wait_for_workers(process, log)
        yield port, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_workers(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while len(_children(process.pid)) < WORKERS:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"gunicorn did not start: {log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _used(pids: Sequence[int]) -> float:
    """Return the seconds of processor time of these processes; the kernel counts them in nanoseconds."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


# Computing


def scenario(found: dict[str, list[Slice]], driver_name: str) -> Scenario:
    """Return the row, from the outcomes of each variant, round by round."""
    row = Scenario(
        number=8,
        title="Behind gunicorn",
        setting=f"gunicorn, {WORKERS} sync workers, each request reads a file of {_FILE_SIZE} bytes and answers "
        f"with it; {CONNECTIONS} connections, driven by {driver_name}.",
        ours=list(OURS),
        limit=PLAIN,
        notes=[
            "The bare flock is that of row 2, on a file that is open already: the least that a lock between "
            "readers and a writer costs in a request. It does not show whether the file is fresh.",
        ],
        plots=[
            Plot(
                "bars",
                "Requests per second, in percent of those without a lock",
                KEPT,
                x="percent",
                limit=KEPT_AT_LEAST,
            )
        ],
    )
    rates = {
        variant: [one.load.requests / one.load.seconds for one in slices] for variant, slices in found.items()
    }
    costs = {variant: [ratio(one.used, one.load.requests) for one in slices] for variant, slices in found.items()}
    for variant in found:
        kept = Spread.of(100 * ratio(one, plain) for one, plain in zip(rates[variant], rates[PLAIN], strict=True))
        row.figures += [
            Figure(variant, RATE, PER_SECOND, Spread.of(rates[variant])),
            Figure(variant, KEPT, SHARE, kept),
            Figure(variant, COST, SECONDS, Spread.of(costs[variant])),
        ]
        if variant != PLAIN:
            row.ratios.append(Ratio(variant, PLAIN, COST, paired(costs[variant], costs[PLAIN])))
        if variant in OURS:
            row.bars.append(
                Bar(f"{variant}: at least {KEPT_AT_LEAST:g} % kept", KEPT_AT_LEAST, "at least", kept, SHARE)
            )
    failures = sum(one.load.failures for slices in found.values() for one in slices)
    requests = sum(one.load.requests for slices in found.values() for one in slices)
    row.checks.append(Check("every answer is complete", failures == 0, f"{failures} of {requests} were not"))
    return row
