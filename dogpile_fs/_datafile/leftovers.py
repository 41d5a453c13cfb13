"""Remove what killed creators and writers left.

One rule for all: what has a name of ours and is locked by no process is a leftover. A file of ``atomic_write``,
and a finished version of a directory, are locked by the process that made them. What a creator builds is not: only
the holder of the creation mutex removes such names.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from contextlib import closing, suppress
from fcntl import LOCK_EX

from .._os import replace
from .._os.openfile import OpenFile
from .names import Names
from .version_file import lock

__all__ = ["remove_leftovers"]

log = logging.getLogger("dogpile_fs")


def remove_leftovers(names: Names, listing: Iterable[str]) -> None:
    """Remove what begins as *names* do in *listing*, the names in their directory, and no process has locked.

    So what a program has put beside a leftover goes as well, such as a database's log.
    """
    for name in listing:
        if name.startswith(names.begin):
            path = os.path.join(names.directory, name)
            try:
                _remove_unless_locked(path)
            except (OSError, NotImplementedError) as error:  # another user's, perhaps; it blocks no creation
                log.warning("%r was left and cannot be removed: %s", path, error)


def _remove_unless_locked(path: str) -> None:
    found = replace.lstat(path)
    if found is None:
        return
    is_directory = stat.S_ISDIR(found.st_mode)
    if not (is_directory or stat.S_ISREG(found.st_mode)):
        replace.remove(path)  # no process of ours can have locked it
        return
    try:
        leftover = _lock(path, is_directory)
    except PermissionError:
        if not is_directory and found.st_nlink > 1:
            os.unlink(path)  # its other names keep their permissions
            return
        # A umask has taken its owner's rights away. Not all systems can do this without a link.
        os.chmod(path, stat.S_IRWXU, follow_symlinks=False)
        leftover = _lock(path, is_directory)
    if leftover is not None:
        with closing(leftover):
            replace.remove(path)


def _lock(path: str, is_directory: bool) -> OpenFile | None:
    if is_directory:
        return lock(path, LOCK_EX, os.O_DIRECTORY)
    with suppress(PermissionError):
        return lock(path, LOCK_EX, os.O_RDWR)  # NFS locks exclusively only what is open for writing
    return lock(path, LOCK_EX)
