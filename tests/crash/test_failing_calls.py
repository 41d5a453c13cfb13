"""Let a sample of the system calls fail; ``tests/campaign/failing_calls.py`` tries all of them."""

from __future__ import annotations

import errno
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import machine
from tests.support.failing import Outcome, calls_of, met
from tests.support.faults import CANNOT_FAIL, ERRORS
from tests.support.ptracing import NotTraceable
from tests.support.scenes import SCENES

pytestmark = pytest.mark.skipif(
    (sys.platform, machine.NAME) != ("linux", "x86_64"), reason="ptrace(2) and registers as Linux has them"
)

#: From 100 rounds on every call fails once; below, only every so many.
ROUNDS = int(os.environ.get("DOGPILE_FS_ROUNDS", "4"))
STRIDE = max(1, 100 // ROUNDS)
#: Decides which calls fail and with which errors. Printed, so that a failing test can be repeated.
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
def test_a_call_that_fails_raises_an_error_or_changes_nothing(scene: str, tmp_path: Path) -> None:
    print(f"DOGPILE_FS_SEED={SEED}")
    chance = random.Random(f"{SEED} {scene}")
    outcomes: Counter[str] = Counter()
    number = chance.randint(1, min(STRIDE, 4))
    while (outcome := fail(scene, number, chance.choice(ERRORS), tmp_path)) is not None:
        outcomes[outcome.kind] += 1
        number += STRIDE
    print(f"{scene}: {dict(outcomes)}")
    assert outcomes, "no call failed"


#: Defects that were fixed: a scene, the beginning of the calls each of which fails in it, and the error.
FIXED = {
    "the mutex stayed with its process": ("create, forced, Dogpile", "close(data.txt.dogpile.lock)", errno.EIO),
    "an error without a path when the mutex was released": (
        "create, forced, Dogpile",
        "flock(data.txt.dogpile.lock)",
        errno.ENOLCK,
    ),
    "the sidecar's descriptor leaked": ("pass, first, Dogpile", "stat(data.txt.dogpile)", errno.EIO),
    "the directory was reported missing": ("create, nothing yet, Dogpile", "stat(in)", errno.ESTALE),
    "a reader could not leave": (
        "pass, warm, SyncReaderDogpile",
        "flock(data.txt.dogpile.rwlock)",
        errno.ENOLCK,
    ),
    "a writer's error named no path": (
        "create, nothing yet, SyncReaderDogpile",
        "fcntl(data.txt.dogpile.rwlock)",
        errno.ENOLCK,
    ),
    "a portalocker error when a writer left": (
        "create, nothing yet, SyncReaderDogpile",
        "flock(data.txt.dogpile.rwlock)",
        errno.EIO,
    ),
    "a reader that had read all got an error": ("open, first, Datafile", "close(data.txt)", errno.EINTR),
    "an opened datafile that could not be looked at": ("open, first, Datafile", "stat(data.txt)", errno.EIO),
    "a version that could not be locked": ("open, first, DataDirectory", "flock(.dogpile-dir-", errno.ENOLCK),
    "the kept version was removed after the swap": (
        "create, stale, plain DataDirectory, keep=1",
        "fsync(in)",
        errno.EIO,
    ),
    "rollback reported no kept version": ("roll back, Datafile", "getdents64(.dogpile)", errno.EACCES),
    "a closed temp file was left": ("atomic_write, over another", "close(.dogpile-tmp-", errno.EINTR),
    "the command's error named no cause of ours": ("dogpile-fs run, stale", "pipe2(", errno.EMFILE),
    "COMMAND was reported to have made no file": ("dogpile-fs run, stale", "stat(.dogpile-new-", errno.EIO),
    "status did not name the file that it could not write": ("dogpile-fs status", "write(in.out)", errno.ENOSPC),
}


@pytest.mark.parametrize("defect", FIXED)
def test_a_fixed_defect_stays_fixed(defect: str, tmp_path: Path) -> None:
    scene, begin, code = FIXED[defect]
    number = 1
    while fail(scene, number, code, tmp_path, begin) is not None:
        number += 1
    assert number > 1, "no such call"


READING = [name for name in SCENES if name.split(",")[0] in ("pass", "open", "load") and "nothing yet" not in name]


@pytest.mark.parametrize("scene", READING)
def test_a_reader_that_meets_a_stale_handle_looks_again(scene: str, tmp_path: Path) -> None:
    """On NFS, ESTALE comes for a file that another host has replaced."""
    errors = []
    for begin in ("stat(data", "openat(data", "read(data", "pread64(data", "lseek(data"):
        number = 1
        while (outcome := fail(scene, number, errno.ESTALE, tmp_path, begin)) is not None:
            if outcome.kind not in ("correct pass", "the user's own error"):
                errors.append((outcome.call, number, outcome.kind))
            number += 1
    assert not errors


def test_a_creation_whose_lock_was_given_to_others_is_made_again(tmp_path: Path) -> None:
    """On NFS, a lock is lost when the host was cut off from the server: then each read of the file fails."""
    number = 1
    while (
        outcome := fail("refresh, stale, Datafile", number, errno.EIO, tmp_path, "pread64(data.txt.dogpile.lock)")
    ) is not None:
        assert outcome.kind == "correct pass"
        number += 1
    assert number > 2, "the lock is not looked at before the swap and before the stamp"


def test_the_calls_that_are_left_out_cannot_fail(tmp_path: Path) -> None:
    """All calls that a creation is made of are among those that fail."""
    try:
        calls = {call.split("(")[0] for call in calls_of("create, stale, Datafile", tmp_path)}
    except NotTraceable as error:
        pytest.skip(str(error))
    assert not calls & {*CANNOT_FAIL}
    assert calls >= {
        "openat",
        "stat",
        "lseek",
        "pread64",
        "pwrite64",
        "flock",
        "fcntl",
        "fsync",
        "rename",
        "close",
    }
