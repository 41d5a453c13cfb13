"""Search the models in tests/campaign/model exhaustively with spin, and check that seeded mistakes are caught.

``--seconds`` decides between the full search (3 processes; some minutes) and, below 240, the small one. The search
has no random choices: ``--seed`` changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FULL", "LIMITS", "MUTATIONS", "NOT_NEEDED", "SMALL", "Outcome", "Search", "outcome", "why_not_here"]

MODELS = Path(__file__).with_name("model")
#: Seconds of ``--seconds`` from which on the full search is run: it takes about as long on two idle cores.
ENOUGH_FOR_FULL = 240
#: Seconds after which one search, compiler included, is given up: many times what the longest takes on a loaded
#: machine.
PATIENCE = 900


@dataclass(frozen=True)
class Search:
    """One search of one model for one property."""

    model: str
    #: The macros to define, separated by blanks.
    defined: str = ""
    #: The name of an LTL formula, checked under weak fairness; empty: check assertions and invalid end states.
    ltl: str = ""
    #: A part of spin's description of the violation that must be found; empty: there must be none.
    caught_by: str = ""

    def __str__(self) -> str:
        return " ".join((self.model, self.defined or "-", self.ltl or "safety"))


@dataclass(frozen=True)
class Outcome:
    """The result of one search."""

    #: Spin's description of the violation, or ``""``.
    violated: str
    #: Whether every state was visited: else "no violation found" proves nothing.
    exhaustive: bool
    states: int
    depth: int
    megabytes: float
    seconds: float
    output: str

    def complaint(self, search: Search) -> str:
        """Return how this result differs from what *search* expects, ``""`` if it does not."""
        if search.caught_by:
            if search.caught_by in self.violated:
                return ""
            return f"{search}: should violate {search.caught_by!r}, but {self.violated or 'nothing'} was violated"
        if self.violated:
            return f"{search}: {self.violated}"
        return "" if self.exhaustive else f"{search}: the search was cut short\n{self.output}"


WRITER, READER = "READERS=6 WRITERS=1", "READERS=4 WRITERS=3"
#: The lock file is not deleted, which makes a search much smaller.
QUICKLY = "NO_CLEANER"

#: Searches of two processes, or of three without deletions of the lock file: some seconds each.
SMALL = (
    Search("readwrite", QUICKLY),
    Search("readwrite", f"{WRITER} {QUICKLY}", "writer_gets_in"),
    Search("readwrite", f"{READER} {QUICKLY}", "reader_gets_in"),
    Search("readwrite", "N=2"),
    Search("election", f"N=2 {QUICKLY}"),
    Search("election", f"N=2 PROMPT {QUICKLY}", "gets_through"),
    Search("swap", "N=2"),
    Search("election", f"N=2 FAILURES {QUICKLY}"),
    Search("hand_over", "N=2"),
    Search("origin", "N=2 ATTEMPTS=1"),
)
FULL = (
    Search("readwrite", WRITER),
    Search("readwrite", READER),
    Search("readwrite", WRITER, "writer_gets_in"),
    Search("readwrite", READER, "reader_gets_in"),
    Search("election", "N=2 FORCE"),
    Search("election", QUICKLY),
    Search("election", "N=2 PROMPT", "gets_through"),
    Search("election", f"PROMPT {QUICKLY}", "gets_through"),
    Search("election", f"N=2 FAILURES FORCE {QUICKLY}"),
    Search("election", f"N=2 PROMPT FAILURES {QUICKLY}", "gets_through"),
    Search("swap", "NO_NESTING"),
    Search("hand_over", "N=3"),
    Search("origin", "N=2 ATTEMPTS=1 BEATS"),
    Search("origin", "N=2 ATTEMPTS=1 FAILOVER"),
    Search("origin", "N=2 ATTEMPTS=2"),
)

ACCEPTANCE = "acceptance cycle"
INVALID_END = "invalid end state"

#: Seeded mistakes, each with the violation that it must cause.
MUTATIONS = (
    Search("readwrite", f"NO_PENDING {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"NO_QUERY {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"NO_TELLING {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"TELLS_FIRST {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"YIELDS_AGAIN {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"ALWAYS_WAITS {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"LOCKS_SURVIVE {WRITER} {QUICKLY}", "writer_gets_in", ACCEPTANCE),
    Search("readwrite", f"NO_WAITING {READER} {QUICKLY}", "reader_gets_in", ACCEPTANCE),
    Search("readwrite", f"WAITING_TRIED {READER} {QUICKLY}", "reader_gets_in", ACCEPTANCE),
    Search("readwrite", f"KEEPS_PENDING {READER} {QUICKLY}", "", INVALID_END),
    Search("readwrite", f"NESTED_WAITS {WRITER} {QUICKLY}", "", INVALID_END),
    Search("readwrite", "NO_PATH_CHECK_READER N=2", "", "inside[0]"),
    Search("readwrite", "NO_PATH_CHECK_WRITER N=2", "", "inside[0]"),
    Search("election", f"NO_LOOK_AGAIN N=2 {QUICKLY}", "", "forced"),
    Search("election", "NO_PATH_CHECK N=2", "", "counts[me]"),
    Search("election", f"STAMP_FORGETS N=2 {QUICKLY}", "", "outdated"),
    Search("election", f"STALE_WAITS N=2 {QUICKLY}", "", "assertion violated first"),
    Search("election", f"ONE_BYTE PROMPT N=2 {QUICKLY}", "gets_through", ACCEPTANCE),
    Search("election", f"WAITERS_TAKE_MUTEX PROMPT N=2 {QUICKLY}", "gets_through", ACCEPTANCE),
    Search("election", f"LOCKS_SURVIVE PROMPT N=2 {QUICKLY}", "gets_through", ACCEPTANCE),
    Search("election", f"BYTE_FIRST PROMPT N=2 {QUICKLY}", "gets_through", ACCEPTANCE),
    Search("election", f"NO_SECOND_CHECK FAILURES N=2 {QUICKLY}", "", "backing_off"),
    Search("election", f"FORGETS_DEATHS FAILURES N=2 {QUICKLY}", "", "unnoticed"),
    Search("election", f"RAISING_LEAVES_ATTEMPT FAILURES N=2 {QUICKLY}", "", "unnoticed"),
    Search("swap", "STAMP_FIRST N=2", "", "current"),
    Search("swap", "STAMP_FORGETS N=2", "", "current"),
    Search("swap", "NO_WRITE_LOCK N=2", "", "reads[0]"),
    Search("swap", "NESTED_WAITS N=2", "", INVALID_END),
    Search("hand_over", "UNLOCKS NO_LOOK N=2", "", "assertion violated stale"),
    Search("hand_over", "LOCKS_SURVIVE N=2", "", "caller_has[lock]"),
    Search("origin", "UNCONDITIONAL N=2 ATTEMPTS=1", "", "attempt==its"),
    Search("origin", "ASSUMES_WON N=2 ATTEMPTS=1", "", "published[nonce]"),
    Search("origin", "COUNTS_TAGS FAILOVER N=2 ATTEMPTS=1", "", "attempt==its"),
)

#: Where docs/contract.rst promises nothing: each has a counterexample.
LIMITS = (
    Search("election", f"N=2 {QUICKLY}", "gets_through", ACCEPTANCE),
    Search("swap", "OTHER_PROGRAM_ANY_TIME N=2", "", "current"),
)

#: Lines without which the modelled promises hold as well.
NOT_NEEDED = (
    Search("readwrite", f"PENDING_FIRST {WRITER} {QUICKLY}", "writer_gets_in"),
    Search("readwrite", f"PENDING_FIRST {READER} {QUICKLY}", "reader_gets_in"),
    Search("readwrite", f"WAITING_LEFT_EARLY {READER} {QUICKLY}", "reader_gets_in"),
    Search("readwrite", f"PENDING_LEFT_EARLY {READER} {QUICKLY}", "reader_gets_in"),
    Search("election", f"CREATES_AGAIN N=2 {QUICKLY}"),
    Search("hand_over", "UNLOCKS N=2"),
    Search("hand_over", "NO_LOOK N=2"),
)


def why_not_here() -> str:
    """Return why no search can run on this machine, ``""`` if one can."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    return "" if not missing else f"there is no {' and no '.join(missing)} (Debian: apt-get install spin gcc)"


