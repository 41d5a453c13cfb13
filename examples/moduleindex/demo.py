"""Start gunicorn, send it a crowd of clients over several expiries, print what happened, end.

Run it with ``python demo.py`` where ``dogpile_fs`` and ``gunicorn`` are installed. The exit status is 0 when the
verdict is good. It takes about a quarter of a minute and leaves no files behind.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

# Run as a script, this file's own directory is on the path, but the package is that directory itself.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moduleindex import index
from moduleindex.crowd import Crowd, ask
from moduleindex.record import History
from moduleindex.server import Gunicorn
from moduleindex.verdict import Story, client_faults, faults

WORKERS = 4
CLIENTS = 8
BUILD = 0.7  # seconds for a creation, if it is not disturbed
EXPIRE = 2.0  # seconds
EXPIRIES = 4  # to be seen, unless the machine is so busy that
ENOUGH = 14.0  # seconds are over, if there were
AT_LEAST = 2  # by then
GIVE_UP = 20.0  # seconds


def packages_for(seconds: float) -> list[str]:
    """Return so many packages of the standard library as this machine parses in *seconds* just now."""
    library = Path(sysconfig.get_path("stdlib"))
    chosen: list[str] = []
    started = time.monotonic()
    for package in sorted(init.parent for init in library.glob("*/__init__.py")):
        if time.monotonic() - started > seconds:
            break
        chosen.append(str(package))
        for _ in index.modules(chosen[-1:]):
            pass
    return chosen


def far_enough(started: float) -> Callable[[History], bool]:
    """Return whether the crowd has seen enough expiries."""

    def condition(history: History) -> bool:
        expiries = len(history.of("creation-end")) - 1
        late = time.monotonic() - started > ENOUGH
        return expiries >= EXPIRIES or (late and expiries >= AT_LEAST)

    return condition


def creations_table(story: Story) -> Iterable[str]:
    """Return one line per creation: its process, its times, and what the others did meanwhile."""
    zero = min(r["request"].monotonic for r in story.requests.values() if "request" in r)
    for number, creation in enumerate(story.finished):
        assert creation.built is not None
        assert creation.done is not None
        begin, built, done = creation.begin.monotonic, creation.built.monotonic, creation.done
        meanwhile = sum(
            1
            for request in story.requests.values()
            if "enter" in request and begin < request["enter"].monotonic < built
        )
        others = f"{meanwhile} requests passed through meanwhile" if number else "all others waited"
        yield (
            f"  at {(begin - zero) / 1e9:5.1f} s  worker {creation.pid} created version "
            f"{creation.version} in {(built - begin) / 1e9:.2f} s, "
            f"in place {(done - built) / 1e6:4.1f} ms later; {others}"
        )


def workers_table(story: Story) -> Iterable[str]:
    """Return one line per worker: its answers, creations and waits, after the first creation."""
    yield "  worker    requests  elected    fresh    stale  longest wait in acquire"
    first = story.finished[0].done or 0
    for pid in sorted({next(iter(request.values())).pid for request in story.requests.values()}):
        own = [r for r in story.requests.values() if "enter" in r and r["enter"].pid == pid]
        passed = [r for r in own if not r["enter"].elected]
        waits = [r["enter"].monotonic - r["acquire"].monotonic for r in passed if r["acquire"].monotonic > first]
        fresh = sum(r["enter"].state == "fresh" for r in passed)
        yield (
            f"  {pid:<9} {len(own):8} {len(own) - len(passed):8} {fresh:8} "
            f"{len(passed) - fresh:8}  {max(waits, default=0) / 1e6:.1f} ms"
        )


def main() -> int:
    """Run the demonstration; return 0 when all promises were kept."""
    started = time.monotonic()
    roots = packages_for(BUILD)
    print(f"Real gunicorn, {WORKERS} sync workers, {CLIENTS} clients; stale after {EXPIRE:g} s.")
    print(f"Indexed are {len(roots)} packages of the standard library, which took this one process")
    print(f"{BUILD:g} s to parse; the application by itself takes all of sys.path.\n")
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory, "record")
        settings = {
            "MODULEINDEX_DATAFILE": str(Path(directory, "moduleindex.db")),
            "MODULEINDEX_RECORD": str(record),
            "MODULEINDEX_ROOTS": os.pathsep.join(roots),
            "MODULEINDEX_EXPIRE": str(EXPIRE),
            "MODULEINDEX_LINGER": "0.01",
        }
        history = History(record)
        log = Path(directory, "gunicorn.log")
        with Gunicorn(["--workers", str(WORKERS)], settings, log) as server:
            try:
                with Crowd(server.port, CLIENTS) as crowd:
                    history.wait(far_enough(started), GIVE_UP, f"expiry number {AT_LEAST}")
                ask(server.port, "/requests", "the page of the last requests")
            except TimeoutError as error:
                print(f"{server.log()}\nVERDICT: failed: {error}")
                return 1
        history.update()
    story = Story.of(history.events)
    print(*creations_table(story), "", *workers_table(story), "", sep="\n")
    wrong = [*faults(story, EXPIRE), *client_faults(story, crowd.answers)]
    for fault in wrong[:20]:
        print(f"  fault: {fault}")
    took = time.monotonic() - started
    counted = (
        f"{len(crowd.answers)} requests, {len(story.finished) - 1} expiries, "
        f"{len(story.creations)} creations, {story.passes_beside_a_creation} passes early in one"
    )
    if wrong:
        print(f"VERDICT: failed: {len(wrong)} faults in {counted} ({took:.1f} s)")
        return 1
    print(f"VERDICT: good: {counted}; none failed, waited or read a torn datafile ({took:.1f} s)")
    return 0


def _terminated(number: int, frame: FrameType | None) -> None:
    # Leave through the `with` blocks, which take gunicorn along.
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
