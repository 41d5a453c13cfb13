"""What one process is in a run of pytest: the resources that it uses, and what it owes them when it leaves."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .. import ReadWriteFileLock
    from ._pytest_resource import Resource
    from ._pytest_run import Run

__all__ = ["Member"]

#: The lock whose readers are the workers that use a resource; it is free when the last one has left the run.
_WORKERS = "workers.lock"
#: Seconds for which a controller waits for a worker that has survived the end of xdist's nodes.
_SURVIVORS = 10.0


class Member:
    """One process of *run*.

    :param is_worker: it is one of xdist's, and not the owner of the run.
    """

    def __init__(self, run: Run, *, is_worker: bool) -> None:
        self.run = run
        self.is_worker = is_worker
        self.pid = os.getpid()
        #: In the controller: xdist's workers that may still begin a test.
        self.workers: set[Any] = set()
        #: What the summary tells: the resources that were not torn down, and why.
        self.notes: list[str] = []
        self._used: dict[str, Resource] = {}
        self._teardowns: dict[str, Callable[[Any], object]] = {}
        self._share: ReadWriteFileLock | None = None
        self._has_ended = False

    def value(self, name: str, create: Callable[[Path], Any], teardown: Callable[[Any], object] | None) -> object:
        """Return the resource's value, and create the resource if no process of the run has.

        :raises ValueError: for a *name* that will not do.
        :raises RuntimeError: if the run has ended.
        :raises: what *create* raises.
        """
        from ._pytest_resource import Resource, checked_name

        checked_name(name)
        is_first = (resource := self._used.get(name)) is None
        if resource is None:
            self._join()
            resource = Resource(self.run.directory, name)
            resource.join()
            self._used[name] = resource
            # Not before: until the end was announced no process tears down, and after that none that has joined.
            if not self.run.is_open:
                raise RuntimeError(f"the run of pytest has ended, and {name!r} is not created any more")
        if teardown is not None:
            self._teardowns[name] = teardown
        value = resource.value(create, teardown, lambda: self._tear_down_leftovers(name, teardown))
        if is_first:  # its creation may have used others, which must be left after it
            self._used[name] = self._used.pop(name)
        return value

    def _join(self) -> None:
        if self.is_worker and self._share is None:
            from .. import ReadWriteFileLock

            share = ReadWriteFileLock(self.run.directory / _WORKERS)
            share.acquire_read_lock()
            self._share = share

    def leave(self) -> None:
        """Wait until no more tests begin, and tear down each resource that this process is the last to leave."""
        if self._used and self.is_worker:
            self.run.wait_for_end()
        # The resource that was used last may need an earlier one.
        while self._used:
            name, resource = self._used.popitem()
            try:
                resource.leave(self._teardowns.get(name))
            except OSError:
                if resource.directory.exists():
                    raise
                # The owner was killed, this worker lived on, and the next run has removed the directory.
        if self._share is not None:
            share, self._share = self._share, None
            share.release_read_lock()

    def announce_end(self) -> None:
        """As the owner: let the workers leave.

        If each of them has run its last test, this waits until the last one has torn down what it must. Else xdist
        ends those that run a test, and gives them a few seconds.
        """
        if self.pid != os.getpid():
            return
        self.run.announce_end()
        if self._has_workers() and not self.workers:
            from .. import ReadWriteFileLock

            with ReadWriteFileLock(self.run.directory / _WORKERS).write():
                pass

    def end(self, modules: Iterable[object]) -> None:
        """As the owner, when no worker is left: tear down what is left, and remove the run's directory.

        :param modules: the plugins, among them each ``conftest.py``.
        """
        if self._has_ended or self.pid != os.getpid():
            return
        self._has_ended = True
        self.run.announce_end()
        try:
            self.leave()
            is_last = not self._has_workers() or self._waits_for_survivors()
            if is_last:
                self._tear_down_the_rest(modules)
        finally:
            self.run.release()
        if is_last and not any(resource.is_pending for resource in self._resources(self.run)):
            self.run.remove()

    def _has_workers(self) -> bool:
        return (self.run.directory / _WORKERS).exists()

    def _waits_for_survivors(self) -> bool:
        from .. import LockTimeout, ReadWriteFileLock

        try:
            with ReadWriteFileLock(self.run.directory / _WORKERS).write(timeout=_SURVIVORS):
                return True
        except LockTimeout as error:
            self.notes.append(f"a worker has not ended, and tears down what it has used: {error}")
            return False

    def _tear_down_the_rest(self, modules: Iterable[object]) -> None:
        for resource in self._resources(self.run):
            if resource.is_pending and not resource.tear_down(None, modules):
                self.notes.append(
                    f"{resource.name!r} is not torn down, the next run does it: the worker that could has been "
                    f"killed, and its teardown is no function at the top level of a module ({resource.directory})"
                )
            if failure := resource.failure():
                self.notes.append(f"the teardown of {resource.name!r} has failed:\n{failure}")

    def _tear_down_leftovers(self, name: str, teardown: Callable[[Any], object] | None) -> None:
        """Tear down what killed runs have left of the resource *name*, and remove runs that have left nothing."""
        for dead in self.run.claim_dead():
            if not _is_deserted(dead):
                continue
            leftover = next((each for each in self._resources(dead) if each.name == name), None)
            if leftover is not None and leftover.is_pending and teardown is not None:
                leftover.tear_down(teardown)
                if failure := leftover.failure():
                    warnings.warn(f"the teardown of {name!r} of a killed run has failed:\n{failure}", stacklevel=2)
            if not any(resource.is_pending for resource in self._resources(dead)):
                dead.remove()

    @staticmethod
    def _resources(run: Run) -> list[Resource]:
        """Return all resources of *run* that were made, the last one first."""
        if next(run.directory.glob("*/"), None) is None:
            return []  # as in each run that does not use the fixture
        from ._pytest_resource import Resource

        return Resource.all_of(run.directory)


def _is_deserted(dead: Run) -> bool:
    """Return whether no worker of *dead*, whose owner was killed, lives on and uses a resource."""
    from .. import ReadWriteFileLock

    lock = ReadWriteFileLock(dead.directory / _WORKERS)
    if not lock.acquire_write_lock(wait=False):
        return False
    lock.release_write_lock()  # no worker begins to use a resource after its controller's death
    return True