def outcome(search: Search) -> Outcome:
    """Build and run *search* in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        for source in MODELS.glob("*.pml"):
            shutil.copy(source, directory)

        def run(*command: str) -> str:
            done = subprocess.run(
                command,
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
            )
            return done.stdout

        made = run("spin", "-a", *(f"-D{name}" for name in search.defined.split()), f"{search.model}.pml")
        if not os.path.exists(os.path.join(directory, "pan.c")):
            raise RuntimeError(f"spin failed on {search}:\n{made}")
        for_what = ["-DNFAIR=3"] if search.ltl else ["-DSAFETY", "-DNOCLAIM"]
        made = run("gcc", "-O1", "-w", *for_what, "-o", "pan", "pan.c")
        if not os.path.exists(os.path.join(directory, "pan")):
            raise RuntimeError(f"gcc failed on {search}:\n{made}")
        began = time.monotonic()
        output = run(
            "./pan",
            "-m8000000" if search in FULL else "-m1000000",
            "-w20",
            *(["-a", "-f", "-N", search.ltl] if search.ltl else []),
        )
        seconds = time.monotonic() - began
    violated = re.search(r"^pan:1: (.*)$", output, re.MULTILINE)
    cut = re.search("too small|not completed|BITSTATE|Bit statespace|out of memory", output)
    whole = "Full statespace search" in output and "errors: 0" in output and cut is None

    def number(pattern: str) -> float:
        found = re.search(pattern, output)
        return float(found[1]) if found else 0.0

    return Outcome(
        "" if violated is None else violated[1],
        whole,
        int(number(r"(\d+) states, stored")),
        int(number(r"depth reached (\d+)")),
        number(r"([\d.]+)\s+total actual memory"),
        seconds,
        output,
    )


def all_of(full: bool) -> Iterator[Search]:
    """Yield the searches of a run, the small ones first."""
    yield from SMALL
    if full:
        yield from FULL
    yield from MUTATIONS
    yield from LIMITS
    yield from NOT_NEEDED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(ENOUGH_FOR_FULL))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    skipped = why_not_here()
    if skipped:
        print("RESULT " + json.dumps({"skipped": skipped, "violations": []}))
        return 2
    counts = {"searches": 0, "mutations_caught": 0, "states": 0}
    violations: list[str] = []
    for search in all_of(full=options.seconds >= ENOUGH_FOR_FULL):
        found = outcome(search)
        complaint = found.complaint(search)
        counts["searches"] += 1
        counts["states"] += found.states
        counts["mutations_caught"] += search in MUTATIONS and not complaint
        print(
            f"{search}: {complaint or found.violated[:60] or 'holds'}; {found.states} states, "
            f"depth {found.depth}, {found.megabytes:.0f} MB, {found.seconds:.1f} s",
            flush=True,
        )
        if complaint:
            violations.append(complaint[:300])
    print("RESULT " + json.dumps({**counts, "violations": violations}))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
