"""The directories of a pattern's keys: the one for coordination, with the marker that tells the pattern, and
shards.

They have the permissions of the directory that they are made in, so that all users which may write there have the
same keys. The coordination directory has the name of the hidden sub-directory, and may be that of datafiles beside
it: the marker keeps it from being removed as empty.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import closing, suppress
from fcntl import LOCK_SH
from itertools import pairwise

from .._dogpile.key_pattern import KeyPattern
from .._os import fsync, replace, trust
from ..errors import DatafileError, LockFileError, PathError, as_error, os_errors_as
from .atomic import atomic_write
from .hidden_directory import inherit_from, open_directory
from .version_file import lock

__all__ = ["KeyDirectory"]

log = logging.getLogger("dogpile_fs")

#: Times that the coordination directory is made while another process, which has built there, removes it as empty.
_ATTEMPTS = 100


class KeyDirectory:
    """The directories of the keys of a *pattern*. *parents*: make its fixed part as well."""

    __slots__ = ("_parents", "pattern")

    def __init__(self, pattern: KeyPattern, *, parents: bool) -> None:
        self.pattern = pattern
        self._parents = parents

    def make(self) -> None:
        """Make the coordination directory and the marker, or find them there.

        :raises PathError: if the fixed part of the pattern is missing.
        :raises LockFileError: if the directory cannot be made, or may have been planted.
        """
        with suppress(FileNotFoundError, NotADirectoryError):
            if self._tells_the_pattern(os.lstat(self.pattern.marker)):
                _refuse_if_planted(self.pattern.directory, os.lstat(self.pattern.directory))
                return
        self.make_fixed()
        path = self.pattern.directory
        with os_errors_as(LockFileError, path, "coordinate keys in"):
            for _ in range(_ATTEMPTS):
                self._make_inside(self.pattern.fixed, path)
                held = lock(path, LOCK_SH, os.O_DIRECTORY)
                if held is not None:
                    with closing(held):
                        self._mark()
                    return
        raise LockFileError(
            errno.ENOENT, f"{path!r} vanishes as soon as it is made. Hint: find the program that removes it."
        )

    def make_fixed(self) -> None:
        """Make the fixed part of the pattern if that is asked for.

        :raises PathError: if it is missing all the same.
        """
        fixed = self.pattern.fixed
        with os_errors_as(PathError, fixed, "make the directory"):
            if self._parents:
                os.makedirs(fixed, exist_ok=True)
        try:
            os.stat(fixed)
        except (FileNotFoundError, NotADirectoryError):
            raise PathError(
                errno.ENOENT,
                f"the directory {fixed!r} does not exist. Hint: make it first, or pass parents=True.",
            ) from None
        except OSError as error:
            raise as_error(PathError, fixed, "look at", error) from error

    def make_way_to(self, path: str, *, durable: bool) -> None:
        """Make the directories below the fixed part that lead to the file of a key at *path*.

        :param durable: have their names on the disk.
        :raises PathError, LockFileError: as :meth:`make`.
        :raises OSError: as ``mkdir(2)`` says.
        """
        self.make()
        for parent, directory in pairwise(self.pattern.directories_to(path)):
            found = replace.lstat(directory)
            if found is None or not stat.S_ISDIR(found.st_mode):
                self._make_inside(parent, directory)
                if durable:
                    fsync.sync_directory(parent)
            else:
                _refuse_if_planted(directory, found)

    def _make_inside(self, parent: str, path: str) -> None:
        opened = open_directory(path, make=True)
        assert opened is not None
        with closing(opened):
            found = os.fstat(opened.fd)
            _refuse_if_planted(path, found)
            if found.st_uid == os.geteuid():
                inherit_from(opened.fd, found, parent, os.stat(parent), is_private=False)

    def _tells_the_pattern(self, marker: os.stat_result) -> bool:
        """Return whether the marker looks like one; its contents are not read, as this is asked often."""
        return stat.S_ISREG(marker.st_mode) and marker.st_size == len(self.pattern.marker_text)

    def _mark(self) -> None:
        marker = self.pattern.marker
        with suppress(OSError):  # it is not there, or cannot be removed
            if not self._tells_the_pattern(os.lstat(marker)):
                os.unlink(marker)
                log.warning("%r did not tell the pattern any more; made anew", marker)
        try:
            with atomic_write(marker, "w", durable=False, overwrite=False) as file:
                file.write(self.pattern.marker_text)
        except FileExistsError:
            pass  # by another process
        except DatafileError as error:
            if not os.path.lexists(marker):  # else keys work without one that tells the pattern
                raise LockFileError(error.errno or 0, error.strerror or "") from error


def _refuse_if_planted(path: str, found: os.stat_result) -> None:
    if trust.is_untrusted(path, found):
        raise LockFileError(
            errno.EACCES,
            f"{path!r}, which user {os.geteuid()} needs for keys, belongs to user {found.st_uid}, in a directory "
            "where all users may make files: it may have been planted. Hint: remove it, or have the keys where "
            "only their users may write.",
        )
