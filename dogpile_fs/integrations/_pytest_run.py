"""The directory of one run of pytest, and which processes it waits for.

It lies in a directory of this user that no other may enter, below the system's directory for temporary files.
(pytest may empty its own base directory while the next run still needs what a killed one has left.) The owner of
the run, which is xdist's controller or the only process, locks two files in it: ``open.lock`` until no test begins
any more, ``owner.lock`` to the end. Both are free as soon as the owner was killed.

The controller of each run with pytest-xdist comes here. So this module locks by ``flock`` itself: to import a
``FileMutex`` takes longer than all the rest.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from hashlib import sha256
from pathlib import Path

__all__ = ["Run"]

_OPEN = "open.lock"
_OWNER = "owner.lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


#: What this process has locked. A forked child would keep the locks of a parent that was killed.
_locked: set[_Locked] = set()


def _forget_in_child() -> None:
    for locked in _locked:
        os.close(locked._fd)
    _locked.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class _Locked:
    """An exclusive ``flock`` of the file at *path*, or of that directory.

    :raises BlockingIOError: unless *wait* is true, if another process has it.
    :raises OSError: if it cannot be opened.
    """

    def __init__(self, path: Path, *, wait: bool = False, flags: int = _FLAGS) -> None:
        self._fd = os.open(path, flags, 0o600)
        try:
            flock(self._fd, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BaseException:
            os.close(self._fd)
            raise
        _locked.add(self)

    def release(self) -> None:
        """Unlock. Do nothing if it is unlocked, or in a forked child."""
        if self in _locked:
            _locked.remove(self)
            os.close(self._fd)


class Run:
    """One run of pytest, seen by one of its processes.

    :param directory: of the run; its name begins with that of the project.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: _Locked | None = None
        self._owner: _Locked | None = None

    @classmethod
    def begin(cls, project: Path) -> Run:
        """Return a new run, of which this process is the owner.

        :param project: pytest's rootdir; the next run looks for what earlier runs of the same one have left.
        :raises OSError: if the directory cannot be made, or is not this user's alone.
        """
        root = _root()
        named = sha256(os.fsencode(project)).hexdigest()[:16]
        run = cls(root / f"{named}-{secrets.token_hex(8)}")
        with _alone_in(root):  # no other run finds the directory before its files are locked
            run.directory.mkdir(0o700)
            run._owner = _Locked(run.directory / _OWNER)
            run._open = _Locked(run.directory / _OPEN)
        return run

    @property
    def is_open(self) -> bool:
        """Whether tests may still begin: the owner lives, and has not announced the end."""
        try:
            self._share_open(LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def wait_for_end(self) -> None:
        """Wait in the kernel until no more tests begin: the owner has said so, or has ended."""
        self._share_open(0)

    def _share_open(self, how: int) -> None:
        """Lock ``open.lock`` together with other processes for a moment, unless the directory was removed."""
        with suppress(FileNotFoundError):
            fd = os.open(self.directory / _OPEN, os.O_RDONLY | os.O_CLOEXEC)
            try:
                flock(fd, LOCK_SH | how)
            finally:
                os.close(fd)

    def announce_end(self) -> None:
        """As the owner: from now on no test begins."""
        if self._open is not None:
            self._open.release()

    def release(self) -> None:
        """As the owner, or after :meth:`claim_dead`: give the directory up."""
        self.announce_end()
        if self._owner is not None:
            self._owner.release()

    def remove(self) -> None:
        """Remove the directory, with all that was made there."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def claim_dead(self) -> Iterator[Run]:
        """Yield the runs of the same project whose owners were killed. No other process gets them meanwhile."""
        root = self.directory.parent
        named = self.directory.name.partition("-")[0]
        claimed = []
        try:
            with _alone_in(root):
                for directory in sorted(root.glob(f"{named}-*")):
                    dead = Run(directory)
                    with suppress(OSError):  # its owner lives, another run has claimed it, or it was removed
                        dead._owner = _Locked(directory / _OWNER)
                        claimed.append(dead)
            yield from claimed
        finally:
            for dead in claimed:
                dead.release()


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Keep other processes from beginning or claiming a run for the moment of the block."""
    lock = _Locked(root, wait=True, flags=os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield
    finally:
        lock.release()


def _root() -> Path:
    """Make the directory of this user's runs, if it is missing, and return it.

    It is where pytest's own temporary directories are, as ``PYTEST_DEBUG_TEMPROOT`` says, else ``TMPDIR``.

    :raises OSError: if it cannot be made, or another user owns it or may enter it.
    """
    base = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir())
    root = base.absolute() / f"dogpile_fs-pytest-{os.geteuid()}"
    with suppress(FileExistsError):
        root.mkdir(0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"{str(root)!r} must be a directory that user {os.geteuid()} owns and no other may enter, "
            f"and it is {stat.filemode(found.st_mode)} of user {found.st_uid}. Hint: remove it, or set TMPDIR."
        )
    return root
