"""What is at a resource's path: kind, size, mtime and inode, by which another file there is told apart.

A stamp records the fingerprint of the file that it was written for. If the path leads to another file later,
another program has put it there.

A directory's mtime changes whenever a name in it does, so each version of a ``DataDirectory`` bears a tag: an
extended attribute that holds the directory's mtime and inode from when it was tagged.
"""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from stat import S_ISDIR

# `dogpile-fs run` imports this module to find a fresh file fresh; typing or contextlib would double its time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class _Fields(NamedTuple):
        kind: str
        size: int
        mtime_ns: int
        inode: int

    #: What is at a path: its fingerprint, its mtime in epoch seconds, and the device that it is on. A plain tuple,
    #: because each look at a path makes one.
    Found = tuple["Fingerprint", float, int]
else:
    _Fields = namedtuple("_Fields", "kind size mtime_ns inode")

__all__ = ["FILE", "KINDS", "Fingerprint", "fingerprint_at", "fingerprint_of", "tag_directory"]

#: The kinds: a file; a directory with our tag, or without it; a directory of which this user cannot tell.
FILE, TAGGED, UNTAGGED, UNKNOWN = KINDS = ("file", "tagged", "untagged", "unknown")
_TAG = "user.dogpile_fs"
#: Bytes of the longest tag: two numbers that fit into a record, and the space between them.
_LONGEST_TAG = 40


class Fingerprint(_Fields):
    """*kind*: one of :data:`KINDS`. *size* in bytes, 0 for a directory. *mtime_ns*: nanoseconds since the epoch;
    of a tagged directory, when it was tagged. *inode*: its number.
    """

    __slots__ = ()

    def is_of_file(self, found: os.stat_result) -> bool:
        """Return whether it was taken of the regular file that was *found*."""
        return (
            self.mtime_ns == found.st_mtime_ns
            and self.inode == found.st_ino
            and self.size == found.st_size
            and self.kind == FILE
        )

    def matches(self, found: Fingerprint) -> bool:
        """Return whether *found* is the file or directory that this fingerprint was taken of."""
        if self == found:
            return True
        # Without tags, a directory in which a file was left has a later mtime. Another directory that got the
        # inode may pass for the one that it replaced; it is then stale when that one would have been.
        kinds = {self.kind, found.kind}
        return (
            FILE not in kinds
            and (UNKNOWN in kinds or kinds == {UNTAGGED})
            and self.inode == found.inode
            and self.mtime_ns <= found.mtime_ns
        )


def fingerprint_at(path: str, again: bool = True) -> Found | None:
    """Return the fingerprint of the file at *path*, its mtime in epoch seconds and its device, if there is one.

    Symbolic links are followed. By the device a process tells two files with equal fingerprints apart. No record
    holds it, because its number may be another one after the next mount.

    :raises OSError: if ``stat`` fails for another reason.
    """
    try:
        st = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if again and error.errno == errno.ESTALE:  # removed by another host while the system looked
            return fingerprint_at(path, False)
        raise
    return fingerprint_of(st, path), st.st_mtime, st.st_dev


def fingerprint_of(st: os.stat_result, where: str | int | None = None) -> Fingerprint:
    """Return the fingerprint of a file or directory.

    :param st: the result of its ``stat``.
    :param where: its path or descriptor, from which a directory's tag is read; ``None``: the tag is unknown.
    """
    if not S_ISDIR(st.st_mode):
        return Fingerprint(FILE, st.st_size, st.st_mtime_ns, st.st_ino)
    kind, mtime = UNKNOWN, st.st_mtime_ns
    if where is not None:
        try:
            tag = _parsed(os.getxattr(where, _TAG))
        except AttributeError:  # macOS
            pass
        except OSError as error:
            # Any other error says nothing: this user may not read the directory, or the file system has no tags.
            if error.errno == errno.ENODATA:
                kind = UNTAGGED
        else:
            if tag is not None and tag[1] == st.st_ino:
                kind, mtime = TAGGED, tag[0]
            else:
                kind = UNTAGGED
    return Fingerprint(kind, 0, mtime, st.st_ino)


def tag_directory(fd: int) -> None:
    """Tag the directory *fd* where the file system can, so that files left in it later do not change its
    fingerprint.

    The tag also tells a new directory from a removed one whose inode it got.
    """
    st = os.fstat(fd)
    try:  # noqa: SIM105
        os.setxattr(fd, _TAG, b"%d %d" % (st.st_mtime_ns, st.st_ino))
    except (OSError, AttributeError):  # the latter: macOS
        pass


def _parsed(tag: bytes) -> tuple[int, int] | None:
    """Return mtime and inode that *tag* holds; ``None`` if another program has written it."""
    try:
        mtime, inode = map(int, tag[: _LONGEST_TAG + 1].split())
    except ValueError:
        return None
    return (mtime, inode) if len(tag) <= _LONGEST_TAG and mtime >= 0 else None
