"""Events: what happens to resources, as this process learns of it, for metrics and for people.

An event is delivered in the thread that has caused it, where that thread holds no lock of ours but the creation
mutex. So a callback may call any method of any object. Passes cause none.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Literal, Protocol

from .._sidecar.record import Record
from .interruption import is_interruption
from .plain_call import called, checked_plain

__all__ = ["Callback", "Event", "Kind", "checked_callback", "subscribe", "tell"]

log = logging.getLogger("dogpile_fs")

Kind = Literal[
    "creating",
    "created",
    "unchanged",
    "failed",
    "died",
    "stale_served",
    "invalidated",
    "expired",
    "fenced",
    "overdue",
    "swapped",
    "loaded",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One event, at the moment at which this process has caused it or found it.

    *kind*: see below. *path*: of the resource, absolute; ``None`` in thread scope. *generation*: the number of the
    creation that the event is about, and for the other kinds that of the version in place. *cost*: seconds that
    the creator ran; of ``overdue``, that it has been running; ``None`` for kinds that tell of no end of a creator.
    *age*: seconds since the version in place was created; ``None`` where there is none. *error*: the exception
    that the creator or *validate* has raised; ``None`` for kinds other than ``failed`` and ``stale_served``.
    *pid*: of the process that creates or has died, otherwise of this one.

    ================  =============================================================================================
    ``creating``      A creation is on record, and its creator is called next
    ``swapped``       A new version was put in place, and stamped if it may be: by a creation, by ``rollback``, or
                      because another host has created it
    ``created``       A creation has ended, and was stamped
    ``unchanged``     The same, but the creator has found nothing new at its source: the old version stays
    ``failed``        The creator has raised, or *validate* has refused what it made
    ``fenced``        A creation has ended whose result is used nowhere: another host has created meanwhile
    ``died``          An earlier creation, of any process, has ended without a result: this process counts it
    ``stale_served``  A reader whose creation has failed gets the old version
    ``invalidated``   By this process
    ``expired``       A caller has found a version that is too old for any reader: once per version and object
    ``overdue``       A caller that another process keeps from creating finds that this takes too long (past its
                      deadline, or ten times the last cost): once per creation and object
    ``loaded``        ``load`` has made a new object
    ================  =============================================================================================

    A creation that is interrupted, or given up because another program removed its lock file, has no event of its
    end; one whose process ends has it (``died``) when another process creates.

    >>> from dogpile_fs import Dogpile
    >>> dogpile = Dogpile(3600, on_event=lambda event: print(event.kind, event.generation))
    >>> with dogpile.acquire(lambda: None):
    ...     print("using")
    creating 1
    created 1
    using
    """

    kind: Kind
    path: str | None
    generation: int
    cost: float | None
    age: float | None
    error: BaseException | None
    pid: int


Callback = Callable[[Event], object]


class _Subject(Protocol):
    """The part of a scope that events need."""

    #: The callback of the object that uses this scope.
    on_event: Callback | None

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...


#: The callbacks for the events of all objects. It is changed by one operation each, so that no lock guards it.
_subscribed: dict[object, Callback] = {}


class _Running(threading.local):
    """The callbacks that each thread is in the middle of."""

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []


_running = _Running()


def checked_callback(name: str, callback: Callback) -> None:
    """Refuse *callback* if it cannot be called with an event.

    :param name: the caller's name for it, for the message.
    :raises TypeError: if it is no function, or a coroutine function.
    """
    if not callable(callback):
        raise TypeError(f"{name} must be a function of an Event, not {callback!r}")
    checked_plain(name, callback)


def subscribe(callback: Callback) -> Callable[[], None]:
    """Have *callback* called with each :class:`Event` of all objects of this process, from now on.

    :param callback: called in the thread that causes the event, with no lock of ours held but perhaps the creation
        mutex: while it runs after the first creation, other processes wait. What it raises is logged. It is not
        told what it does itself.
    :returns: a function without arguments, which ends that; it may be called more than once.
    :raises TypeError: if *callback* is no function, or a coroutine function.

    A child that is forked has the subscriptions of its parent.

    >>> from dogpile_fs import Dogpile, events
    >>> unsubscribe = events.subscribe(lambda event: print(event.kind))
    >>> dogpile = Dogpile(3600)
    >>> dogpile.invalidate()
    invalidated
    >>> unsubscribe()
    >>> dogpile.invalidate()
    """
    checked_callback("callback", callback)
    key = object()
    _subscribed[key] = callback

    def unsubscribe() -> None:
        _subscribed.pop(key, None)

    return unsubscribe


def tell(
    subject: _Subject,
    kind: Kind,
    record: Record,
    *,
    generation: int | None = None,
    cost: float | None = None,
    error: BaseException | None = None,
    pid: int | None = None,
) -> None:
    """Call the callbacks of *subject* and those of all objects. The caller holds no lock but the creation mutex.

    :param record: as it is now.
    :param generation: default: that of *record*.
    :param pid: default: this process.
    :raises: what a signal handler raises in a callback, and what is no ``Exception``. All else is logged.
    """
    own = subject.on_event
    callbacks = (*_subscribed.values(), own) if own is not None else tuple(_subscribed.values())
    if not callbacks:
        return
    event = Event(
        kind,
        subject.path,
        record.generation if generation is None else generation,
        cost,
        time() - record.createdtime if record.createdtime > 0 else None,
        error,
        os.getpid() if pid is None else pid,
    )
    running = _running.callbacks
    depth = len(running)
    for callback in callbacks:
        if any(each is callback for each in running):
            continue  # what a callback does would call it again, without end
        try:
            running.append(callback)
            called(callback, event)
        except Exception as failure:
            if is_interruption(failure):
                raise
            log.error(
                "%s: the callback %r has failed on the event %r",
                subject.name,
                callback,
                kind,
                exc_info=failure,
            )
        finally:
            del running[depth:]
