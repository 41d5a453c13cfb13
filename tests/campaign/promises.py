"""The checker: finds broken promises in the histories of a round.

It reports only violations that certainly happened. Harm that another program did to a coordination file excuses
only its possible effects: two holders of a lock whose file was replaced in between, and one more creation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .account import LOOKED_AT, MTIME_TICK, Creation, History
from .history import Event, Operation

__all__ = ["PATIENCE", "PROMISES", "Violation", "violations"]

#: Seconds that a loaded machine may take for operations that wait for nothing. Less than the 6 s that a creator
#: hangs.
PATIENCE = 3.0
#: Seconds for which a reader may trust its last check of the lock file's path: twice the 10 ms of the code.
BELIEVED = 0.02

_READERS = ("pass", "look", "nested", "miss")
_PASSES = (*_READERS, "load")
_MAY_CREATE = (*_PASSES, "refresh", "force", "command", "command-killed")


@dataclass(slots=True)
class Violation:
    """*promise* was broken: *what* happened, and the *events* that show it."""

    promise: str
    what: str
    events: list[Event]
    #: All events meanwhile in the processes concerned.
    stretch: list[Event] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'*' if event in self.events else ' '} {event}" for event in self.stretch or self.events]
        if len(lines) > 60:
            lines[30:-30] = [f"  ... {len(lines) - 60} more ..."]
        return "\n".join([f"{self.promise}: {self.what}", *lines])


def one_creator_at_a_time(history: History) -> Iterator[Violation]:
    """Promise 1, the first half."""
    for number, one in enumerate(history.creations):
        for other in history.creations[number + 1 :]:
            if other.began.at >= one.last.at:
                break
            if not history.tampered("lock", min(one.caller.began.at, other.caller.began.at), other.began.at):
                yield Violation("1", "two creators at a time", [one.began, other.began, one.last])


def one_success_per_expiry(history: History) -> Iterator[Violation]:
    """Promise 1, the second half: no caller creates within *expiretime* of a creation, unless it is forced to."""
    if history.clocks:
        return
    before: Creation | None = None
    for creation in history.creations:
        caller = creation.caller
        arguments = caller.event("arguments")
        forced = caller.do == "force" or (arguments is not None and arguments.more["forced"])
        if before is not None and not forced:
            returned, asked = before.last, min(history.crossed_since(before), caller.began.at)
            if (
                creation.began.wall < returned.wall + history.expiretime
                and not history.invalidated(asked, creation.began.at)
                and not history.tampered("lock", asked, creation.began.at)
                and not history.may_be_pruned(before, asked, creation.began.at)
                and len(history.inputs_in(asked - LOOKED_AT, creation.began.at)) == 1
            ):
                yield Violation(
                    "1",
                    f"created again {creation.began.wall - returned.wall:.6f} s after a creation, "
                    f"and it expires after {history.expiretime} s",
                    [before.began, returned, creation.began],
                )
        if creation.sure_at is not None and creation.last.what in ("created", "written"):
            before = creation


def nobody_waits_for_another(history: History) -> Iterator[Violation]:
    """Promise 2: a caller that comes after a creation has ended does not wait for the next one's creator."""
    if history.synced:
        return  # there, a reader may wait for a writer
    for operation in history.of("pass", "look", "nested", "refresh"):
        entered = operation.event("entered") or operation.event("refreshed") or operation.ended
        if entered is None or history.created_by(operation) is not None:
            continue
        began = operation.began
        waited = entered.at - began.at - history.stopped_for(operation.process, began.at, entered.at)
        impatient = operation.error == "LockTimeout"
        if waited <= PATIENCE and not impatient:
            continue
        known = [creation for creation in history.creations if creation.sure_at and creation.sure_at < began.at]
        if not known or history.may_be_too_old(known[-1], entered.wall, entered.at):
            continue
        if history.tampered("lock", history.crossed_since(known[-1]), known[-1].last.at):
            continue  # of two creators at a time, neither may undo an invalidation that was before: one more does
        if history.may_be_pruned(known[-1], known[-1].caller.began.at, entered.at):
            continue
        if not history.invalidated(known[-1].caller.began.at, entered.at, "hard", "miss"):
            shown = [known[-1].began, known[-1].last, began, entered]
            yield Violation("2", f"waited {waited:.3f} s although there was something", shown)


