"""The heartbeat of a creation for all hosts: a thread that tells the origin that its host is alive.

Only the tag decides. A host that could not tell for a while has its creation still, if no other host has taken it
over; one that was stopped meanwhile finds that out with its next write.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from .engine import Down
from .head import Head
from .host_scope import Found, HostScope, Overtaken

__all__ = ["Fenced", "Heartbeat"]

log = logging.getLogger("dogpile_fs")

#: Heartbeats in the seconds after which another host may take over.
_PER_TTL = 3


class Fenced(Exception):
    """Another host has taken the creation over: its result must not be seen anywhere."""


class Heartbeat:
    """A ``with`` block in which the attempt with this *nonce* is confirmed, from *head* with its *tag* on."""

    def __init__(self, scope: HostScope, head: Head, tag: str, nonce: str) -> None:
        self._scope = scope
        self._head, self._tag = head, tag
        self.nonce = nonce
        #: The head at the begin of the creation.
        self.seen = head
        self._is_lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"dogpile_fs: heartbeat of {scope.name}", daemon=True
        )

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def stop(self) -> tuple[Head, str]:
        """End it, and return the head of the last one, and its tag.

        :raises Fenced: if another host has taken the creation over.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_lost:
            raise Fenced
        return self._head, self._tag

    def merged(self, found: Found) -> tuple[Head, str]:
        """Return the head that was *found* after a write was lost: with what other hosts have changed in it.

        :raises Fenced: if the attempt is no longer on record.
        """
        if found is None or found[0].attempt != self.nonce:
            self._is_lost = True
            raise Fenced
        self._head, self._tag = found
        return found

    def _run(self) -> None:
        period = self._head.ttl / _PER_TTL
        while not self._stop.wait(period):
            try:
                self._beat()
            except Fenced:
                log.warning(
                    "%s: another host has taken the creation over: nothing was heard of this one for %.0f s, or "
                    "the origin has lost its past",
                    self._scope.name,
                    self._head.ttl,
                )
                return
            except Down as error:
                log.debug("%s: the origin does not answer the heartbeat: %s", self._scope.name, error)
            except Exception:  # the head is damaged: the creation's end will tell
                log.exception("%s: the heartbeat has failed", self._scope.name)

    def _beat(self) -> None:
        head = self._head.confirmed()
        try:
            self._head, self._tag = self._scope.write(
                head, self._tag, lambda found: found.attempt == self.nonce and found.beat >= head.beat
            )
        except Overtaken as error:
            self.merged(error.found)
