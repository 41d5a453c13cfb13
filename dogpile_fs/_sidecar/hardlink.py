"""A coordination file that has a second name: it is replaced, not written, because it may be another user's file.

dogpile_fs never makes such names. Another user may have made one that leads to a victim's file (where the sysctl
``fs.protected_hardlinks`` is off), or a backup program has (``cp -al``, rsnapshot).
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

from .._os import permissions
from .._os.openfile import OpenFile
from ..errors import ForeignFile
from .change import Change

__all__ = ["replace"]

log = logging.getLogger("dogpile_fs")

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(
    path: str,
    found: os.stat_result,
    contents: bytes,
    mode: int | None,
    is_ours: bool,
    change: Change,
    crossings: int,
) -> bool:
    """Put a file with *contents* in the place of the one that was *found* at *path*, in one step.

    :param mode: permission bits of the new file; ``None``: what the umask leaves of 0o666.
    :param is_ours: the file found is a copy of ours, whose permissions the new one gets.
    :param change: the change that this is for, with so many *crossings* when *contents* were made.
    :returns: False, and nothing was replaced, if this thread has made another change in the meantime.
    :raises ForeignFile: if this user may not.
    """
    temporary = f"{path}.{os.urandom(3).hex()}"
    try:
        file = OpenFile(temporary).open(_MAKE, 0o666 if mode is None else mode)
        try:
            if is_ours:
                permissions.inherit(file.fd, permissions.of(found, path))
            elif mode is not None:
                os.fchmod(file.fd, mode)  # without the umask
            if os.write(file.fd, contents) != len(contents):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # No signal handler runs between this comparison and the rename.
            if change.crossings != crossings:
                os.unlink(temporary)
                return False
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            file.close()
    except PermissionError as error:
        with suppress(FileNotFoundError):
            later = os.lstat(path)
            if later.st_nlink == 1 or not os.path.samestat(found, later):
                return False  # it has one name by now, or another file is there: look again
        text = (
            f"it is a hard link, one of {found.st_nlink} names of a file (a backup's?): another user may have "
            "planted it, so it is not written, and this user may not replace it"
        )
        raise ForeignFile(error.errno, text, path) from error
    change.after_unlocking.append(
        lambda: log.warning("%r was a hard link, one of %d names of a file; it was replaced", path, found.st_nlink)
    )
    return True
