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
    from ._datafile.atomic import atomic_write
    from ._datafile.datadirectory import DataDirectory
    from ._datafile.datafile import Datafile
    from ._dogpile.dogpile import Dogpile, SyncReaderDogpile
    from ._dogpile.status import Status
    from ._locks.mutex import FileMutex
    from ._locks.readwrite import ReadWriteFileLock
    from .errors import (
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

__all__ = [
    "DataDirectory",
    "Datafile",
    "DatafileError",
    "DatafileExists",
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
    "atomic_write",
]

_ROOMS = {
    "DataDirectory": "_datafile.datadirectory",
    "Datafile": "_datafile.datafile",
    "Dogpile": "_dogpile.dogpile",
    "FileMutex": "_locks.mutex",
    "ReadWriteFileLock": "_locks.readwrite",
    "Status": "_dogpile.status",
    "SyncReaderDogpile": "_dogpile.dogpile",
    "atomic_write": "_datafile.atomic",
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
