"""A dogpile lock between processes, on files.

One thread of one process regenerates an expensive resource while all others, in all processes, go on using
the old one until the new one is ready.
"""

import sys

if sys.platform == "win32":  # pragma: no cover
    raise ImportError(
        "dogpile_fs needs POSIX file locks (fcntl), which Windows does not have; nothing here is tested there"
    )

from .dogpile import Dogpile, SyncReaderDogpile
from .errors import (
    DogpileError,
    LockFileError,
    LockTimeout,
    NeedRegenerationException,
    NotHeld,
    PathError,
    SidecarError,
    WouldDeadlock,
)
from .mutex import FileMutex
from .readwrite import ReadWriteFileLock
from .status import Status
from .version import VERSION as __version__

__all__ = [
    "Dogpile",
    "DogpileError",
    "FileMutex",
    "LockFileError",
    "LockTimeout",
    "NeedRegenerationException",
    "NotHeld",
    "PathError",
    "ReadWriteFileLock",
    "SidecarError",
    "Status",
    "SyncReaderDogpile",
    "WouldDeadlock",
    "__version__",
]
