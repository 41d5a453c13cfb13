"""pyperf's part of rows 1 to 4: a script of its own, because pyperf starts it again for each of its workers.

python -m benchmarks.with_pyperf --calls '["Dogpile"]' --scratch DIRECTORY --output FILE [pyperf's options]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pyperf

from benchmarks.contenders.calls import CALLS, Call, TimeFunction


class Opened:
    """A contender that only the worker opens that measures it."""

    def __init__(self, call: Call, scratch: str, stack: ExitStack) -> None:
        self._call = call
        self._scratch = scratch
        self._stack = stack
        self._timed: TimeFunction | None = None

    def __call__(self, loops: int) -> float:
        if self._timed is None:
            place = Path(tempfile.mkdtemp(dir=self._scratch))
            self._timed = self._stack.enter_context(self._call.open(place))
        return self._timed(loops)


def hand_on(command: list[str], options: argparse.Namespace) -> None:
    """Add the options that a worker needs as well."""
    command += ["--scratch", options.scratch, "--calls", options.calls]


def main() -> None:
    runner = pyperf.Runner(program_args=("-m", "benchmarks.with_pyperf"), add_cmdline_args=hand_on)
    runner.argparser.add_argument("--scratch", default=os.curdir)
    runner.argparser.add_argument("--calls", default=json.dumps(list(CALLS)))
    options = runner.parse_args()
    with ExitStack() as stack:
        for name in json.loads(options.calls):
            runner.bench_time_func(name, Opened(CALLS[name], options.scratch, stack))


if __name__ == "__main__":
    main()
