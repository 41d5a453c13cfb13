"""Callbacks after another version of a resource was put in place, by any process: ``on_new_version``.

One daemon thread of each process calls them all. It sleeps in the kernel until something happens to a name on the
way to a resource or to its sidecar, looks at the resources that this concerns, and compares their versions with
the last that it told. Where the system cannot tell of changes (no instance of inotify is left, or a cooperative
scheduler would be stopped by the wait), it looks now and then.

A child that Python has forked has a thread and an instance of inotify of its own, from its first moment on. One
that C code has forked has none before it asks for callbacks itself: if a thread of the parent waited for the
interpreter's lock at the fork, a second thread of the child may hang, because that lock still waits for the first.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from weakref import ref

from .._os import fork
from .._os.inotify import Event
from .._os.path_watch import PathWatch
from .._os.waiting import Deadline, cooperative
from .plain_call import called, checked_plain

__all__ = ["Subscription", "subscribe"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")
Version = tuple[int, ...] | None
#: What is seen of a resource: the paths by which it and its sidecar are reached, and the version in place.
Seen = tuple[tuple[str, ...], Version]

#: Seconds between two looks where nothing can be watched, and how many times as long as a look the pause is at
#: least: 5 % of a core, however many resources there are.
_PAUSE = 0.5
_REST = 19
#: Times that a resource is looked at again because it changes meanwhile, before the thread looks at others.
_MOST_LOOKS = 10
#: No version: of a callback that was interrupted by a fork.
_UNTOLD: Version = (-1,)


class Subscription(Generic[T]):
    """What :meth:`~.datafile.Datafile.on_new_version` returns: the callback is called until :meth:`cancel`, or to
    the end of the ``with`` block.

    It keeps the object that it belongs to alive.
    """

    __slots__ = ("_owner", "_watch")

    def __init__(self, owner: T, watch: _Watch) -> None:
        self._owner = owner
        self._watch = watch

    def cancel(self) -> None:
        """Call the callback no more; one that runs now runs to its end. May be called twice."""
        self._watch.is_cancelled = True
        with suppress(ValueError):
            watches_of(self._owner).remove(self._watch)
        _notifier.dismiss(self._watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def subscribe(owner: T, callback: Callable[[T], object], look: Callable[[T], Seen]) -> Subscription[T]:
    """Have ``callback(owner)`` called for each version that comes after the one in place now.

    The *owner* has the callback, in its list ``_watches``, and the thread refers to both weakly: so a callback
    that refers to its owner does not keep it alive.

    :param look: returns what is seen of *owner* now.
    :raises TypeError: if *callback* is no plain function.
    :raises RuntimeError: if the system starts no thread.
    :raises: each error of *look*.
    """
    if not callable(callback):
        raise TypeError(f"callback must be a function of the object, not {callback!r}")
    checked_plain("callback", callback)
    fork.settle()
    watch = _Watch(owner, callback, look)
    watches_of(owner).append(watch)
    _notifier.admit(watch)
    return Subscription(owner, watch)


def watches_of(owner: Any) -> list[_Watch]:
    """Return the watches that *owner* keeps alive."""
    if owner._watches is None:
        with fork.once:  # else two threads could make two
            if owner._watches is None:
                owner._watches = []
    watches: list[_Watch] = owner._watches
    return watches


class _Watch:
    """One callback of one resource."""

    __slots__ = (
        "__weakref__",
        "_callback",
        "_complaint",
        "_is_telling",
        "_look",
        "_owner",
        "is_cancelled",
        "is_polled",
        "placed",
        "told",
    )

    def __init__(self, owner: Any, callback: Callable[[Any], object], look: Callable[[Any], Seen]) -> None:
        self._owner = ref(owner)
        self._callback = callback
        self._look = look
        #: The last version that was in place when the callback was called, or before it ever was.
        self.told = _steady(look, owner)[1]
        self._is_telling = False
        self._complaint = ""
        self.is_cancelled: bool = False
        #: The names that are watched, by the numbers of the watches; ``None`` while it is not known.
        self.placed: frozenset[Event] | None = None
        #: Whether it is looked at now and then.
        self.is_polled: bool = False

    def after_fork(self, *, by_callback: bool) -> None:
        """Forget what the parent watches; *by_callback*: a callback has forked.

        A fork in another thread may interrupt a callback anywhere: then the child calls it once more.
        """
        if self._is_telling and not by_callback:
            self.told = _UNTOLD
        self._is_telling = False
        self.placed = None

    def is_concerned(self, events: set[Event]) -> bool:
        return self.placed is None or self.is_polled or not events.isdisjoint(self.placed)

    def look(self, place: Callable[[tuple[str, ...]], frozenset[Event] | None]) -> None:
        """Watch the way to the resource, and call the callback if another version is in place than before."""
        owner = self._owner()
        if owner is None:
            return
        try:
            paths, version = self._settled(owner, place)
        except Exception as error:  # what the sidecar or the path is like is no reason to end the thread
            self.is_polled = True
            self._complain(owner, error)
            return
        self._complaint = ""
        if version is not None and version != self.told and not self.is_cancelled:
            self.told = version
            self._tell(owner, paths[0])

    def _settled(self, owner: Any, place: Callable[[tuple[str, ...]], frozenset[Event] | None]) -> Seen:
        """Return what is seen of *owner* while nothing changes, and its way is watched."""
        seen = _steady(self._look, owner)
        for _ in range(_MOST_LOOKS):
            placed, again = place(seen[0]), _steady(self._look, owner)
            is_settled = placed == self.placed and seen == again
            self.placed, seen, self.is_polled = placed, again, placed is None
            if is_settled:
                return seen
        self.is_polled = True
        return seen

    def _tell(self, owner: Any, path: str) -> None:
        self._is_telling = True
        try:
            called(self._callback, owner)
        except BaseException as error:  # other callbacks are called all the same, whatever ends this one
            log.error(
                "%r: a callback of on_new_version failed: %s: %s",
                path,
                type(error).__name__,
                error,
                exc_info=error,
            )
        finally:
            self._is_telling = False

    def _complain(self, owner: Any, error: Exception) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning("%r: on_new_version cannot look for a new version: %s", owner, error)


def _steady(look: Callable[[Any], Seen], owner: Any) -> Seen:
    """Return what *look* returns twice: the tag of a directory that is swapped between two system calls is
    another's."""
    seen = look(owner)
    for _ in range(_MOST_LOOKS):
        again = look(owner)
        if again == seen:
            break
        seen = again
    return seen


