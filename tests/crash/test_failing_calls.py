"""System calls that fail, some of all; ``tests/campaign/failing_calls.py`` meets every one of them."""

from __future__ import annotations

import errno
import os
import platform
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.failing import Outcome, calls_of, met
from tests.support.faults import CANNOT_FAIL, ERRORS
from tests.support.ptracing import NotTraceable
from tests.support.scenes import SCENES

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="ptrace(2) and registers as Linux has them"
)

#: From 100 on every call has its turn; below only every so many.
ROUNDS = int(os.environ.get("DOGPILE_FS_ROUNDS", "4"))
STRIDE = max(1, 100 // ROUNDS)
#: Decides where the first call is, and which errors are met. Printed, so that a failure can be met again.
SEED = int(os.environ.get("DOGPILE_FS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)


def fail(scene: str, number: int, code: int, directory: Path, begin: str = "") -> Outcome | None:
    try:
        outcome = met(scene, number, code, directory, begin)
    except NotTraceable as error:
        pytest.skip(str(error))
    if outcome is not None:
        assert not outcome.wrong, (
            f"{outcome.call}, call {number}, failed with {errno.errorcode[code]}: " + "\n".join(outcome.wrong)
        )
    return outcome


@pytest.mark.parametrize("scene", [name for name in SCENES if "as a program" not in name])
def test_whichever_call_fails_it_is_told_or_makes_no_difference_and_all_go_on(scene: str, tmp_path: Path) -> None:
    print(f"DOGPILE_FS_SEED={SEED}")
    chance = random.Random(f"{SEED} {scene}")
    outcomes: Counter[str] = Counter()
    number = chance.randint(1, min(STRIDE, 4))
    while (outcome := fail(scene, number, chance.choice(ERRORS), tmp_path)) is not None:
        outcomes[outcome.kind] += 1
        number += STRIDE
    print(f"{scene}: {dict(outcomes)}")
    assert outcomes, "no call failed"


#: What was not so once: a scene, how the calls are told of which each failed in it, and the error.
ONCE = {
    "the mutex stayed with its process": ("create, forced, Dogpile", "close(data.txt.dogpile.lock)", errno.EIO),
    "an error without a path when the mutex was released": (
        "create, forced, Dogpile",
        "flock(data.txt.dogpile.lock)",
        errno.ENOLCK,
    ),
    "the sidecar's descriptor leaked": ("pass, first, Dogpile", "newfstatat(data.txt.dogpile)", errno.EIO),
    "the directory was said not to exist": ("pass, first, Dogpile", "newfstatat(in)", errno.ESTALE),
    "a reader could not leave": (
        "pass, warm, SyncReaderDogpile",
        "flock(data.txt.dogpile.rwlock)",
        errno.ENOLCK,
    ),
    "a writer was told of no path": (
        "create, nothing yet, SyncReaderDogpile",
        "fcntl(data.txt.dogpile.rwlock)",
        errno.ENOLCK,
    ),
    "a portalocker error when a writer left": (
        "create, nothing yet, SyncReaderDogpile",
        "flock(data.txt.dogpile.rwlock)",
        errno.EIO,
    ),
    "who had read all was told that it failed": ("open, first, Datafile", "close(data.txt)", errno.EINTR),
    "an opened datafile that could not be looked at": ("open, first, Datafile", "newfstatat(data.txt)", errno.EIO),
    "a version that could not be locked": ("open, first, DataDirectory", "flock(.dogpile-dir-", errno.ENOLCK),
    "what was kept was removed after the swap": (
        "create, stale, plain DataDirectory, keep=1",
        "fsync(in)",
        errno.EIO,
    ),
    "nothing was said to be kept": ("roll back, Datafile", "getdents64(in)", errno.EACCES),
    "a closed temp file was left": ("atomic_write, over another", "close(.dogpile-tmp-", errno.EINTR),
    "the command said only what the system said": ("dogpile-fs run, stale", "pipe2(", errno.EMFILE),
    "COMMAND was said to have made no file": ("dogpile-fs run, stale", "newfstatat(.dogpile-new-", errno.EIO),
    "nobody knew what could not be written": ("dogpile-fs status", "write(in.out)", errno.ENOSPC),
}


@pytest.mark.parametrize("what", ONCE)
def test_what_was_not_so_once(what: str, tmp_path: Path) -> None:
    scene, begin, code = ONCE[what]
    number = 1
    while fail(scene, number, code, tmp_path, begin) is not None:
        number += 1
    assert number > 1, "no such call"


def test_what_is_left_alone_is_what_cannot_fail(tmp_path: Path) -> None:
    """And what is there to fail is what a creation is made of."""
    try:
        calls = {call.split("(")[0] for call in calls_of("create, stale, Datafile", tmp_path)}
    except NotTraceable as error:
        pytest.skip(str(error))
    assert not calls & {*CANNOT_FAIL}
    assert calls >= {
        "openat",
        "newfstatat",
        "lseek",
        "pread64",
        "pwrite64",
        "flock",
        "fcntl",
        "fsync",
        "rename",
        "close",
    }
