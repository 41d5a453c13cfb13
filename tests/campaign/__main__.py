"""The campaign: every part of it, each for its share of the time, and one seed for all.

    python -m tests.campaign --minutes 60 --seed 1

Each part can be run by itself, as ``python -m tests.campaign.PART --seconds S --seed N``, and ends with a line
``RESULT {...}``. A part that this machine cannot run (for lack of a compiler, of spin, of root) is skipped, with
the reason.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

#: By part: its share of the time. The rounds with all nemeses mixed come first, and last longest.
_SHARES = {
    "histories": 0.45,
    "hand_overs": 0.08,
    "stress": 0.05,
    "mutations": 0.12,
    "failing_calls": 0.08,
    "power": 0.08,
    "hostile_neighbour": 0.04,
    "fuzz": 0.05,
    "model_search": 0.05,
}
#: Seconds below which a part is skipped: the tests have its small searches.
_LEAST = {"model_search": 30.0}
_SKIPPED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all, {', '.join(_SHARES)}")
    options = parser.parse_args(arguments)
    shares = {part: share for part, share in _SHARES.items() if not options.parts or part in options.parts}
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)

    found = False
    for part, share in shares.items():
        seconds = 60 * options.minutes * share / sum(shares.values())
        if seconds < _LEAST.get(part, 0.0):
            print(f"== {part}: skipped: it takes more than {seconds:.0f} s", flush=True)
            continue
        began = time.monotonic()
        status, result = _run(part, seconds, options.seed)
        took = time.monotonic() - began
        if status == _SKIPPED:
            print(f"== {part}: skipped: {result.get('skipped')}", flush=True)
            continue
        violations = result.pop("violations", ["it ended without a result"])
        found |= status != 0 or bool(violations)
        print(f"== {part}: {len(violations)} violations in {took:.0f} s: {json.dumps(result)}", flush=True)
        for violation in violations[:20]:
            print(violation, flush=True)
    if found:
        again = f"python -m tests.campaign --minutes {options.minutes:g} --seed {options.seed}"
        print(f"a promise was broken. Again: {again}")
    return int(found)


def _run(part: str, seconds: float, seed: int) -> tuple[int, dict[str, Any]]:
    """Exit status and result of *part*; what else it says is passed on."""
    words = [sys.executable, "-m", f"tests.campaign.{part}", "--seconds", f"{seconds:.0f}", "--seed", str(seed)]
    result: dict[str, Any] = {}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("RESULT "):
                result = json.loads(line.removeprefix("RESULT "))
            else:
                print(f"{part}: {line}", end="", flush=True)
    return process.returncode, result


if __name__ == "__main__":
    sys.exit(main())
