"""What this host has seen of an origin, and the versions that it fetches from there.

One caller of this host at a time asks, under the mutex of :class:`.HostScope` for that. It writes down what the
head says and when to ask next, so that the other processes need not ask. A version that the head names, and that
is not here, is fetched and put in place at once. Which host creates is decided in :mod:`.host_election`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING, Literal, Protocol
from weakref import ref

from .._os.process_identity import own_identity
from .._os.waiting import Deadline
from .._sidecar.origin_watch import OriginWatch, seconds_since_boot
from .._sidecar.record import Record
from ..errors import DogpileError, LockFileError, OriginError, SidecarError
from .engine import Down, Engine, Gone
from .event import tell
from .head import Blob, Head
from .hint_listener import HintListener
from .host_scope import Answer, Found, HostScope
from .interruption import is_interruption
from .mirrored_record import adopted, in_time, mirrored
from .stamp import Stamp

if TYPE_CHECKING:
    from .shared_state import SharedState

__all__ = ["FIRST_LOOK", "FIRST_PAUSE", "LONGEST_LOOK", "PATIENT", "QUICK", "HostFetcher", "Replica", "Wanted"]

log = logging.getLogger("dogpile_fs")

#: Seconds that a caller with a version spends at most to ask whether there is another; and a process or thread
#: that asks on behalf of others, which may reach a slow origin thereby.
QUICK, PATIENT = 0.5, 5.0
#: Seconds for which an answer of the origin serves a caller that is elected. Not more than a question may take: an
#: origin that has gone away since then costs that caller a write, which is tried for longer than a question.
_STANDS = 5.0
#: Seconds of the first and the longest pause after a question without an answer, and of a caller that waits for
#: the version of another host.
FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_MOST_DOUBLED = 8
FIRST_LOOK, LONGEST_LOOK = 0.05, 1.0
#: Seconds for which no caller of this process asks again, though another process has not found out yet.
_AFTER_ASKING = 0.005
#: Seconds after which another thread of this process looks whether the one that asks is still there.
_LONGEST_QUESTION = 60.0
#: The same after the system refused it to write the files that this needs.
_AFTER_REFUSAL = 1.0

#: What an elected caller is there for.
Wanted = Literal["pass", "refresh", "force"]


class Replica(Protocol):
    """What a resource does with its versions for other hosts."""

    def store(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        """Store the version at *path*, unless it is the *current* one, and return its blob.

        :raises Down: if the engine does not take it.
        """

    def fetch(self, engine: Engine, blob: Blob) -> Stamp:
        """Put the version *blob* of another host in place; the mutex of the caller that fetches is held.

        :raises Gone, Down: if the engine does not give it.
        """


class HostFetcher:
    """What the users of one object on this host have seen of their origin, and what they fetch from it."""

    def __init__(self, shared: SharedState, scope: HostScope, replica: Replica | None) -> None:
        # Weakly, so that what is not used any more is closed at once. Each user holds it.
        self._shared = ref(shared)
        self.scope = scope
        self._replica = replica
        #: Whether this process has found the origin to be fit.
        self._is_fit = False
        #: Monotonic time before which callers of this process do not ask: one asks, or another process does.
        #: Racing threads may write it; either value is right.
        self._ask_not_before = 0.0
        #: What was logged last of why this process cannot ask.
        self._complaint = ""
        #: Hears of new heads, and tells the other hosts of those of this one.
        self._listener = None if scope.origin.hint is None else HintListener(scope.name, scope.origin, self)

    @property
    def shared(self) -> SharedState:
        """What the users share."""
        shared = self._shared()
        assert shared is not None
        return shared

    @property
    def check(self) -> float:
        """Seconds between two questions to the origin."""
        return self.scope.origin._check_after(self.shared.expiretime)

    def ask_at(self, record: Record, now: float) -> float:
        """Return the wall-clock time at which the origin is asked next; *now* if it is due."""
        at = record.ask_at
        if at is None or at > now + max(self.check, _LONGEST_PAUSE) + 1.0:  # the clock went back
            return now
        return at

    def is_due(self, record: Record, now: float) -> bool:
        """Return whether the origin is to be asked at wall-clock time *now*."""
        return self.ask_at(record, now) <= now

    def is_to_ask(self, record: Record, now: float) -> bool:
        """Return whether a caller of this process is to ask the origin at wall-clock time *now*."""
        return self.is_due(record, now) and monotonic() >= self._ask_not_before

    def next_question_in(self, record: Record) -> float:
        """Return for how many seconds a caller that waits for any host need not ask."""
        now = time()
        return min(max(self.ask_at(record, now) - now, FIRST_LOOK), LONGEST_LOOK)

    def others_create_until(self, record: Record, now: float) -> float:
        """Return until which wall-clock time no caller of this host creates; it may be over."""
        return self.ask_at(record, now) if record.remote else now

    # Asking.

    def ask(self, ahead: float = 0.0) -> None:
        """Ask whether there is another version, and fetch it; one caller of this host at a time does so.

        :param ahead: seconds before it is due, of a process that keeps others from having to ask.
        """
        # Bounded, for a child that is forked meanwhile.
        self._ask_not_before, pause = monotonic() + _LONGEST_QUESTION, _AFTER_ASKING
        try:
            self._listen()
            with self._fetching(None) as (fd, news):
                if fd is not None and self.is_due(self.scope.read(), time() + ahead):
                    self._ask(fd, news, PATIENT if ahead else QUICK)
        except DogpileError as error:  # a process that may only read leaves that to others
            pause = _AFTER_REFUSAL
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s: this process does not ask the origin: %s", self.scope.name, error)
        finally:
            self._ask_not_before = monotonic() + pause

    def ask_because_of(self, tag: str) -> None:
        """Ask, because a hint says that there is a head with this *tag*; ``""``: there may be another one."""
        in_use = self._shared()
        if in_use is None:
            return
        try:
            with self._fetching(Deadline(_LONGEST_QUESTION)) as (fd, news):
                assert fd is not None
                if not tag or self.scope.watch(fd).tag != tag:
                    self._ask(fd, news, PATIENT)
        except DogpileError as error:
            log.debug("%s: a hint is left to the next question: %s", self.scope.name, error)

    @contextmanager
    def _fetching(self, deadline: Deadline | None) -> Iterator[tuple[int | None, list[Record]]]:
        """A block as of :meth:`.HostScope.fetching`; the versions that are put in the list are told after it."""
        news: list[Record] = []
        with self.scope.fetching(deadline) as fd:
            yield fd, news
        for record in news:
            tell(self.scope, "swapped", record)

    def _ask(self, fd: int, news: list[Record], seconds: float) -> None:
        try:
            own = self.scope.watch(fd).own if self.scope.mutex.locked() else ""
            self._catch_up(fd, news, seconds=seconds, own=own)
        except Down:
            pass  # it is on record, and logged
        except (LockFileError, SidecarError):
            raise  # nothing can be put on record
        except DogpileError as error:
            log.warning("%s: going on with what there is: %s", self.scope.name, error)
            self._put_off(fd, replace(self.scope.watch(fd), asked_at=time()), is_remote=True)

    def _catch_up(
        self,
        fd: int,
        news: list[Record],
        *,
        seconds: float,
        own: str = "",
        answer: Answer | None = None,
        spared: Wanted | None = None,
    ) -> Found:
        """Ask for the head, and have what it names in place. The mutex of the caller that fetches is held.

        :param news: the record of a version that was put in place is added to it.
        :param own: the nonce of a publication of another process of this host, which puts that in place itself.
        :param answer: stands for another one, if this host has seen nothing of the origin since then.
        :param spared: for a caller that wants this, the last answer to this host will do, if it stands.
        :raises Down: if there is no answer within so many *seconds*.
        """
        scope, watch = self.scope, self.scope.watch(fd)
        kept = scope.kept(fd, watch)
        try:
            if answer is not None and answer.since == watch:
                found: Found | str = answer.found
            elif kept is not None and spared is not None and self._stands(watch, spared):
                return self._gone_on_with(fd, watch, news, kept.found)
            else:
                known = "" if kept is None or kept.found is None else watch.tag
                found = scope.look(known, seconds=seconds)
            if watch.down_since is not None:
                log.warning("%s: the origin %s answers again", scope.name, scope.origin.url)
            watch = replace(watch, asked_at=time(), down_since=None)
            if isinstance(found, str):
                assert kept is not None
                return self._gone_on_with(fd, watch, news, kept.found, is_confirmed=True)
            if own and found is not None and found[0].published[:1] == (own,):
                self._note(fd, replace(watch, own=""))  # once: if that process stands still, the next one fetches
            else:
                self._take_up(fd, watch, news, found)
            return found
        except Down as error:
            self._note_miss(fd, watch, str(error))
            raise

    def _stands(self, watch: OriginWatch, wanted: Wanted) -> bool:
        """Return whether the last answer of the origin will do for a caller that was elected.

        This host has changed nothing since then. If another host has, the write of the attempt finds that out. A
        caller that refreshes asks whether another host has ended.
        """
        record, now = self.scope.read(), time()
        if watch.asked_at is None or not 0 <= now - watch.asked_at < _STANDS or watch.misses:
            return False
        if record.invalidated or record.failures or self.is_due(record, now):
            return False
        return wanted == "pass" or not watch.attempt

    def _gone_on_with(
        self, fd: int, watch: OriginWatch, news: list[Record], known: Found, *, is_confirmed: bool = False
    ) -> Found:
        """Go on with the head that is *known*; have what it names in place, if something else is.

        :param is_confirmed: the origin has just said that it is unchanged.
        """
        if not (known and watch.lineage and self._is_intact(self._raw())):
            self._take_up(fd, watch, news, known)
        elif is_confirmed:
            self._note(fd, watch)
        return known

    def _take_up(self, fd: int, watch: OriginWatch, news: list[Record], found: Found) -> None:
        """Put what the origin has said on record, and have the version that it names in place."""
        if found is None:
            self._note(
                fd,
                replace(self.scope.keep(fd, watch, None), lineage="", attempt=""),
                self._with_lineage_lost,
            )
        else:
            self._adopt(fd, watch, news, *found)

    def _adopt(self, fd: int, watch: OriginWatch, news: list[Record], head: Head, tag: str) -> None:
        """Have the version that *head* names in place and on record."""
        raw, version = self._raw(), head.record
        is_ours = watch.lineage == head.lineage
        # A server that has lost its last write gives the number of that version to another one.
        is_same = is_ours and raw.generation == version.generation and raw.content == version.content
        if tag != watch.tag or watch.boot != own_identity().boot:
            watch = replace(watch, first_seen=seconds_since_boot(), boot=own_identity().boot)
        ttl = max(head.ttl, self.scope.origin.ttl)
        watch = replace(self.scope.keep(fd, watch, (head, tag)), attempt=head.attempt, ttl=ttl)
        is_set_back = is_ours and raw.generation > version.generation
        if version.createdtime <= 0 or is_set_back or (version.invalidated == "hard" and not is_same):
            # Nothing that could be used. What is here is of another past, and is not given to the origin.
            shift = self._shift_for(raw, version)
            self._note(fd, watch, lambda record: mirrored(self._with_lineage_lost(record), head=head, shift=shift))
        elif is_same and self._is_intact(raw):
            self._note(fd, watch, partial(mirrored, head=head, shift=self._shift_for(raw, version)))
        else:
            shift = self.scope.shift()
            try:
                stamp = self._fetched(head, raw)
            except Gone as error:
                log.warning(
                    "%s: the origin %s has not the version that its head names. It is created anew when the one "
                    "here is stale: %s",
                    self.scope.name,
                    self.scope.origin.url,
                    error,
                )
                self._put_off(fd, watch, is_remote=False)
                return
            watch = replace(watch, lineage=head.lineage)
            self._note(fd, watch, partial(adopted, head=head, shift=shift, stamp=stamp))
            if stamp.is_new:
                news.append(self.scope.read())
            log.debug("%s: fetched generation %d of %s", self.scope.name, version.generation, version.host)

    def _fetched(self, head: Head, raw: Record) -> Stamp:
        """Put the version of *head* in place, if another is there.

        :raises Gone, Down: if the origin does not give it.
        :raises OriginError: if it cannot be put in place, or ``validate`` refuses it.
        """
        blob = head.blob
        if blob is None or self._replica is None or (raw.content == blob.name and self._is_intact(raw)):
            return Stamp(raw.fingerprint, is_new=False)
        try:
            return self._replica.fetch(self.scope.engine, blob)
        except (Gone, Down, LockFileError, SidecarError):
            raise
        except Exception as error:
            if is_interruption(error):
                raise
            raise OriginError(
                self.scope.origin.url,
                f"generation {head.record.generation} of another host is not put in place: "
                f"{type(error).__name__}: {error}",
            ) from error

    def _shift_for(self, raw: Record, version: Record) -> float:
        """Return by how much the engine's clock is ahead, if that is needed to tell when creations have failed."""
        has_failed_anew = version.failures and version.failures_total != raw.failures_total
        return self.scope.shift() if has_failed_anew else 0.0

    def _with_lineage_lost(self, record: Record) -> Record:
        """Return *record* as of a version that the origin does not know any more: it is created anew."""
        if not record.has_value or record.invalidated is not None:
            return record
        return record.replace(invalidated="soft", invalidated_at=time())

    def _raw(self) -> Record:
        """The record as it was stamped, whatever is at the path."""
        return self.scope.sidecar.read().record

    def _is_intact(self, raw: Record) -> bool:
        """Return whether what was stamped is at the path, if the resource is looked at."""
        if self._replica is None:
            return True
        found = self.scope.fingerprint()
        return raw.fingerprint is not None and found is not None and raw.fingerprint.matches(found)

    def _note(
        self, fd: int, watch: OriginWatch, change: Callable[[Record], Record] = lambda record: record
    ) -> None:
        """Write down what was seen, and when to ask next; *change* the record besides."""
        now, check, watch = time(), self.check, replace(watch, misses=0)
        is_remote = bool(watch.attempt) and watch.seen_for() < watch.ttl

        def noted(record: Record) -> Record:
            record = change(record)
            ask_at = now + check
            until = record.fresh_until(self.shared.expiretime)
            if record.invalidated is None and now < until < ask_at:
                ask_at = until  # at its expiry
            return record.replace(ask_at=in_time(ask_at), remote=is_remote)

        self.scope.note(fd, watch)
        self.scope.change(noted)

    def _note_miss(self, fd: int, watch: OriginWatch, reason: str) -> None:
        """Write down that the origin gives no answer, and when it is asked again."""
        if watch.down_since is None:
            what = (
                "going on with what there is" if self.scope.origin.outage == "stale" else "this host creates alone"
            )
            log.warning(
                "%s: the origin %s does not answer: %s: %s", self.scope.name, self.scope.origin.url, what, reason
            )
        is_remote = self.scope.origin.outage == "stale"
        self._put_off(fd, replace(watch, down_since=watch.down_since or time()), is_remote=is_remote)

    def _put_off(self, fd: int, watch: OriginWatch, *, is_remote: bool) -> None:
        """Ask again after a pause, which grows with each question that brought nothing.

        :param is_remote: no caller of this host creates before that.
        """
        pause = min(_LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(watch.misses, _MOST_DOUBLED))
        self.scope.note(fd, replace(watch, misses=watch.misses + 1))
        ask_at = in_time(time() + pause)
        self.scope.change(lambda record: record.replace(ask_at=ask_at, remote=is_remote))

    def _listen(self) -> None:
        """Hear of what other hosts publish, from now on.

        :raises OriginError: if what that needs is not installed.
        """
        if self._listener is not None:
            self._listener.start()

    def _tell_others(self, tag: str) -> None:
        if self._listener is not None:
            self._listener.tell(tag)
