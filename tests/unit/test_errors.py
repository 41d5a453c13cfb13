"""The classes of the errors, as users catch them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dogpile_fs
from dogpile_fs import (
    DatafileError,
    DatafileExists,
    DogpileError,
    LockFileError,
    LockTimeout,
    NeedRegenerationException,
    NotHeld,
    PathError,
    SidecarError,
    WouldDeadlock,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (LockTimeout, TimeoutError),
        (WouldDeadlock, RuntimeError),
        (NotHeld, RuntimeError),
        (PathError, OSError),
        (LockFileError, OSError),
        (SidecarError, OSError),
        (DatafileError, OSError),
        (DatafileExists, FileExistsError),
    ],
)
def test_every_error_is_a_dogpile_error_and_a_built_in_one(
    error: type[DogpileError], builtin: type[Exception]
) -> None:
    assert issubclass(error, DogpileError)
    assert issubclass(error, builtin)


def test_only_the_users_signal_is_no_dogpile_error() -> None:
    public = [getattr(dogpile_fs, name) for name in dogpile_fs.__all__]
    errors = [each for each in public if isinstance(each, type) and issubclass(each, Exception)]
    assert [each for each in errors if not issubclass(each, DogpileError)] == [NeedRegenerationException]


def test_on_windows_the_import_says_what_is_missing() -> None:
    script = "import sys; sys.platform = 'win32'; import dogpile_fs"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("ImportError: dogpile_fs needs POSIX file locks")
