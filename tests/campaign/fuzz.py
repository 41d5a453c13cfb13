"""Fuzzing: random bytes, files, names and words for the code that reads them.

``python -m tests.campaign.fuzz --seconds S --seed N``. The parts are the decoder (bytes to a record), the decoder
again under atheris where that is installed, the files that the library reads, the names that it parses, the words
of a command line, and whole runs of the command. Each has its share of the time; ``--only`` names some of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from random import Random
from time import monotonic

from . import guided_decoder
from .hostile_files import HostileFiles
from .hostile_names import HostileNames
from .hostile_words import HostileWords
from .mutated_records import MutatedRecords
from .sound_records import Broken, check

__all__ = ["decoder", "main"]

#: The most violations that are reported; there may be as many as inputs.
_TOLD = 20

Findings = tuple[dict[str, int], list[str]]


def decoder(seconds: float, seed: int, inputs: int | None = None) -> Findings:
    """Decode bytes to records, for *seconds* or for so many *inputs*."""
    records = MutatedRecords(Random(seed))
    taken = {"record": 0, "newer": 0, "nothing": 0}
    violations: list[str] = []
    tried = 0
    end = monotonic() + seconds
    while tried < inputs if inputs is not None else monotonic() < end:
        for _ in range(1000):
            data = records.next()
            try:
                taken[check(data)] += 1
            except Broken as broken:
                violations.append(f"{broken} of {data!r}")
        tried += 1000
    counts = {"decoder_inputs": tried, **{f"decoder_{kind}": count for kind, count in taken.items()}}
    return counts, violations


def _guided(seconds: float, seed: int) -> Findings:
    if not guided_decoder.is_there():
        print("guided: there is no atheris here (pip install atheris)")
        return {"guided_inputs": 0}, []
    tried, violations = guided_decoder.tried(max(1, round(seconds)), seed)
    return {"guided_inputs": tried}, violations


def _files(seconds: float, seed: int) -> Findings:
    with tempfile.TemporaryDirectory() as directory:
        return HostileFiles(directory, Random(seed)).read(seconds)


def _names(seconds: float, seed: int) -> Findings:
    with tempfile.TemporaryDirectory() as directory:
        return HostileNames(directory, Random(seed)).meet(seconds)


def _words(seconds: float, seed: int) -> Findings:
    return HostileWords(Random(seed)).parse(seconds)


def _runs(seconds: float, seed: int) -> Findings:
    return HostileWords(Random(seed)).run(seconds)


#: The parts, and the share of the time of each.
_PARTS: dict[str, tuple[Callable[[float, int], Findings], float]] = {
    "decoder": (decoder, 0.25),
    "guided": (_guided, 0.25),
    "files": (_files, 0.15),
    "names": (_names, 0.1),
    "words": (_words, 0.1),
    "runs": (_runs, 0.15),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--inputs", type=int, help="so many for the decoder, however long they take")
    arguments = parser.parse_args()
    logging.getLogger("dogpile_fs").setLevel(logging.CRITICAL)  # each damage is logged, and there are thousands
    whole = sum(_PARTS[name][1] for name in arguments.only)
    result: dict[str, object] = {"seed": arguments.seed}
    violations: list[str] = []
    for name in arguments.only:
        part, share = _PARTS[name]
        began = monotonic()
        if name == "decoder" and arguments.inputs is not None:
            counts, broken = decoder(0.0, arguments.seed, arguments.inputs)
        else:
            counts, broken = part(arguments.seconds * share / whole, arguments.seed)
        print(f"{name}: {counts} in {monotonic() - began:.1f} s, {len(broken)} violations", flush=True)
        result.update(counts)
        violations += [f"{name}: {each}" for each in broken]
    result["violations"] = violations[:_TOLD]
    result["violation_count"] = len(violations)
    print("RESULT " + json.dumps(result))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