def no_reader_beside_a_writer(history: History) -> Iterator[Violation]:
    """Promise 3."""
    inside: list[tuple[Operation, Event, Event, bool]] = []
    for operation in history.operations:
        for enter, leave, writes in (("entered", "leaving", False), ("writing", "written", True)):
            entered = operation.event(enter)
            if entered is not None and history.synced:
                last = operation.event(leave) or entered
                inside.append((operation, entered, last, writes))
    inside.sort(key=lambda stay: stay[1].at)
    for number, (one, entered, left, writes) in enumerate(inside):
        for other, other_entered, _, other_writes in inside[number + 1 :]:
            if other_entered.at >= left.at:
                break
            asked = min(one.began.at, other.began.at) - BELIEVED
            if (writes or other_writes) and not history.tampered("rwlock", asked, other_entered.at):
                yield Violation("3", "a writer was inside at the same time", [entered, other_entered, left])
    for operation in history.of(*_READERS):
        read, reread = operation.event("read"), operation.event("reread")
        if read is None or reread is None or history.tampered("rwlock", operation.began.at - BELIEVED, reread.at):
            continue
        swapped = [history.creation_of(event.more["version"]) for event in (read, reread)]
        asked = min((creation.caller.began.at for creation in swapped if creation is not None), default=-math.inf)
        if read.more["version"] != reread.more["version"] and not history.tampered("lock", asked, reread.at):
            yield Violation("3", "swapped while a reader was inside", [read, reread])


def a_writer_gets_in(history: History) -> Iterator[Violation]:
    """Promise 4: a writer waits for readers that were there before it, and for no others."""
    if not history.synced:
        return
    stays = [(operation, operation.began.at, history.left_at(operation)) for operation in history.of(*_READERS)]
    writers = []
    for operation in history.operations:
        asked = _asked(operation)
        if asked is not None:
            inside = operation.event("writing") or (asked if operation.ended is None else None)
            if inside is not None:
                gone = history.left_at(operation) if operation.do == "write" else history.end_of(operation)
                writers.append((operation, inside.at, gone))
    for operation in history.operations:
        asked = _asked(operation)
        if asked is None:
            continue
        inside = operation.event("writing") or operation.ended or operation.cancelled
        if inside is None or inside.at - asked.at <= PATIENCE:
            continue
        others = [
            (begin, end)
            for other, begin, end in writers
            if other is not operation and begin < inside.at and end > asked.at
        ]
        since = max([asked.at, *(end for _, end in others if end <= inside.at)])
        before = [
            (begin, end)
            for other, begin, end in stays
            if other is not operation and begin <= since and end > asked.at
        ]
        stops = history._stops.get(operation.process, [])
        waited = inside.at - asked.at - _covered(others + before + stops, asked.at, inside.at)
        if waited > PATIENCE:
            yield Violation("4", f"a writer waited {waited:.3f} s for readers that came after it", [asked, inside])


def _asked(operation: Operation) -> Event | None:
    """Return the event of its request to be the writer, if there is one."""
    return operation.event("asking") or (operation.began if operation.do == "write" else None)


def _covered(spans: Iterable[tuple[float, float]], since: float, until: float) -> float:
    """Return how many seconds from *since* to *until* the *spans* cover together."""
    covered, reached = 0.0, since
    for begin, end in sorted(spans):
        begin, end = max(begin, reached), min(end, until)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


