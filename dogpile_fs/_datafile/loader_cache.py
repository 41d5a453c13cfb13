"""Objects made from the current version of a resource, once per process and version.

The first object is waited for. Afterwards one thread makes the next one, and the others go on with the old one
until it is ready: a dogpile within the process.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any

from .._os.fork import forget_in_child
from .._os.waiting import Deadline, wait_until
from ..errors import LockTimeout, WouldDeadlock

__all__ = ["Loading", "key_of"]

Version = tuple[int, ...]
Opening = Callable[[Version], AbstractContextManager[tuple[Version, Callable[[], Any]]]]

#: So many loaders a resource may reasonably have. More are closures made anew at every call.
_MOST = 64


def key_of(loader: Callable[..., Any]) -> object:
    """What tells *loader* from others: of a plain function its code, so that a lambda is the same every time."""
    if (
        type(loader) is FunctionType
        and loader.__closure__ is None
        and loader.__defaults__ is None
        and loader.__kwdefaults__ is None
    ):
        return loader.__code__, id(loader.__globals__)  # codes compare by what they do, not by where they do it
    try:
        hash(loader)
    except TypeError:  # such as an object of a dataclass: it is the same as long as it is the same object
        return (id(loader),)
    return loader


class _Slot:
    """What one loader made."""

    __slots__ = ("loader", "lock", "made", "maker")

    def __init__(self, loader: Callable[..., Any]) -> None:
        self.loader = loader  # so that what its key tells of it cannot come to mean another
        self.lock = threading.Lock()  # who holds it calls the loader
        # Read by all, written by who holds that.
        self.made: tuple[Version, Any] | None = None
        self.maker = 0


class Loading:
    """The objects that loaders made from the resource at *path*."""

    __slots__ = ("__weakref__", "_guard", "latest", "path", "slots")

    def __init__(self, path: str) -> None:
        self.path = path
        self.slots: dict[object, _Slot] = {}
        #: The slot that was used last; most resources have but one.
        self.latest: _Slot | None = None
        self._guard = threading.Lock()  # for adding to them
        forget_in_child(self)

    def after_fork(self) -> None:
        self._guard = threading.Lock()
        for slot in self.slots.values():  # the objects themselves are the child's as well
            slot.lock = threading.Lock()
            slot.maker = 0

    def value(self, loader: Callable[..., Any], version: Version, opening: Opening, deadline: Deadline) -> Any:
        """The object of *version* or of a later one; an older one while another thread makes it.

        :param opening: opens what is in place; tells which version it is, and how to make its object.
        :raises LockTimeout: if the first one was not made by *deadline*.
        :raises WouldDeadlock: from inside the making, before there is a first one.
        """
        slot = self.slots.get(key_of(loader)) or self._added(loader)
        lock, made = slot.lock, slot.made
        if made is not None:
            if made[0] == version or not lock.acquire(False):
                return made[1]
        else:
            self._wait_for_first(slot, lock, deadline)
        try:
            made = slot.made
            if made is None or made[0] != version:
                with opening(version) as (version, make):
                    if made is None or made[0] != version:
                        slot.maker = _thread.get_ident()
                        slot.made = (version, make())
                        return slot.made[1]
            return made[1]
        finally:
            slot.maker = 0
            lock.release()  # not the slot's: in a child that was forked inside, that is another

    def _wait_for_first(self, slot: _Slot, lock: threading.Lock, deadline: Deadline) -> None:
        if slot.maker == _thread.get_ident():
            raise WouldDeadlock(
                f"this thread is loading {self.path!r} and would wait for itself, for ever. "
                "Cure: do not load it from inside its loader."
            )
        if not wait_until(lambda: lock.acquire(False), lock.acquire, deadline):
            raise LockTimeout(
                f"another thread did not load {self.path!r} within {deadline.timeout} s. Cure: a longer timeout."
            )

    def _added(self, loader: Callable[..., Any]) -> _Slot:
        key = key_of(loader)
        with self._guard:
            if key not in self.slots and len(self.slots) >= _MOST:
                self.slots.pop(next(iter(self.slots)))
                self.latest = None
            return self.slots.setdefault(key, _Slot(loader))
