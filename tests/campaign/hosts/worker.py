"""A worker of a host: it reads a datafile in a loop, creates it when it is elected, and writes down what it saw.

Executed as ``python -m tests.campaign.hosts.worker``, with the clock of its host.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import hashlib
import json
import logging
import os
import random
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .steps import Steps

__all__ = ["main"]

#: Seconds that a version lives, between two questions to the origin, and of the origin's ttl.
EXPIRETIME, CHECK, TTL = 1.0, 0.1, 1.0
#: Seconds that a creator takes.
_CREATION = 0.2, 0.5
#: Seconds between two reads.
_PAUSE = 0.02
#: Seconds for which a reader without a replica waits.
_PATIENCE = 20.0
#: What a network file system says of a link whose answer was lost, and of one that it has refused.
_LOSSES = errno.EEXIST, errno.EIO
_REFUSALS = errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True, help="of the host, two characters, and of the worker")
    parser.add_argument("--directory", type=Path, required=True, help="of the host")
    parser.add_argument("--control", type=Path, required=True, help="by which the trial speaks to its workers")
    parser.add_argument("--histories", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--expiretime", type=float, default=EXPIRETIME)
    parser.add_argument("--clock", type=float, default=0.0, help="seconds by which it is wrong")
    parser.add_argument("--size", type=int, required=True, help="bytes of a version")
    parser.add_argument("--mutant", default="")
    options = parser.parse_args()
    if options.clock:
        true = time.time
        time.time = lambda: true() + options.clock
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _Worker(options).run()


class _Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        # Here, because the clock is set before.
        from dogpile_fs import Datafile, Origin

        from ..history import Journal
        from . import mutants
        from .recorded import record_requests
        from .steps import Steps

        self.options, self.parent = options, os.getppid()
        self.journal = Journal(options.histories, options.name)
        self.steps = Steps(options.control, self.journal)
        record_requests(self.journal, self.steps)
        if options.mutant:
            mutants.apply(options.mutant)
        if "://" not in options.url:
            _disturb_links(options.control, self.steps)
        self._creation = 0
        log = logging.getLogger("dogpile_fs")
        log.addHandler(_Fences(self))
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.DEBUG)
        logging.Formatter.default_msec_format = "%s.%03d"
        origin = Origin(options.url, ttl=TTL, check=CHECK)
        origin._engine().close()  # imports its client, which takes seconds on a loaded machine
        path = options.directory / "report"
        self._expiring, self._lasting = (
            Datafile(path, expiretime, self._create, origin=origin, timeout=_PATIENCE)
            for expiretime in (options.expiretime, 3600)
        )

    def run(self) -> None:
        control, last = self.options.control, ""
        while os.getppid() == self.parent and not (control / "end").exists():
            settles = (control / "settle").exists()
            sha = self._read(self._lasting if settles else self._expiring)
            if settles and sha and sha != last:
                last = sha
                own = control / f".{self.journal.process}"
                own.write_text(sha)
                own.rename(control / f"at.{self.journal.process}")
            time.sleep(_PAUSE)

    def _read(self, report: Any) -> str:
        op = self.journal.begin("read")
        try:
            with report.open("rb") as file:
                sha = hashlib.sha256(file.read()).hexdigest()
        except Exception as error:
            self.journal.note(op, "ended", error=type(error).__name__, message=str(error)[:300])
            return ""
        self.journal.note(op, "ended", sha=sha)
        return sha

    def _create(self, target: str) -> None:
        version = {"nonce": secrets.token_hex(8), "process": self.journal.process}
        contents = json.dumps(version).encode().ljust(self.options.size) + b"\n"
        sha = hashlib.sha256(contents).hexdigest()
        self._creation = self.journal.begin("create", sha=sha, **version)
        half = len(contents) // 2
        with open(target, "wb") as file:
            file.write(contents[:half])
            file.flush()
            self.steps.reach("creator.in")
            time.sleep(random.uniform(*_CREATION))
            file.write(contents[half:])
        self.journal.note(self._creation, "ended")

    def note_fence(self) -> None:
        self.journal.note(self._creation, "fenced")


class _Fences(logging.Handler):
    """Notes that the library has dropped a creation."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        if "fenced: " in record.getMessage():
            self._worker.note_fence()


def _disturb_links(control: Path, steps: Steps) -> None:
    """Have half of all links that become heads fail: although they were made while there is a file ``lost``, and
    half of them without being made while there is a file ``refused``."""
    link, lost, refused = os.link, control / "lost", control / "refused"

    def lossy(source: str, destination: str, **options: Any) -> None:
        if "head-" not in os.path.basename(destination):
            link(source, destination, **options)
            return
        steps.reach("link.before")
        fails = (lost.exists() or refused.exists()) and random.random() < 0.5
        if not (fails and refused.exists() and random.random() < 0.5):
            link(source, destination, **options)
        if fails:
            code = random.choice(_REFUSALS if refused.exists() else _LOSSES)
            raise OSError(code, os.strerror(code), destination)

    os.link = lossy  # type: ignore[assignment]


if __name__ == "__main__":
    main()
    sys.stdout.flush()
