"""Power cuts, by the hundred, during swaps and stamps: ``python -m tests.campaign.power --cuts 200``.

Processes swap and stamp (:mod:`.swapping`) on a file system whose disk logs every write and every flush
(:mod:`.blocklog`). :mod:`.cuts` makes the states that a power cut may leave. Each is mounted, so that its journal
replays, and checked (:mod:`.aftermath`). With ``durable=True`` each version must be there whose call had returned.
With ``durable=False`` losses are only counted; but the status must be true for the file that is there, and
everything must work on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.processes import ended_well, in_child

from .aftermath import Finding, look_around
from .blocklog import recorded
from .cuts import Cut, Replay, copy
from .mounts import CannotMount, keep_mounts_to_ourselves, make_image, mounted, refuse_unless_mountable
from .swapping import Story, swap_for_a_while

_CUTS_PER_RUN = 100
_RUN_SECONDS = 5.0
_PATIENCE = 60
_SIZE = 512 << 20
_TOLD = 20

#: The mount options of each, one run after the other; the first is the usual way.
_OPTIONS = {
    "ext4": ("", "noauto_da_alloc,commit=1", "data=writeback,noauto_da_alloc"),
    "xfs": ("", "logbsize=256k", "wsync"),
    "btrfs": ("", "commit=1", "flushoncommit"),
}


@dataclass
class Tally:
    """The findings after all cuts of one kind."""

    cuts: int = 0
    runs: int = 0
    generations: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    unflushed_blocks: int = 0
    forgotten_invalidations: int = 0
    fresh_but_not_whole: int = 0

    def told(self) -> dict[str, object]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def add(self, cut: Cut, unflushed: int, finding: Finding) -> None:
        self.cuts += 1
        self.fates[cut.fate] += 1
        self.unflushed_blocks += unflushed
        self.states[f"{finding.state} by {finding.by}"] += 1
        self.forgotten_invalidations += finding.forgotten
        self.fresh_but_not_whole += finding.served
        for what, outcome in finding.outcomes.items():
            self.outcomes.setdefault(what, Counter())[outcome] += 1


class Campaign:
    """Do all runs, in *directory*."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.tallies: dict[str, Tally] = {}
        self.violations: list[str] = []
        self._seconds_per_cut = 0.5

    def cuts_within(self, seconds: float) -> int:
        """Return about how many cuts a run of so many seconds has time for."""
        return min(_CUTS_PER_RUN, max(1, int((seconds - _RUN_SECONDS) / self._seconds_per_cut)))

    def run(self, kind: str, cuts: int, *, durable: bool) -> None:
        """Record one run on a file system of *kind*, and check so many cuts of it."""
        name = f"{kind}, durable={durable}"
        tally = self.tallies.setdefault(name, Tally())
        options = _OPTIONS[kind][tally.runs % len(_OPTIONS[kind]) if durable else 0]
        seed = f"{self.seed} {name} {tally.runs}"
        tally.runs += 1
        with tempfile.TemporaryDirectory(dir=self.directory) as made:
            directory = Path(made)
            try:
                story = self._record(kind, options, seed, directory, durable=durable)
            except AssertionError as error:
                self.violations.append(f"{name}, seed {self.seed}, run {tally.runs}, before any cut: {error}")
                return
            end = story.at(story.until)
            tally.generations.update(end.begun)
            chance = random.Random(seed)
            began = time.monotonic()
            with _replay(directory) as replay:
                for cut in replay.cuts(cuts, story.since, story.until, chance, in_time=not durable):
                    image = directory / "cut"
                    unflushed = replay.make(cut, image, chance)
                    finding = _after(kind, image, directory, story, cut, durable=durable)
                    tally.add(cut, unflushed, finding)
                    where = f"{name}, seed {self.seed}, run {tally.runs}, {options or 'defaults'}, {cut}"
                    self.violations.extend(f"{where}: {each}" for each in finding.violations)
            self._seconds_per_cut = (time.monotonic() - began) / cuts
        print(f"{name}: {tally.cuts} cuts, {len(self.violations)} violations", flush=True)

    def _record(self, kind: str, options: str, seed: str, directory: Path, *, durable: bool) -> Story:
        base, disk, device = directory / "base", directory / "disk", directory / "device"
        make_image(base, kind, _SIZE)
        copy(base, disk)
        with (
            recorded(disk, directory / "log", device),
            mounted(kind, device, directory / "live", options) as live,
        ):
            return swap_for_a_while(live, directory / "story", _RUN_SECONDS, seed, durable=durable)


