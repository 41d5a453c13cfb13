"""A function that runs in a thread of its own for a task, and goes on if the task goes away."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from .._dogpile.interruption import is_interruption
from .._locks import holds
from .._locks.holds import Holder
from .._locks.waits import Wait
from .._os.waiting import FOREVER
from .loops import Loop, Wake, running_loop

__all__ = ["Work", "in_thread", "lone_holder"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")


def lone_holder() -> Holder:
    """Return the running task as a caller whose waits stop no other task of its thread."""
    me = holds.current()
    return Holder(runs=me.runs)


class Work(Generic[T]):
    """The call of *function* in a thread, which begins at once. A process that ends waits for it.

    :param name: what it does, for the thread's name and for messages.
    :param function: called with this object.
    :param dispose: called with the result if no task takes it.
    :param lost: called with the error if no task takes it; default: it is logged.
    :param blockers: the callers for which the task waits; default: the :attr:`holder`.
    :raises RuntimeError: if the system starts no thread.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        function: Callable[[Work[T]], T],
        *,
        dispose: Callable[[T], object] | None = None,
        lost: Callable[[BaseException], object] | None = None,
        blockers: Callable[[], Iterable[Holder | None]] | None = None,
    ) -> None:
        self._name = name
        self._function = function
        self._dispose = dispose
        self._lost = lost
        self._wake = Wake(loop)
        self._lock = threading.Lock()
        #: The caller that runs the function: its thread, or a task for which that waits.
        self.holder = Holder()  # of no thread, until the thread has begun
        #: The result, once it is there, or the error.
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._is_over = self._is_left = False
        context = contextvars.copy_context()
        sniffio = sys.modules.get("sniffio")
        if sniffio is not None:  # else a function that runs an event loop of its own would be told of the task's
            context.run(sniffio.current_async_library_cvar.set, None)
        # Before the thread begins, so that a circle is closed by a wait of the thread, which ends then.
        self._wait: Wait | None = Wait(name, "", blockers or self._holders, FOREVER, me=lone_holder())
        self._wait.__enter__()
        try:
            threading.Thread(target=context.run, args=(self._run,), name=f"dogpile_fs: {name}").start()
        except BaseException:
            self._end_wait()
            raise

    def _end_wait(self) -> None:
        wait, self._wait = self._wait, None  # which refers to this object
        if wait is not None:
            wait.__exit__(None, None, None)

    def pass_on(self, holder: Holder) -> Holder:
        """Let *holder* be the caller that runs the function from now on; return the one before."""
        before, self.holder = self.holder, holder
        return before

    def _run(self) -> None:
        self.holder = holds.current()
        try:
            self._results.append(self._function(self))
        except BaseException as error:
            self._error = error
        with self._lock:
            self._is_over, is_left = True, self._is_left
        if is_left:
            self._throw_away()
        self._wake.set()

    async def result(self) -> T:
        """Wait for the result. A task that is cancelled meanwhile leaves the function to itself.

        :raises: the error of the function.
        """
        try:
            await self._wake.wait(FOREVER)
        except BaseException:
            with self._lock:
                self._is_left, is_over = True, self._is_over
            if is_over:
                self._throw_away()
            raise
        finally:
            self._end_wait()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # or its traceback would refer to itself
        return self._results[0]

    def _throw_away(self) -> None:
        error, self._error = self._error, None
        if error is None:
            if self._dispose is not None:
                self._dispose(self._results[0])
        elif not is_interruption(error):
            (self._lost or self._log)(error)

    def _holders(self) -> list[Holder]:
        return [self.holder]

    def _log(self, error: BaseException) -> None:
        log.error(
            "%s: it has failed, and its task is gone: %s: %s",
            self._name,
            type(error).__name__,
            error,
            exc_info=error,
            extra={"failure": error},
        )


async def in_thread(name: str, function: Callable[[], T]) -> T:
    """Return what *function* returns in a thread. A task that is cancelled meanwhile leaves it to itself."""
    return await Work(running_loop(), name, lambda work: function()).result()
