"""ReadWriteFileLock: many readers or one writer, among all threads of all processes that name its file.

Promised: no reader is inside while a writer is, and the reverse; readers that keep overlapping cannot keep a
writer out, nor writers that follow each other a reader; a process that dies, or is stopped while it neither
holds nor waits, hinders no other; a thread that is inside may enter again at any time. Not promised: that
readers which were inside when the lock file was deleted still count.

How one description gets in stands in :mod:`.rw_protocol`, and the readers' half in :mod:`.reader_pool`.
"""

from __future__ import annotations

import os
import time
from weakref import ref

from .._os import fork
from .._os.copying import copied_by
from .._os.openfile import OpenFile
from .._os.waiting import Deadline, wait_until
from . import holds, rw_protocol
from .reader_pool import ReaderPool
from .rw_protocol import WriteHold

__all__ = ["ReadWriteFileLock"]

#: Seconds between two looks whether another thread has left a lock whose file was deleted.
_WHILE_THE_FILE_IS_LOST = 0.010


class ReadWriteFileLock(ReaderPool):
    """A shared/exclusive lock on a file, with writer preference.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a wait gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    A reader needs permission to read the file, a writer to write it. Reads nest within a thread or task; nothing
    else does. Any thread may leave a block that another has entered, and a block that is dropped is left. A forked
    child holds nothing, and may leave its parent's blocks without harm. It can be pickled; the copy names the same
    file and holds nothing. Its methods are the ones that dogpile.cache's file backend expects of a
    ``lock_factory``'s product.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "shared.lock")
    >>> lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    >>> with lock.read():
    ...     other.acquire_read_lock(wait=False), other.acquire_write_lock(wait=False)
    (True, False)
    >>> other.release_read_lock()
    """

    __slots__ = ("_writer",)

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        super().__init__(path, timeout=timeout, mode=mode)
        # The last that has won the file, also for a block, which alone holds it.
        self._writer: ref[WriteHold] | None = None

    def _enter_as_writer(self, deadline: Deadline) -> WriteHold:
        hold = WriteHold(self.path)
        try:
            fork.settle()
            self._refuse_to_wait_for_oneself(deadline, to_write=True)
            while True:
                hold.open_lock_file(self._mode, write=True)
                with self._waiting("write", lambda: True, deadline) as wait:
                    if not rw_protocol.enter_as_writer(hold, wait.deadline) or self._is_written(wait.deadline):
                        raise self._timed_out("readers or a writer", wait)
                if hold.is_at_its_path():
                    hold.holder = holds.current()
                    self._writer = ref(hold)
                    return hold
                hold.give_back()
        except BaseException:
            hold.give_back()
            raise

    def _is_written(self, deadline: Deadline) -> bool:
        """Return whether another thread is the writer by this object, even if the file was deleted."""

        def is_free() -> bool:
            writer = None if self._writer is None else self._writer()
            return writer is None or writer.fd < 0

        def poll() -> None:
            while not is_free():
                time.sleep(_WHILE_THE_FILE_IS_LOST)

        return not wait_until(is_free, poll, deadline)

    def _give_back(self, hold: WriteHold) -> None:
        if self._hold is hold:
            self._hold = None
        hold.give_back_and_warn("readers may have been inside at the same time")

    def _make_file(self) -> None:
        """Make the lock file if it is missing, for readers without permission to make it.

        :raises LockFileError: if it cannot be made.
        """
        OpenFile.of_lock_file(self.path, self._mode).close()

    def __reduce__(self) -> tuple[object, ...]:  # type: ignore[override]
        return copied_by(self, ReadWriteFileLock, self.path, timeout=self.timeout, mode=self._mode)

    def __repr__(self) -> str:
        return f"<ReadWriteFileLock {self.path!r}>"
