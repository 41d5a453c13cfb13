"""Objects made from the current version of a resource, once per process and version.

The first object is waited for. Afterwards one thread makes the next one, and the others go on with the old one
until it is ready: a dogpile within the process.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

from .errors import LockTimeout, WouldDeadlock
from .forking import forget_in_child
from .waiting import Deadline, wait_until

__all__ = ["Loading", "key_of"]

Version = tuple[int, ...]

#: So many loaders a resource may reasonably have. More are closures made anew at every call.
_MOST = 16


def key_of(loader: Callable[..., Any]) -> object:
    """What tells *loader* from others: of a plain function its code, so that a lambda is the same every time."""
    if (
        type(loader) is FunctionType
        and loader.__closure__ is None
        and loader.__defaults__ is None
        and loader.__kwdefaults__ is None
    ):
        return loader.__code__
    return loader


class _Slot:
    """What one loader made."""

    __slots__ = ("lock", "made", "maker")

    def __init__(self) -> None:
        self.lock = threading.Lock()  # who holds it calls the loader
        # Read by all, written by who holds that.
        self.made: tuple[Version, Any] | None = None
        self.maker = 0


class Loading:
    """The objects that loaders made from the resource called *name*."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots: dict[object, _Slot] = {}
        self._guard = threading.Lock()  # for adding to them
        forget_in_child(self)

    def after_fork(self) -> None:
        self._guard = threading.Lock()
        for slot in self.slots.values():
            slot.lock = threading.Lock()  # the objects themselves are the child's as well

    def value(self, key: object, version: Version, make: Callable[[], Any], deadline: Deadline) -> Any:
        """The object of *version*; an older one while another thread makes it.

        :raises LockTimeout: if the first one was not made by *deadline*.
        :raises WouldDeadlock: from inside *make*, before there is a first one.
        """
        slot = self.slots.get(key) or self._added(key)
        made = slot.made
        if made is not None:
            if made[0] == version or not slot.lock.acquire(False):
                return made[1]
        else:
            self._wait_for_first(slot, deadline)
        try:
            made = slot.made
            if made is not None and made[0] == version:
                return made[1]
            slot.maker = _thread.get_ident()
            value = make()
            slot.made = (version, value)
            return value
        finally:
            slot.maker = 0
            slot.lock.release()

    def _wait_for_first(self, slot: _Slot, deadline: Deadline) -> None:
        if slot.maker == _thread.get_ident():
            raise WouldDeadlock(
                f"this thread is loading {self.name} and would wait for itself, for ever. "
                "Cure: do not load it from inside its loader."
            )
        if not wait_until(lambda: slot.lock.acquire(False), slot.lock.acquire, deadline):
            raise LockTimeout(
                f"another thread did not load {self.name} within {deadline.timeout} s. Cure: a longer timeout."
            )

    def _added(self, key: object) -> _Slot:
        with self._guard:
            if key not in self.slots and len(self.slots) >= _MOST:
                self.slots.pop(next(iter(self.slots)))
            return self.slots.setdefault(key, _Slot())