def every_read_is_whole_and_current(history: History) -> Iterator[Violation]:
    """No read is torn, finds no file, or is older than a version that was certainly there before it began."""
    for operation in history.operations:
        for what in ("read", "reread", "found", "loaded"):
            read = operation.event(what)
            if read is None:
                continue
            # A file that is read in a block was opened at the block's entry, which may be just after its
            # beginning.
            since = operation.began
            own = history.created_by(operation)
            if own is not None and own.returned and what in ("read", "loaded"):
                since = own.last
            elif what != "read":
                since = operation.event("read") or operation.event("reported") or since
            elif not history.opens:
                since = operation.event("entered") or since
            if not read.more["whole"]:
                yield Violation("whole", "a torn read", [since, read])
                continue
            if what == "loaded":
                continue
            newest = history.newest_before(since.at)
            if own is not None and since is own.last and (newest is None or newest.version < own.version):
                newest = own
            if newest is None or read.more["version"] >= newest.version:
                continue
            found = history.creation_of(read.more["version"])
            if history.tampered("directory", since.at, read.at):
                continue
            if read.more["version"] == 0 and history.may_be_pruned(newest, newest.caller.began.at, read.at):
                continue
            asked = min(newest.caller.began.at, newest.began.at if found is None else found.caller.began.at)
            if found is not None and history.tampered("lock", asked, newest.visible_at or newest.over_at):
                continue  # two creators at a time, after harm: the older one may have swapped last, the newer not
            was = "nothing was there" if found is None else "an older version was there"
            shown = [*([] if found is None else [found.began]), newest.began, newest.last, since, read]
            yield Violation("current", f"{was}, after a newer one was", shown)


def the_file_beside_is_whole_and_current(history: History) -> Iterator[Violation]:
    """``atomic_write``: a read finds one of the versions that may have been written last."""
    writes = [operation for operation in history.of("side-write") if operation.event("writing-side") is not None]
    by_version = {operation.events[1].more["version"]: operation for operation in writes}
    done = [(operation.began.at, operation.ended.at, operation) for operation in writes if operation.ended]
    done = [write for write in done if write[2].went_well]
    for operation in history.of("side-read"):
        read = operation.event("side")
        if read is None:
            continue
        if not read.more["whole"]:
            yield Violation("whole", "a torn read of the file beside", [operation.began, read])
            continue
        written = by_version.get(read.more["version"])
        over = -math.inf if written is None else history.end_of(written)
        since = operation.began.at
        later = [write for begin, end, write in done if begin > over and end < since]
        if later and not history.tampered("directory", later[0].began.at, read.at):
            shown = [*([] if written is None else [written.began]), later[0].began, later[0].last, read]
            yield Violation("current", "an older version of the file beside was there", shown)


def hard_is_hard(history: History) -> Iterator[Violation]:
    """A caller that comes after a hard invalidation gets no version that was begun before it."""
    invalidations = [operation for operation in history.of("hard") if operation.went_well]
    for operation in history.of(*_PASSES):
        read = operation.event("read")
        if read is None or history.created_by(operation) is not None:
            continue
        found = history.creation_of(read.more["version"])
        for hard in invalidations:
            ended = hard.ended
            assert ended is not None
            if found is None or ended.at >= operation.began.at or found.began.at >= hard.began.at:
                continue
            if history.tampered("lock", found.caller.began.at, read.at):
                continue  # two creators at a time, after harm; the older one may have swapped last
            # A pass may trust for 10 ms the sidecar that was there; the invalidation is in another.
            since = min(hard.began.at, operation.began.at - BELIEVED)
            if not history.tampered("sidecar", since, read.at):
                shown = [found.began, hard.began, ended, operation.began, read]
                yield Violation("hard", "passed to a version that was invalidated hard", shown)


