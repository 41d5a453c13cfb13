"""The driver of the election for tasks.

A pass runs in the event loop, without a pause. A wait is a pause of the task, which may be cancelled at any time.
As soon as a caller holds the mutex, a thread goes on with the algorithm: it reads and writes the coordination
files, runs a plain creator, and stamps; a coroutine function runs in the event loop meanwhile. That thread gives
the mutex back, whatever becomes of the task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import Any, NoReturn

import anyio

from .._dogpile.background import Place
from .._dogpile.creation import Creation
from .._dogpile.election import Acquisition, Election, Step
from .._dogpile.guard import Guard, ReusableGuard
from .._dogpile.outcome import Outcome
from .._dogpile.plain_call import is_coroutine_function
from .._dogpile.shared_state import SharedState
from .._locks import holds
from .._os.waiting import Timeout
from ..errors import CreationFailed, WouldDeadlock
from . import waiters
from .functions import Site, awaited, called_in_thread
from .loops import Loop, running_loop
from .readers import enter_as_reader
from .work import Work, in_thread, lone_holder

log = logging.getLogger("dogpile_fs")

__all__ = ["AsyncAcquisition", "AsyncGuard", "AsyncReaderAcquisition", "AsyncReaderGuard"]


class AsyncGuard:
    """The guard of a fresh pass, as an asynchronous context manager; any number of tasks may use it at once."""

    __slots__ = ("guard",)

    def __init__(self, guard: ReusableGuard) -> None:
        self.guard = guard

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.guard.__exit__(kind, error, trace)


class AsyncReaderGuard:
    """The guard of one fresh pass of a reader. To be entered once."""

    __slots__ = ("_guard", "_hold", "_readers")

    def __init__(self, readers: Any, guard: ReusableGuard) -> None:
        self._readers = readers
        self._guard = guard

    async def __aenter__(self) -> None:
        hold = self._readers._enter_now(behind_writers=True)
        self._hold = hold or await enter_as_reader(self._readers, self._guard.deadline)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers._leave(self._hold)
        if error is not None:
            self._guard.__exit__(kind, error, trace)


class AsyncAcquisition(Acquisition):
    """One task's own way through, and the guard of its block. To be entered once.

    :param is_ours: *creator* is code of this package, which calls the user's functions by
        :func:`.called_in_thread`.
    """

    __slots__ = ("_has_failed", "_inside", "_is_ours", "_loop", "_me")

    _loop: Loop

    def __init__(
        self,
        shared: SharedState,
        creator: Callable[[], Any] | None,
        value_fn: Callable[[], Any] | None,
        value_and_created_fn: Callable[[], Any] | None,
        timeout: Timeout,
        *,
        is_ours: bool = False,
    ) -> None:
        super().__init__(shared, None, value_fn, value_and_created_fn, timeout)
        if creator is not None:
            # No reference to itself: a block that is dropped shall leave at once.
            self.creator = creator if is_ours else partial(called_in_thread, creator)
        self._is_ours = is_ours

    def __enter__(self) -> NoReturn:
        raise TypeError("this is an asynchronous context manager: write 'async with'")

    async def __aenter__(self) -> Any:
        waits = Acquisition.__enter__(self)  # which has passed, or calls _run()
        return None if waits is None else (await waits)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            Guard.__exit__(self, kind, error, trace)

    async def refreshed(self, *, force: bool) -> Outcome:
        """Create if it is not fresh and no other caller creates, or by *force*; return what was done."""
        self.must_create = True
        try:
            if force:
                await self._run(self.forced())
            else:
                self.seen = self.scope.read()
                await self._run(self.election())
        except CreationFailed:
            if self.outcome != Outcome.backing_off:
                raise  # the creator's own
        return self.outcome

    async def _run(self, election: Election) -> Any:
        """Run *election*: this task waits, and a thread does what the holder of the mutex does."""
        self._loop, self._me, self._has_failed = running_loop(), lone_holder(), False
        self._inside = self.shared.readers._inside()
        answer: Any = None
        error: BaseException | None = None
        is_in_thread = False
        try:
            step = election.send(None)
            while True:
                if step == self._begin_work:
                    is_in_thread = True
                    is_over, found = await self._work(election)
                    is_in_thread = False
                    if is_over:
                        return found
                    step = found
                answer = error = None
                try:
                    answer = await awaited(step)
                except BaseException as failure:
                    error = failure
                step = election.send(answer) if error is None else election.throw(error)
        except StopIteration as end:
            return end.value
        finally:
            if not is_in_thread:  # else the thread closes it
                election.close()
            error = None  # or its traceback would refer to itself

    async def _work(self, election: Election) -> tuple[bool, Any]:
        """Have a thread go on with *election*, and wait until that ends or comes to a wait.

        :returns: whether it has ended; then its value, else the wait, a step of this task's.
        """
        mutex, scope = self.scope.mutex, self.scope
        holder = holds.Holder()  # of no thread, until the thread has begun
        mutex._pass_on(holder)

        def holders() -> list[holds.Holder | None]:
            hold = self.mutex_hold
            return [] if hold is None else [hold.holder]

        try:
            work = Work(
                self._loop,
                f"the creation of {scope.name}",
                lambda work: self._go_on(election),
                dispose=lambda result: election.close(),
                lost=self._tell_lost,
                blockers=holders,
            )
        except BaseException:
            election.close()
            raise
        return await work.result()

    def _tell_lost(self, error: BaseException) -> None:
        """Log an *error* that no task gets, unless the creation was not begun, or its failure is on record."""
        if isinstance(error, CreationFailed) or (self._has_failed and isinstance(error, Exception)):
            return
        log.error(
            "%s: the creation, whose task is gone, has ended without a result: %s: %s",
            self.scope.name,
            type(error).__name__,
            error,
            exc_info=error,
            extra={"failure": error},
        )

    def _go_on(self, election: Election) -> tuple[bool, Any]:
        """Go on with *election* in this thread, until it ends or comes to a wait."""
        self.scope.mutex._pass_on(holds.current())
        answer: Any = None
        error: BaseException | None = None
        try:
            while True:
                step = election.send(answer) if error is None else election.throw(error)
                if self._is_wait(step):
                    return False, step
                answer = error = None
                try:
                    answer = self._called(step)
                except BaseException as failure:
                    error = failure
        except StopIteration as end:
            return True, end.value
        finally:
            error = None

    def _is_wait(self, step: Step) -> bool:
        return step not in (self.value_fn, self.value_and_created_fn) and is_coroutine_function(step)

    def _called(self, step: Step) -> Any:
        if step in (self.value_fn, self.value_and_created_fn):
            return self._loop.run(awaited, step)
        result = self._create_here() if step is self.creator else step()
        assert not isawaitable(result)
        return result

    def _start_in(self, place: Place, creation: Creation) -> bool:
        return place.start(creation, self._create_here, self)

    def _create_here(self) -> Any:
        """Run the creator for the holder of the mutex, in whichever thread this is."""
        assert self.creator is not None
        mutex = self.scope.mutex

        def enter() -> Callable[[], object]:
            before = mutex._pass_on(holds.current())
            return partial(_pass_back, mutex, before)

        if self._is_ours and self._is_reading():  # as of the task, which a swap would wait for
            raise self._would_deadlock("a reader")
        try:
            return Site(self._loop, enter)(self.creator)
        except Exception as error:
            self._has_failed = not isinstance(error, WouldDeadlock)
            raise

    def _is_reading(self) -> bool:
        # As of the task: the thread is another caller.
        if self._inside == "writer":
            raise self._would_deadlock("the writer")
        return self._inside == "reader"

    # The waits.

    async def _wait_released(self) -> bool:  # type: ignore[override]
        mutex, deadline = self.scope.mutex, self.deadline
        with mutex._waiting_for_release(deadline, self._me) as wait:
            if await waiters.wait_for_release(self._loop, mutex, wait.deadline):
                return True
        if wait.deadline is not deadline:
            raise mutex._timed_out(wait)
        return False

    async def _wait_for_change(self) -> None:  # type: ignore[override]
        await waiters.wait_for_change(self._loop, self.scope, self.seen, self.deadline)

    async def _wait_for_change_within(self, seconds: float) -> None:  # type: ignore[override]
        await waiters.wait_for_change(self._loop, self.scope, self.seen, self.deadline.within(seconds))

    async def _ask_origin(self) -> None:  # type: ignore[override]
        host = self.shared.host
        assert host is not None
        site = Site(self._loop, lambda: _nothing)
        await in_thread(f"the question to the origin of {self.scope.name}", partial(site, host.ask))

    async def _pause(self, seconds: float) -> None:  # type: ignore[override]
        await anyio.sleep(seconds)

    async def _acquire_mutex(self) -> None:  # type: ignore[override]
        mutex, is_reading, pause = self.scope.mutex, self._is_reading(), 0.0
        while not mutex.acquire(wait=False, taker=self):
            if is_reading:
                raise self._would_deadlock("a reader")
            if self.deadline.left == 0 or not await self._wait_released():
                raise self._timed_out("the creation that runs now of")
            pause = await waiters.pause_longer(pause, self.deadline)


def _nothing() -> None:
    pass


def _pass_back(mutex: Any, before: holds.Holder | None) -> None:
    if before is not None:
        mutex._pass_on(before)


class AsyncReaderAcquisition(AsyncAcquisition):
    """One reader's own way through, and the guard of its block. To be entered once."""

    __slots__ = ("hold",)

    async def __aenter__(self) -> Any:
        value = await AsyncAcquisition.__aenter__(self)
        self.hold = await enter_as_reader(self.shared.readers, self.deadline)
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shared.readers._leave(self.hold)
        if error is not None:
            Guard.__exit__(self, kind, error, trace)