@contextmanager
def _replay(directory: Path) -> Iterator[Replay]:
    (directory / "disk").unlink()
    replay = Replay(directory / "base", directory / "log", directory)
    try:
        yield replay
    finally:
        replay.close()


def _after(kind: str, image: Path, directory: Path, story: Story, cut: Cut, *, durable: bool) -> Finding:
    """Check *image* in a process of its own, because the files that it keeps open must not keep *image*
    mounted."""
    told = directory / "finding"
    told.unlink(missing_ok=True)
    try:
        with mounted(kind, image, directory / "after", "nouuid" if kind == "xfs" else "") as place:

            def look() -> None:
                signal.alarm(_PATIENCE)
                told.write_text(json.dumps(asdict(look_around(place, story.at(cut.at), durable=durable))))

            if not ended_well(in_child(look)):
                return Finding(violations=["the process that checked the image did not end"])
    except CannotMount as error:
        return Finding(violations=[str(error)])
    return Finding(**json.loads(told.read_text()))


def _cut_often(cuts: int, campaign: Campaign, kinds: list[tuple[str, bool]]) -> None:
    """Yield so many cuts of each kind: file system, durable."""
    for done in range(0, cuts, _CUTS_PER_RUN):
        for filesystem, durable in kinds:
            campaign.run(filesystem, min(cuts - done, _CUTS_PER_RUN), durable=durable)


def _cut_for(seconds: float, campaign: Campaign, kinds: list[tuple[str, bool]]) -> None:
    """Yield as many cuts as there is time for, and about as long for each kind."""
    end = time.monotonic() + seconds
    while True:
        for number, (filesystem, durable) in enumerate(kinds):
            share = (end - time.monotonic()) / (len(kinds) - number)
            campaign.run(filesystem, campaign.cuts_within(share), durable=durable)
        if time.monotonic() > end - _RUN_SECONDS * len(kinds):
            return


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.power", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for about how long, unless --cuts is given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cuts", type=int, help="so many with durable=True and so many without, per file system")
    parser.add_argument("--filesystems", nargs="+", choices=list(_OPTIONS), default=["ext4", "xfs"])
    parser.add_argument("--directory", help="where the disks are; default: in memory, if they fit")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is unmounted
    try:
        refuse_unless_mountable(*options.filesystems, "fuse")
        keep_mounts_to_ourselves()
    except CannotMount as error:
        print("RESULT " + json.dumps({"skipped": str(error), "violations": []}))
        return 2
    directory = options.directory or ("/dev/shm" if os.path.ismount("/dev/shm") else None)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dogpile-fs-power-", dir=directory) as made:
        campaign = Campaign(Path(made), options.seed)
        kinds = [(filesystem, durable) for filesystem in options.filesystems for durable in (True, False)]
        try:
            if options.cuts is None:
                _cut_for(options.seconds, campaign, kinds)
            else:
                _cut_often(options.cuts, campaign, kinds)
        except CannotMount as error:
            print("RESULT " + json.dumps({"skipped": str(error), "violations": []}))
            return 2
    result = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - began, 1),
        **{name: tally.told() for name, tally in campaign.tallies.items()},
        "violations": campaign.violations[:_TOLD],
        "violations_in_all": len(campaign.violations),
    }
    print("RESULT " + json.dumps(result))
    return 1 if campaign.violations else 0


if __name__ == "__main__":
    sys.exit(main())
