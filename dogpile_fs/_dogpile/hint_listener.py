"""A thread of this process that hears at once of what other hosts have published, if the origin has hints."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Protocol
from weakref import ref

from .._os import fork
from ..errors import OriginError
from .engine import Down, Hints
from .origin import Origin

__all__ = ["HintListener"]

log = logging.getLogger("dogpile_fs")

#: Seconds of the first and the longest pause before a connection that has failed is tried again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class _Asker(Protocol):
    def ask_because_of(self, tag: str) -> None:
        """Ask for the head: there is one with this *tag*; ``""``: there may be another one."""


class HintListener:
    """Has *asker* ask when there is a hint of *origin*, from the first :meth:`start` on, while *asker* is in use.

    :param name: of the resource, for the log.
    """

    def __init__(self, name: str, origin: Origin, asker: _Asker) -> None:
        self._name, self._origin = name, origin
        self._asker = ref(asker)
        self._hints: tuple[int, Hints] | None = None
        self._pid = 0  # of the process that has the thread: a forked child has none

    @property
    def hints(self) -> Hints:
        """The hints of this process, which shares no connection with its parent.

        :raises OriginError: if what they need is not installed.
        """
        known = self._hints
        if known is None or known[0] != os.getpid():
            known = self._hints = (os.getpid(), self._origin._hints())
        return known[1]

    def start(self) -> None:
        """Listen, if this process does not yet.

        :raises OriginError: if what that needs is not installed.
        """
        if self._pid == os.getpid():
            return
        hints = self.hints
        with fork.once:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
        run = threading.Thread(
            target=self._run, args=(hints,), name=f"dogpile_fs: hints of {self._name}", daemon=True
        )
        try:
            run.start()
        except RuntimeError as error:  # this process asks as often as without hints
            log.warning("%s: no thread listens to %s: %s", self._name, self._origin.hint, error)

    def tell(self, tag: str) -> None:
        """Tell the other hosts that there is a head with this *tag*, if the server of the hints answers."""
        try:
            self.hints.tell(tag)
        except (Down, OriginError) as error:
            log.debug("%s: no hint is given to %s: %s", self._name, self._origin.hint, error)

    def _run(self, hints: Hints) -> None:
        pause, is_first = _FIRST_PAUSE, True
        while True:
            try:
                for tag in hints.heard():
                    asker = self._asker()
                    if asker is None:
                        return
                    if not is_first:  # this process has asked just before it began to listen
                        asker.ask_because_of(tag)
                    del asker  # not to keep it in use until the next hint
                    pause, is_first = _FIRST_PAUSE, False
            except Down as error:
                log.debug("%s: no hints are heard of %s: %s", self._name, self._origin.hint, error)
            except Exception:  # questions come as often as without hints
                log.exception("%s: what a hint of %s has led to has failed", self._name, self._origin.hint)
            if self._asker() is None:
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
