"""Run rounds with a broken library: each mutant must be caught, for the promise that it breaks.

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

from . import hand_overs, histories
from .histories import Plan, Round
from .mutants import MUTANTS

__all__ = ["main"]

#: By mutant: the kind of the resource, the nemeses, the seconds of a round, and the beginnings of its violations.
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
    "tries-again-at-once": ("datafile", {"failures"}, 3.0, ("backoff: ",)),
    "forgets-deaths": ("bare", {"failures"}, 3.0, ("failures: ",)),
    "forgets-failures": ("datafile", {"failures"}, 3.0, ("failures: ",)),
    "counts-from-one": ("bare", {"failures"}, 4.0, ("backoff: ", "failures: ")),
    "never-too-old": ("datafile", {"failures"}, 4.0, ("max_stale: ",)),
    "refuses-stale": ("bare", {"failures"}, 3.0, ("error: ",)),
    "never-looks-at-inputs": ("bare", {"inputs"}, 4.0, ("inputs: ",)),
    "digests-afterwards": ("datafile", {"inputs"}, 4.0, ("inputs: ",)),
    "tasks-lock-another-file": ("datafile", set(), 3.0, ("1: two creators",)),
    "tasks-lock-another-byte": ("keys", set(), 3.0, ("1: two creators",)),
    "unlocks-for-the-cancelled": ("bare", set(), 3.0, ("1: two creators",)),
    "loses-the-cancelled": ("datafile", set(), 3.0, ("cancelled: a creation was lost",)),
    "prunes-without-the-mutex": ("keys", set(), 3.0, ("1: created again", "error: ", "current: ")),
    "prunes-only-records": ("keys", set(), 3.0, ("gone: ",)),
}
#: The mutants for which some workers have tasks.
_OF_TASKS = {
    "tasks-lock-another-file",
    "tasks-lock-another-byte",
    "unlocks-for-the-cancelled",
    "loses-the-cancelled",
}
#: The same of creations in the background, whose rounds are others.
_HAND_OVERS = {"hands-over-with-a-gap": ("two creators at a time",)}
assert _ROUNDS.keys() | _HAND_OVERS.keys() == MUTANTS.keys()
#: The most rounds for one mutant. Most are caught in the first three; some need a race, which a busy machine
#: hides.
_ROUNDS_EACH = 24


def _rounds_until_caught(mutant: str, seed: int, until: float) -> int | None:
    """Return the number of rounds; None if it was not caught; 0 if there was no time for more."""
    prefixes = _HAND_OVERS[mutant] if mutant in _HAND_OVERS else _ROUNDS[mutant][-1]
    for number in range(_ROUNDS_EACH):
        if number and time.monotonic() > until:
            return 0
        with tempfile.TemporaryDirectory(prefix="dogpile-round-") as place:
            violated = _round(mutant, seed + number, Path(place)).run()
        if any(violation.startswith(prefixes) for violation in violated):
            return number + 1
    return None


def _round(mutant: str, seed: int, place: Path) -> Round | hand_overs.Round:
    if mutant in _HAND_OVERS:
        return hand_overs.Round(hand_overs.Plan(seed, "process", 4, 0.0, 3.0, False, 0.0, False, mutant), place)
    kind, nemeses, seconds, _ = _ROUNDS[mutant]
    crowd = "crowd" in nemeses
    plan = Plan(
        seed,
        kind,
        frozenset(nemeses),
        workers=8 if crowd else 5,
        expiretime=0.5 if nemeses & {"crowd", "inputs"} else 0.05,
        seconds=seconds,
        mutant=mutant,
        backoff=0.1 if "failures" in nemeses else 0.0,
        max_stale=0.1 if "failures" in nemeses else 0.0,
        strict="failures" not in nemeses,
        tasks=3 if mutant in _OF_TASKS else 0,
    )
    return Round(plan, place)


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
    for mutant in options.mutants or [*_ROUNDS, *_HAND_OVERS]:
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
