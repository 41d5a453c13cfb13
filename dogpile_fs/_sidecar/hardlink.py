"""A coordination file that has another name as well: not written, because nobody knows what else it is.

We never make such names. Another user may have made one that leads to a file of his victim's (where the sysctl
``fs.protected_hardlinks`` is off), or a backup has (``cp -al``, rsnapshot). So a new file takes its place.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

from .._os import permissions
from .._os.openfile import Description
from ..errors import Foreign

__all__ = ["replace"]

log = logging.getLogger("dogpile_fs")

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(path: str, found: os.stat_result, contents: bytes, *, mode: int | None, is_ours: bool) -> None:
    """Put a file with *contents* in the place of the one that was *found* at *path*, in one step.

    :param mode: permission bits of the new one; ``None``: what the umask leaves of 0o666.
    :param is_ours: what was found is a copy of ours: its permissions are kept.
    :raises Foreign: if this user may not.
    """
    place = f"{path}.{os.urandom(3).hex()}"
    try:
        file = Description(place).open(_MAKE, 0o666 if mode is None else mode)
        try:
            if is_ours:
                permissions.inherit(file.fd, permissions.of(found, path))
            elif mode is not None:
                os.fchmod(file.fd, mode)  # the umask does not count
            if os.write(file.fd, contents) != len(contents):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.replace(place, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(place)
            raise
        finally:
            file.close()
    except PermissionError as error:
        text = (
            f"it is a hard link, one of {found.st_nlink} names of a file (a backup's?): it may have been planted, "
            "it is not written, and this user may not replace it"
        )
        raise Foreign(error.errno, text, path) from error
    log.warning("%r was a hard link, one of %d names of a file; another took its place", path, found.st_nlink)
