"""Refuse what is not finished: a file that is still being written, and a database with a log beside it.

A file that the creator has not closed, or a process that its program left running, would write on into the version
that readers have. That is a check and no guarantee: a program may open the file again a moment later.

A database is the file and its log. While a connection is open, committed rows may be in the log alone; the file
would be swapped in without them (https://sqlite.org/walformat.html, https://sqlite.org/fileformat2.html). And a
log belongs to a name: one that the database in place has would be applied to the file that takes its place.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from .._os import lease, replace
from .._os.openfile import close_quietly
from .._os.waiting import Deadline, wait_until
from ..errors import DatafileError
from .version_file import open_itself

__all__ = ["COMPANIONS", "refuse", "refuse_log_beside", "refuse_log_of", "wait_for_writers"]

#: Seconds for which a writer is waited for. A process that was forked while the creator had the file open has a
#: copy of the descriptor until it executes its program; a shell does not wait for ``>(...)``.
_PATIENCE = 1.0
#: Seconds after which it is asked which processes these are: longer than a fork takes to execute a program.
_SOON = 0.05

#: What is appended to a database's name: SQLite's log, the index of the log, its rollback journal; DuckDB's log.
COMPANIONS = ("-wal", "-shm", "-journal", ".wal")
#: The logs that are applied to the database when it is opened, and their first bytes; without any, all that are
#: not empty. The rollback journal of a transaction that has not reached the file, or that is kept for the next
#: one, begins with zeros: SQLite passes over it.
_APPLIED = {"-wal": b"", "-journal": bytes.fromhex("d9d505f920a163d7"), ".wal": b""}


def refuse(target: str) -> None:
    """Check that the new version *target*, a file or a directory of files, is finished.

    Waits for a process that has a file of it open for writing. What cannot be opened, or asked, is passed over.

    :raises DatafileError: if a process still has it open after a second; and as :func:`refuse_log_of`.
    """
    refuse_log_of(target)
    for file in _files_in(target) if os.path.isdir(target) else [target]:
        try:
            fd = open_itself(file, os.O_RDONLY)
        except OSError:
            continue
        try:
            wait_for_writers(fd, file)
        finally:
            close_quietly(fd)


def _files_in(directory: str) -> Iterator[str]:
    for parent, _, names in os.walk(directory):
        for file in (os.path.join(parent, name) for name in names):
            with suppress(OSError):
                if stat.S_ISREG(os.lstat(file).st_mode):
                    yield file


def wait_for_writers(fd: int, path: str) -> bool:
    """Wait until no process has the file *fd*, which is at *path*, open for writing.

    :param fd: opened for reading only.
    :returns: False if the system does not say whether one has, or if all that have were forked from this process:
        they may have nothing but a copy of a descriptor.
    :raises DatafileError: if a process still has it open after a second.
    """
    known = True

    def attempt() -> bool:
        nonlocal known
        writer = lease.has_writer(fd)
        known = writer is not None
        return not writer

    for seconds in (_SOON, _PATIENCE):
        if wait_until(attempt, attempt, Deadline(seconds)):
            return known
        writers = lease.writers_at(path)
        if writers and all(map(lease.is_copy, writers)):
            return False  # processes that were forked meanwhile: nearly all of them will not write to it
    by = f", by process {' and '.join(map(lease.name_of, writers))}" if writers else ""
    raise DatafileError(
        errno.ETXTBSY,
        f"{path!r} is still open for writing{by}: it would change after the swap. Hint: close it before the "
        "creator returns; a process that is left running must not write to it.",
    )


def refuse_log_of(target: str) -> None:
    """Check that the new version *target* is the whole database, if it is one.

    :raises DatafileError: if its log has something in it, or its journal is in use.
    """
    for log, size in _logs_of(target):
        raise DatafileError(
            errno.ETXTBSY,
            f"the new version {target!r} is a database whose {log[len(target) + 1 :]} has {size} bytes, which may "
            "be missing in the database. Hint: close the connection before the creator returns (or PRAGMA "
            "wal_checkpoint(TRUNCATE)).",
        )


def refuse_log_beside(path: str, *links: str) -> None:
    """Check that no log of an older database would be applied to a file that is put at *path*.

    :param links: other names of it. SQLite's log is beside the file that a symbolic link leads to, DuckDB's beside
        the name that was given.
    :raises DatafileError: if there is one.
    """
    for name in dict.fromkeys((path, *links)):
        for log, size in _logs_of(name):
            raise DatafileError(
                errno.ETXTBSY,
                f"{log!r} has {size} bytes: this log of an older database would be applied to what is put at "
                f"{name!r}. Hint: close the connections to the database; if their program has died, open and "
                "close the database once more, or remove its log.",
            )


def _logs_of(path: str) -> Iterator[tuple[str, int]]:
    """Yield the paths and sizes of the logs that are applied to the database at *path* when it is opened."""
    for suffix, beginning in _APPLIED.items():
        try:
            found = replace.lstat(path + suffix)
        except DatafileError as error:
            if error.errno == errno.ENAMETOOLONG:
                continue
            raise
        is_log = found is not None and stat.S_ISREG(found.st_mode) and found.st_size > 0
        if found is not None and is_log and _begins(path + suffix, beginning):
            yield path + suffix, found.st_size


def _begins(log: str, beginning: bytes) -> bool:
    """Return whether the file *log* begins so; True also if this user may not read it."""
    if not beginning:
        return True
    try:
        with open(log, "rb", opener=open_itself) as file:
            return file.read(len(beginning)) == beginning
    except FileNotFoundError:
        return False  # its database was closed a moment ago
    except OSError:
        return True
