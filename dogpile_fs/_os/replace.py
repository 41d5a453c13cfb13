"""The system calls of a swap: what puts a new file or directory in the old one's place.

Mechanism only: when to swap, and what a version is for, is decided above.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress

from ..errors import DatafileError, as_error, os_errors_as
from . import linux, trust
from .paths import realpath

__all__ = [
    "LEADS_NOWHERE",
    "NO_LINKS",
    "Retargeted",
    "exchange",
    "found_behind",
    "link",
    "lstat",
    "no_regular_file",
    "real_path",
    "refuse_irregular",
    "regular_at",
    "remove",
    "remove_tree",
    "rename",
    "rename_to_free_name",
    "resolved",
]

#: Symbolic links that are followed to a resource: as many as the kernel follows.
_MOST_LINKS = 40
#: Error codes of link(2) where there is another way: the file system has no hard links or no more of this file,
#: forbids them to files of other users (sysctl fs.protected_hardlinks), or to files of another project.
NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
#: Error codes of a look at a path behind which there is nothing: no file, a file instead of a directory, a link
#: that leads to itself, or one whose target is too long to be a name.
LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
#: Error codes of a file system that has no such call, or not for directories.
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: The same of a rename; overlayfs gives EXDEV for a directory from a lower layer (a container image's).
_NOT_RENAMED = (*_NOT_SUPPORTED, errno.EXDEV)


class Retargeted(DatafileError):
    """The path leads to another place than it did when the new version was begun there."""

    @classmethod
    def from_to(cls, path: str, before: str, now: str) -> Retargeted:
        return cls(
            errno.ESTALE,
            f"nothing was put at {path!r}: it led to {before!r}, and leads to {now!r} by now. Hint: try again.",
        )


def real_path(path: str) -> str:
    """Return where *path* leads: a swap replaces what a symbolic link points to, not the link.

    :raises DatafileError: if it leads to itself, or by a link that another user may have put there to mislead.
    """
    return found_behind(path)[0]


def found_behind(path: str) -> tuple[str, os.stat_result | None]:
    """Return :func:`real_path` of *path*, and what ``stat`` says of that; ``None`` if there is nothing."""
    with os_errors_as(DatafileError, path, "look at"):
        real = _in_real_directory(path)
        for _ in range(_MOST_LINKS):
            try:
                found = os.stat(real, follow_symlinks=False)
            except FileNotFoundError:
                return real, None
            if not stat.S_ISLNK(found.st_mode):
                return real, found
            trust.refuse(real, found)
            try:
                link = os.readlink(real)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):
                    raise
                continue  # another program has replaced it: look again
            leads = _in_real_directory(os.path.join(os.path.dirname(real), link))
            trust.refuse_to_lead_root(real, found, leads)
            real = leads
    raise as_error(DatafileError, path, "replace", OSError(errno.ELOOP, os.strerror(errno.ELOOP)))


def _in_real_directory(path: str) -> str:
    directory, name = os.path.split(path)
    return resolved(path) if name in ("", "..", ".") else os.path.join(resolved(directory), name)


def resolved(path: str) -> str:
    """Return :func:`os.path.realpath` of *path*, which need not exist; but no guess where a look at it fails.

    :raises OSError: if it cannot be looked at.
    """
    try:
        return realpath(path, strict=True)
    except FileNotFoundError:
        return realpath(path)
    except OSError as error:
        if error.errno not in LEADS_NOWHERE:
            raise
        return realpath(path)


def regular_at(path: str) -> os.stat_result | None:
    """Return what ``stat`` says of the regular file at *path*; None if there is nothing.

    :raises DatafileError: if there is something else, which must not be replaced by a file, or a file that another
        user may have put there to mislead.
    """
    found = lstat(path)
    refuse_irregular(path, found)
    return found


def refuse_irregular(path: str, found: os.stat_result | None) -> None:
    """:raises DatafileError: as :func:`regular_at`, of what was *found* at *path*."""
    if found is not None:
        if not stat.S_ISREG(found.st_mode):
            raise no_regular_file(path, found)
        trust.refuse(path, found)


def no_regular_file(path: str, found: os.stat_result) -> DatafileError:
    """What there is to say of *found*, where a file is wanted."""
    return DatafileError(
        errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.ENXIO,
        f"{path!r} is no regular file (mode {found.st_mode:o}). Hint: move it away, or name another path.",
    )


def lstat(path: str) -> os.stat_result | None:
    """Return what ``stat`` says of *path* itself, not of where it leads; None if there is nothing."""
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_error(DatafileError, path, "look at", error) from error


def rename(new: str, path: str) -> None:
    """Put *new* at *path*, in one step for all readers.

    :raises DatafileError: if the system refuses; what was at *path* still is.
    """
    try:
        os.replace(new, path)
    except OSError as error:
        if error.errno == errno.ENOENT and lstat(new) is None:
            raise DatafileError(
                errno.ENOENT,
                f"{new!r} was removed before it could be put at {path!r}. "
                "Hint: find the program that removes such files.",
            ) from error
        raise as_error(DatafileError, path, "put the new version at", error) from error


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
        raise as_error(DatafileError, name, "make the hard link", error) from error


def rename_to_free_name(new: str, path: str) -> None:
    """Put *new* at *path* where nothing is, in one step (renameat2(2), ``RENAME_NOREPLACE``).

    :raises FileExistsError: if there is something at *path*.
    :raises DatafileError: if the system refuses or has no such call.
    """
    try:
        linux.rename_to_free_name(new, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            raise DatafileError(
                error.errno,
                f"nothing can be put at {path!r} that may not replace what is there: this file system has neither "
                f"hard links nor such a rename ({error.strerror}). Hint: let it be overwritten (overwrite=True).",
            ) from error
        raise as_error(DatafileError, path, "put the new version at", error) from error


def exchange(one: str, other: str) -> None:
    """Let *one* and *other* change places, in one step for all readers (renameat2(2), ``RENAME_EXCHANGE``).

    :raises DatafileError: if the system refuses or has no such call.
    """
    try:
        linux.exchange(one, other)
    except OSError as error:
        if error.errno in _NOT_RENAMED:
            raise DatafileError(
                error.errno,
                f"no directory can be put in the place of {other!r} in one step here ({error.strerror}). "
                "Hint: move it away; then a symbolic link is put there, to one version after the other.",
            ) from error
        raise as_error(DatafileError, other, "put the new version at", error) from error


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
    """Remove the directory *path* and all in it; what cannot be removed stays for the next attempt."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path) and not os.path.islink(path):  # its owner may have made it read-only
        _permit(path)
        shutil.rmtree(path, ignore_errors=True)


def _permit(directory: str, within: int | None = None) -> None:
    """Let the owner of *directory* write it and what is in it; *within*: a descriptor of the one that it is in.

    By descriptors, because another user that may rename what is in there must not lead this process elsewhere.
    """
    # Other users' directories are left alone, and links are not followed, which not all systems support.
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
