"""Let each system call of each scene fail once with each error, and count the outcomes.

``python -m tests.campaign.failing_calls --seconds 600 --seed 1``, or ``--all`` for the whole sweep; ``--scene
TEXT`` for the scenes with TEXT in their names.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.failing import calls_of, met
from tests.support.faults import ERRORS
from tests.support.ptracing import NotTraceable
from tests.support.scenes import SCENES

#: In memory, so that no fsync waits for a disk.
_MEMORY = "/dev/shm"
#: Seconds between two lines of progress.
_PRINT_EVERY = 30.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--all", action="store_true", help="the whole sweep, once, however long it takes")
    options.add_argument("--scene", default="", help="only those whose names have this in them")
    asked = options.parse_args()
    gc.freeze()  # so that no child copies the objects that are here now
    if hasattr(os, "sched_setaffinity"):
        # Tracer and child take turns: on one processor they do so three times as fast.
        os.sched_setaffinity(0, {random.Random(os.getpid()).choice(sorted(os.sched_getaffinity(0)))})
    directory = _MEMORY if os.path.isdir(_MEMORY) else None
    with tempfile.TemporaryDirectory(dir=directory, prefix="failing-calls-") as below:
        try:
            result = sweep(asked, Path(below))
        except NotTraceable as error:
            print("RESULT", json.dumps({"skipped": str(error), "violations": []}))
            return 2
    print("RESULT", json.dumps(result))
    return 1 if result["violations"] else 0


def sweep(asked: argparse.Namespace, directory: Path) -> dict[str, object]:
    began = printed = time.monotonic()
    calls = {name: calls_of(name, directory) for name in SCENES if asked.scene in name}
    todo = [
        (name, number, code)
        for name, those in calls.items()
        for number in range(1, len(those) + 1)
        for code in ERRORS
    ]
    print(f"{len(calls)} scenes, {sum(map(len, calls.values()))} calls, {len(todo)} failures", flush=True)
    random.Random(asked.seed).shuffle(todo)
    outcomes: Counter[str] = Counter()
    by_error: dict[str, Counter[str]] = {errno.errorcode[code]: Counter() for code in ERRORS}
    violations = []
    met_calls = set()
    for done, (name, number, code) in enumerate(todo):
        now = time.monotonic()
        if not asked.all and now - began > asked.seconds:
            break
        if now - printed > _PRINT_EVERY:
            printed = now
            print(f"{done} of {len(todo)} after {now - began:.0f} s: {dict(outcomes)}", flush=True)
        outcome = met(name, number, code, directory)
        kind = "fewer calls this time" if outcome is None else outcome.kind
        outcomes[kind] += 1
        by_error[errno.errorcode[code]][kind] += 1
        if outcome is not None:
            met_calls.add((name, number))
            where = f"{name}: call {number}, {outcome.call}: {errno.errorcode[code]}: "
            for wrong in outcome.wrong:
                violations.append(where + wrong)
                print(violations[-1], flush=True)
    return {
        "seed": asked.seed,
        "scenes": len(calls),
        "calls": sum(map(len, calls.values())),
        "calls met": len(met_calls),
        "failures": len(todo),
        "tried": outcomes.total(),
        "outcomes": dict(outcomes),
        "by error": {name: dict(counts) for name, counts in by_error.items()},
        "seconds": round(time.monotonic() - began, 1),
        "violations": violations,
    }


if __name__ == "__main__":
    sys.exit(main())
