"""Watches of names: those that the system looks up on the way to a path, so that each may come to lead elsewhere.

The directory of a file is watched, and the one that holds a symbolic link on the way. Of the directories above
them no more is watched than whether they are moved, because other programs are busy there; to remove them means to
remove the file before, and while a file is missing, all names on the way to it are watched.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress

from .inotify import ENTRIES, LOST, PLACE, Bell, Event, Inotify
from .waiting import Deadline

__all__ = ["PathWatch", "lookups"]

#: Symbolic links that the system follows on one way (path_resolution(7)).
_MOST_LINKS = 40
#: A directory that is gone, or none.
_GONE = (errno.ENOENT, errno.ENOTDIR)


class PathWatch:
    """The watches of one thread. Others may ring the bell.

    :raises OSError: if the system gives no instance of inotify, or of eventfd.
    """

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._bell = Bell()
        #: What is watched for, by the numbers of the watches.
        self._masks: dict[int, int] = {}

    def place(self, paths: Iterable[str]) -> frozenset[Event]:
        """Watch the ways to *paths*, and return the events that mean that one of them may lead elsewhere.

        A way may change meanwhile: it has not if a second call returns the same.

        :raises OSError: if one of them cannot be watched.
        """
        placed = set()
        for path in paths:
            for directory, name in lookups(path):
                mask = ENTRIES if name else PLACE
                try:
                    watch = self._inotify.watch(directory, mask)
                except PermissionError:
                    if name:
                        raise
                    continue  # that it is moved is not seen
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    continue  # a second call finds other names
                self._masks[watch] = self._masks.get(watch, 0) | mask
                placed |= {Event(watch, ""), Event(watch, name)}
        return frozenset(placed)

    def wait(self, deadline: Deadline) -> set[Event] | None:
        """Return what has happened, ``None``: anything may have; wait for that until *deadline* or the bell.

        :raises OSError: if another part of the program has closed what it waits with.
        """
        events = set(self._inotify.wait(deadline, self._bell))
        return None if any(event.watch == LOST for event in events) else events

    def keep(self, placed: Iterable[frozenset[Event]]) -> None:
        """Watch for no more than what *placed* needs.

        A directory that is watched for too much is watched no longer. An event tells so, and it is placed anew.
        """
        needed: dict[int, int] = {}
        for watch, name in {event for each in placed for event in each}:
            needed[watch] = needed.get(watch, 0) | (ENTRIES if name else PLACE)
        for watch in [watch for watch, mask in self._masks.items() if mask != needed.get(watch)]:
            del self._masks[watch]
            with suppress(OSError):  # it is gone already
                self._inotify.unwatch(watch)

    def is_intact(self) -> bool:
        """Return whether no other part of the program has closed what it watches and waits with."""
        return self._inotify.is_intact() and self._bell.is_intact()

    def ring(self) -> bool:
        """Wake the thread that waits, or that will; False if another part of the program has closed the bell."""
        if not self._bell.is_intact():
            return False
        with suppress(BlockingIOError):  # it has rung too often
            self._bell.ring()
        return True

    def close(self) -> None:
        self._inotify.close()
        self._bell.close()


def lookups(path: str) -> list[tuple[str, str]]:
    """Return each directory on the way to *path*, an absolute path, and the name in it that may lead elsewhere.

    That is the name of a symbolic link, and of the file itself; the name of a directory only while the file is
    missing, and otherwise it is left empty.

    >>> lookups("/proc/version")
    [('/', ''), ('/proc', 'version')]
    >>> lookups("/proc/no such/file")
    [('/', 'proc'), ('/proc', 'no such')]
    """
    steps: list[tuple[str, str]] = []
    way: list[tuple[str, str]] = []
    at, names, links = os.sep, path.split(os.sep)[::-1], 0
    while names and links <= _MOST_LINKS:
        name = names.pop()
        if name in ("", os.curdir):
            continue
        if name == os.pardir:
            at = os.path.dirname(at)  # no link is in it
            continue
        way.append((at, name))
        step = os.path.join(at, name)
        try:
            link = os.readlink(step)
        except OSError as error:
            if error.errno != errno.EINVAL:  # that is: it is there, and no link
                return way
            steps.append((at, "" if any(names) else name))
            at = step
            continue
        steps.append((at, name))
        links += 1
        at = os.sep if os.path.isabs(link) else at
        names += link.split(os.sep)[::-1]
    return steps
