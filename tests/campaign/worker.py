"""One worker of a round: a process of one or two threads, each with a program of its own.

Executed as ``python -m tests.campaign.worker``, because the clock that lies to it is preloaded.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path

from dogpile_fs import PathError

from . import mutants
from .history import Journal
from .programs import Program, descriptors
from .subjects import KINDS

__all__ = ["main"]

NOBODY = 65534


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--expiretime", type=float, required=True)
    parser.add_argument("--keep", type=int, default=0)
    parser.add_argument("--histories", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--go", type=Path, required=True)
    parser.add_argument("--nemeses", default="")
    parser.add_argument("--mutant", default="")
    parser.add_argument("--unprivileged", action="store_true")
    options = parser.parse_args()

    os.umask(0o002)
    # In a group of its own, so that its children can be found and ended.
    os.setpgid(0, 0)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    if options.unprivileged:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if options.mutant:
        mutants.apply(options.mutant)
    journal = Journal(options.histories, options.name)
    life = journal.begin("life", group=os.getpgrp())
    before = descriptors()
    _live(options, journal, _when_to_end(options.go))
    journal.note(life, "counted", before=before, after=descriptors())
    journal.note(life, "ended")


def _when_to_end(go: Path) -> float:
    """Wait until all are there; the deadline of the round."""
    parent = os.getppid()
    while not go.exists():
        if os.getppid() != parent or not go.parent.exists():  # killed, and nobody else will tell
            sys.exit()
        time.sleep(0.002)
    return float(go.read_text())


def _live(options: argparse.Namespace, journal: Journal, deadline: float) -> None:
    while True:
        try:
            subject = KINDS[options.kind](options.path, options.expiretime, keep=options.keep)
            break
        except PathError:  # its directory was moved away, for a moment
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)
    nemeses = frozenset(filter(None, options.nemeses.split(",")))
    count = 1 + options.seed // 50 % 2  # of two slots side by side, one has two threads
    programs = [Program(subject, journal, 2 * options.seed + number, deadline, nemeses) for number in range(count)]
    threads = [threading.Thread(target=program.run) for program in programs[1:]]
    for program in programs:
        program.alone = count == 1
    for thread in threads:
        thread.start()
    programs[0].run()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
