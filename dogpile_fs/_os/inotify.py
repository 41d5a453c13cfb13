"""One instance of inotify(7): which directories are watched, and what happens in them."""

from __future__ import annotations

import math
import os
import select
import struct
from typing import NamedTuple

from . import linux
from .openfile import OpenFile, above_standard
from .waiting import Deadline

__all__ = ["ENTRIES", "LOST", "PLACE", "WRITES", "Bell", "Event", "Inotify"]

# <sys/inotify.h>: written; permissions, times or attributes; closed by a writer; moved from here, and here; made;
# removed; the directory itself was moved
_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_IN_CREATE, _IN_DELETE, _IN_MOVE_SELF = 0x100, 0x200, 0x800
_IN_ONLYDIR, _IN_MASK_ADD = 0x0100_0000, 0x2000_0000

#: Something is made, moved or written in the directory.
WRITES = _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO
#: The directory is moved away. That it is removed, or its file system unmounted, is always told.
PLACE = _IN_ONLYDIR | _IN_MASK_ADD | _IN_MOVE_SELF
#: That, and that a name in the directory leads to another file, or that a writer has closed the file. A single
#: write is not told: the file is not whole yet.
ENTRIES = PLACE | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE

#: Of ``struct inotify_event``: watch, mask, cookie, length of the name that follows.
_EVENT = struct.Struct("iIII")
#: The watch in an event which says that events were lost.
LOST = -1
#: Bytes that one read takes: room for hundreds of events.
_MOST_READ = 1 << 16


class Event(NamedTuple):
    """What has happened in the directory of the *watch* of this number, to *name*; empty: to the directory itself,
    which may be watched no longer.
    """

    watch: int
    name: str


class Inotify(OpenFile):
    """An instance of inotify, open from the start.

    :raises OSError: where the system gives none: ``EMFILE`` if this user has too many.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("inotify")
        self.adopt(above_standard(linux.inotify_init()))
        self.is_regular()  # remembers what it is

    def watch(self, directory: str, mask: int) -> int:
        """Watch *directory* for the events of *mask*; return the watch's number, the same for the same directory.

        :raises OSError: if that cannot be.
        """
        return linux.inotify_add_watch(self.fd, directory, mask)

    def unwatch(self, watch: int) -> None:
        """:raises OSError: if there is no such watch any more."""
        linux.inotify_rm_watch(self.fd, watch)

    def wait(self, deadline: Deadline, bell: Bell | None = None) -> list[Event]:
        """Return what has happened; wait for that until *deadline*, or until the *bell* rings.

        :raises OSError: if another part of the program has closed it, or the bell.
        """
        poll = select.poll()
        for each in filter(None, (self, bell)):
            if not each.is_intact():
                raise OSError
            poll.register(each.fd, select.POLLIN)
        # Rounded up: to wake before the deadline would mean to wait again.
        ready = poll.poll(None if deadline.left == math.inf else math.ceil(deadline.left * 1000))
        if not all(each.is_intact() for each in filter(None, (self, bell))):
            raise OSError
        if bell is not None and any(fd == bell.fd for fd, _ in ready):
            bell.silence()
        if not any(fd == self.fd for fd, _ in ready):
            return []
        return _events_in(os.read(self.fd, _MOST_READ))


class Bell(OpenFile):
    """What wakes a thread that waits for events: an eventfd(2), open from the start.

    :raises OSError: where the system gives none.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("eventfd")
        self.adopt(above_standard(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))
        self.is_regular()  # remembers what it is

    def ring(self) -> None:
        """Wake the thread, now or as soon as it waits."""
        os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        os.eventfd_read(self.fd)


def _events_in(contents: bytes) -> list[Event]:
    events, at = [], 0
    while at < len(contents):
        watch, _mask, _cookie, length = _EVENT.unpack_from(contents, at)
        at += _EVENT.size
        events.append(Event(watch, os.fsdecode(contents[at : at + length].rstrip(b"\0"))))
        at += length
    return events
