"""The checker: says where a promise was broken in a round, by the account of its histories.

What is reported did happen; what cannot be told is let pass. What a foreign hand did to a coordination file
excuses only what it can cause: two holders of a lock whose file was replaced in between, and one more creation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .account import Creation, History
from .history import Event, Operation

__all__ = ["PATIENCE", "PROMISES", "Violation", "violations"]

#: Seconds that a loaded machine may take for what needs no waiting. Less than a creator hangs.
PATIENCE = 3.0
#: For so long a reader may believe that a lock file still is at its path.
BELIEVED = 0.02
#: By so much an mtime may be earlier than the clock said before: it is that of the kernel's last tick.
TICK = 0.02

_READERS = ("pass", "look", "nested", "miss")
_PASSES = (*_READERS, "load")


@dataclass(slots=True)
class Violation:
    """*promise* was broken: *what* happened, and the *events* that show it."""

    promise: str
    what: str
    events: list[Event]
    #: All that happened meanwhile in the processes concerned.
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
    """Promise 1, the second half: nobody creates what was created less than *expiretime* ago, unless told to."""
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
    """Promise 2: whoever comes after a creation has ended does not wait for the next one's creator."""
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
        if not known or history.tampered("lock", history.crossed_since(known[-1]), known[-1].last.at):
            continue  # of two creators at a time, neither may undo an invalidation that was before: one more does
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
    """Promise 4: a writer waits for those who were there before him, and for no others."""
    if not history.synced:
        return
    stays = [(operation, operation.began.at, history.end_of(operation)) for operation in history.of(*_READERS)]
    writers = []
    for operation in history.operations:
        asked = _asked(operation)
        if asked is not None:
            inside = operation.event("writing") or (asked if operation.ended is None else None)
            if inside is not None:
                writers.append((operation, inside.at, history.end_of(operation)))
    for operation in history.operations:
        asked = _asked(operation)
        if asked is None:
            continue
        inside = operation.event("writing") or operation.ended
        if inside is None or inside.at - asked.at <= PATIENCE:
            continue
        others = [
            (begin, end)
            for other, begin, end in writers
            if other is not operation and begin < inside.at and end > asked.at
        ]
        turn = max([asked.at, *(end for _, end in others if end <= inside.at)])
        before = [
            (begin, end)
            for other, begin, end in stays
            if other is not operation and begin <= turn and end > asked.at
        ]
        stops = history._stops.get(operation.process, [])
        waited = inside.at - asked.at - _covered(others + before + stops, asked.at, inside.at)
        if waited > PATIENCE:
            yield Violation("4", f"a writer waited {waited:.3f} s for readers who came after him", [asked, inside])


def _asked(operation: Operation) -> Event | None:
    """When it asked to be the writer, if it did."""
    return operation.event("asking") or (operation.began if operation.do == "write" else None)


def _covered(spans: Iterable[tuple[float, float]], since: float, until: float) -> float:
    """How much of the time from *since* to *until* the *spans* cover together."""
    covered, reached = 0.0, since
    for begin, end in sorted(spans):
        begin, end = max(begin, reached), min(end, until)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


def every_read_is_whole_and_current(history: History) -> Iterator[Violation]:
    """No torn read, none of nothing, and none older than what was surely there before it began."""
    for operation in history.operations:
        for what in ("read", "reread", "found", "loaded"):
            read = operation.event(what)
            if read is None:
                continue
            # What is opened in a block was opened at its entry, which may be just after its beginning.
            since = operation.began
            own = history.created_by(operation)
            if own is not None and own.returned and what in ("read", "loaded"):
                since = own.last
            elif what != "read":
                since = operation.event("read") or operation.event("told") or since
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
            asked = min(newest.caller.began.at, newest.began.at if found is None else found.caller.began.at)
            if found is not None and history.tampered("lock", asked, newest.began.at):
                continue  # two creators at a time, by a foreign hand; the older one may have swapped last
            was = "nothing was there" if found is None else "an older version was there"
            shown = [*([] if found is None else [found.began]), newest.began, newest.last, since, read]
            yield Violation("current", f"{was}, after a newer one was", shown)


