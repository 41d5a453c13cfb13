"""The trial of NFS: a datafile on a real mount, between guests of User Mode Linux.

    python -m tests.campaign.nfs --rounds 5
    python -m tests.campaign.nfs --trial cut_off --keep /tmp/nfs

A server and two clients, each a Linux of its own with this machine's root read-only, are joined by a bridge. It
needs root, and Debian's packages user-mode-linux and nfs-kernel-server; without them it is skipped, and says so.
Each round boots the guests and makes all trials.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from .guests import CannotBoot, booted, in_namespaces, refuse_unless_bootable
from .trials import TRIALS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, metavar="N")
    parser.add_argument("--trial", choices=sorted(TRIALS), action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the trial without a fault; default: 60")
    parser.add_argument("--options", default="hard", help="of the mounts; default: hard")
    parser.add_argument("--lease", type=int, default=10, help="seconds, of the server; default: 10, its least")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave records and consoles there")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # namespaces of its own
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    if options.inside:
        return _rounds(options)
    try:
        refuse_unless_bootable()
    except CannotBoot as reason:
        print(f"skipped: {reason}")
        return 0
    return in_namespaces(sys.executable, "-m", __package__, "--inside", *words)


def _rounds(options: argparse.Namespace) -> int:
    broken, figures = 0, defaultdict[tuple[str, str], list[float]](list)
    counts = dict.fromkeys(options.trial or TRIALS, 0)
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="nfs-") as temporary:
            directory = (options.keep or Path(temporary)) / str(number)
            with booted(directory, options.options, options.lease) as fleet:
                for name in counts:
                    began, violations = time.monotonic(), list[str]()
                    try:
                        for found in TRIALS[name](fleet, name, number, options.seconds):
                            if isinstance(found, str):
                                violations.append(found)
                            else:
                                figures[name, found[0]].append(found[1])
                    except Exception:
                        violations.append(f"the trial has failed: {traceback.format_exc()}")
                    counts[name] += 1
                    broken += bool(violations)
                    took = time.monotonic() - began
                    print(f"round {number}, {name}: {len(violations)} violations in {took:.0f} s", flush=True)
                    for each in violations[:10]:
                        print(f"    {each}", flush=True)
    for (name, figure), values in figures.items():
        text = f"sum {sum(values):.0f}, median {statistics.median(values):.2f}, most {max(values):.2f}"
        print(f"{name}: {figure}: {len(values)} times, {text}")
    print(f"{sum(counts.values())} trials, {broken} with violations")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
