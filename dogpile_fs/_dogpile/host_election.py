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
import os
import time as clock
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from time import monotonic, time
from typing import Any, NamedTuple

from .._os.process_identity import own_identity
from .._os.waiting import Deadline
from .._sidecar.origin_watch import OriginWatch, seconds_since_boot
from .._sidecar.record import DIED, Attempt, Record, cleaned_host
from ..errors import DogpileError, LockTimeout, OriginError
from .collection import collected
from .engine import Down, Lost
from .head import EMPTY, Blob, Head, new_nonce
from .heartbeat import Fenced, Heartbeat
from .host_fetcher import FIRST_LOOK, FIRST_PAUSE, LONGEST_LOOK, PATIENT, QUICK, HostFetcher, Wanted
from .host_outcome import OriginBackoff
from .host_scope import Answer, Overtaken, waited_in_vain
from .mirrored_record import adopted
from .plain_call import called
from .shared_state import NOTHING
from .stamp import BACKING_OFF, CREATING, FENCED, FRESH, Made, Stamp

__all__ = ["HostElection", "Publish"]

log = logging.getLogger("dogpile_fs")

#: Tries to store a blob.
_PUTS = 3
#: Creations between two collections of blobs that no head names, and seconds for which such a blob is left alone.
_COLLECT_EVERY, _GRACE = 16, 3600.0

#: Called with the path of a finished version (``None``: that in place is unchanged), what its creator has said,
#: and what puts it in place; returns what is put on record.
Publish = Callable[[str | None, Stamp, Callable[[], Stamp]], Stamp]


class _Try(NamedTuple):
    """What came of a caller's try to create.

    *reason*: why there is no *stamp* yet. *answer*: the latest one of the origin, if that is known; then the next
    try comes at once.
    """

    reason: str
    stamp: Stamp | None = None
    answer: Answer | None = None


class HostElection(HostFetcher):
    """Which host creates: what the users of one object on this host do with their origin."""

    def create(self, build: Callable[[Publish], Stamp], timeout: float | None, wanted: Wanted) -> Stamp:
        """Be the creator of the caller that was elected on this host; the creation mutex is held.

        :param build: makes a version, and calls what it is given with it.
        :param timeout: seconds to wait at most for another host; ``None``: for ever.
        :param wanted: ``"pass"``: a version, be it stale; ``"refresh"``: that this host creates if it is elected;
            ``"force"``: that it creates in any case, after the creation of another host.
        :raises LockTimeout: if there is no version in time.
        :raises OriginError: if the origin cannot be used, and there is no version to pass with, or more is wanted.
        """
        deadline, pause = Deadline(timeout), FIRST_LOOK
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
                pause = min(2 * pause, LONGEST_LOOK, self.check)

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
            with self._fetching(deadline.within(QUICK) if passes else deadline) as (fd, news):
                assert fd is not None
                if last is None:
                    found = self._catch_up(fd, news, seconds=PATIENT, spared=wanted)
                else:
                    found = self._catch_up(fd, news, seconds=PATIENT, answer=last.answer)
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
                self._catch_up(fd, news, seconds=PATIENT)
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
            self._note(fd, watch, partial(adopted, head=published, shift=shift, stamp=stamp, is_own=True))
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
                clock.sleep(FIRST_PAUSE)
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
                self._catch_up(fd, news, seconds=PATIENT)
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
