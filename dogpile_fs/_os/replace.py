"""The system calls of a swap: what puts a new file or directory in the old one's place.

Mechanism only. Nothing here knows who may swap when, or what a version is for.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from functools import lru_cache

from ..errors import DatafileError, explained, explaining
from . import trust as planted

__all__ = [
    "exchange",
    "link",
    "lstat",
    "marked",
    "no_regular_file",
    "real_path",
    "regular_at",
    "remove",
    "remove_tree",
    "rename",
    "resolved",
]

_KEPT = 100
_MOST_LINKS = 40  # as the kernel
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
#: What a file system says that has no such call, or not for directories.
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: The same of a rename; EXDEV is what overlayfs says of a directory from a lower layer (a container image's).
_NOT_RENAMED = (*_NOT_SUPPORTED, errno.EXDEV)


def real_path(path: str) -> str:
    """Where *path* leads: a swap replaces what a symbolic link points to, not the link.

    :raises DatafileError: if it leads to itself, or may have been planted to lead us elsewhere.
    """
    with explaining(DatafileError, path, "look at"):
        real = _in_real_directory(path)
        for _ in range(_MOST_LINKS):
            found = lstat(real)
            if found is None or not stat.S_ISLNK(found.st_mode):
                return real
            planted.refuse(real, found)
            leads = _in_real_directory(os.path.join(os.path.dirname(real), os.readlink(real)))
            planted.refuse_to_lead_root(real, found, leads)
            real = leads
    raise explained(DatafileError, path, "replace", OSError(errno.ELOOP, os.strerror(errno.ELOOP)))


def _in_real_directory(path: str) -> str:
    directory, name = os.path.split(path)
    return resolved(path) if name in ("", "..", ".") else os.path.join(resolved(directory), name)


def resolved(path: str) -> str:
    """:func:`os.path.realpath` of *path*, which need not exist; but no guess where a look at it fails.

    :raises OSError: if it cannot be looked at.
    """
    try:
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        return os.path.realpath(path)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return os.path.realpath(path)


@lru_cache
def marked(kind: str, path: str, owner: str = "") -> tuple[str, str]:
    """How the names of *kind* begin and end that stand beside *path* for *owner* (default: its own name).

    They are hidden, are not confused with those of another owner, and end like *path*, so that whoever goes by the
    suffix (pandas does) makes the same of both.
    """
    name = os.path.basename(path)
    digest = hashlib.blake2b(os.fsencode(owner or name), digest_size=8).hexdigest()
    while len(os.fsencode(name)) > _KEPT:
        name = name[1:]
    return f".dogpile-{kind}-{digest}-", "." + name


def regular_at(path: str) -> os.stat_result | None:
    """The regular file at *path*; None if there is nothing.

    :raises DatafileError: if there is something else, which must not be replaced by a file, or what may have been
        planted.
    """
    found = lstat(path)
    if found is not None:
        if not stat.S_ISREG(found.st_mode):
            raise no_regular_file(path, found)
        planted.refuse(path, found)
    return found


def no_regular_file(path: str, found: os.stat_result) -> DatafileError:
    """What there is to say of *found*, where a file is wanted."""
    return DatafileError(
        errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.ENXIO,
        f"{path!r} is no regular file (mode {found.st_mode:o}). Cure: move it away, or name another path.",
    )


def lstat(path: str) -> os.stat_result | None:
    """What is at *path* itself, not where it leads; None if nothing is."""
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explained(DatafileError, path, "look at", error) from error


def rename(new: str, path: str) -> None:
    """Put *new* at *path*, in one step for all who look.

    :raises DatafileError: if the system refuses; what was at *path* still is.
    """
    try:
        os.replace(new, path)
    except OSError as error:
        if error.errno == errno.ENOENT and lstat(new) is None:
            raise DatafileError(
                errno.ENOENT,
                f"{new!r} was removed before it could be put at {path!r}. Cure: find out who removes such files.",
            ) from error
        raise explained(DatafileError, path, "put the new version at", error) from error


def link(path: str, name: str) -> None:
    """Give the file at *path* another *name*.

    :raises FileExistsError: if there is such a name.
    :raises DatafileError: if the system refuses.
    """
    try:
        os.link(path, name, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        raise explained(DatafileError, name, "make the hard link", error) from error


def exchange(one: str, other: str) -> None:
    """Let *one* and *other* change places, in one step for all who look (renameat2(2), ``RENAME_EXCHANGE``).

    :raises DatafileError: if the system refuses or has no such call.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
        )
    except AttributeError:
        code = errno.ENOSYS
    else:
        if done == 0:
            return
        code = ctypes.get_errno()
    if code in _NOT_RENAMED:
        raise DatafileError(
            code,
            f"no directory can be put in the place of {other!r} in one step here ({os.strerror(code)}). "
            "Cure: move it away; then a symbolic link is put there, to one version after the other.",
        )
    raise explained(DatafileError, other, "put the new version at", OSError(code, os.strerror(code)))


def remove(path: str) -> None:
    """Remove what is at *path*, be it a file, a tree, or nothing.

    :raises OSError: if a file cannot be removed.
    """
    found = lstat(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        remove_tree(path)
    elif found is not None:
        with suppress(FileNotFoundError):
            os.unlink(path)


def remove_tree(path: str) -> None:
    """Remove the directory *path* and all in it; what cannot be removed stays, for the next who tries."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path) and not os.path.islink(path):  # its owner may have forbidden himself to write it
        _permit(path)
        shutil.rmtree(path, ignore_errors=True)


def _permit(directory: str, within: int | None = None) -> None:
    """Let the owner of *directory* write it and what is in it; *within*: a descriptor of the one that it is in.

    By descriptors, because who may rename what is in there must not lead us elsewhere by links.
    """
    # Not of others', and not where a link leads. Not all systems can.
    with suppress(OSError, NotImplementedError, ValueError):
        os.chmod(directory, 0o700, dir_fd=within, follow_symlinks=False)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(directory, flags, dir_fd=within)
        try:
            with os.scandir(fd) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            for each in below:
                _permit(each, fd)
        finally:
            os.close(fd)
