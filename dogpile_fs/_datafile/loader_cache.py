"""Objects made from the current version of a resource, once per process and version.

The first object is waited for. Afterwards one thread makes the next one, and the others go on with the old one
until it is ready: a dogpile within the process. All go on with it if the loader fails, until the loader's backoff
is over or there is another version. An object whose version has been invalidated hard since, or is past its
*max_stale*, counts as none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import monotonic, time
from types import FunctionType
from typing import Any, NamedTuple

from .._dogpile.dogpile import Dogpile
from .._dogpile.interruption import is_interruption
from .._locks.holds import Holder, current
from .._locks.waits import Wait
from .._os import fork
from .._os.waiting import Deadline, wait_until
from .._sidecar.record import Record
from ..errors import (
    CreationFailed,
    DogpileError,
    LockTimeout,
    NeedRegenerationException,
    WouldDeadlock,
    without_frames,
)
from .version_file import Vanished

__all__ = ["NO_SLOT", "LoaderCache", "loader_key"]

log = logging.getLogger("dogpile_fs")

Version = tuple[int, ...]
#: Opens the version in place: yields the record that describes it, and what makes its object.
Opening = Callable[[], AbstractContextManager[tuple[Record, Callable[[], Any]]]]

#: Loaders that a resource remembers.
_MOST = 64
#: How many loaders of one name may be used once each, before they are taken for one function that is made anew at
#: each call; and how many of their objects are kept then. A program has fewer that it makes once and keeps.
_MOST_USED_ONCE = 16
_FEW = 4


def loader_key(loader: Callable[..., Any]) -> object:
    """Return what tells *loader* from others: of a plain function its code, so that a lambda stays the same."""
    if (
        type(loader) is FunctionType
        and loader.__closure__ is None
        and loader.__defaults__ is None
        and loader.__kwdefaults__ is None
    ):
        # With the module's globals: equal codes of two modules may do different things.
        return loader.__code__, id(loader.__globals__)
    try:
        hash(loader)
    except TypeError:  # such as an object of a dataclass: known as the object that it is
        return (id(loader),)
    return loader


def _name_of(loader: Any) -> str:
    """Return the dotted name of *loader*, of the function that it calls, or of its type, for messages."""
    while isinstance(loader, partial):
        loader = loader.func
    named = loader if hasattr(loader, "__qualname__") else type(loader)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


class _Failure(NamedTuple):
    """That a loader has failed on *version*, so many times in a row, and is not called before *retry_at*."""

    version: Version
    times: int
    #: Monotonic time.
    retry_at: float
    failed_type: str
    #: Kept where there is no old object, for the callers that get CreationFailed.
    error: BaseException | None


class _Slot:
    """The object that one loader made."""

    __slots__ = ("came_again", "failure", "holder", "loader", "lock", "made", "name", "record")

    def __init__(self, loader: Any, name: str) -> None:
        self.loader = loader  # kept, so that the ids in its key cannot come to mean another object
        self.name = name
        #: Whether more than one call of ``load`` had this loader.
        self.came_again = False
        #: Held by the caller of the loader, which is the *holder*; it guards writing the others.
        self.lock = threading.Lock()
        self.holder: Holder | None = None
        # Read by all threads.
        self.made: tuple[Version, Any] | None = None
        #: What is known of the version that *made* is of. It is written after *made*: a thread that reads the two
        #: in between has an older record, and waits.
        self.record: Record | None = None
        self.failure: _Failure | None = None


#: Stands for a loader that is not remembered, so that a fresh ``load`` need not ask for None.
NO_SLOT = _Slot(None, "")


class LoaderCache:
    """The objects that loaders made from the resource that *dogpile* coordinates."""

    __slots__ = ("__weakref__", "dogpile", "latest", "made_anew", "slots")

    def __init__(self, dogpile: Dogpile) -> None:
        self.dogpile = dogpile
        self.slots: dict[object, _Slot] = {}
        #: The slot that was used last; most resources have but one.
        self.latest = NO_SLOT
        #: The names of loaders that are made anew at each call.
        self.made_anew: set[str] = set()
        fork.reset_after_fork(self)

    def after_fork(self) -> None:
        for slot in self.slots.values():  # the objects themselves are the child's as well
            slot.lock = threading.Lock()
            slot.holder = None

    def slot_of(self, loader: Callable[..., Any]) -> _Slot:
        """Return the slot of *loader*, which is the latest then; :data:`NO_SLOT` if it is not remembered."""
        slot = self.latest
        if slot.loader is not loader:
            slot = self.latest = self.slots.get(loader_key(loader), NO_SLOT)
            slot.came_again = True
        return slot

    def value(
        self, loader: Callable[..., Any], seen: Record, opening: Opening, deadline: Deadline
    ) -> tuple[Any, Record | None]:
        """Return the object of the version of the record *seen*, or of a later one.

        An older one is returned while another thread makes it, and if the loader fails.

        :returns: also the record of its version, if this call has made the object; else ``None``.

        :raises CreationFailed: if there is no object, the loader has failed, and it is too early to try again.
        :raises LockTimeout: if the first object was not made by *deadline*.
        :raises WouldDeadlock: from inside the loader, before there is a first object.
        """
        slot = self.slots.get(loader_key(loader)) or self._added(loader)
        lock, old = slot.lock, self._old(slot, seen)
        known = self._known(slot, seen.version, old)
        if known is not None:
            return known[1], None
        tries: list[bool] = []
        record, failure, loaded = seen, None, None

        def lock_it(wait: bool = False) -> bool:
            # One call of C code takes the lock and notes it, so that an interrupt cannot come in between.
            tries.extend(map(lock.acquire, (wait,)))
            return tries[-1]

        try:
            if old is None:
                self._wait_for_first(slot, lock_it, deadline)
            elif not lock_it():
                return old[1], None
            old = self._old(slot, seen)
            known = self._known(slot, seen.version, old)
            if known is None:
                try:
                    with opening() as (record, make):
                        known = self._known(slot, record.version, old)
                        if known is None:
                            slot.holder = current()
                            known = slot.made = (record.version, make())
                            slot.record, slot.failure = record, None
                            loaded = record
                except Exception as error:
                    failure = self._counted(slot, record.version, old is not None, error)
                    if failure is None or old is None:
                        raise
                    known = old
            return known[1], loaded
        finally:
            if tries and tries[-1]:  # no call, after which an interrupt could come
                slot.holder = None
                lock.release()  # not the slot's: in a child that was forked inside, that is another
            if failure is not None:  # without the lock: a handler of the log may load
                self._tell(*failure, slot.name)
                failure = None  # or the error's traceback would refer to itself

    def _old(self, slot: _Slot, seen: Record) -> tuple[Version, Any] | None:
        """Return the last object, unless its version must not be read any more; *seen* is the record now."""
        made, record = slot.made, slot.record
        if made is None or record is None:
            return None
        if made[0] == seen.version:
            slot.record = seen  # it may have been stamped or invalidated since it was loaded
            return made
        # Counts that went back: the sidecar was removed, and it is not known what came before that.
        if (
            not record.has_value
            or seen.hard_invalidations != record.hard_invalidations
            or seen.generation < record.generation
        ):
            return None
        max_stale: Any = self.dogpile._policy.max_stale
        return made if time() < record.expires_at(self.dogpile.expiretime, max_stale) else None

    def _known(self, slot: _Slot, version: Version, old: tuple[Version, Any] | None) -> tuple[Version, Any] | None:
        """Return what to give for *version* without calling the loader; ``None``: call it.

        :raises CreationFailed: if it is too early to call it again, and there is no *old* object.
        """
        made, failure, now = slot.made, slot.failure, monotonic()
        if made is not None and made[0] == version:
            return made
        if failure is None or failure.version != version or now >= failure.retry_at:
            return None
        if old is not None:
            return old
        retry_at = time() + failure.retry_at - now
        raise CreationFailed(
            self.dogpile.path, failure.times, retry_at, failure.failed_type, slot.name
        ) from failure.error

    def _counted(
        self, slot: _Slot, version: Version, has_old: bool, error: Exception
    ) -> tuple[_Failure, Exception] | None:
        """Begin the backoff after *error*; ``None`` if it is not a failure of the loader.

        That a new version cannot be opened counts as one while there is an old object.
        """
        if isinstance(error, WouldDeadlock | NeedRegenerationException | Vanished) or is_interruption(error):
            return None
        if slot.holder is None and not (has_old and isinstance(error, DogpileError)):
            return None
        last, backoff = slot.failure, self.dogpile._policy.backoff
        times = last.times + 1 if last is not None and last.version == version else 1
        retry_at = monotonic() + (0.0 if backoff is None else backoff.delay(times))
        kept = None if has_old else without_frames(error)
        slot.failure = _Failure(version, times, retry_at, type(error).__name__, kept)
        return slot.failure, error

    def _tell(self, failure: _Failure, error: Exception, name: str) -> None:
        """Log a failure, if it is the first on its version."""
        if failure.times == 1:
            log.error(
                "%r: the new version was not loaded by %s: %s: %s; the next attempt is due in %.1f s",
                self.dogpile.path,
                name,
                failure.failed_type,
                error,
                max(0.0, failure.retry_at - monotonic()),
                exc_info=error,
                extra={"failure": error},
            )

    def _wait_for_first(self, slot: _Slot, lock_it: Callable[..., bool], deadline: Deadline) -> None:
        path = self.dogpile.path or ""
        if slot.holder is not None and slot.holder.is_same(current()):
            raise WouldDeadlock(
                f"this thread is loading {path!r} and would wait for itself, for ever. "
                "Hint: do not load it from inside its loader."
            )
        if lock_it():
            return
        with Wait(f"the first load of {path!r}", path, lambda: [slot.holder], deadline) as wait:
            if not wait_until(lock_it, lambda: lock_it(True), wait.deadline):
                raise LockTimeout(f"another thread did not load {path!r} {wait.within}. Hint: a longer timeout.")

    def _added(self, loader: Callable[..., Any]) -> _Slot:
        key, name = loader_key(loader), _name_of(loader)
        with fork.once:
            is_noticed = self._make_room(key, name)
            slot = self.slots.setdefault(key, _Slot(loader, name))
        if is_noticed:
            log.warning(
                "%r: load() was called with %d loaders named %s, each of them once: each call loads it again, and "
                "only the last %d objects are kept. Hint: make the loader once, outside of the function that "
                "calls load(), and pass the same object each time.",
                self.dogpile.path,
                _MOST_USED_ONCE + 1,
                name,
                _FEW,
            )
        return slot

    def _make_room(self, key: object, name: str) -> bool:
        """Forget what no call may come back for, before a loader of this *name* is added.

        A loader that loses its object is remembered: if it comes again, it was not made anew.

        :returns: whether loaders of this name are noticed now to be made anew at each call.
        """
        if key in self.slots:  # another thread has added it
            return False
        once = [other for other, slot in self.slots.items() if not slot.came_again]
        if len(self.slots) >= _MOST:
            dropped = next(iter(once or self.slots))
            self.slots.pop(dropped)
            self.latest = NO_SLOT
            once = once[1:]
        once = [other for other in once if self.slots[other].name == name]
        was_noticed = name in self.made_anew
        if len(once) < _MOST_USED_ONCE and not was_noticed:
            return False
        self.made_anew.add(name)
        for other in once[: 1 - _FEW]:
            slot = self.slots[other]
            if slot.made is not None:  # a new slot: another thread may be about to read the object of this one
                self.slots[other] = _Slot(slot.loader, name)
        return not was_noticed
