"""Which host creates: what the elected caller of this host does with the origin.

===================================  =============================================================================
the head says                        then this host
===================================  =============================================================================
a version that is not here           fetches it, and passes
the same version, fresh              passes
the same, stale; no attempt          writes an attempt into the head, creates, publishes
the same, stale; another's attempt   passes with what there is, and asks again; it takes over when it has seen the
                                     head unchanged for the ttl, by its own monotonic clock
nothing, or an earlier version       creates anew: the origin has lost its past
no answer                            passes with what there is, and asks again; or creates for itself alone
===================================  =============================================================================

Safety is the conditional write by which a version is published, and no lock: a host whose attempt was taken over
does not get its version into the head, and what is not in the head is put in place nowhere.
"""

from __future__ import annotations

import logging
import math
import os
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from weakref import ref

from .._os.process_identity import own_identity
from .._os.waiting import Deadline
from .._sidecar.origin_watch import OriginWatch, seconds_since_boot
from .._sidecar.record import DIED, Attempt, Record, cleaned_host
from ..errors import DogpileError, LockFileError, LockTimeout, OriginError, SidecarError
from .collection import collected
from .engine import Down, Engine, Gone, Lost
from .event import tell
from .head import EMPTY, Blob, Head, new_nonce
from .heartbeat import Fenced, Heartbeat
from .hint_listener import HintListener
from .host_outcome import OriginBackoff
from .host_scope import Answer, Found, HostScope, Overtaken, waited_in_vain
from .interruption import is_interruption
from .plain_call import called
from .shared_state import NOTHING
from .stamp import BACKING_OFF, CREATING, FENCED, FRESH, Made, Stamp

if TYPE_CHECKING:
    from .shared_state import SharedState

__all__ = ["HostElection", "Publish", "Replica", "Wanted"]

log = logging.getLogger("dogpile_fs")

#: Seconds that a caller with a version spends at most to ask whether there is another; and a process or thread
#: that asks on behalf of others, which may reach a slow origin thereby.
_QUICK, _PATIENT = 0.5, 5.0
#: Seconds for which an answer of the origin serves a caller that is elected. Not more than a question may take: an
#: origin that has gone away since then costs that caller a write, which is tried for longer than a question.
_STANDS = 5.0
#: Seconds of the first and the longest pause after a question without an answer, and of a caller that waits for
#: the version of another host.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_MOST_DOUBLED = 8
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
#: Seconds for which no caller of this process asks again, though another process has not found out yet.
_AFTER_ASKING = 0.005
#: Seconds after which another thread of this process looks whether the one that asks is still there.
_LONGEST_QUESTION = 60.0
#: The same after the system refused it to write the files that this needs.
_AFTER_REFUSAL = 1.0
#: Tries to store a blob.
_PUTS = 3
#: Creations between two collections of blobs that no head names, and seconds for which such a blob is left alone.
_COLLECT_EVERY, _GRACE = 16, 3600.0

#: Called with the path of a finished version (``None``: that in place is unchanged), what its creator has said,
#: and what puts it in place; returns what is put on record.
Publish = Callable[[str | None, Stamp, Callable[[], Stamp]], Stamp]
#: What an elected caller is there for.
Wanted = Literal["pass", "refresh", "force"]


class _Try(NamedTuple):
    """What came of a caller's try to create.

    *reason*: why there is no *stamp* yet. *answer*: the latest one of the origin, if that is known; then the next
    try comes at once.
    """

    reason: str
    stamp: Stamp | None = None
    answer: Answer | None = None


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


