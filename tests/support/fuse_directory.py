"""An empty directory that a program serves (FUSE), as sshfs and such serve theirs: to look at, and not to use.

The numbers are those of ``linux/fuse.h``, protocol 7.31.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.mounts import mount, unmount
from tests.support.processes import Processes

__all__ = ["fuse_directory"]

_LOOKUP, _GETATTR, _INIT = 1, 3, 26
#: Requests without an answer: FORGET, INTERRUPT, BATCH_FORGET.
_UNANSWERED = (2, 36, 42)
#: Of a request: its length, what it asks for, its number; of an answer: its length, the error, the number.
_IN, _OUT = struct.Struct("=IIQ"), struct.Struct("=IiQ")
_VERSION = struct.pack("=IIIIHHIIHH8I", 7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, *[0] * 8)
#: How long they are good; inode, size, blocks, times; mode, links, user, group, device, block size, flags.
_ATTRIBUTES = struct.pack(
    "=QII6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o700, 2, os.getuid(), os.getgid(), 0, 4096, 0
)


@contextmanager
def fuse_directory(place: Path, subtype: str) -> Iterator[None]:
    """Mount one at *place*, an empty directory, as the kind ``fuse.<subtype>``, and serve it.

    The caller is root, in a mount namespace of its own.
    """
    server = Processes()
    channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={channel},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
        mount("test", place, f"fuse.{subtype}", options)
        server.start(_serve, channel)
    finally:
        os.close(channel)  # the server has the last one: when it dies, what waits for it gets an error
    try:
        yield
    finally:
        try:
            unmount(place)
            server.join()
        finally:
            server.end()


def _serve(channel: int) -> None:
    """Serve requests until the directory is unmounted."""
    while True:
        try:
            request = os.read(channel, 64 * 1024)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.ENOENT, errno.EINTR):  # the requester was interrupted
                continue
            raise
        _, code, number = _IN.unpack_from(request)
        if code not in _UNANSWERED:
            answer = {_INIT: _VERSION, _GETATTR: _ATTRIBUTES}.get(code, b"")
            refused = 0 if answer else -errno.ENOENT if code == _LOOKUP else -errno.ENOSYS
            os.write(channel, _OUT.pack(_OUT.size + len(answer), refused, number) + answer)
