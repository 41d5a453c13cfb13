"""Creations in the background: the caller that was elected hands the mutex over, and goes on with the old version.

There is no moment at which the mutex is free: the thread or the process that creates has it before the caller
lets it go. :class:`InThread` is the way within a process.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from .._locks import holds
from .._os import fork
from ..errors import DogpileError

if TYPE_CHECKING:
    from .creation import Creation

__all__ = ["Background", "InThread", "Place", "threads_run"]

log = logging.getLogger("dogpile_fs")

#: Creations at a time in the threads of one process. More would slow down what the process is there for.
_MOST = 4
#: Seconds for which a process that ends waits for a swap that is being made: it takes milliseconds.
_LONGEST_SWAP = 5.0


class Place(Protocol):
    """Room for one creation in the background. Dropping it gives it back."""

    #: As of :class:`.Attempt`.
    kind: str

    def start(self, creation: Creation, creator: Callable[[], Any], taker: holds.Taker) -> bool:
        """Start the creation, which has begun, and hand over the mutex that *taker* holds.

        :returns: False if it cannot be started; *taker* has kept the mutex.
        """


class Background(Protocol):
    """Where creators run, if not in the caller that was elected."""

    #: Whether a caller that only refreshes hands over as well, and waits.
    refreshes: bool

    def place(self) -> Place | None:
        """Return room for one more creation; None if there is none now."""

    def is_abandoned(self) -> bool:
        """Return whether this caller's creation must not swap any more. If it may, its process waits for that."""


class _Places:
    """The creations in threads of this process, those that begin and those that run."""

    def __init__(self) -> None:
        self._all: set[ref[_ThreadPlace]] = set()
        self._waits_at_exit = False
        fork.reset_after_fork(self)

    def after_fork(self) -> None:
        self._all.clear()  # no thread but the one that forks is in the child

    def living(self) -> list[_ThreadPlace]:
        return [place for each in list(self._all) if (place := each()) is not None and not place.is_over]

    def take(self, exit_wait: float) -> _ThreadPlace | None:
        """Return a place if there is one. It is free again when it is dropped, or its creation is over."""
        with fork.once:
            if len(self.living()) >= _MOST:
                return None
            place = _ThreadPlace(exit_wait)
            self._all.add(ref(place, self._all.discard))
            if not self._waits_at_exit:
                self._waits_at_exit = True
                atexit.register(self._finish)
        return place

    def _finish(self) -> None:
        """Wait for the creations that run, and keep those that take too long from swapping."""
        began, places = monotonic(), self.living()
        for place in places:
            place.is_exiting = True
        try:
            for place in places:
                place.join(place.exit_wait - (monotonic() - began))
        finally:
            for place in places:
                place.abandon()


_places = _Places()


class InThread:
    """Creations in daemon threads of this process.

    :param exit_wait: seconds for which the process waits for one when it ends.
    :raises ValueError: where threads do not run.
    """

    refreshes = False

    def __init__(self, exit_wait: float) -> None:
        if not threads_run():
            raise ValueError(
                "background='thread' needs threads, which this uWSGI does not run. Hint: its option "
                "enable-threads, or background='process'."
            )
        self._exit_wait = exit_wait

    def place(self) -> Place | None:
        fork.settle()
        return _places.take(self._exit_wait)

    def is_abandoned(self) -> bool:
        return any(place.is_own_thread() and not place.may_swap() for place in _places.living())


class _ThreadPlace:
    """One creation in a thread."""

    kind = "thread"

    def __init__(self, exit_wait: float) -> None:
        self.exit_wait = exit_wait
        #: What the thread holds the mutex by.
        self.mutex_hold: Any = None
        #: Whether this process has begun to end.
        self.is_exiting = False
        self._thread: threading.Thread | None = None
        #: The hold, until one of two has taken it: the thread, or a caller that was interrupted.
        self._offered: list[Any] = []
        self._is_over = False
        self._is_abandoned = False
        self._is_swapping = False

    def start(self, creation: Creation, creator: Callable[[], Any], taker: holds.Taker) -> bool:
        self._creation, self._creator = creation, creator
        context = contextvars.Context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"dogpile_fs: {creation.scope.name}", daemon=True
        )
        hold = taker.mutex_hold
        holder = hold.holder
        try:
            hold.holder = holds.Holder()  # of no thread, until that of this thread has begun
            self._offered.append(hold)
            taker.mutex_hold = None
            self._thread.start()
        except BaseException as error:
            try:
                taker.mutex_hold = self._offered.pop()
            except IndexError:
                pass  # the thread has it
            else:
                hold.holder = holder
                self._thread = None
                if isinstance(error, RuntimeError):  # no more threads, or the interpreter ends
                    log.warning("%s: creating in the caller's thread: %s", creation.scope.name, error)
                    return False
                with suppress(DogpileError):
                    creation.interrupt(error)
            raise
        return True

    def _run(self) -> None:
        try:
            self.mutex_hold = self._offered.pop()
        except IndexError:
            return  # the caller that was interrupted has it back
        creation = self._creation
        try:
            self.mutex_hold.holder = holds.current()
            creation.run(self._creator, counts_failures=lambda: not self.is_exiting)
        except Exception:  # not the creator's, which is on record
            log.exception("%s: the end of the creation is not recorded", creation.scope.name)
        except BaseException:
            log.exception("%s: the creation has ended its thread, and counts as a death", creation.scope.name)
        finally:
            creation.scope.mutex._release_hold(self.mutex_hold)
            self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether it was started, and has ended."""
        return self._is_over or (self._thread is not None and not self._offered and not self._thread.is_alive())

    def is_own_thread(self) -> bool:
        """Return whether this caller is the creation's thread."""
        return self._thread is threading.current_thread()

    def may_swap(self) -> bool:
        """Return whether the creation may swap; if so, the process does not end before it has."""
        self._is_swapping = True  # first: see abandon()
        if self._is_abandoned:
            self._is_swapping = False
        return self._is_swapping

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))

    def abandon(self) -> None:
        """Keep the creation from swapping, and take its attempt off the record. Do nothing if it has ended."""
        self._is_abandoned = True
        if self._is_swapping:
            self.join(_LONGEST_SWAP)
        if self._thread is None or self.is_over or self._is_swapping:
            return
        name = self._creation.scope.name
        with suppress(DogpileError):
            self._creation.interrupt()
        log.warning(
            "%s: this process ends before the creation in its thread, whose result is lost. Hint: a longer "
            "exit_wait, or background='process'.",
            name,
        )


def threads_run() -> bool:
    """Return whether threads run that this process starts: not in a uWSGI without ``enable-threads``."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    return not isinstance(options, dict) or any(each in options for each in ("enable-threads", "threads"))
