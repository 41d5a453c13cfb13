"""What the locks of files have in common with those of threads: the calls of a mutex and of a read/write lock.

Each lock is taken by a hold, an object of its own, and adds the steps that take a hold and give it back. Promised
here: an exception at any instruction of a call leaves no lock held, a block that is dropped gives back what it
holds, and a forked child may leave its parent's blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from weakref import ref

from .._os import fork
from .._os.copying import NotCopied
from .._os.lock_holders import lock_holders
from .._os.waiting import INHERIT, NOW, Deadline, Timeout, deadline_of
from ..errors import LockTimeout, NotHeld, WouldDeadlock
from .holds import AnyHold, Holder, Taker, current, is_blocked_by
from .waits import Wait

__all__ = ["Block", "MutexBase", "ReadWriteBase", "Side"]

H = TypeVar("H", bound=AnyHold)
R = TypeVar("R", bound=AnyHold)

#: As what a caller is inside a read/write lock.
Side = Literal["reader", "writer"]


class _Releasable(NotCopied, ABC, Generic[H]):
    """A lock that one caller at a time takes by its name, and gives back by :meth:`release`."""

    __slots__ = ("__weakref__", "_hold", "_inherited", "timeout")

    #: Seconds after which a wait gives up; None: never.
    timeout: float | None
    #: What :meth:`release` gives back. In a forked child it locks nothing.
    _hold: H | None
    #: In a forked child: it may leave a block of its parent's, which is around one of its own.
    _inherited: bool

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._hold = None
        self._inherited = False

    #: The lock file, if it is one.
    _path = ""

    @property
    @abstractmethod
    def _name(self) -> str:
        """What the lock is called in messages."""

    def _locked_by(self) -> str:
        """Return a clause that names the processes which hold the lock, if they are known."""
        return lock_holders(self._path) if self._path else ""

    @abstractmethod
    def _give_back(self, hold: H) -> None:
        """Give *hold* back, and forget it. May be called again, and for a hold that locks nothing."""

    def release(self) -> None:
        """Give the lock back, from any thread. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if this object does not hold it.
        """
        fork.settle()
        hold = self._hold
        if hold is None:
            if not self._inherited:
                raise NotHeld(f"{self._name} is not held by this object: acquire it first")
            self._inherited = False
            return
        try:
            self._give_back(hold)
        except BaseException:
            self._give_back(hold)  # an interrupt came first
            raise


class MutexBase(_Releasable[H]):
    """A lock with one holder at a time."""

    __slots__ = ()

    @property
    def held(self) -> bool:
        """Whether this object holds it: not its parent process, not another object of the same lock."""
        return self._hold is not None

    @property
    def lost(self) -> bool:
        """Whether this object holds it by a file that is no longer at the path: another may hold it too."""
        return False

    @abstractmethod
    def _new_hold(self) -> H:
        """Return a hold that locks nothing yet."""

    @abstractmethod
    def _try(self, hold: H) -> bool:
        """Take the mutex by *hold* if that is possible without waiting."""

    @abstractmethod
    def _wait(self, hold: H, deadline: Deadline) -> bool:
        """Take the mutex by *hold*; False if *deadline* came first."""

    @abstractmethod
    def _wait_until_released(self, deadline: Deadline) -> bool:
        """Wait until the hold of now has ended; False if *deadline* came first."""

    def _holds_here(self) -> Iterator[AnyHold]:
        """Yield the holds of this process that lock the mutex, through whichever object."""
        if self._hold is not None:
            yield self._hold

    def _holders_here(self) -> list[Holder | None]:
        return [hold.holder for hold in self._holds_here()]

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT, *, taker: Taker | None = None) -> bool:
        """Take the lock.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :param taker: for the use of this package alone.
        :returns: True if it is held now; False only if *wait* is false.
        :raises LockTimeout: if it did not come free in time.
        :raises WouldDeadlock: if this caller holds it already and would wait for itself without a timeout, or
            callers of this process would wait for each other.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        deadline = deadline_of(timeout, self.timeout)
        hold = self._new_hold()
        if taker is not None:
            taker.mutex_hold = hold
        try:
            fork.settle()
            if self._try(hold):
                return True
            if not wait:
                return False
            self._refuse_to_wait_for_oneself(deadline)
            with Wait(self._name, self._path, self._holders_here, deadline) as waiting:
                if self._wait(hold, waiting.deadline):
                    return True
            raise self._timed_out(waiting)
        except BaseException:
            self._give_back(hold)  # an interrupt may come when the lock is taken and the call has not returned
            raise

    def _wait_released(self, deadline: Deadline) -> bool:
        """Wait until the hold of now has ended, without taking the mutex: all callers that wait so wake at once.

        Another caller may have taken it by the time this returns.

        :returns: False if *deadline* came first.
        :raises WouldDeadlock: if this caller holds it and would wait for itself without a bound, or callers of
            this process would wait for each other.
        :raises LockTimeout: if this caller holds another lock, and has waited for as long as that permits.
        """
        with self._waiting_for_release(deadline, current()) as wait:
            if self._wait_until_released(wait.deadline):
                return True
        if wait.deadline is not deadline:
            raise self._timed_out(wait)
        return False

    def _waiting_for_release(self, deadline: Deadline, me: Holder) -> Wait:
        """Return the wait of *me* for the end of the hold of now.

        :raises WouldDeadlock: if *me* holds it and would wait for itself without a bound.
        """
        self._refuse_to_wait_for_oneself(deadline, me)
        of_now = {ref(hold) for hold in self._holds_here()}

        def holders() -> list[Holder | None]:
            return [hold.holder for hold in self._holds_here() if ref(hold) in of_now]

        return Wait(self._name, self._path, holders, deadline, me=me)

    def _pass_on(self, me: Holder) -> Holder | None:
        """Let *me* be the caller for which it is held from now on; return the one before."""
        hold = self._hold
        if hold is None:
            return None
        before, hold.holder = hold.holder, me
        return before

    def _release_hold(self, hold: object) -> None:
        """Release the lock if it is *hold* by which this object holds it; else do nothing."""
        if self._hold is hold:
            self.release()

    def _refuse_to_wait_for_oneself(self, deadline: Deadline, me: Holder | None = None) -> None:
        me = me or current()
        if any(is_blocked_by(hold, me, deadline) for hold in self._holds_here()):
            raise WouldDeadlock(
                f"this thread holds {self._name} and would wait for itself, for ever: it runs the creator "
                "or holds the mutex. Hint: do not acquire it again inside; hand in what is needed."
            )

    def _timed_out(self, wait: Wait) -> LockTimeout:
        return LockTimeout(
            f"{self._name}{self._locked_by()} did not come free {wait.within}. Hint: a longer timeout, or find "
            "the holder of a lock file with fuser(1) or in /proc/locks."
        )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ReadWriteBase(_Releasable[H], Generic[R, H]):
    """A lock with many readers or one writer. *R*, *H*: what a reader and a writer hold."""

    __slots__ = ("_reads",)

    #: What :meth:`release_read_lock` gives back; None before the first :meth:`acquire_read_lock`.
    _reads: list[R] | None

    def __init__(self, timeout: float | None) -> None:
        super().__init__(timeout)
        self._reads = None

    @abstractmethod
    def _enter(self, deadline: Deadline) -> R:
        """Enter as a reader and return the hold, which any thread may :meth:`_leave`."""

    @abstractmethod
    def _leave(self, hold: R) -> None:
        """Leave once what :meth:`_enter` returned."""

    def _let_go(self) -> None:
        """Keep nothing open for later readers."""

    @abstractmethod
    def _enter_now(self, *, behind_writers: bool) -> R | None:
        """Enter as a reader if that is possible without waiting.

        :param behind_writers: False for a caller that is inside already, or has waited for the writers before it.
        """

    @abstractmethod
    def _enter_as_writer(self, deadline: Deadline) -> H:
        """Enter as the writer and return the hold."""

    def _leave_as_writer(self, hold: H) -> None:
        """Leave what :meth:`_enter_as_writer` returned, in whichever thread; do nothing if that was done."""
        self._give_back(hold)

    @abstractmethod
    def _holds_inside(self) -> Iterable[tuple[Side, AnyHold]]:
        """The holds of this process that are inside, through whichever object; the writer's first."""

    def _inside(self) -> Side | Literal[""]:
        """Return as what this caller is inside, through whichever object of this process; ``""`` if it is not."""
        me = current()
        return next((side for side, hold in self._holds_inside() if hold.is_held_by(me)), "")

    def _refuse_to_wait_for_oneself(self, deadline: Deadline, *, to_write: bool, me: Holder | None = None) -> None:
        """:raises WouldDeadlock: if the caller, or another task of its thread, would have to leave first."""
        me = me or current()
        for side, hold in self._holds_inside():
            if side == "reader" and not to_write:
                return  # the writer comes first
            if is_blocked_by(hold, me, deadline):
                inside = "a reader" if side == "reader" else "the writer"
                raise WouldDeadlock(
                    f"this thread is inside {self._name} as {inside} and would wait for itself, for ever. "
                    f"Hint: leave the block before you {'write' if to_write else 'read'}."
                )

    def _waiting(
        self,
        verb: Literal["read", "write"],
        is_kept_out: Callable[[], bool],
        deadline: Deadline,
        me: Holder | None = None,
    ) -> Wait:
        """Return the wait of a caller that does not get in at once.

        A writer waits for the callers inside. So does a reader, while a writer that waits for them keeps it out.
        """

        def holders() -> list[Holder | None]:
            return [hold.holder for _, hold in self._holds_inside()] if is_kept_out() else []

        return Wait(f"{self._name}, to {verb}", self._path, holders, deadline, has_one_holder=False, me=me)

    def _timed_out(self, others: str, wait: Wait) -> LockTimeout:
        return LockTimeout(
            f"{others} did not leave {self._name}{self._locked_by()} {wait.within}. Hint: a longer timeout, or "
            "find the processes inside a lock file with fuser(1) or in /proc/locks."
        )

    def acquire_read_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """Enter as a reader.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if this thread is inside; False only if *wait* is false.
        :raises LockTimeout: if a writer did not leave in time.
        :raises WouldDeadlock: if this thread is the writer.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        if self._reads is None:
            with fork.once:
                self._reads = self._reads or []
        try:
            self._reads.append(self._enter(deadline_of(timeout, self.timeout) if wait else NOW))
        except (LockTimeout, WouldDeadlock):
            if wait:
                raise
            return False
        return True

    def release_read_lock(self) -> None:
        """Leave once: the block that this caller has entered last, or else one of another thread. In a forked
        child, leaving the parent's block: do nothing.

        :raises NotHeld: if no caller is inside as a reader by :meth:`acquire_read_lock` of this object.
        """
        fork.settle()
        reads, me = self._reads or [], current()
        if not reads:
            raise NotHeld(f"{self._name} is not held by a reader of this object: acquire it first")
        hold = next((hold for hold in reversed(reads) if hold.is_held_by(me)), reads[-1])
        holder = hold.holder
        try:
            reads.remove(hold)
            self._leave(hold)
        except BaseException:
            if hold.holder is holder:  # an interrupt came first
                self._leave(hold)
            raise

    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """Become the writer: wait until no other caller is inside. New readers wait from now on.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if this thread is the writer; False only if *wait* is false.
        :raises LockTimeout: if the others did not leave in time.
        :raises WouldDeadlock: if this thread is inside already, as reader or as writer.
        :raises LockFileError: if the lock file cannot be opened for writing, made or locked.
        """
        try:
            hold = self._enter_as_writer(deadline_of(timeout, self.timeout) if wait else NOW)
        except LockTimeout:
            if wait:
                raise
            return False
        self._inherited |= self._hold is not None
        self._hold = hold
        return True

    def release_write_lock(self) -> None:
        """Cease to be the writer, from any thread. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if there is no writer by this object.
        """
        self.release()

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """:meth:`acquire_write_lock`, for programs that need a plain mutex (dogpile.cache's election does)."""
        return self.acquire_write_lock(wait, timeout)

    def read(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        """Return a ``with`` block inside as a reader; see :meth:`acquire_read_lock`."""
        return Block(self._enter, self._leave, self, timeout)

    def write(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        """Return a ``with`` block as the writer; see :meth:`acquire_write_lock`."""
        return Block(self._enter_as_writer, self._give_back, self, timeout)


class Block(NotCopied, Generic[H]):
    """A ``with`` block with a hold of its own. Any thread may leave it, and it is left if it is dropped."""

    __slots__ = ("_enter", "_hold", "_leave", "_lock", "_timeout")

    def __init__(
        self,
        enter: Callable[[Deadline], H],
        leave: Callable[[H], None],
        lock: _Releasable[Any],
        timeout: Timeout,
    ) -> None:
        self._enter = enter
        self._leave = leave
        self._lock = lock
        self._timeout = timeout
        self._hold: H | None = None

    def __enter__(self) -> None:
        self._hold = self._enter(deadline_of(self._timeout, self._lock.timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        if hold is None:
            raise NotHeld(f"this block of {self._lock._name} is not entered: enter it first, and leave it once")
        holder = hold.holder
        try:
            self._hold = None
            self._leave(hold)
        except BaseException:
            if hold.holder is holder:  # an interrupt came first; else the hold may be another reader's by now
                self._leave(hold)
            raise
