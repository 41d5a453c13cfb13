"""A dogpile lock between processes, on files.

One thread of one process regenerates an expensive resource while all others, in all processes, go on using
the old one until the new one is ready.
"""

import sys

if sys.platform == "win32":  # pragma: no cover
    raise ImportError(
        "dogpile_fs needs POSIX file locks (fcntl), which Windows does not have; nothing here is tested there"
    )

from .version import VERSION as __version__

# Every name is imported when it is asked for: a cron job that finds its file fresh needs none of them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._cached_file import cached_file
    from ._datafile.atomic import atomic_write
    from ._datafile.datadirectory import DataDirectory
    from ._datafile.datafile import Datafile
    from ._datafile.datafiles import Datafiles
    from ._datafile.target import Target
    from ._dogpile.dogpile import Dogpile, SyncReaderDogpile
    from ._dogpile.event import Event
    from ._dogpile.origin import Origin
    from ._dogpile.outcome import Outcome
    from ._dogpile.policy import Backoff, Policy
    from ._dogpile.status import Status
    from ._locks.key_mutexes import KeyMutexes
    from ._locks.mutex import FileMutex
    from ._locks.readwrite import ReadWriteFileLock
    from .errors import (
        CreationFailed,
        DatafileError,
        DatafileExists,
        DogpileError,
        LockFileError,
        LockTimeout,
        NeedRegenerationException,
        NotHeld,
        OriginError,
        OriginUnfit,
        PathError,
        SidecarError,
        WouldDeadlock,
    )

__all__ = [
    "Backoff",
    "CreationFailed",
    "DataDirectory",
    "Datafile",
    "DatafileError",
    "DatafileExists",
    "Datafiles",
    "Dogpile",
    "DogpileError",
    "Event",
    "FileMutex",
    "KeyMutexes",
    "LockFileError",
    "LockTimeout",
    "NeedRegenerationException",
    "NotHeld",
    "Origin",
    "OriginError",
    "OriginUnfit",
    "Outcome",
    "PathError",
    "Policy",
    "ReadWriteFileLock",
    "SidecarError",
    "Status",
    "SyncReaderDogpile",
    "Target",
    "WouldDeadlock",
    "__version__",
    "atomic_write",
    "cached_file",
]

_ROOMS = {
    "Backoff": "_dogpile.policy",
    "DataDirectory": "_datafile.datadirectory",
    "Datafile": "_datafile.datafile",
    "Datafiles": "_datafile.datafiles",
    "Dogpile": "_dogpile.dogpile",
    "Event": "_dogpile.event",
    "FileMutex": "_locks.mutex",
    "KeyMutexes": "_locks.key_mutexes",
    "Origin": "_dogpile.origin",
    "Outcome": "_dogpile.outcome",
    "Policy": "_dogpile.policy",
    "ReadWriteFileLock": "_locks.readwrite",
    "Status": "_dogpile.status",
    "SyncReaderDogpile": "_dogpile.dogpile",
    "Target": "_datafile.target",
    "atomic_write": "_datafile.atomic",
    "cached_file": "_cached_file",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_ROOMS.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
