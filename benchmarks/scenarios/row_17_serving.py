"""Row 17: what it costs to send a datafile, beside Starlette's response for files: real uvicorn, one process.

All variants are paths of one application in one server, driven in turn, so that they share the process, the files
and the minute. Requests per second depend on the driver as well; so the server's processor time is measured too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.load import CONNECTIONS, Load, driver
from benchmarks.measuring.load import drive as warm_up
from benchmarks.measuring.measures import (
    PER_SECOND,
    SECONDS,
    Bar,
    Check,
    Figure,
    Ratio,
    Scenario,
    Spread,
    paired,
    ratio,
    rotated,
)

__all__ = ["Slice", "measure", "scenario"]

SIZES = (1024, 65536, 1048576)
STARLETTE, RESPONSE, APP = "starlette's FileResponse", "DatafileResponse", "asgi.DatafileApp"
#: The paths of benchmarks.scenarios.row_17_serving_app, which only its server can import.
PATHS = {STARLETTE: "/file/{}", RESPONSE: "/datafile/{}", APP: "/app/{}"}
AT_LEAST = 0.9
RATE, COST = "requests per second", "server's processor time per request"


@dataclass(frozen=True)
class Size:
    rounds: int
    seconds: float  # of each variant and size of file, in each round


FULL = Size(rounds=8, seconds=1.0)
QUICK = Size(rounds=1, seconds=0.2)


@dataclass(frozen=True)
class Slice:
    """The outcome of one variant in one round."""

    load: Load
    #: Seconds of processor time that the server used meanwhile.
    used: float


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    place = Path(tempfile.mkdtemp(dir=scratch))
    _prepare(place)
    name, drive = driver()
    found: dict[int, dict[str, list[Slice]]] = {length: {variant: [] for variant in PATHS} for length in SIZES}
    with _uvicorn(place) as (port, pid):
        for length in SIZES:
            for path in PATHS.values():
                warm_up(port, path.format(length), 0.2)
        for number in range(size.rounds):
            for length in SIZES:
                for variant in rotated(list(PATHS), number):
                    before = _used(pid)
                    load = drive(port, PATHS[variant].format(length), size.seconds)
                    found[length][variant].append(Slice(load, _used(pid) - before))
    return [scenario(found, name)]


# Measuring


def _prepare(place: Path) -> None:
    """Make the files, and sidecars by which they are fresh."""
    from dogpile_fs import Datafile

    for length in SIZES:

        def creator(target: str, length: int = length) -> None:
            Path(target).write_bytes(os.urandom(length))

        Datafile(place / str(length), 3600, creator).refresh()


@contextmanager
def _uvicorn(place: Path) -> Iterator[tuple[int, int]]:
    """Start a server, wait for its first answer, and yield its port and its process."""
    log = place / "uvicorn.log"
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # The socket is opened here and inherited: no port is guessed, and clients may come before the server does.
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, log.open("wb") as out:
        port: int = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "--fd", str(listener.fileno()), "--log-level", "warning"]
        process = subprocess.Popen(
            [*command, "benchmarks.scenarios.row_17_serving_app:app"],
            env={**os.environ, "BENCHMARK_FILES": str(place), "PYTHONPATH": paths},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # so that all of it can be ended by one signal
        )
    try:
        _wait_for_answer(process, port, log)
        yield port, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        # The server's copy of the socket takes connections before the server itself does.
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            if client.recv(1):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"uvicorn did not start: {log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def _used(pid: int) -> float:
    """Return the seconds of processor time of all threads of a process, which has threads that open and read."""
    # What follows the name, which may have any characters; utime and stime are the 14th and 15th field.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Computing


def scenario(found: dict[int, dict[str, list[Slice]]], driver_name: str) -> Scenario:
    """Return the row, from the outcomes of each variant for each size, round by round."""
    row = Scenario(
        number=17,
        title="Sending a file",
        setting=f"uvicorn, one process; the application is Starlette's, and sends files of three sizes; "
        f"{CONNECTIONS} connections, driven by {driver_name}. FileResponse opens the file after it has sent the "
        "length, so that a swap in between tears the body; the others answer of one version.",
        ours=[RESPONSE, APP],
        limit=STARLETTE,
    )
    for length, slices_of in found.items():
        rates = {name: [one.load.requests / one.load.seconds for one in some] for name, some in slices_of.items()}
        costs = {name: [ratio(one.used, one.load.requests) for one in some] for name, some in slices_of.items()}
        for name in slices_of:
            contender = f"{name}, {length // 1024} KiB"
            row.figures += [
                Figure(contender, RATE, PER_SECOND, Spread.of(rates[name])),
                Figure(contender, COST, SECONDS, Spread.of(costs[name])),
            ]
            kept = paired(rates[name], rates[STARLETTE])
            row.ratios += [
                Ratio(contender, STARLETTE, RATE, kept),
                Ratio(contender, STARLETTE, COST, paired(costs[name], costs[STARLETTE])),
            ]
            if name == RESPONSE:
                text = f"{name} of {length // 1024} KiB against FileResponse: at least {AT_LEAST:g} times the rate"
                row.bars.append(Bar(text, AT_LEAST, "at least", kept))
    loads = [one.load for slices_of in found.values() for some in slices_of.values() for one in some]
    failures, requests = sum(load.failures for load in loads), sum(load.requests for load in loads)
    row.checks.append(Check("every answer is complete", failures == 0, f"{failures} of {requests} were not"))
    return row
