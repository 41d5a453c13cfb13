"""A disk that logs every write and every flush, in the order in which it received them.

It is a file for a loop device to write to, which this process serves by the FUSE protocol. A write of the loop
device comes as a FUSE_WRITE, a flush of the disk's cache as a FUSE_FSYNC, and one process takes one after the
other. So the disk has received, until any moment, a beginning of the log, and must have kept all writes before the
last flush in it. The numbers are those of ``linux/fuse.h``, protocol 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Processes

from .mounts import mount, unmount

__all__ = ["Entry", "entries", "recorded"]

_GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _RELEASE, _FSYNC, _FLUSH, _INIT = 3, 4, 14, 15, 16, 18, 20, 25, 26
#: Requests without an answer: FORGET, INTERRUPT, BATCH_FORGET.
_UNANSWERED = (2, 36, 42)
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_PAGES = 256
_IN, _OUT = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHH8I")
_ATTRIBUTES = struct.Struct("=QII6Q10I")
_READ_OR_WRITE_IN = struct.Struct("=QQIIQII")

#: When it came, its offset, its length. A flush has no offset.
_HEAD = struct.Struct("=dqI")
_NOWHERE = -1

#: Seconds that a flush takes, as on a good disk: meanwhile more writes come, which the next flush finds.
_FLUSH_TAKES = 0.001

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


@dataclass(frozen=True, slots=True)
class Entry:
    """A write that the disk received *at* a moment of the monotonic clock: *length* bytes for *offset*, which are
    at *position* in the log. A flush has neither length nor position.
    """

    at: float
    offset: int
    length: int
    position: int

    @property
    def is_flush(self) -> bool:
        return self.offset == _NOWHERE


def entries(log: Path) -> list[Entry]:
    """Return all entries of *log*."""
    found = []
    position, end = 0, log.stat().st_size
    with open(log, "rb", buffering=0) as file:
        while position < end:
            at, offset, length = _HEAD.unpack(os.pread(file.fileno(), _HEAD.size, position))
            position += _HEAD.size
            found.append(Entry(at, offset, length, position))
            position += length
    return found


@contextmanager
def recorded(image: Path, log: Path, device: Path) -> Iterator[None]:
    """Write the data for the file *device* to *image*, and log them in *log*.

    :raises CannotMount: if there is no FUSE here.
    """
    device.touch()
    server = Processes()
    channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={channel},rootmode={stat.S_IFREG:o},user_id=0,group_id=0"
        mount("blocklog", device, "fuse", options)
        server.start(_serve, channel, image, log)
    finally:
        os.close(channel)  # the server has the last one: when it dies, processes that wait for it get an error
    try:
        yield
    finally:
        try:
            unmount(device)
            server.join()
        finally:
            server.end()


def _serve(channel: int, image: Path, log: Path) -> None:
    """Serve requests until the file is unmounted, or the process that started this one has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted parent unmounts first
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    disk = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    remembered = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    request = bytearray((_PAGES + 1) * 4096)
    while True:
        try:
            size = os.readv(channel, [request])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.ENOENT, errno.EINTR):  # the requester was interrupted
                continue
            raise
        at = time.monotonic()
        _, code, unique, *_ = _IN.unpack_from(request)
        if code in _UNANSWERED:
            continue
        answer: bytes | None = b""
        if code == _WRITE:
            _, offset, length, *_ = _READ_OR_WRITE_IN.unpack_from(request, _IN.size)
            data = memoryview(request)[size - length : size]
            os.writev(remembered, [_HEAD.pack(at, offset, length), data])
            os.pwrite(disk, data, offset)
            answer = struct.pack("=II", length, 0)
        elif code == _FSYNC:
            os.write(remembered, _HEAD.pack(at, _NOWHERE, 0))
            time.sleep(_FLUSH_TAKES)
        elif code == _READ:
            _, offset, length, *_ = _READ_OR_WRITE_IN.unpack_from(request, _IN.size)
            answer = os.pread(disk, length, offset)
        elif code == _INIT:
            answer = _INIT_OUT.pack(
                7, 31, 1 << 20, _BIG_WRITES | _MAX_PAGES, 16, 12, _PAGES * 4096, 1, _PAGES, 0, *[0] * 8
            )
        elif code in (_GETATTR, _SETATTR):
            answer = _attributes(os.fstat(disk))
        elif code == _OPEN:
            answer = struct.pack("=QII", 0, 0, 0)
        elif code not in (_RELEASE, _FLUSH):
            answer = None
        _answer(channel, unique, answer)


def _attributes(st: os.stat_result) -> bytes:
    seconds = int(st.st_mtime)
    times = (seconds, seconds, seconds, 0, 0, 0)
    owner = (stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0)
    return _ATTRIBUTES.pack(0, 0, 0, 1, st.st_size, st.st_blocks, *times, *owner)


def _answer(channel: int, unique: int, answer: bytes | None) -> None:
    code = -errno.ENOSYS if answer is None else 0
    body = answer or b""
    with suppress(FileNotFoundError):  # the process that made the request has been interrupted, and waits no more
        os.writev(channel, [_OUT.pack(_OUT.size + len(body), code, unique), body])