def createdtimes_are_true(history: History) -> Iterator[Violation]:
    """Promises 5 and 6: each createdtime is that of a creation, and the version of that creation is in place."""
    if history.clocks:
        return
    for operation in history.of("status"):
        reported, found = operation.event("reported"), operation.event("found")
        if reported is None or reported.more["createdtime"] is None:
            continue
        createdtime = reported.more["createdtime"]
        creations = [
            creation
            for creation in history.creations
            if creation.returned
            and creation.began.at <= reported.at
            and creation.began.wall - MTIME_TICK <= createdtime <= creation.over_wall + MTIME_TICK
        ]
        if not creations:
            yield Violation("5", f"createdtime {createdtime} is that of no creation", [operation.began, reported])
            continue
        if found is None or reported.more["state"] == "missing":
            continue
        oldest = creations[0]
        if found.more["version"] < oldest.version and not (
            history.tampered("lock", oldest.caller.began.at, found.at)
            or history.tampered("directory", reported.at, found.at)
            or (found.more["version"] == 0 and history.may_be_pruned(oldest, oldest.caller.began.at, found.at))
        ):
            shown = [oldest.began, oldest.last, reported, found]
            yield Violation("6", "stamped before it was swapped in", shown)


def what_is_fresh_was_created_lately(history: History) -> Iterator[Violation]:
    """Promise 7: a version is fresh only if a creation can have made it so."""
    if history.clocks:
        return
    undone = [(i.began.at, i.ended.at) for i in history.of("soft", "hard") if i.ended is not None and i.went_well]
    for operation in history.of("status"):
        reported, began = operation.event("reported"), operation.began
        if (
            reported is None
            or reported.more["state"] != "fresh"
            or history.tampered("sidecar", -math.inf, reported.at)
        ):
            continue  # an older sidecar that is put back forgets an invalidation
        if not any(
            creation.returned
            and creation.began.at <= reported.at
            and creation.over_wall + history.expiretime > began.wall
            and not any(since > creation.over_at and until < began.at for since, until in undone)
            for creation in history.creations
        ):
            yield Violation("7", "called fresh, though it has expired or was invalidated", [began, reported])


def nothing_is_fresh_whose_input_changed(history: History) -> Iterator[Violation]:
    """A version is fresh only while its input is what it was when its creation began."""
    if not any(history.of("input")):
        return
    for operation in history.of("status", "refresh"):
        told = operation.event("reported") or operation.event("refreshed")
        if told is None or "fresh" not in (told.more.get("state"), told.more.get("outcome")):
            continue
        began = operation.began
        if history.tampered("sidecar", -math.inf, told.at) or history.tampered("lock", -math.inf, told.at):
            continue  # the record of an older version may be there
        now = history.inputs_in(began.at - LOOKED_AT, told.at)
        stamped = [c for c in history.creations if c.returned and c.began.at <= told.at]
        newest = max(
            (c for c in stamped if c.sure_at is not None and c.sure_at < began.at), key=_version, default=None
        )
        may_be_meant = [c for c in stamped if newest is None or c.version >= newest.version]
        if not any(now & history.inputs_in(c.caller.began.at - LOOKED_AT, c.began.at) for c in may_be_meant):
            shown = [*([] if newest is None else [newest.began, newest.last]), began, told]
            yield Violation(
                "inputs", f"called fresh, though the input has changed: {', '.join(sorted(now))}", shown
            )


def _version(creation: Creation) -> int:
    return creation.version


def no_attempt_before_its_time(history: History) -> Iterator[Violation]:
    """After a failure no caller creates within the backoff, unless it is forced to."""
    if history.clocks or not history.backoff:
        return
    counted = {id(creation) for creation in history.failed_creations()}
    in_a_row, failed, since = 0, None, 0.0
    for creation in history.creations:  # one at a time
        began = creation.began
        forgotten = any(history.tampered(file, since, began.at) for file in ("sidecar", "lock"))
        if forgotten or history.may_be_pruned(None, since, began.at):
            in_a_row, failed = 0, None
        if failed is not None and not _is_forced(creation):
            delay = 0.9 * history.backoff * min(8, 2 ** (in_a_row - 1))
            if began.wall < failed.wall + delay:
                what = f"tried again {began.wall - failed.wall:.3f} s after failure {in_a_row} in a row"
                yield Violation("backoff", what, [failed, began])
        raised = creation.maker.event("raising")
        if id(creation) in counted and raised and not creation.caller.began.more.get("starved"):
            in_a_row, failed, since = in_a_row + 1, raised, history.crossed_since(creation)
        else:
            in_a_row, failed = 0, None  # it succeeded, or died, or that is not known