def the_file_beside_is_whole_and_current(history: History) -> Iterator[Violation]:
    """``atomic_write``: what is read is one of the versions that may have been written last."""
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
    """Who comes after a hard invalidation gets nothing that was begun before it."""
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
                continue  # two creators at a time, by a foreign hand; the older one may have swapped last
            # Who passes may believe for 10 ms in the sidecar that was there; the invalidation is in another.
            since = min(hard.began.at, operation.began.at - BELIEVED)
            if not history.tampered("sidecar", since, read.at):
                shown = [found.began, hard.began, ended, operation.began, read]
                yield Violation("hard", "passed to what was invalidated hard", shown)


def createdtimes_are_true(history: History) -> Iterator[Violation]:
    """Promises 5 and 6: each createdtime is that of a creation, and what it tells of is in place."""
    if history.clocks:
        return
    for operation in history.of("status"):
        told, found = operation.event("told"), operation.event("found")
        if told is None or told.more["createdtime"] is None:
            continue
        createdtime = told.more["createdtime"]
        creations = [
            creation
            for creation in history.creations
            if creation.returned
            and creation.began.at <= told.at
            and creation.began.wall - TICK <= createdtime <= creation.over_wall + TICK
        ]
        if not creations:
            yield Violation("5", f"createdtime {createdtime} is that of no creation", [operation.began, told])
            continue
        if found is None or told.more["state"] == "nothing":
            continue
        oldest = creations[0]
        if found.more["version"] < oldest.version and not (
            history.tampered("lock", oldest.caller.began.at, found.at)
            or history.tampered("directory", told.at, found.at)
        ):
            shown = [oldest.began, oldest.last, told, found]
            yield Violation("6", "stamped before it was swapped in", shown)


def what_is_fresh_was_created_lately(history: History) -> Iterator[Violation]:
    """Promise 7: nothing is called fresh that no creation can have made so."""
    if history.clocks:
        return
    undone = [(i.began.at, i.ended.at) for i in history.of("soft", "hard") if i.ended is not None and i.went_well]
    for operation in history.of("status"):
        told, began = operation.event("told"), operation.began
        if told is None or told.more["state"] != "fresh" or history.tampered("sidecar", -math.inf, told.at):
            continue  # an older sidecar that is put back forgets an invalidation
        if not any(
            creation.returned
            and creation.began.at <= told.at
            and creation.over_wall + history.expiretime > began.wall
            and not any(since > creation.over_at and until < began.at for since, until in undone)
            for creation in history.creations
        ):
            yield Violation("7", "called fresh, though it has expired or was invalidated", [began, told])


def refreshes_do_what_they_say(history: History) -> Iterator[Violation]:
    """``refresh`` tells whether it created, and ``force=True`` always does."""
    for operation in history.of("refresh", "force"):
        refreshed = operation.event("refreshed")
        if refreshed is None:
            continue
        creation = history.created_by(operation)
        created = creation is not None and creation.returned
        if refreshed.more["created"] != created or (operation.do == "force" and not created):
            yield Violation("refresh", "did not do what it says", [operation.began, refreshed])


def errors_are_deserved(history: History) -> Iterator[Violation]:
    """Promise 7, and in general: nobody gets an error that nothing excuses."""
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
        if operation.error == "LockTimeout" and (timeout is not None or operation.do == "look"):
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
        yield Violation("error", "that nothing excuses", [operation.began, ended])


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
    refreshes_do_what_they_say,
    errors_are_deserved,
)


def violations(history: History) -> list[Violation]:
    """All that can be told of *history*, the shortest stretch of each promise first."""
    found = [violation for promise in PROMISES for violation in promise(history)]
    for violation in found:
        violation.stretch = history.between(violation.events)
    return sorted(found, key=lambda violation: (violation.promise, len(violation.stretch)))
