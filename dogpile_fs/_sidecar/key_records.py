"""The records of many keys in one sparse file: a slot of 4 KB for each, most of them holes that take no room.

A slot has a record as in a sidecar, and behind it a line with the key's name. A key's slot is one of the 64 from
the home that its digest chooses, the first that was free. ``lseek`` finds the slots that are no holes
(``SEEK_DATA``); a pass reads the slot that it knows, and compares the bytes with those of the last pass. So
neither costs more with 100,000 keys than with ten, and a file system gets the room back when a slot is made a hole
again.

A change is read, change and one ``pwrite``, under a lock on the bytes that stand for these 64 slots: two processes
cannot give one key two slots, nor one slot to two keys. The lock belongs to the description of the one change.

The file is 64 GB long at most, and no longer than what is in it. With more than about ten million keys, some find
no slot free; that is an error.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic, time

from .._os import byterange, fsync, kept_open, linux
from .._os.openfile import OpenFile, open_regular
from .._os.waiting import Deadline
from ..errors import NO_PERMISSION, LockTimeout, SidecarError, as_error
from .change import Change
from .decoding import NewerFormat, decode
from .encoding import encode
from .record import DAMAGED, MISSING, SIZE, Record
from .snapshot import Snapshot, unverified

__all__ = ["HOME_BITS", "KeyRecord", "KeyRecords"]

log = logging.getLogger("dogpile_fs")

#: Bits of a key's digest that choose its home.
HOME_BITS = 24
#: Bytes from one slot to the next: a page, so that a slot is a block of its own, and is written in one piece.
_STEP = 4096
#: PyPy has no name for it; this is Linux's number (lseek(2)).
_SEEK_DATA: int = getattr(os, "SEEK_DATA", 3)
#: Slots from its home on in which a key's record may be. With every second slot taken, one key in many millions
#: finds none of them free.
_WINDOW = 64
#: Bytes of the line with the key's name, and of the part of a slot that is written.
_NAME_SIZE = 128
_SLOT = SIZE + _NAME_SIZE
#: Where in the line its checksum begins: eight digits and the newline.
_NAME_CHECKSUM_AT = _NAME_SIZE - 9
#: Seconds for which a file is believed to be the one at the path.
_LOOK_EVERY = 0.010
#: Seconds for which a reader that has met half a record waits for its writer.
_PATIENCE = 1.0
#: Error codes of a file system that cannot make holes: then zeros are written.
_NO_HOLES = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)

_NO_BYTES, _DAMAGED_BYTES = b"", b"damaged"
_EMPTY = bytes(_SLOT)

#: A call of C code alone that writes, and what is done with its result.
_Write = tuple[Callable[[], int], Callable[[int], object]]


class KeyRecords:
    """The file at *path*, with the records of all keys. Any thread may call its methods.

    *mode*: permission bits of a file that has to be made; ``None``: what the umask leaves of 0o666. *timeout*:
    seconds to wait at most for another program's lock; ``None``: no bound. *make*: makes its directory, or finds
    it there.
    """

    __slots__ = ("_complaint", "_look_at", "_open_file", "make", "mode", "path", "timeout")

    def __init__(self, path: str, *, mode: int | None, timeout: float | None, make: Callable[[], object]) -> None:
        self.path = path
        self.mode = mode
        self.timeout = timeout
        self.make = make
        # Racing threads may write these: either value is right.
        self._open_file: OpenFile | None = None
        self._look_at = 0.0
        self._complaint = ""

    def opened(self) -> tuple[OpenFile, int]:
        """Return the file, open for reading, and its descriptor, which is good while the file is referred to.

        That another file is at the path is noticed within 10 ms.

        :raises OSError: if there is none, or it cannot be opened.
        """
        while True:
            open_file, now = self._open_file, monotonic()
            if open_file is None or (now >= self._look_at and not open_file.is_at(self.path)):
                self._open_file = None
                if open_file is not None:
                    open_file.defer_close()
                open_file = self._open_file = open_regular(OpenFile(self.path), os.O_RDONLY, create=False)
                kept_open.has_opened()
            fd = open_file.fd
            if fd >= 0:  # else a fork has closed it, or another thread has found that it is another one
                if now >= self._look_at:
                    self._look_at = now + _LOOK_EVERY
                return open_file, fd
            self._look_at = 0.0

    def change(self, key: KeyRecord, make: Callable[[Record], Record]) -> None:
        """Replace the record of *key* by ``make(record)``; see :meth:`.Sidecar.change`.

        :raises SidecarError: also if there is no slot for it.
        """

        def change(fd: int, slot: int, data: bytes) -> _Write | None:
            before = MISSING if not data else self.decoded(data) if _name_in(data) else None
            made = make(DAMAGED if before is None else before)
            if made is before and data:
                return None
            record = made.replace(changes=(0 if before is None else before.changes) + 1)
            new = encode(record) + _line(key.name)

            def written(count: int) -> None:
                if count != len(new):  # a full disk or a limit
                    raise OSError(errno.ENOSPC, "there was no room for the whole record")
                key.remember(slot, new, record)
                if before is None and (in_progress := Change.in_progress_at(self.path)) is not None:
                    in_progress.after_unlocking.append(partial(self.complain_of_damage, key))

            return partial(os.pwrite, fd, new, slot * _STEP), written

        self._repeat(partial(self._with_slot, key, change))

    def erase(self, key: KeyRecord) -> bool:
        """Forget the record of *key*, and give its room back; False if there is none.

        :raises SidecarError: as :meth:`change`.
        """
        if key.read() is _MISSING:
            return False

        # What is damaged may be another key's, whose file must not count as of its mtime.
        without = (_NO_BYTES, _DAMAGED_BYTES)

        def punch(fd: int, slot: int, data: bytes) -> _Write | None:
            return None if data in without else (linux.hole_puncher(fd, slot * _STEP, _STEP), linux.checked)

        def fill(fd: int, slot: int, data: bytes) -> _Write | None:
            return None if data in without else (partial(os.pwrite, fd, _EMPTY, slot * _STEP), bool)

        try:
            self._repeat(partial(self._with_slot, key, punch))
        except SidecarError as error:
            if error.errno not in _NO_HOLES:
                raise
            self._repeat(partial(self._with_slot, key, fill))
        return True

    def sync(self) -> None:
        """Write the records to the disk.

        :raises SidecarError: if the disk fails.
        """
        try:
            _open_file, fd = self.opened()
            fsync.sync(fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in fsync.NOT_SUPPORTED:
                raise as_error(SidecarError, self.path, "make durable what was written to", error) from error
        fsync.sync_directory(os.path.dirname(self.path), SidecarError)

    def all(self) -> Iterator[tuple[str, Record]]:
        """Yield the names of all keys that have a record now, and these records.

        :raises SidecarError: if the file cannot be read, or a newer format is in it.
        """
        try:
            _open_file, fd = self.opened()
            for slot in _data(fd, 0, math.inf):
                data = os.pread(fd, _SLOT, slot * _STEP)
                name = _name_in(data)
                if name:
                    record = self.decoded(data)
                    yield name, DAMAGED if record is None else record
        except FileNotFoundError:
            return
        except OSError as error:
            raise as_error(SidecarError, self.path, "read the records of keys in", error, reading=True) from error

    def complain(self, text: str, level: int = logging.WARNING) -> None:
        """Log *text*, unless it was the last that was logged."""
        if text != self._complaint:
            self._complaint = text
            log.log(level, text)

    def complain_of_damage(self, key: KeyRecord) -> None:
        self.complain(
            f"{self.path!r} holds no sound record of {key.name!r}: it counts as no creation yet, and the next "
            "creation writes it anew."
        )

    def decoded(self, data: bytes) -> Record | None:
        """:raises SidecarError: if it was written by a newer dogpile_fs."""
        try:
            return decode(data[:SIZE])
        except NewerFormat as error:
            raise SidecarError(
                errno.EPROTO,
                f"cannot use the records of keys in {self.path!r}: {error}. "
                "Hint: let all users of the keys run the same dogpile_fs, or delete the file.",
            ) from error

    def _repeat(self, act: Callable[[Change], bool]) -> None:
        """Have *act* change the file until it was the one at the path."""
        again = True
        while True:
            try:
                if self._locked(act):
                    return
            except (SidecarError, LockTimeout):
                raise
            except OSError as error:
                if not again or error.errno != errno.ESTALE:  # that is: another host has replaced it
                    raise as_error(SidecarError, self.path, "write the records of keys in", error) from error
                again = False

    def _locked(self, act: Callable[[Change], bool]) -> bool:
        """Have *act* change the file; see :meth:`.Sidecar.change` for what a signal handler in the middle does."""
        change = Change.in_progress_at(self.path)
        if change is not None:
            change.crossings += 1
            return act(change)
        self.make()
        change = Change(open_regular(OpenFile(self.path), os.O_RDWR, self.mode, create=True))
        try:
            change.begin()
            return act(change)
        finally:
            with suppress(OSError):
                byterange.unlock(change.open_file.fd, 0, 0)
            change.end()

    def _with_slot(
        self,
        key: KeyRecord,
        act: Callable[[int, int, bytes], _Write | None],
        change: Change,
    ) -> bool:
        """Call *act* with descriptor, slot and bytes of *key*, locked; then write as it says, unless this thread
        has changed the file meanwhile: then once more.

        :returns: False if the file is no longer at the path.
        """
        open_file = change.open_file
        lock = partial(byterange.exclusive, length=_WINDOW)
        if not byterange.lock_until(lock, open_file.fd, key.home, Deadline(self.timeout)):
            raise LockTimeout(
                f"another program kept the record of {key.name!r} in {self.path!r} locked for {self.timeout} s. "
                "Hint: find it with fuser(1) or in /proc/locks; dogpile_fs locks it for microseconds."
            )
        while True:
            found = open_file.found_at_its_path()
            if found is None:
                return False
            if found.st_nlink > 1:
                raise SidecarError(
                    errno.EMLINK,
                    f"{self.path!r} has {found.st_nlink} names: it may be another user's, and is not written. "
                    "Hint: remove the other names, or it.",
                )
            crossings = change.crossings
            slot, data = self._slot_of(key, open_file.fd)
            write = act(open_file.fd, slot, data)
            if write is None:
                if change.crossings == crossings:
                    return True
                continue
            call, written = write
            # No signal handler runs between this comparison and the call, which is C code.
            if change.crossings == crossings:
                result = call()
                written(result)
                return True

    def _slot_of(self, key: KeyRecord, fd: int) -> tuple[int, bytes]:
        """Return the slot of *key* and its bytes; else one that is damaged, or one that is free and has none."""
        slot, data, damaged = find(fd, key)
        if slot is not None:
            return slot, data
        if damaged is not None:
            return damaged, _DAMAGED_BYTES
        taken = set(_data(fd, key.home, key.home + _WINDOW))
        for slot in range(key.home, key.home + _WINDOW):
            if slot not in taken or _is_free(os.pread(fd, _SLOT, slot * _STEP)):
                return slot, _NO_BYTES
        raise SidecarError(
            errno.ENOSPC,
            f"there is no slot for {key.name!r} in {self.path!r}: it has the records of too many keys. Hint: let "
            "prune() remove some.",
        )


class KeyRecord:
    """The record of one key: what a :class:`.Sidecar` is of one path.

    *name*: of the key, at most 100 characters of ASCII. *home*: a number of :data:`HOME_BITS` bits of its digest.
    """

    __slots__ = ("_last", "home", "name", "records")

    def __init__(self, records: KeyRecords, name: str, home: int) -> None:
        self.records = records
        self.name = name
        self.home = home
        # The slot that was read or written last, its bytes and the record in it: one tuple, so that a thread reads
        # all of it or none.
        self._last: tuple[int, bytes, Record] = _NOTHING

    def peek(self) -> Snapshot:
        """Return the record, at the price of a fresh pass; that of :data:`~.record.MISSING` if there is none.

        :raises SidecarError: as :meth:`read` does.
        """
        slot, data, record = self._last
        open_file = self.records._open_file
        if data and open_file is not None and monotonic() < self.records._look_at:
            try:
                if os.pread(open_file.fd, _SLOT, slot * _STEP) == data:
                    return self._snapshot(open_file, slot, data, record)
            except OSError:
                pass  # closed by a fork, or stale on a network
        return self.read()

    def read(self) -> Snapshot:
        """Return the record in the file that is at the path now.

        Damage is no error, nor is a file that this user may not read: see :meth:`.Sidecar.read`.

        :raises SidecarError: if a directory is in its place, a newer format is in it, or the system fails to read
            it.
        """
        records = self.records
        try:
            open_file, fd = records.opened()
            slot, data, damaged = find(fd, self)
            if slot is None and damaged is None:
                return self._forget(_MISSING)
            record = None if slot is None else records.decoded(data)
            if record is None:
                # Half of the old record and half of the new one, or damage: without a writer inside it shows.
                slot, data, damaged = self._find_without_a_writer()
                if slot is None and damaged is None:
                    return self._forget(_MISSING)
                record = None if slot is None else records.decoded(data)
            if slot is None or record is None:
                records.complain_of_damage(self)
                return self._forget(_DAMAGED)
        except FileNotFoundError:
            return self._forget(_MISSING)
        except SidecarError:
            raise
        except OSError as error:
            failure = as_error(SidecarError, records.path, "read the records of keys in", error, reading=True)
            if error.errno not in NO_PERMISSION:
                raise failure from error
            records.complain(f"{failure.strerror} Until then it counts as no creation yet.")
            return self._forget(_DAMAGED)
        if data != self._last[1]:
            self._last = slot, data, record
        return self._snapshot(open_file, slot, data, self._last[2])

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by ``make(record)``; see :meth:`.KeyRecords.change`."""
        self.records.change(self, make)

    def sync(self) -> None:
        """Write the records of all keys to the disk; see :meth:`.KeyRecords.sync`."""
        self.records.sync()

    @property
    def path(self) -> str:
        """The file that it is in."""
        return self.records.path

    def last_read(self) -> float:
        """Return 0: nothing is kept open for this key alone."""
        return 0.0

    def remember(self, slot: int, data: bytes, record: Record) -> None:
        """Let the next read find what was written, which it need not decode."""
        self._last = slot, data, record

    def let_go(self) -> None:
        """Do nothing: one descriptor serves all keys."""

    def _forget(self, snapshot: Snapshot) -> Snapshot:
        self._last = _NOTHING
        return snapshot

    def _find_without_a_writer(self) -> tuple[int | None, bytes, int | None]:
        change = Change.in_progress_at(self.records.path)
        if change is not None:  # by this thread, which a signal handler has interrupted
            return find(change.open_file.fd, self)
        open_file = open_regular(OpenFile(self.records.path), os.O_RDONLY, create=False)
        try:
            lock = partial(byterange.shared, length=_WINDOW)
            byterange.lock_until(lock, open_file.fd, self.home, Deadline(_PATIENCE))
            return find(open_file.fd, self)
        finally:
            with suppress(OSError):
                byterange.unlock(open_file.fd, 0, 0)
            open_file.close()

    def _snapshot(self, open_file: OpenFile, slot: int, data: bytes, record: Record) -> Snapshot:
        now = time()
        return _KeySnapshot(record, open_file, slot, data, now, now + _LOOK_EVERY)