def _is_forced(creation: Creation) -> bool:
    arguments = creation.caller.event("arguments")
    return creation.caller.do == "force" or (arguments is not None and bool(arguments.more["forced"]))


def nothing_is_too_old(history: History) -> Iterator[Violation]:
    """No reader gets a version after ``max_stale``."""
    if history.clocks or history.max_stale == math.inf:
        return
    for operation in history.of(*_PASSES):
        read = operation.event("read")
        creation = None if read is None else history.creation_of(read.more["version"])
        if read is None or creation is None:
            continue
        age = operation.began.wall - creation.over_wall
        excused = history.tampered("lock", creation.caller.began.at, read.at)
        if age > history.expiretime + history.max_stale and not excused:
            yield Violation(
                "max_stale", f"read {age:.3f} s after its creation", [creation.began, operation.began, read]
            )


def failures_are_counted(history: History) -> Iterator[Violation]:
    """No failure and no death is forgotten, and none is made up; the status tells them."""
    if history.tampered("sidecar", -math.inf, math.inf) or history.tampered("lock", -math.inf, math.inf):
        return
    if history.may_be_pruned(None, -math.inf, math.inf):
        return  # with its failures
    counted = list(history.failed_creations())
    least, told = len(counted), history.failures_at_last
    if told is not None:
        # Of these no one knows how they ended.
        doubtful = sum(creation.sure_at is None for creation in history.creations) - least
        doubtful += sum(
            operation.ended is None
            or bool(operation.began.more.get("starved"))
            or operation.event("exited") is not None
            for operation in history.of(*_MAY_CREATE)
        )
        if not least <= told <= least + doubtful:
            what = f"{told} failures are told, and there were from {least} to {least + doubtful}"
            yield Violation("failures", what, [history.operations[-1].began])
    before: Event | None = None
    for operation in history.of("status"):
        reported = operation.event("reported")
        if reported is None or "failures_total" not in reported.more:
            continue
        total, in_a_row = reported.more["failures_total"], reported.more["failures"]
        began = operation.began
        if before is not None and before.at < began.at and total < before.more["failures_total"]:
            yield Violation("failures", "fewer than before", [before, reported])
        since = max((c.over_at for c in history.creations if c.returned and c.began.at < reported.at), default=0.0)
        surely = [c for c in counted if c.over_at < began.at and c.caller.began.at > since]
        # While the next caller has the mutex, and has not counted yet, a death looks like a creation that runs.
        if in_a_row < len(surely) and not reported.more.get("creating"):
            yield Violation("failures", f"{in_a_row} in a row, not {len(surely)}", [surely[0].began, reported])
        if before is None or reported.at > before.at:
            before = reported


def gone_is_gone(history: History) -> Iterator[Violation]:
    """After a look that has found nothing, and a ``prune`` of all keys, no version comes back that was there
    before. A ``load`` may give an earlier object while another task loads.
    """
    looks = [
        (prune, pruned)
        for prune in history.of("prune")
        if (pruned := prune.event("pruned")) is not None and 0 < history.keys == pruned.more["gone"]
    ]
    looks += [
        (operation, event)
        for operation in history.operations
        for event in operation.events
        if event.what in ("read", "reread", "found") and event.more["version"] == 0
        if not history.tampered("directory", operation.began.at, event.at)
    ]
    for operation in history.operations:
        for what in ("read", "reread", "found"):
            read = operation.event(what)
            found = None if read is None else history.creation_of(read.more["version"])
            if read is None or found is None or found.visible_at is None:
                continue
            for look, nothing in looks:
                if found.visible_at < look.began.at and nothing.at < operation.began.at:
                    shown = [found.began, found.last, look.began, nothing, operation.began, read]
                    yield Violation("gone", "a version is back after nothing was there", shown)
                    break


