"""A hostile user beside workers, who plants files and links at random; no file elsewhere may change.

There are two arenas. One is a sticky directory that every user may write, where the hostile user comes first or in
between. The other is a directory of the hostile user's own, in which root works, and where the hostile user may
exchange every file at any moment. In both, workers of root's (and in the first of another user's) create, stamp,
swap, roll back and write, each with a timeout. Violations are: a file elsewhere that was changed in any way, an
exception that is no :class:`DogpileError`, a worker that hangs, and a resource that cannot be created any more
after the hostile user has ended and its files are removed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dogpile_fs import DataDirectory, Datafile, DogpileError, SyncReaderDogpile, atomic_write
from dogpile_fs._layout import temp_affixes
from tests.security.neighbours import NEIGHBOUR, OTHER, ROOT, Outside, acting_as
from tests.support.places import writing

HANG = 10.0
PROTECTION = Path("/proc/sys/fs/protected_hardlinks")
SUFFIXES = ("", ".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock")


def deeds(arena: Path, private: Path) -> list[tuple[str, Callable[[], object]]]:
    """Return what a worker does, by name, with the resources of *arena*."""
    path = str(arena / "resource")
    dogpile = SyncReaderDogpile(0, path, timeout=0.2, mode=0o666)
    shared = Datafile(
        private / "shared", 0, writing("ours"), directory=arena, readers=True, timeout=0.2, mode=0o666
    )
    datafile = Datafile(
        arena / "report", 0, writing("ours"), keep=2, skip_unchanged=True, timeout=0.2, durable=False
    )
    index = DataDirectory(arena / "index", 0, os.mkdir, keep=1, timeout=0.2, durable=False)

    def swap_in() -> None:
        with dogpile.acquire_write_lock(timeout=0.2):
            pass

    def enter() -> None:
        with dogpile.acquire(swap_in):
            pass

    def write() -> None:
        with atomic_write(arena / "settings", "w", durable=False) as file:
            file.write("ours")

    return [
        ("enter", enter),
        ("refresh", lambda: dogpile.refresh(swap_in, force=True)),
        ("invalidate", dogpile.invalidate),
        ("status", dogpile.status),
        ("elsewhere", lambda: shared.refresh(force=True)),
        ("swap", lambda: datafile.refresh(force=True)),
        ("roll back", datafile.rollback),
        ("load", lambda: datafile.load(lambda file: file.read(10))),
        ("swap directory", lambda: index.refresh(force=True)),
        ("roll directory back", index.rollback),
        ("write", write),
    ]


def work(uid: int, all_deeds: list[tuple[str, Callable[[], object]]], seed: int, report: int) -> None:
    """Run a worker, which reports the end of each operation on *report*, a line each."""
    chance = random.Random(seed)
    with acting_as(uid):
        while True:
            name, deed = chance.choice(all_deeds)
            try:
                deed()
                end = "done"
            except DogpileError as error:
                end = type(error).__name__
            except Exception:
                end = "violation: " + traceback.format_exc()[-600:]
            os.write(report, (json.dumps([name, end]) + "\n").encode())


class Hostile:
    """The user who plants files in *arena* that lead other users to the files *outside*."""

    def __init__(self, arena: Path, outside: Outside, chance: random.Random) -> None:
        self.arena = arena
        self.is_sticky = bool(arena.stat().st_mode & stat.S_ISVTX)
        self.chance = chance
        self.leads = [outside.canary, outside.directory / "new", outside.within, outside.directory]
        self.fds: list[int] = []

    def live(self) -> None:
        with acting_as(NEIGHBOUR, mask=0):
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            while True:
                with suppress(OSError):
                    self.strike(str(self.arena / self.name()))
                time.sleep(self.chance.choice((0, 0, 0.0002, 0.002)))

    def name(self) -> str:
        """Return a name that the workers use, whether there is a file or not."""
        there = [
            name
            for name in os.listdir(self.arena)
            # The directory's owner may rename the one in which another user builds: SECURITY.rst says what then.
            if name.startswith((".dogpile", "shared")) and not re.fullmatch(r"\.dogpile-\d+", name)
        ]
        if there and self.chance.random() < 0.5:
            return self.chance.choice(there)
        own = self.chance.choice(("report", "index", "settings", "resource"))
        if self.chance.random() < 0.2:
            kind = self.chance.choice(("tmp", "new", "kept", "dir", "old"))
            if self.is_sticky and self.chance.random() < 0.02:
                return f".dogpile-{self.chance.choice((ROOT, OTHER))}"
            begin, end = temp_affixes(kind, str(self.arena / own))
            return begin + self.chance.choice(("0", "1", "kept", "9-8", "1-0")) + end
        return own + self.chance.choice(SUFFIXES)

    def strike(self, place: str) -> None:
        lead = self.chance.choice(self.leads)
        kinds = (self.link, self.fifo, self.file, self.tree, self.socket, self.hard_link, self.remove, self.hold)
        self.chance.choice((*kinds, self.exchange, self.link, self.hard_link))(place, lead)

    def link(self, place: str, lead: Path) -> None:
        new = f"{place}.{self.chance.random()}"
        os.symlink(lead, new)
        self.put(new, place)

    def hard_link(self, place: str, lead: Path) -> None:
        new = f"{place}.{self.chance.random()}"
        os.link(lead, new, follow_symlinks=False)  # the kernel's protection may refuse it
        self.put(new, place)

    def put(self, new: str, place: str) -> None:
        try:
            os.replace(new, place)
        except OSError:
            os.unlink(new)

    def fifo(self, place: str, lead: Path) -> None:
        os.mkfifo(place)

    def socket(self, place: str, lead: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place)

    def file(self, place: str, lead: Path) -> None:
        with open(place, "r+b" if os.path.lexists(place) else "wb") as file:
            file.write(self.chance.choice((b"", b"scribble", self.chance.randbytes(600))))
            file.truncate(self.chance.choice((0, 10, 1 << 40)))
            os.chmod(place, self.chance.choice((0, 0o600, 0o666, 0o777)))

    def tree(self, place: str, lead: Path) -> None:
        os.makedirs(os.path.join(place, "within"))

    def remove(self, place: str, lead: Path) -> None:
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place, ignore_errors=True)
        else:
            os.unlink(place)

    def exchange(self, place: str, lead: Path) -> None:
        """Put a link in the place of the file that is there, which only the directory's owner may."""
        os.rename(place, f"{place}.{self.chance.random()}")
        os.symlink(lead, place)

    def hold(self, place: str, lead: Path) -> None:
        """Lock it for as long as the descriptor is kept, or have a lease on it."""
        while len(self.fds) > 3:
            os.close(self.fds.pop(0))
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        self.fds.append(fd)
        fcntl.flock(fd, self.chance.choice((fcntl.LOCK_SH, fcntl.LOCK_EX)) | fcntl.LOCK_NB)
        if self.chance.random() < 0.3:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)


