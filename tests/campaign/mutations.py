"""Rounds with a broken library: each mutant must be caught, for the promise that it breaks.

python -m tests.campaign.mutations --seed 1
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import histories
from .histories import Plan, Round
from .mutants import MUTANTS

__all__ = ["main"]

#: By mutant: the kind of the resource, the nemeses, how long a round is, and how what is said of it begins.
_ROUNDS: dict[str, tuple[str, set[str], float, tuple[str, ...]]] = {
    "no-look-again": ("bare", {"stops"}, 4.0, ("1: created again",)),
    "stamp-before-swap": ("datafile", set(), 2.0, ("6: ", "5: ")),
    "no-fork-reset": ("bare", {"forks"}, 3.0, ("1: two creators",)),
    "no-writer-preference": ("synced", {"crowd"}, 7.0, ("4: ",)),
    "no-read-lock": ("synced", set(), 2.0, ("3: ",)),
    "no-mutex": ("bare", set(), 2.0, ("1: ",)),
    "waits-when-stale": ("bare", {"creators"}, 8.0, ("2: ",)),
    "swaps-in-place": ("datafile", set(), 2.0, ("whole: ",)),
    "keeps-the-mutex": ("bare", set(), 2.0, ("w", "afterwards: ", "error: ")),
    "forgets-hard": ("bare", {"invalidations"}, 3.0, ("hard: ",)),
    "leaks": ("synced", set(), 2.0, ("descriptors: ",)),
    "never-expires": ("bare", set(), 3.0, ("7: ",)),
    "forgets-soft": ("bare", {"invalidations"}, 3.0, ("7: ",)),
    "forces-nothing": ("bare", set(), 3.0, ("refresh: ",)),
}
assert _ROUNDS.keys() == MUTANTS.keys()
#: So many rounds it may take. Most are caught in the first three; some hang on a race, which a busy machine hides.
_ROUNDS_EACH = 24


def _rounds_until_caught(mutant: str, seed: int, until: float) -> int | None:
    """How many rounds it took; None: it was not caught; 0: nor could it be, before the time was over."""
    kind, nemeses, seconds, told = _ROUNDS[mutant]
    for number in range(_ROUNDS_EACH):
        if number and time.monotonic() > until:
            return 0
        crowd = "crowd" in nemeses
        plan = Plan(
            seed + number,
            kind,
            frozenset(nemeses),
            workers=8 if crowd else 5,
            expiretime=0.5 if crowd else 0.05,
            seconds=seconds,
            mutant=mutant,
        )
        with tempfile.TemporaryDirectory(prefix="dogpile-round-") as place:
            violated = Round(plan, Path(place)).run()
        if any(violation.startswith(told) for violation in violated):
            return number + 1
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1000.0, help="begin no more mutants after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("mutants", nargs="*", metavar="MUTANT", help="default: all")
    options = parser.parse_args(arguments)
    histories.PATIENCE = 4.0  # some of them hang
    until = time.monotonic() + options.seconds
    caught: dict[str, int] = {}
    missed: list[str] = []
    for mutant in options.mutants or _ROUNDS:
        if time.monotonic() > until:
            break
        rounds = _rounds_until_caught(mutant, options.seed, until)
        if rounds is None:
            missed.append(mutant)
            print(f"{mutant}: NOT CAUGHT", flush=True)
        elif rounds:
            caught[mutant] = rounds
            print(f"{mutant}: caught in round {rounds}", flush=True)
        else:
            print(f"{mutant}: not caught so far; there was no time for more", flush=True)
    violations = [f"{mutant} was not caught" for mutant in missed]
    print("RESULT " + json.dumps({"seed": options.seed, "rounds until caught": caught, "violations": violations}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