def what_is_open_stays(history: History) -> Iterator[Violation]:
    """What a reader has opened stays what it was, also if it is pruned."""
    for operation in history.of(*_READERS):
        read, again = operation.event("read"), operation.event("again")
        if read is not None and again is not None and (read.more != again.more):
            yield Violation("open", "another version is in an open file", [read, again])


def a_keys_path_is_refused(history: History) -> Iterator[Violation]:
    """Once a key was created, no object can be made for the path of its file."""
    for operation in history.of("by-path"):
        named = operation.event("named")
        if named is None or named.more["refused"]:
            continue
        created = next(
            (c for c in history.creations if c.sure_at is not None and c.sure_at < operation.began.at), None
        )
        if created is not None and not history.tampered("marker", -math.inf, named.at):
            yield Violation("path", "the file of a key was not refused", [created.began, operation.began, named])


def a_cancelled_task_goes_at_once(history: History) -> Iterator[Violation]:
    """No wait keeps a task that is cancelled, and none goes on as if it was not."""
    for operation in history.operations:
        began, over = operation.began, operation.cancelled or operation.ended
        patience = began.more.get("patience")
        if over is not None and patience is not None:
            late = over.at - began.at - patience - history.stopped_for(operation.process, began.at, over.at)
            if late > PATIENCE:
                yield Violation("cancelled", f"gone {late:.3f} s after it was cancelled", [began, over])


def a_creation_goes_on_without_its_task(history: History) -> Iterator[Violation]:
    """A creation whose task was cancelled is stamped, or its failure is counted."""
    lived_on = {life.process for life in history.of("life") if life.ended is not None}
    for creation in history.creations:
        caller, maker = creation.caller, creation.maker
        if caller.cancelled is None or caller.process not in lived_on:
            continue
        if not creation.returned or creation.sure_at is not None or maker.event("counted-as-failure") is not None:
            continue
        if history.created_by(caller) is not creation:
            continue  # it was crossed by another one
        if caller.began.more.get("timeout") is None and not history.tampered(
            "lock", caller.began.at, history.end_of(caller)
        ):
            yield Violation("cancelled", "a creation was lost with its task", [creation.began, caller.last])


def refreshes_do_what_they_say(history: History) -> Iterator[Violation]:
    """``refresh`` returns whether it created, and ``force=True`` always creates."""
    for operation in history.of("refresh", "force"):
        refreshed = operation.event("refreshed")
        if refreshed is None:
            continue
        creation = history.created_by(operation)
        created = creation is not None and creation.returned
        if created and history.tampered("lock", operation.began.at, refreshed.at):
            continue  # a creation whose lock file was removed is not stamped, and does not count
        if refreshed.more["created"] != created or (operation.do == "force" and not created):
            yield Violation("refresh", "did not do what it says", [operation.began, refreshed])


