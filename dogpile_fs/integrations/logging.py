"""Structured logs: each event of this process as a log record with fields."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..events import Event, subscribe

__all__ = ["log_events"]


def log_events(logger: logging.Logger | None = None, level: int = logging.INFO) -> Callable[[], None]:
    """Log each event of all resources of this process from now on, for programs that read logs.

    :param logger: default: ``dogpile_fs.events``.
    :param level: of the records.
    :returns: a function without arguments, which ends that.

    Each record has the attributes ``event`` (the kind), ``path``, ``generation`` and ``cost`` (seconds that the
    creator ran, or ``None``), and for failures the exception as ``exc_info``. They are what ``extra=`` gives to
    the formatters of structured logs. The logger ``dogpile_fs``, which tells of failures and of all else that a
    person should read, is not changed.

    >>> import logging, sys
    >>> from dogpile_fs import Dogpile
    >>> logger = logging.getLogger("dogpile_fs.events")
    >>> handler = logging.StreamHandler(sys.stdout)
    >>> handler.setFormatter(logging.Formatter("%(event)s generation=%(generation)d"))
    >>> logger.addHandler(handler)
    >>> stop = log_events(level=logging.WARNING)
    >>> Dogpile(3600).invalidate()
    invalidated generation=0
    >>> stop()
    >>> logger.removeHandler(handler)
    """
    target = logging.getLogger("dogpile_fs.events") if logger is None else logger

    def tell(event: Event) -> None:
        fields = {
            "event": event.kind,
            "path": event.path,
            "generation": event.generation,
            "cost": event.cost,
        }
        target.log(
            level,
            "%s: %s, generation %d",
            event.path,
            event.kind,
            event.generation,
            extra=fields,
            exc_info=event.error,
        )

    return subscribe(tell)
