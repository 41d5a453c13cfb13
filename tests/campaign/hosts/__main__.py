"""The trial of hosts: one trial, or as many as fit into the time, each with its own seed.

    python -m tests.campaign.hosts --origin redis --fault cut --seed 7
    python -m tests.campaign.hosts --minutes 60 --seed 1
    python -m tests.campaign.hosts --mutants

Without ``--fault`` and ``--origin``, all faults strike each kind of origin in turn. A kind for which this machine
has no server is skipped. ``--mutants`` breaks the library on purpose: the judge must report each mutant.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from . import mutants
from .faults import ALL, FAULTS
from .trial import run_trial

__all__ = ["main"]

#: Trials in which a mutant must be found out.
_TRIES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--origin", choices=ALL, action="append", help="default: all")
    parser.add_argument("--fault", choices=sorted(FAULTS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("--minutes", type=float, default=0.0, help="default: each fault and kind once")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the files of all trials there")
    parser.add_argument("--mutants", action="store_true", help="run the broken variants instead")
    options = parser.parse_args(arguments)
    if options.mutants:
        return _all_caught(options.seed, options.keep)
    pairs = [
        (kind, name)
        for name, fault in FAULTS.items()
        for kind in fault.kinds
        if (options.origin is None or kind in options.origin) and (options.fault is None or name in options.fault)
    ]
    if not pairs:
        parser.error("this fault is not for this kind of origin")
    print(f"seed {options.seed}", flush=True)
    found, count = 0, 0
    for kind, fault, seed in _rounds(pairs, options.seed, options.minutes):
        bad = _one(kind, fault, seed, options.keep)
        found, count = found + bool(bad), count + 1
    print(f"{count} trials, {found} with violations")
    return int(found > 0)


def _rounds(pairs: list[tuple[str, str]], seed: int, minutes: float) -> Iterator[tuple[str, str, int]]:
    deadline = time.monotonic() + 60 * minutes
    shuffled = random.Random(seed)
    while True:
        pairs = shuffled.sample(pairs, len(pairs)) if minutes else pairs
        for kind, fault in pairs:
            yield kind, fault, seed
            seed += 1
            if minutes and time.monotonic() > deadline:
                return
        if not minutes:
            return


def _one(kind: str, fault: str, seed: int, keep: Path | None, mutant: str = "") -> list[str]:
    began = time.monotonic()
    again = f"--origin {kind} --fault {fault} --seed {seed}"
    try:
        report = run_trial(kind, fault, seed, mutant=mutant, root=keep)
    except pytest.skip.Exception as reason:
        print(f"{again}: skipped: {reason}", flush=True)
        return []
    except Exception:
        print(f"{again}: {traceback.format_exc()}", flush=True)
        return ["the trial has failed"]
    took = time.monotonic() - began
    print(f"{again}: {len(report.violations)} violations in {took:.0f} s: {json.dumps(report.counts)}", flush=True)
    for each in report.violations[:10]:
        print(f"    {each}", flush=True)
    if report.violations:
        print(f"    {report.root}", flush=True)
    return report.violations


def _all_caught(seed: int, keep: Path | None) -> int:
    missed = []
    for mutant, (fault, kind) in mutants.FAULTS.items():
        print(f"{mutant}:", flush=True)
        if not any(_one(kind, fault, seed + number, keep, mutant) for number in range(_TRIES)):
            missed.append(mutant)
    print(f"missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
