"""The decoder under atheris: libFuzzer keeps the inputs that reach new lines of it, and goes on from those.

It runs in a process of its own, because libFuzzer ends the process that it is started in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from random import Random

__all__ = ["is_there", "tried"]

#: Records to begin with.
_SEEDS = 500
_MOST_BYTES = 2048


def is_there() -> bool:
    """Whether atheris is installed."""
    return find_spec("atheris") is not None


def tried(seconds: int, seed: int) -> tuple[int, list[str]]:
    """Return how many inputs were tried in so many *seconds*, and a description of the one that broke a
    promise."""
    with tempfile.TemporaryDirectory() as directory:
        words = [sys.executable, "-m", __name__, directory, str(seconds), str(seed)]
        ended = subprocess.run(words, capture_output=True, text=True, errors="replace")
        counted = re.search(r"stat::number_of_executed_units: (\d+)", ended.stderr)
        broken = [f"{path.name}: {path.read_bytes()!r}" for path in Path(directory).glob("broken-*")]
        if ended.returncode or counted is None:
            broken.append(f"atheris ended with status {ended.returncode}: {ended.stderr[-2000:]}")
        return (int(counted[1]) if counted else 0), broken


def _fuzz(directory: str, seconds: str, seed: str) -> None:
    import atheris

    # Imports in here are instrumented; earlier ones are not.
    with atheris.instrument_imports(include=["dogpile_fs"]):
        from .mutated_records import MutatedRecords
        from .sound_records import check

    corpus = Path(directory, "corpus")
    corpus.mkdir()
    records = MutatedRecords(Random(seed))
    for number in range(_SEEDS):
        (corpus / str(number)).write_bytes(records.next())

    def one(data: bytes) -> None:
        check(data)

    def mutated(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.25:
            data = atheris.Mutate(data, most)
        return MutatedRecords(random).altered(data)[:most]

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-max_len={_MOST_BYTES}",
            "-print_final_stats=1",
            f"-artifact_prefix={directory}{os.sep}broken-",
            str(corpus),
        ],
        one,
        custom_mutator=mutated,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(*sys.argv[1:])