class HostElection:
    """What the users of one object on this host do with their origin."""

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
        return min(max(self.ask_at(record, now) - now, _FIRST_LOOK), _LONGEST_LOOK)

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
                    self._ask(fd, news, _PATIENT if ahead else _QUICK)
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
                    self._ask(fd, news, _PATIENT)
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
            mirrored = partial(_mirrored, head=head, shift=self._shift_for(raw, version))
            self._note(fd, watch, lambda record: mirrored(self._with_lineage_lost(record)))
        elif is_same and self._is_intact(raw):
            self._note(fd, watch, partial(_mirrored, head=head, shift=self._shift_for(raw, version)))
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
            self._note(fd, watch, partial(_adopted, head=head, shift=shift, stamp=stamp))
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
            return record.replace(ask_at=_in_time(ask_at), remote=is_remote)

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
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(watch.misses, _MOST_DOUBLED))
        self.scope.note(fd, replace(watch, misses=watch.misses + 1))
        ask_at = _in_time(time() + pause)
        self.scope.change(lambda record: record.replace(ask_at=ask_at, remote=is_remote))

    # Creating.

    def create(self, build: Callable[[Publish], Stamp], timeout: float | None, wanted: Wanted) -> Stamp:
        """Be the creator of the caller that was elected on this host; the creation mutex is held.

        :param build: makes a version, and calls what it is given with it.
        :param timeout: seconds to wait at most for another host; ``None``: for ever.
        :param wanted: ``"pass"``: a version, be it stale; ``"refresh"``: that this host creates if it is elected;
            ``"force"``: that it creates in any case, after the creation of another host.
        :raises LockTimeout: if there is no version in time.
        :raises OriginError: if the origin cannot be used, and there is no version to pass with, or more is wanted.
        """
        deadline, pause = Deadline(timeout), _FIRST_LOOK
        last: _Try | None = None
        while True:
            try:
                last = self._created_or_not(build, deadline, wanted, last)
            except OriginError as error:
                if wanted != "pass" or not self.scope.read().has_value:
                    raise
                log.warning("%s: going on with what there is: %s", self.scope.name, error)
                return CREATING
            if last.stamp is not None:
                return last.stamp
            if deadline.left == 0:
                raise waited_in_vain(self.scope, timeout, last.reason)
            if last.answer is None:
                clock.sleep(min(pause, deadline.left))
                pause = min(2 * pause, _LONGEST_LOOK, self.check)

    def make(self, creator: Callable[[], Any], timeout: float | None, wanted: Wanted) -> Made:
        """Be the creator of a resource that is in no file of this package: only what is on record travels.

        :param creator: the user's. The other parameters and the errors: as :meth:`create`.
        """
        values: list[Any] = [None]

        def build(publish: Publish) -> Stamp:
            values[0] = called(creator)
            return publish(None, Stamp(None), lambda: Stamp(None, is_new=False))

        stamp = self.create(build, timeout, wanted)
        return Made(values[0], stamp)

    def _created_or_not(
        self, build: Callable[[Publish], Stamp], deadline: Deadline, wanted: Wanted, last: _Try | None
    ) -> _Try:
        """Create if this host is elected.

        :param last: what came of the try before this one, if there was one.
        """
        scope, force = self.scope, wanted == "force"
        self._listen()
        passes = wanted == "pass" and self.shared.judge(scope.read(), time()) not in NOTHING
        try:
            with self._fetching(deadline.within(_QUICK) if passes else deadline) as (fd, news):
                assert fd is not None
                if last is None:
                    found = self._catch_up(fd, news, seconds=_PATIENT, spared=wanted)
                else:
                    found = self._catch_up(fd, news, seconds=_PATIENT, answer=last.answer)
                watch, record = scope.watch(fd), scope.read()
                if found is None or not found[0].is_attempted:
                    watch = replace(watch, own=new_nonce())
                    scope.note(fd, watch)
        except Down as error:
            return self._without_origin(build, str(error), wanted)
        except LockTimeout as error:  # another process of this host fetches, or stands still
            if not passes:
                raise waited_in_vain(
                    scope, deadline.timeout, f"another process of this host fetches: {error}"
                ) from error
            return _Try("", CREATING)
        now, has_value = time(), record.has_value
        if not force and self.shared.judge(record, now) == "fresh":
            return _Try("", FRESH)
        head, tag = found or (replace(EMPTY, lineage=new_nonce()), None)
        try:
            if head.is_attempted:
                if watch.seen_for() < watch.ttl:
                    attempt = head.record.attempt
                    where = "another host" if attempt is None else f"process {attempt.pid} on {attempt.host}"
                    return _Try(f"{where} creates it", CREATING if has_value and not force else None)
                after = self._count_death(head, tag)
                return _Try("a creation has died", answer=Answer(after, watch))
            if not force and self.shared.backoff_left(record, now):
                if has_value:
                    return _Try("", BACKING_OFF)
                raise OriginBackoff(scope.path, record.failures, record.retry_at or now, record.failed_type)
            return _Try("", self._create(build, head, tag, self._raw(), watch))
        except Overtaken as error:
            return _Try("another host has come first", answer=Answer(error.found, watch))
        except Down as error:
            return self._without_origin(build, str(error), wanted)

    def _without_origin(self, build: Callable[[Publish], Stamp], reason: str, wanted: Wanted) -> _Try:
        if self.scope.origin.outage == "create":
            return _Try("", build(self._publish_here))
        if wanted != "pass":
            raise self._unreachable(reason)
        stamp = CREATING if self.scope.read().has_value else None
        return _Try(f"the origin does not answer ({reason})", stamp)

    def _unreachable(self, reason: str) -> OriginError:
        url = self.scope.origin.url
        return OriginError(
            url,
            f"{self.scope.name}: the origin {url!r} does not answer: {reason}. Hint: dogpile-fs origin check, on "
            "this host.",
        )

    def _count_death(self, head: Head, tag: str | None) -> tuple[Head, str]:
        """Record that the attempt of another host, of which nothing was heard for its ttl, has died.

        :returns: the head that counts then.
        """
        dead, backoff = head.record.attempt, self.shared.policy.backoff
        again = head.record.failed_type == DIED
        retry_after = backoff.delay(head.record.failures + 1) if again and backoff is not None else 0.0
        now = self.scope.engine.now()
        failures = head.record.failures_total + 1
        after = head.failed(now, DIED, retry_after)
        written = self.scope.write(
            after, tag, lambda found: not found.attempt and found.record.failures_total >= failures
        )
        if dead is not None:
            log.warning(
                "%s: nothing was heard for %.0f s of a creation that process %d of %s began: it has died",
                self.scope.name,
                head.ttl,
                dead.pid,
                dead.host,
            )
        return written

    def _create(
        self, build: Callable[[Publish], Stamp], head: Head, tag: str | None, raw: Record, watch: OriginWatch
    ) -> Stamp:
        """Create for all hosts.

        :raises Overtaken, Down: if the attempt is not in the head; nothing has begun.
        """
        scope, nonce, began = self.scope, new_nonce(), monotonic()
        self._refuse_unfit(watch)
        if watch.lineage == head.lineage and raw.generation > head.record.generation:
            # It was set back. Nothing that was published since then counts, or is given the same number again.
            head = replace(head, record=head.record.replace(generation=raw.generation), lineage=new_nonce())
        longest = self.shared.creator_timeout
        now = scope.engine.now()
        attempt = Attempt(
            cleaned_host(os.uname().nodename),
            os.getpid(),
            now,
            deadline=None if longest is None else now + longest,
        )
        begun = head.begun(attempt, nonce, scope.origin.ttl, self.shared.expiretime)
        written, tag = scope.write(begun, tag, lambda found: found.attempt == nonce)
        # The first publication has the nonce that other processes of this host know.
        nonces = chain((watch.own,), iter(new_nonce, None))
        with Heartbeat(scope, written, tag, nonce) as heartbeat:
            try:
                return build(partial(self._publish, heartbeat, began, nonces))
            except Fenced:
                log.warning("%s: fenced: another host has published while this one created", scope.name)
                self._catch_up_at_leisure()
                return FENCED
            except BaseException as error:
                self._report(heartbeat, error)
                raise

    def _catch_up_at_leisure(self) -> None:
        try:
            with self._fetching(Deadline(None)) as (fd, news):
                assert fd is not None
                self._catch_up(fd, news, seconds=_PATIENT)
        except (Down, DogpileError) as error:
            log.warning("%s: the version of the other host is not here yet: %s", self.scope.name, error)

    def _report(self, heartbeat: Heartbeat, error: BaseException) -> None:
        """Tell the origin how the attempt has ended, if it answers: else its ttl will."""
        if isinstance(error.__cause__, Down):
            return
        counts = isinstance(error, Exception) and not isinstance(error, OriginError | LockTimeout | Lost | Down)
        try:
            head, tag = heartbeat.stop()
            if counts:
                backoff = self.shared.policy.backoff
                retry_after = 0.0 if backoff is None else backoff.delay(head.record.failures + 1)
                ended = head.failed(self.scope.engine.now(), type(error).__name__, retry_after)
            else:
                ended = head.ended()
            self.scope.write(ended, tag, lambda found: found.attempt != heartbeat.nonce)
        except (Fenced, Lost):
            pass  # another host has taken over
        except (Down, DogpileError) as failure:
            log.warning("%s: the end of the creation is not told to the origin: %s", self.scope.name, failure)

    def _publish(
        self,
        heartbeat: Heartbeat,
        began: float,
        nonces: Iterator[str],
        path: str | None,
        said: Stamp,
        swap: Callable[[], Stamp],
    ) -> Stamp:
        """Store a version, have the head name it, and put it in place here.

        :raises Fenced: if another host has taken the creation over.
        :raises OriginError: if the origin does not answer.
        """
        scope, cost, seen = self.scope, monotonic() - began, heartbeat.seen
        try:
            blob = seen.blob if path is None else self._stored(path, seen.blob)
            head, tag = heartbeat.stop()
            nonce, now = next(nonces), scope.engine.now()
            while True:
                published = head.created(
                    seen,
                    nonce,
                    blob,
                    now,
                    cost=cost,
                    host=cleaned_host(os.uname().nodename),
                    pid=os.getpid(),
                    expiretime=self.shared.expiretime,
                    lifetime=self.shared.drawn_lifetime(said.expires_in),
                    max_stale=self.shared.max_stale,
                    note=said.note,
                )
                try:
                    written, tag = scope.write(published, tag, lambda found: nonce in found.published)
                    break
                except Overtaken as error:
                    head, tag = heartbeat.merged(error.found)
        except Down as error:
            raise self._unreachable(str(error)) from error
        try:
            stamp = self._put_in_place(published, tag if written is published else "", swap)
        finally:
            self._tell_others(tag)
        self._collect(published)
        return stamp._replace(outcome=said.outcome)

    def _listen(self) -> None:
        """Hear of what other hosts publish, from now on.

        :raises OriginError: if what that needs is not installed.
        """
        if self._listener is not None:
            self._listener.start()

    def _tell_others(self, tag: str) -> None:
        if self._listener is not None:
            self._listener.tell(tag)

    def _put_in_place(self, published: Head, tag: str, swap: Callable[[], Stamp]) -> Stamp:
        with self.scope.fetching(Deadline(None)) as fd:
            assert fd is not None
            watch = self.scope.watch(fd)
            if watch.lineage == published.lineage and self._raw().generation >= published.record.generation:
                return Stamp(None, is_new=False, is_on_record=True)  # a later one is here already
            shift = published.record.createdtime - time()
            stamp = swap()
            watch = replace(
                self.scope.keep(fd, watch, (published, tag)),
                lineage=published.lineage,
                attempt="",
                first_seen=seconds_since_boot(),
                boot=own_identity().boot,
                asked_at=time(),
                is_fit=True,
                own="",
            )
            self._note(fd, watch, partial(_adopted, head=published, shift=shift, stamp=stamp, is_own=True))
            return stamp._replace(is_on_record=True)

    def _publish_here(self, path: str | None, said: Stamp, swap: Callable[[], Stamp]) -> Stamp:
        """Put a version in place for this host alone: the origin's replaces it when that answers again."""
        with self.scope.fetching(Deadline(None)) as fd:
            assert fd is not None
            self.scope.note(fd, replace(self.scope.watch(fd), lineage="", tag="", own=""))
            return swap()._replace(expires_in=said.expires_in, note=said.note, outcome=said.outcome)

    def _stored(self, path: str, current: Blob | None) -> Blob:
        """Return the blob of what is at *path*, which is stored if it is not the current one.

        :raises Down: if that fails.
        """
        assert self._replica is not None
        for again in reversed(range(_PUTS)):
            try:
                return self._replica.store(self.scope.engine, path, current)
            except Down:
                if not again:
                    raise
                clock.sleep(_FIRST_PAUSE)
        raise AssertionError("unreachable")

    def _collect(self, head: Head) -> None:
        """Now and then, remove the blobs that no remembered version has."""
        if head.record.generation % _COLLECT_EVERY:
            return
        try:
            collected(self.scope.engine, head, _GRACE)
        except Down as error:
            log.debug("%s: blobs are not collected: %s", self.scope.name, error)

    def _refuse_unfit(self, watch: OriginWatch) -> None:
        """:raises OriginUnfit: if the origin's engine does not keep its promises."""
        if not watch.is_fit and not self._is_fit:
            from .conformance import refuse_unfit  # here: once for each origin

            refuse_unfit(self.scope.origin)
            self._is_fit = True

    # What the user asks for.

    def invalidate(self, *, hard: bool) -> None:
        """Make the version of all hosts stale from now on.

        :raises OriginError: if the origin does not answer.
        """
        self._change_head(lambda head, nonce, now: head.invalidated(nonce, hard=hard, now=now))

    def declare(self, createdtime: float | None = None) -> None:
        """Have the version of all hosts count as created then, and of an origin without one, as created.

        :param createdtime: epoch seconds by the clock of this host; ``None``: now.
        :raises OriginError: if the origin does not answer.
        """
        ago = 0.0 if createdtime is None else time() - createdtime
        self._change_head(
            lambda head, nonce, now: head.touched(nonce, now - ago),
            # A file that no host has published is not there for the others.
            begin=self._replica is None,
        )
        try:
            with self._fetching(Deadline(self.shared.timeout)) as (fd, news):
                assert fd is not None
                self._catch_up(fd, news, seconds=_PATIENT)
        except Down as error:
            raise self._unreachable(str(error)) from error

    def _change_head(self, make: Callable[[Head, str, float], Head], *, begin: bool = False) -> None:
        """Change the head, whichever it is then.

        :param make: is given the head, a nonce and the engine's time; returns a head that has seen the nonce.
        :param begin: where there is none, begin with an empty one; otherwise nothing is changed then.
        """
        nonce = new_nonce()
        try:
            now = self.scope.engine.now()
            while True:
                found = self.scope.look()
                assert not isinstance(found, str)
                if found is None and not begin:
                    return  # there is nothing that could be changed
                if found is None:
                    self._refuse_unfit(self.scope.last_watch())  # the first write
                head, tag = found or (replace(EMPTY, lineage=new_nonce()), None)
                try:
                    _, tag = self.scope.write(make(head, nonce, now), tag, lambda found: nonce in found.published)
                    self._tell_others(tag)
                    return
                except Lost:
                    continue
        except Down as error:
            raise self._unreachable(str(error)) from error