def errors_are_deserved(history: History) -> Iterator[Violation]:
    """Promise 7, and in general: no caller gets an error that nothing excuses."""
    for operation in history.operations:
        ended = operation.ended
        if ended is None:
            continue
        exited = operation.event("exited")
        if exited is not None and _is_defect(operation, exited, history):
            yield Violation("error", "the command ended badly", [operation.began, exited])
        counted = operation.event("counted")
        if counted is not None and counted.more["after"] > counted.more["before"]:
            yield Violation("descriptors", "left open", [operation.began, counted])
        if operation.error in (None, "Refused"):
            continue
        timeout = operation.began.more.get("timeout")
        if operation.error == "CreationFailed":
            if not _is_refused_rightly(operation, history):
                yield Violation(
                    "error", "refused, though there was something or nothing has failed", [operation.began, ended]
                )
            continue
        if operation.error == "LockTimeout" and (timeout is not None or operation.do in ("look", "nested")):
            late = (
                ended.at
                - operation.began.at
                - history.stopped_for(operation.process, operation.began.at, ended.at)
            )
            creation = history.created_by(operation)
            late -= 0 if creation is None else creation.last.at - creation.began.at
            if late > (timeout or 0.5) + 2 * PATIENCE:
                yield Violation("timeout", f"of {timeout} s, came after {late:.3f} s", [operation.began, ended])
            continue
        if ended.more.get("ours") and (
            operation.began.more.get("starved") or history.tampered("directory", operation.began.at, ended.at)
        ):
            continue
        if operation.error == "DatafileError" and history.tamperings("lock", operation.began.at, ended.at) > 1:
            continue  # its creation was crossed by another one, again and again
        if operation.error == "DatafileError" and history.tamperings("lock", operation.began.at, ended.at, "away"):
            continue  # it was crossed, and cannot know: its lock file is there again
        yield Violation("error", "that nothing excuses", [operation.began, ended])


def _is_refused_rightly(operation: Operation, history: History) -> bool:
    """Return whether there may have been nothing, and a creation may have failed."""
    ended = operation.ended
    assert ended is not None
    has_failed = any(creation.sure_at is None and creation.began.at < ended.at for creation in history.creations)
    has_failed |= history.tampered("sidecar", -math.inf, ended.at) or history.clocks
    # Others fail before their creator runs.
    has_failed |= any(
        other.ended is None or other.began.more.get("starved")
        for other in history.of(*_MAY_CREATE)
        if other.began.at < ended.at
    )
    known = [c for c in history.creations if c.sure_at is not None and c.sure_at < operation.began.at]
    if history.backoff == 0.0 and not any(history.of("command", "command-killed")):
        return False
    return has_failed and (
        not known
        or history.may_be_too_old(known[-1], ended.wall, ended.at)
        or history.invalidated(known[-1].caller.began.at, ended.at, "hard", "miss")
        or history.may_be_pruned(known[-1], known[-1].caller.began.at, ended.at)
        or history.tampered("lock", history.crossed_since(known[-1]), ended.at)
    )


def _is_defect(operation: Operation, exited: Event, history: History) -> bool:
    status, said = exited.more["status"], exited.more["said"]
    if status in (65, 73) and history.tamperings("lock", operation.began.at, exited.at) > 1:
        return False  # its creation was crossed by another one, again and again
    if "Traceback" in said or status == 70:
        return True
    if operation.do == "command-killed":
        return status not in (0, 3, 75, 124, -9, -15, 143)
    if history.tampered("directory", operation.began.at, exited.at):
        return False
    if operation.do == "command-status":
        return status not in (0, 1, 2)
    return status not in (0, 3, 75, 124)


PROMISES: tuple[Callable[[History], Iterator[Violation]], ...] = (
    one_creator_at_a_time,
    one_success_per_expiry,
    nobody_waits_for_another,
    no_reader_beside_a_writer,
    a_writer_gets_in,
    every_read_is_whole_and_current,
    the_file_beside_is_whole_and_current,
    hard_is_hard,
    createdtimes_are_true,
    what_is_fresh_was_created_lately,
    nothing_is_fresh_whose_input_changed,
    no_attempt_before_its_time,
    nothing_is_too_old,
    failures_are_counted,
    gone_is_gone,
    what_is_open_stays,
    a_keys_path_is_refused,
    a_cancelled_task_goes_at_once,
    a_creation_goes_on_without_its_task,
    refreshes_do_what_they_say,
    errors_are_deserved,
)


def violations(history: History) -> list[Violation]:
    """Return all violations in *history*, the shortest stretch of each promise first."""
    found = [violation for promise in PROMISES for violation in promise(history)]
    for violation in found:
        violation.stretch = history.between(violation.events)
    return sorted(found, key=lambda violation: (violation.promise, len(violation.stretch)))
