"""Forks: what a child must forget of its parent, and how a process finds that it is a child.

``fork`` copies memory and shares open file descriptions: the child's locks look held, and they are, by the
parent (flock(2): "locks created by flock() are associated with an open file description ... duplicate file
descriptors (created by, for example, fork(2) or dup(2)) refer to the same lock"). So each object with state that
must not outlive a fork registers here, and in every forked child its ``after_fork`` runs before any other code of
the child. A child that C code has forked without Python's hooks (uWSGI's default, libc's ``fork``) runs them in
its first call that opens, takes or gives back anything: :func:`settle`.

No lock is held while the process forks, nor while a descriptor is opened or closed: a system call that hangs for
one file must not keep the process from fork. A descriptor that is opened while another thread forks may be
unknown to the child; :data:`forks` has changed then, and the descriptor is opened anew before anything is locked
through it. Every lock is given back explicitly before its descriptor is closed, so that no copy can keep it.

Children that ``exec`` need none of this: every descriptor here is close-on-exec.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from typing import Protocol
from weakref import ref

__all__ = ["IN_PARENT", "ForkAware", "forks", "living", "once", "reset_after_fork", "settle"]


class ForkAware(Protocol):
    """An object with state that must not outlive a fork."""

    def after_fork(self) -> None:
        """Hold nothing in the child, without touching what the parent holds."""


#: Weak references to all of them. A set is changed by one operation each, so that no lock guards it.
_fork_aware: set[ref[ForkAware]] = set()

#: Guards what threads must not make twice. Nothing that can block is done under it. It is re-entrant, because a
#: signal handler or a finalizer may come in between.
once = threading.RLock()

#: How many forks this process has begun and ended; see :func:`forks`.
_forks = 0

#: The value of MADV_WIPEONFORK, which Python's mmap does not name (madvise(2), Linux 4.14).
_WIPEONFORK = 18


class _Pid:
    """What :data:`IN_PARENT` is where no memory can be wiped: its only byte is true in the process that made
    it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


def _page() -> mmap.mmap | _Pid:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPEONFORK)
    except (AttributeError, OSError, ValueError):  # macOS, an older kernel, a sandbox
        return _Pid()
    return page


#: Its first byte is 1 until the process is a child that has not settled yet: the kernel gives a child of any kind
#: of fork a page of zeros instead. To read it costs a quarter of what ``os.getpid`` does.
IN_PARENT = _page()
IN_PARENT[0] = 1


def reset_after_fork(thing: ForkAware) -> None:
    """Have ``thing.after_fork()`` called in every child forked from now on, for as long as *thing* lives."""
    _fork_aware.add(ref(thing, _fork_aware.discard))


def living() -> Iterator[ForkAware]:
    """Yield everything that is registered."""
    for reference in list(_fork_aware):
        thing = reference()
        if thing is not None:
            yield thing


def forks() -> int:
    """Return a number that differs after a fork that began or ended in between."""
    return _forks


def settle() -> None:
    """Forget what the parent holds, if this is a child in which Python's hooks have not run."""
    if not IN_PARENT[0]:
        _in_child()


def _count() -> None:
    global _forks
    _forks += 1


def _in_child() -> None:
    global once
    IN_PARENT[0] = 1
    once = threading.RLock()
    failures = []
    for thing in living():
        try:
            thing.after_fork()
        except Exception as failure:  # the others must forget all the same
            failures.append(failure)
    if failures:
        raise ExceptionGroup("a forked child could not forget what its parent holds", failures)


os.register_at_fork(before=_count, after_in_parent=_count, after_in_child=_in_child)