def _in_time(moment: float) -> float:
    """Return *moment* as a record can hold it, and not sooner."""
    return round(math.ceil(moment * 100) / 100, 2)


def _mirrored(record: Record, *, head: Head, shift: float) -> Record:
    """Return the *record* of this host with what *head* says of the version that both have."""
    told = head.record
    changes: dict[str, Any] = {}
    if told.invalidated is not None and record.invalidated != "hard":
        changes.update(invalidated=told.invalidated, invalidated_at=record.invalidated_at or time())
    if told.failures and told.failures_total != record.failures_total:
        changes.update(_failures(told, shift))
    return record.replace(**changes) if changes else record


def _failures(told: Record, shift: float) -> dict[str, Any]:
    def here(moment: float | None) -> float | None:
        return None if moment is None else moment - shift

    return {
        "failures": told.failures,
        "failures_total": told.failures_total,
        "first_failed_at": here(told.first_failed_at),
        "failed_at": here(told.failed_at),
        "retry_after": told.retry_after,
        "failed_type": told.failed_type,
        "failed_pid": told.failed_pid,
    }


def _adopted(record: Record, *, head: Head, shift: float, stamp: Stamp, is_own: bool = False) -> Record:
    """Return the record of this host with the version of *head*, which *stamp* describes.

    :param shift: seconds by which the engine's clock is ahead of this host's.
    :param is_own: the attempt on record has made it.
    """
    told, fingerprint = head.record, stamp.fingerprint
    createdtime = told.createdtime - shift
    return Record(
        record.unknown,
        createdtime=createdtime if math.isfinite(createdtime) else time(),
        cost=told.cost,
        host=told.host,
        pid=told.pid,
        expiretime=told.expiretime,
        fingerprint=fingerprint,
        fingerprint_generation=told.generation if stamp.is_new else record.fingerprint_generation,
        content=told.content,
        lifetime=told.lifetime,
        max_stale=told.max_stale,
        note=told.note,
        is_unfinished=stamp.is_unfinished,
        generation=told.generation,
        invalidated=told.invalidated,
        invalidated_at=None if told.invalidated is None else time(),
        invalidations=record.invalidations,
        hard_invalidations=record.hard_invalidations,
        attempt=None if is_own else record.attempt,
        changes=record.changes,
        **(_failures(told, shift) if told.failures else {"failures_total": told.failures_total}),
    )
