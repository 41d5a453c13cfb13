"""Where the record lives: a small file that is read at every pass and written at every creation.

A read is one ``pread`` on a kept descriptor, compared with the bytes decoded last time; whether the file at
the path still is that one is asked every 10 ms. Memory-mapping it would be faster, but a foreign truncate
would then kill every reader with SIGBUS.

A write is read, change and one ``pwrite`` under an exclusive ``flock`` on the sidecar itself, held for
microseconds: a creator's stamp and somebody's invalidation of it cannot overwrite each other. The creation
mutex would not do for that, because an invalidation must not wait until a creator is ready.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from time import monotonic

from . import forking
from .errors import NO_PERMISSION, LockTimeout, SidecarError, explained
from .lockfile import Description, open_regular
from .record import DAMAGED, NOTHING, SIZE, NewerFormat, Record, decode, encode
from .waiting import Deadline, wait_until

__all__ = ["Sidecar"]

log = logging.getLogger("dogpile_fs")

_LOOK_EVERY = 0.010
#: How long a reader that met half a record waits for its writer. A ``pwrite`` of 512 bytes takes
#: microseconds; only a process stopped in the middle of one, or a foreign lock, takes longer.
_PATIENCE = 1.0


class Sidecar:
    """The sidecar file at *path*; :meth:`read`, :meth:`look` and :meth:`change` may be called by any thread."""

    def __init__(self, path: str, mode: int | None = None, timeout: float | None = None) -> None:
        self.path = path
        self.mode = mode
        self.timeout = timeout
        # What was read last: from where, which bytes, what they mean. One tuple, so that a thread sees
        # all of it or none. The description closes when the last thread that uses it lets go.
        self._seen: tuple[Description | None, bytes, Record] = (None, b"", NOTHING)
        # Racing threads may write these; whichever wins is right.
        self._look_at = 0.0
        self._complaint = ""

    def read(self) -> Record:
        """The record as it is now; :data:`~.record.NOTHING` if there is none. The hot path.

        A sidecar that was deleted or replaced less than 10 ms ago may still be believed.

        :raises SidecarError: as :meth:`look` does.
        """
        description, known, record = self._seen
        if description is not None and monotonic() < self._look_at:
            try:
                if os.pread(description.fd, SIZE, 0) == known:
                    return record
            except OSError:
                pass  # closed by a fork, or stale on a network: look() tells
        return self.look()

    def look(self) -> Record:
        """The record of the file that is at the path now.

        :raises SidecarError: if there is a directory in its place, it was written by a newer format, or
            the system fails to read it. Damage is no error, nor is a file that this user may not read:
            they count as no creation yet (:data:`~.record.DAMAGED`),
            and are logged.
        """
        try:
            return self._look()
        except FileNotFoundError:
            pass
        except SidecarError:
            raise
        except OSError as error:
            explanation = explained(SidecarError, self.path, "read the sidecar", error, reading=True)
            if error.errno not in NO_PERMISSION:
                raise explanation from error
            self._complain(f"{explanation.strerror} Until then it counts as no creation yet.")
            self._seen = (None, b"", DAMAGED)
            return DAMAGED
        self._seen = (None, b"", NOTHING)
        return NOTHING

    def _look(self) -> Record:
        description, known, record = self._seen
        if description is None or description.fd < 0 or not description.is_at_its_path():
            description, known = self._opened(), b"never read"
        data = os.pread(description.fd, SIZE, 0)
        if data != known:
            sound = self._decoded(data)
            if sound is None:
                # Half of the old record and half of the new one, or damage: with the writer out, it shows.
                data = self._read_while_nobody_writes()
                sound = self._decoded(data)
            record = self._sound(sound, data)
        self._seen = (description, data, record)
        self._look_at = monotonic() + _LOOK_EVERY
        return record

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by ``make(record)``, against which no other change can slip in.

        The file is made if it is missing. If this fails or the process dies, the old record stands.

        :raises SidecarError: if it cannot be opened or written, or was written by a newer format.
        :raises LockTimeout: if a foreign hand keeps it locked.
        """
        try:
            while not self._changed(make):
                pass
        except (SidecarError, LockTimeout):
            raise
        except OSError as error:
            raise explained(SidecarError, self.path, "write the sidecar", error) from error

    def _changed(self, make: Callable[[Record], Record]) -> bool:
        with forking.opening:
            fd = open_regular(self.path, os.O_RDWR, self.mode, create=True)
            description = Description(self.path, fd)
        try:
            if not _wait_for_lock(description, LOCK_EX, Deadline(self.timeout)):
                raise LockTimeout(
                    f"somebody kept the sidecar {self.path!r} locked for {self.timeout} s. Cure: find who it is "
                    "with fuser(1) or in /proc/locks; dogpile_fs itself does so for microseconds."
                )
            if not description.is_at_its_path():
                return False
            data = os.pread(description.fd, SIZE, 0)
            record = self._sound(self._decoded(data), data) if data else NOTHING
            written = os.pwrite(description.fd, encode(make(record)), 0)
            if written != SIZE:  # a full disk or a limit, met in the middle
                os.pwrite(description.fd, data[:written], 0)
                os.ftruncate(description.fd, len(data))
                raise OSError(errno.ENOSPC, f"there was room for only {written} of {SIZE} bytes")
            if os.fstat(description.fd).st_size > SIZE:
                os.ftruncate(description.fd, SIZE)
            self._look_at = 0.0  # the file may be a new one
            return True
        finally:
            description.close()

    def _opened(self) -> Description:
        with forking.opening:
            return Description(self.path, open_regular(self.path, os.O_RDONLY, create=False))

    def _read_while_nobody_writes(self) -> bytes:
        # A description of its own: a shared lock on the kept one would belong to all threads at once.
        description = self._opened()
        try:
            _wait_for_lock(description, LOCK_SH, Deadline(_PATIENCE))
            return os.pread(description.fd, SIZE, 0)
        finally:
            description.close()

    def _decoded(self, data: bytes) -> Record | None:
        try:
            return decode(data)
        except NewerFormat as error:
            raise SidecarError(
                errno.EPROTO,
                f"cannot use the sidecar {self.path!r}: {error}. "
                "Cure: let all users of the resource run the same dogpile_fs, or delete the sidecar.",
            ) from error

    def _sound(self, record: Record | None, data: bytes) -> Record:
        if record is None:
            # Empty is also what a reader sees that comes between its making and its first record.
            self._complain(
                f"the sidecar {self.path!r} holds no sound record but {len(data)} bytes of something else: "
                "it counts as no creation yet, and the next creation writes it anew.",
                logging.WARNING if data else logging.INFO,
            )
            return DAMAGED
        self._complaint = ""
        return record

    def _complain(self, text: str, level: int = logging.WARNING) -> None:
        if text != self._complaint:
            self._complaint = text
            log.log(level, text)


def _wait_for_lock(description: Description, kind: int, deadline: Deadline) -> bool:
    def attempt() -> bool:
        try:
            flock(description.fd, kind | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return wait_until(attempt, lambda: flock(description.fd, kind), deadline)
