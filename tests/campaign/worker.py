"""One worker of a round: a process of one or two threads, or of some tasks, each with a program of its own.

Executed as ``python -m tests.campaign.worker``, because the library that sets its clock is preloaded.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from dogpile_fs import PathError, Policy

from . import mutants
from .history import Journal
from .programs import Program, descriptors
from .subjects import KINDS, backoff_of, subjects_of

__all__ = ["LOOPS", "NOBODY", "main"]

NOBODY = 65534
#: The event loops: a worker with tasks has one of them.
LOOPS = ("asyncio", "trio")


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
    parser.add_argument("--backoff", type=float, default=0.0)
    parser.add_argument("--max-stale", type=float, default=0.0)
    parser.add_argument("--input", default="", help="what the resource depends on")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--mutant", default="")
    parser.add_argument("--loop", default="", help="have tasks of this event loop, and no threads")
    parser.add_argument("--unprivileged", action="store_true")
    options = parser.parse_args()

    logging.getLogger("dogpile_fs").setLevel(logging.CRITICAL)  # each failure has its traceback
    os.umask(0o002)
    # In a group of its own, so that its children can be found and ended.
    os.setpgid(0, 0)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    if options.loop:
        from . import tasks  # here, as below: it takes long to import

        tasks.warm_up(options.loop)
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
    """Wait until all workers are ready, and return the deadline of the round."""
    parent = os.getppid()
    while not go.exists():
        if os.getppid() != parent or not go.parent.exists():  # killed, without any other sign
            sys.exit()
        time.sleep(0.002)
    return float(go.read_text())


def _live(options: argparse.Namespace, journal: Journal, deadline: float) -> None:
    policy = Policy(
        backoff=backoff_of(options.backoff),
        stale_if_error=not options.strict,
        max_stale=options.max_stale or None,
        depends_on=filter(None, [options.input]),
    )
    while True:
        try:
            subjects = subjects_of(
                options.kind, options.path, options.expiretime, keep=options.keep, policy=policy
            )
            if options.loop:
                from . import tasks
                from .task_subjects import task_subjects_of

                of_tasks = task_subjects_of(subjects, journal, keep=options.keep, policy=policy)
            break
        except PathError:  # its directory was moved away, for a moment
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)
    nemeses = frozenset(filter(None, options.nemeses.split(",")))
    if options.loop:
        tasks.run_tasks(of_tasks, journal, options.seed, deadline, nemeses, options.loop)
        return
    count = 1 + options.seed // 50 % 2  # of two slots side by side, one has two threads
    programs = [
        Program(subjects, journal, 2 * options.seed + number, deadline, nemeses) for number in range(count)
    ]
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