class _Notifier:
    """The thread of this process that calls the callbacks, while there are any."""

    def __init__(self) -> None:
        self._watches: set[ref[_Watch]] = set()
        self._start()
        self._has_told = False
        fork.reset_after_fork(self)
        # Hooks run in the order in which they were registered: those of threading and logging, and the one by
        # which the child forgets, have run then.
        os.register_at_fork(after_in_child=self._restart)

    def _start(self) -> None:
        # The thread changes them under fork.once, or before there are others.
        self._thread: threading.Thread | None = None
        self._is_greenlet = False
        #: What the thread waits with; ``None`` where it looks now and then.
        self._sight: PathWatch | None = None

    def after_fork(self) -> None:
        by_callback = self._thread is not None and self._thread.ident == threading.get_ident()
        if not self._is_greenlet:  # a greenlet goes on in the child
            self._start()
        for watch in self._present():
            watch.after_fork(by_callback=by_callback)

    def _restart(self) -> None:
        """Start the thread of a child that Python has forked."""
        try:
            if self._present():
                self._wake()
        except RuntimeError as error:
            log.warning("process %d calls no callbacks of on_new_version: %s", os.getpid(), error)

    def admit(self, watch: _Watch) -> None:
        """:raises RuntimeError: if the system starts no thread."""
        self._watches.add(ref(watch, self._forget))
        self._wake()

    def dismiss(self, watch: _Watch) -> None:
        self._forget(ref(watch))

    def _forget(self, watch: ref[_Watch], is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Let the thread find that it is one less; called also when a resource is no more, at any instruction."""
        if is_finalizing():
            return
        self._watches.discard(watch)
        with fork.once:
            if self._sight is not None:
                self._sight.ring()

    def _present(self) -> list[_Watch]:
        return [watch for each in list(self._watches) if (watch := each()) is not None]

    def _wake(self) -> None:
        """Have the thread look at what is new; start it if there is none."""
        with fork.once:
            if self._thread is not None and (self._sight is None or self._sight.ring()):
                return
            # Or another part of the program has closed the bell: the thread that does not hear it ends later.
            thread = threading.Thread(target=self._run, name="dogpile_fs", daemon=True)
            self._thread, self._sight, self._is_greenlet = thread, None, cooperative()
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def _run(self) -> None:
        me = threading.current_thread()
        sight: PathWatch | None = None
        events: set[Event] | None = None
        while True:
            if sight is None and not self._is_greenlet:
                sight = self._opened()
            with fork.once:
                if self._thread is not me:
                    break
                self._sight = sight  # before the look: what is admitted later rings its bell
            began = time.monotonic()
            is_polled = self._look(sight, events)
            cost = time.monotonic() - began
            with fork.once:
                if self._thread is me and not self._watches:
                    self._start()
                    break
            pause = max(_PAUSE, _REST * cost)
            if sight is None:
                # Looked up each time: the monkey patches replace time.sleep.
                time.sleep(pause)
                events = None
                continue
            try:
                events = sight.wait(Deadline(pause if is_polled else None))
            except OSError:  # another part of the program has closed it
                sight.close()
                sight = events = None
        if sight is not None:
            sight.close()

    def _look(self, sight: PathWatch | None, events: set[Event] | None) -> bool:
        """Look at all that *events* concern; ``None``: at all. Return whether some are to be looked at again."""
        for watch in self._present():
            if events is None or watch.is_concerned(events):
                watch.look(partial(self._placed, sight))
        present = self._present()
        if sight is not None:
            sight.keep([watch.placed for watch in present if watch.placed is not None])
        return any(watch.is_polled for watch in present)

    def _opened(self) -> PathWatch | None:
        try:
            return PathWatch()
        except OSError as error:
            self._tell_polling(error)
            return None

    def _placed(self, sight: PathWatch | None, paths: tuple[str, ...]) -> frozenset[Event] | None:
        if sight is None:
            return None
        try:
            return sight.place(paths)
        except OSError as error:
            if sight.is_intact():  # else the wait finds that out, and the thread opens another
                self._tell_polling(error, paths[0])
            return None

    def _tell_polling(self, error: OSError, path: str = "") -> None:
        if not self._has_told:
            self._has_told = True
            log.warning(
                "%scallbacks of on_new_version come up to %.1f s late in process %d, because the system does not "
                "watch for changes: %s. Hint: raise the limits in /proc/sys/fs/inotify.",
                path and f"{path!r}: ",
                _PAUSE,
                os.getpid(),
                error,
            )


_notifier = _Notifier()
