"""The trial of hosts: one trial, or as many as fit into the time, each with its own seed.

    python -m tests.campaign.hosts --origin redis --fault cut --seed 7
    python -m tests.campaign.hosts --minutes 60 --seed 1
    python -m tests.campaign.hosts --each 20 --jobs 4 --results results.json
    python -m tests.campaign.hosts --mutants
    python -m tests.campaign.hosts --fleet 200

Without ``--fault`` and ``--origin``, all faults strike each kind of origin in turn. A kind for which this machine
has no server is skipped. ``--each N`` strikes with each of N seeds, from ``--seed`` on, until the minutes are over
if they are given. ``--mutants`` breaks the library on purpose: the judge must report each mutant. ``--fleet``
simulates so many hosts, see ``fleet.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import mutants
from .faults import ALL, FAULTS, ON_DEMAND
from .fleet import measure
from .trial import run_trial

__all__ = ["main"]

#: Trials in which a mutant must be found out.
_TRIES = 8
#: The exit status of a process that SIGTERM has ended.
_TERMINATED = 128 + signal.SIGTERM
Trial = tuple[str, str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--origin", choices=ALL, action="append", help="default: all but rgw")
    parser.add_argument("--fault", choices=sorted(FAULTS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("--minutes", type=float, default=0.0, help="default: each fault and kind once")
    parser.add_argument(
        "--each", type=int, metavar="N", help="each fault and kind, or disturbed fleet, with N seeds"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="with --each: N trials at a time")
    parser.add_argument("--results", type=Path, metavar="FILE", help="with --each: write what came of each trial")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the files of all trials there")
    parser.add_argument("--mutants", action="store_true", help="run the broken variants instead")
    parser.add_argument("--fleet", type=int, metavar="HOSTS", help="simulate fleets instead, up to that large")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of a job: its number, and of how many
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that processes and namespaces go
    if options.mutants:
        return _all_caught(options.seed, options.keep)
    if options.fleet is not None:
        return _fleets(options.fleet, options.seed, options.each or 1, options.results)
    pairs = [
        (kind, name)
        for name, fault in FAULTS.items()
        for kind in fault.kinds
        if (kind not in ON_DEMAND if options.origin is None else kind in options.origin)
        and (options.fault is None or name in options.fault)
    ]
    if not pairs:
        parser.error("this fault is not for this kind of origin")
    print(f"seed {options.seed}", flush=True)
    if options.each is None:
        results = [_one(trial, options.keep) for trial in _rounds(pairs, options.seed, options.minutes)]
    elif options.part is None and options.jobs > 1:
        results = _in_jobs(list(sys.argv[1:] if arguments is None else arguments), options.jobs, options.seed)
    else:
        number, jobs = (int(each) for each in (options.part or "0/1").split("/"))
        trials = [(*pair, options.seed + each) for each in range(options.each) for pair in pairs]
        deadline = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
        results = []
        for trial in trials[number::jobs]:
            if time.monotonic() > deadline:
                break
            results.append(_one(trial, options.keep))
    if options.results is not None:
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    if options.part is None:
        _print_table(results)
    return int(any(each["violations"] for each in results))


def _fleets(hosts: int, seed: int, disturbed: int, results: Path | None) -> int:
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        told = measure(hosts, seed, disturbed, Path(directory))
    print(json.dumps(told["extrapolated"]))
    if results is not None:
        results.write_text(json.dumps(told, indent=1) + "\n")
    all_of_them = [each for of in ("by_hosts", "by_workers", "disturbed", "real") for each in told[of]]
    return int(any(each["violations"] for each in all_of_them))


def _rounds(pairs: list[tuple[str, str]], seed: int, minutes: float) -> Iterator[Trial]:
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


def _in_jobs(arguments: list[str], jobs: int, seed: int) -> list[dict[str, Any]]:
    """Share the trials among processes; each has servers of its own, and the environment that they need."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory, str(number)) for number in range(jobs)]
        running = []
        for number, file in enumerate(files):
            words = [sys.executable, "-m", __package__, *arguments, "--seed", str(seed)]
            running.append(subprocess.Popen([*words, "--part", f"{number}/{jobs}", "--results", str(file)]))
        try:
            for each in running:
                each.wait()
        except BaseException:
            for each in running:
                each.terminate()
            raise
        for file in files:
            results += json.loads(file.read_text())
    return results


def _print_table(results: list[dict[str, Any]]) -> None:
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for each in results:
        if not each["skipped"]:
            of = counts[each["fault"]][each["kind"]]
            of[0] += 1
            of[1] += bool(each["violations"])
    print("trials, and those with violations:")
    print(f"{'':15}" + "".join(f"{kind:>12}" for kind in ALL))
    for fault in (name for name in FAULTS if name in counts):
        row = [counts[fault].get(kind) for kind in ALL]
        print(f"{fault:15}" + "".join(f"{'' if each is None else f'{each[0]}, {each[1]}':>12}" for each in row))
    tried = [each for each in results if not each["skipped"]]
    bad = sum(bool(each["violations"]) for each in tried)
    print(f"{len(tried)} trials, {bad} with violations; {len(results) - len(tried)} skipped")


def _one(trial: Trial, keep: Path | None, mutant: str = "") -> dict[str, Any]:
    """Run one trial, tell of it, and return what came of it."""
    kind, fault, seed = trial
    began = time.monotonic()
    again = f"--origin {kind} --fault {fault} --seed {seed}"
    result: dict[str, Any] = {"kind": kind, "fault": fault, "seed": seed, "skipped": "", "violations": []}
    try:
        report = run_trial(kind, fault, seed, mutant=mutant, root=keep)
    except pytest.skip.Exception as reason:
        print(f"{again}: skipped: {reason}", flush=True)
        return {**result, "skipped": str(reason)}
    except Exception:
        print(f"{again}: {traceback.format_exc()}", flush=True)
        return {**result, "violations": ["the trial has failed: " + traceback.format_exc()]}
    took = time.monotonic() - began
    print(f"{again}: {len(report.violations)} violations in {took:.0f} s: {json.dumps(report.counts)}", flush=True)
    for each in report.violations[:10]:
        print(f"    {each}", flush=True)
    if report.violations:
        print(f"    {report.root}", flush=True)
    return {**result, "violations": report.violations, "seconds": round(took, 1), "counts": report.counts}


def _all_caught(seed: int, keep: Path | None) -> int:
    missed = []
    for mutant, (fault, kind) in mutants.FAULTS.items():
        print(f"{mutant}:", flush=True)
        if not any(_one((kind, fault, seed + number), keep, mutant)["violations"] for number in range(_TRIES)):
            missed.append(mutant)
    print(f"missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
