"""Start two hosts over each origin, disturb them, print host by host what happened and a verdict, end.

Run it with ``python demo.py`` where ``dogpile_fs`` and what README.rst names are installed. The exit status is 0
when the verdict holds, 1 when it does not, and 2 when something is not installed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

# Run as a script, this file's own directory is on the path, but the package is that directory itself.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fleet.picture import svg
from fleet.report import report
from fleet.run import CLIENTS, HOSTS, Result, run
from fleet.servers import Bucket, Redis, Store, missing
from fleet.verdict import RULES, Settings, faults

SETTINGS = Settings(expire=3.0, creation=0.7, ttl=2.0, check=0.3, max_stale=30.0)
SHORT = Settings(expire=1.2, creation=0.4, ttl=1.0, check=0.1, max_stale=30.0)
STORES: dict[str, type[Store]] = {"redis": Redis, "s3": Bucket}
#: Bytes of the longest name of a socket in the directory, and of the name that the system takes.
_NAME, _LONGEST = 16, 107
#: Faults that are printed.
_MOST = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, and return the exit status."""
    parser = argparse.ArgumentParser(description="Two hosts behind nginx that share a datafile through an origin.")
    parser.add_argument("--origin", choices=STORES, action="append", help="one origin alone (default: each)")
    parser.add_argument("--hosts", choices=("namespaces", "processes"), help="default: namespaces if root may")
    parser.add_argument("--workers", type=int, default=4, help="of each host (default: 4)")
    parser.add_argument("--expiries", type=int, default=1, help="before a host is cut off (default: 1)")
    parser.add_argument("--check", type=float, help="seconds between two questions of a host (default: 0.3)")
    parser.add_argument("--short", action="store_true", help="with shorter times")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep record and logs in a new directory")
    told = parser.parse_args(arguments)
    if told.workers < 2:
        parser.error("a host whose worker is stopped needs another one: --workers 2 or more")
    kinds, started = told.origin or list(STORES), time.monotonic()
    if lacks := missing(kinds):
        print(*lacks, sep="\n", file=sys.stderr)
        return 2
    namespaces = None if told.hosts is None else told.hosts == "namespaces"
    print(f"{len(HOSTS)} hosts with {told.workers} gunicorn workers each behind nginx, {CLIENTS} clients.\n")
    results: list[Result] = []
    wrong = 0
    with _directory(told.keep) as directory:
        for kind in kinds:
            own = directory / kind
            own.mkdir()
            store = STORES[kind](own)
            settings = replace(SHORT if told.short else SETTINGS, clocks=store.clocks)
            if told.check is not None:
                settings = replace(settings, check=told.check)
            try:
                result = run(
                    store,
                    settings,
                    own,
                    workers=told.workers,
                    namespaces=namespaces,
                    undisturbed=told.expiries,
                )
            except (TimeoutError, RuntimeError) as error:
                print(f"VERDICT: failed: {store.title}: {error}", *_logs(own), sep="\n", flush=True)
                return 1
            results.append(result)
            wrong += _print(result)
    took = time.monotonic() - started
    answers = sum(len(result.story.answers) for result in results)
    versions = sum(len(result.story.published) for result in results)
    counted = f"{answers} answers, {versions} versions"
    if told.svg and not wrong:
        title = f"Two hosts of {told.workers} workers share a datafile"
        subtitle = (
            f"Stale after {settings.expire:g} s, created in {settings.creation:g} s, ttl {settings.ttl:g} s."
        )
        panels = [(result.title, result.story) for result in results]
        conclusion = f"{counted}. Each expiry was one creation, and no request failed."
        told.svg.write_text(svg(title, subtitle, panels, conclusion))
    if wrong:
        print(f"VERDICT: failed: {wrong} faults in {counted} ({took:.1f} s)")
        return 1
    print(f"VERDICT: good: {counted} ({took:.1f} s)")
    for _, kept in RULES:
        print(f"  {kept}")
    return 0


def _print(result: Result) -> int:
    """Print what happened in one run, and return the number of faults."""
    print(*report(result), sep="\n")
    found = [*faults(result.story), *(f"a client got no answer: {failure}" for failure in result.failures)]
    for fault in found[:_MOST]:
        print(f"  fault: {fault}")
    print(flush=True)
    return len(found)


def _logs(directory: Path) -> Iterator[str]:
    for log in sorted((directory / "logs").glob("*.log")):
        if text := log.read_text(errors="replace")[-2000:]:
            yield f"--- {log.name}\n{text}"


@contextmanager
def _directory(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    longest = len(tempfile.gettempdir()) + len("/fleet-12345678/redis/") + _NAME
    with tempfile.TemporaryDirectory(prefix="fleet-", dir="/tmp" if longest > _LONGEST else None) as directory:
        yield Path(directory)


def _terminated(number: int, frame: FrameType | None) -> None:
    # Leave through the `with` blocks, which end the processes.
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
