"""A worker of a host with an origin, which does what the lines on its standard input say.

Executed as ``python -m tests.support.origin_worker PATH URL EXPIRETIME CHECK SECONDS``; the last one is how long
its creator runs. It answers each line with one: the generation here, and how often the origin has not answered.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from dogpile_fs import Datafile, Origin


class _Outages(logging.Handler):
    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "does not answer" in record.getMessage()


def main() -> None:
    path, url, expiretime, check, seconds = sys.argv[1:]

    def create(target: str) -> None:
        time.sleep(float(seconds))
        Path(target).write_text(f"{os.getpid()} {time.monotonic_ns()}")

    origin = Origin(url, check=float(check))
    report = Datafile(path, float(expiretime), create, origin=origin, timeout=60)
    logging.getLogger("dogpile_fs").addHandler(outages := _Outages())
    origin._engine().close()  # imports its client
    for line in sys.stdin:
        command, *more = line.split()
        if command == "pass":
            until = time.monotonic() + sum(map(float, more))
            report.path()
            while time.monotonic() < until:
                report.path()
                time.sleep(0.001)
        elif command == "refresh":
            report.refresh()
        print(report.status().generation, outages.count, flush=True)


if __name__ == "__main__":
    main()