class _KeySnapshot(Snapshot):
    """The record in a slot: *length* is the slot, and *checksum* all of its bytes."""

    __slots__ = ()

    def is_current(self) -> bool:
        if not self.since <= time() < self.until:
            return False
        assert self.open_file is not None
        try:
            return os.pread(self.open_file.fd, _SLOT, self.length * _STEP) == self.checksum
        except OSError:
            return False  # closed by a fork, or stale on a network


_NOTHING = (0, _NO_BYTES, MISSING)
_MISSING = unverified(MISSING)
_DAMAGED = unverified(DAMAGED)


def find(fd: int, key: KeyRecord) -> tuple[int | None, bytes, int | None]:
    """Return the slot of *key* and its bytes, if it has one; else a slot that may be its own and is damaged."""
    damaged = None
    for slot in _data(fd, key.home, key.home + _WINDOW):
        data = os.pread(fd, _SLOT, slot * _STEP)
        name = _name_in(data)
        if name == key.name:
            return slot, data, None
        if name is None and not _is_free(data):
            damaged = slot
    return None, _NO_BYTES, damaged


def _data(fd: int, first: int, end: float) -> Iterator[int]:
    """Yield the numbers of the slots from *first* to before *end* that are no holes."""
    slot = first
    while slot < end:
        try:
            slot = max(slot, os.lseek(fd, slot * _STEP, _SEEK_DATA) // _STEP)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that is: there is no more
                raise
            return
        if slot < end:
            yield slot
        slot += 1


def _is_free(data: bytes) -> bool:
    return not data.strip(b"\0")


def _line(name: str) -> bytes:
    body = name.encode().ljust(_NAME_CHECKSUM_AT)
    return body + b"%08x\n" % zlib.crc32(body)


def _name_in(data: bytes) -> str | None:
    """Return the name of the key whose record the bytes of a slot are; ``None`` if there is none, or it is
    damaged.
    """
    line = data[SIZE:]
    if len(line) != _NAME_SIZE or line[_NAME_CHECKSUM_AT:] != b"%08x\n" % zlib.crc32(line[:_NAME_CHECKSUM_AT]):
        return None
    return line[:_NAME_CHECKSUM_AT].decode("ascii", "replace").rstrip()