@contextmanager
def hard_links_unprotected(wanted: bool) -> Iterator[None]:
    """Let every user make hard links to any file, as long as the block lasts, if that is *wanted*."""
    before = PROTECTION.read_text()
    if wanted:
        PROTECTION.write_text("0")
    try:
        yield
    finally:
        PROTECTION.write_text(before)


def born(life: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            life()
        finally:
            os._exit(1)
    return pid


def fight(
    arena: Path, base: Path, outside: Outside, users: tuple[int, ...], seed: int, seconds: float
) -> Counter[str]:
    """Run workers of *users* and the hostile user in *arena*, and count what happened."""
    read, report = os.pipe()
    os.set_blocking(read, False)
    lives = []
    for number, uid in enumerate(users):
        private = base / f"private-{arena.name}-{uid}"
        private.mkdir(exist_ok=True)
        os.chown(private, uid, uid)
        # Made before any file is planted, as by a server at its start.
        lives.append(partial(work, uid, deeds(arena, private), seed + number, report))
    workers = [born(life) for life in lives]
    hostile = [born(Hostile(arena, outside, random.Random(seed + 100 + n)).live) for n in range(2)]
    ends: Counter[str] = Counter()
    unread, heard = b"", time.monotonic()
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            time.sleep(0.05)
            with suppress(BlockingIOError):
                while data := os.read(read, 1 << 16):
                    unread, heard = unread + data, time.monotonic()
            *lines, unread = unread.split(b"\n")
            for line in lines:
                name, end = json.loads(line)
                ends[
                    f"{name}: {end}" if "violation" in end else f"{name}: {'done' if end == 'done' else 'error'}"
                ] += 1
            if time.monotonic() - heard > HANG:
                ends[f"violation: for {HANG} s no worker in {arena.name} has done anything"] += 1
                break
    finally:
        for pid in hostile + workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(read)
        os.close(report)
    return ends


def aftermath(arena: Path) -> str:
    """Return what is wrong after the hostile user has ended, and root has removed its files."""
    for entry in list(os.scandir(arena)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    for name, deed in deeds(arena, arena):
        if "roll" not in name:
            try:
                deed()
            except Exception as error:
                return f"afterwards, in {arena.name}: {name}: {error}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--unprotected",
        action="store_true",
        help="turn fs.protected_hardlinks off meanwhile, for the whole machine",
    )
    options = parser.parse_args()
    if os.geteuid() != 0 or not PROTECTION.exists():
        print(
            "RESULT " + json.dumps({"skipped": "only root can act in the name of other users", "violations": []})
        )
        return 2
    base = Path(tempfile.mkdtemp(prefix="dogpile_fs-"))
    base.chmod(0o755)
    result: Counter[str] = Counter()
    violations = []
    logging.getLogger("dogpile_fs").setLevel(logging.CRITICAL)  # planted files are logged, many times a second
    try:
        sticky, theirs = base / "sticky", base / "theirs"
        for arena in (sticky, theirs):
            arena.mkdir()
        sticky.chmod(0o1777)
        os.chown(theirs, NEIGHBOUR, NEIGHBOUR)
        outside = Outside(base / "outside")
        rounds = max(1, round(options.seconds / 30))
        for number in range(2 * rounds):
            arena, users = ((sticky, (ROOT, OTHER, OTHER)), (theirs, (ROOT, ROOT)))[number % 2]
            seed = options.seed + 1000 * number
            with hard_links_unprotected(options.unprotected):
                result += fight(arena, base, outside, users, seed, options.seconds / rounds / 2)
            try:
                outside.assert_untouched()
            except AssertionError as error:
                violations.append(f"in {arena.name}, seed {seed}: {error}"[:1500])
                break
            if wrong := aftermath(arena):
                violations.append(wrong)
            print(
                f"round {number + 1} of {2 * rounds}, in {arena.name}: {sum(result.values())} deeds so far",
                flush=True,
            )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    violations += [f"{count} times {what}" for what, count in result.items() if "violation" in what]
    counts = {what: count for what, count in sorted(result.items()) if "violation" not in what}
    print("RESULT " + json.dumps({"deeds": sum(result.values()), "ends": counts, "violations": violations}))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
