"""What a timeline shows: its totals, a summary, and the promises that it breaks.

Pure, as the timeline is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .timeline import Attempt, Event, Outcome, Timeline, name_of

__all__ = ["Totals", "faults", "summary", "totals"]

#: Seconds by which a creation may begin too early: the clocks of two processes are read at different moments.
_CLOCKS = 0.05
#: The part of a creation that no other worker waits for. A worker that is made to wait does so from early in the
#: creation on, because it comes from a read; one that waits for less has met the swap, or a busy machine.
_TOO_LONG = 0.75


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over the whole demo, and times in seconds.

    *passes*: how many there were of each outcome. *creations*: those that succeeded. *expiries*: versions that
    were stale and were replaced. *longest_wait_for_first*: of a pass that waited for the first creation. Of passes
    after it that did not create: *longest_wait*; *longest_for_swap* and *longest_for_creation*, the part of a wait
    during which another worker swapped, or created. *takeover*: from a creator's death to the next creation.
    *retry*: from a creator's error to the next creation; *backoff*: for how long at least no worker tries.
    *background*: the creations in the background that succeeded.
    """

    passes: Counter[Outcome]
    torn: int
    creations: int
    expiries: int
    killed: int
    longest_wait_for_first: float
    longest_wait: float
    longest_for_swap: float
    longest_for_creation: float
    takeover: float | None
    failed: int
    retry: float | None
    backoff: float
    background: int

    @property
    def reads(self) -> str:
        """The passes, as text."""
        counts = ", ".join(f"{self.passes[kind]} {kind}" for kind in ("fresh", "stale", "waited", "created"))
        return f"{self.passes.total()}: {counts}"

    def lines(self) -> list[tuple[str, str]]:
        """Return the name and the text of each total."""
        longest = _seconds(self.longest_wait)
        if self.longest_for_swap > self.longest_wait / 2:
            longest += " for a swap"
        lines = [
            ("reads", self.reads),
            ("torn reads", str(self.torn)),
            ("creations", f"{self.creations}: the first, and 1 per expiry ({self.expiries})"),
            ("longest wait", f"{_seconds(self.longest_wait_for_first)} for the first creation"),
            ("after that", f"{longest}; {_seconds(self.longest_for_creation)} during a creation"),
        ]
        if self.retry is not None:
            later = f"{_seconds(self.retry)} later (backoff: {self.backoff:g} s)"
            lines.append(("failed", f"{self.failed} creation; the next attempt began {later}"))
        if self.takeover is not None:
            later = _seconds(self.takeover)
            lines.append(("killed", f"{self.killed} while it was creating; another took over {later} later"))
        if self.background:
            lines.append(("background", f"{self.background} creation, by a process of its own"))
        return lines


def totals(timeline: Timeline) -> Totals:
    """Return the totals of *timeline* so far."""
    attempts, passes = timeline.attempts(), timeline.events("reads")
    later = _passes_after_the_first(attempts, passes)
    killed = [attempt for attempt in attempts if attempt.last == "killed"]
    done = [attempt.version for attempt in attempts if attempt.succeeded]
    failed = [attempt for attempt in attempts if attempt.last == "raises"]
    return Totals(
        passes=Counter(event.outcome for event in passes),
        torn=sum(event.torn for event in timeline.events("leaves")),
        creations=len(done),
        expiries=len({*done} - {1}),
        killed=len(killed),
        longest_wait_for_first=max((p.waited for p in passes if p.outcome == "waited"), default=0.0),
        longest_wait=max((p.waited for p in later), default=0.0),
        longest_for_swap=max((_waited_for_swap(p, a) for p in later for a in attempts), default=0.0),
        longest_for_creation=max((_waited_for_creation(p, a) for p in later for a in attempts), default=0.0),
        takeover=_until_the_next(killed, attempts),
        failed=len(failed),
        retry=_until_the_next(failed, attempts),
        backoff=timeline.backoff,
        background=sum(attempt.succeeded and attempt.elected > 0 for attempt in attempts),
    )


def summary(timeline: Timeline) -> str:
    """Return what was seen, in a sentence or two; for a timeline without :func:`faults`."""
    counts, attempts = totals(timeline), timeline.attempts()
    sentence = (
        f"{timeline.workers} processes, {counts.expiries} {'expiry' if counts.expiries == 1 else 'expiries'}, "
        f"{counts.creations} creations: no process waited for a creation but for the first, and no read was torn."
    )
    for attempt in attempts:
        successor = _successor(attempt, attempts)
        if attempt.last == "killed" and successor is not None:
            sentence += (
                f" Worker {attempt.worker} was killed in the middle of a creation, "
                f"and worker {successor.worker} took over."
            )
        if attempt.last == "raises" and successor is not None:
            sentence += (
                f" The creation by worker {attempt.worker} failed; all read on, "
                f"and the next attempt came after the backoff of {timeline.backoff:g} s."
            )
        if attempt.elected and attempt.succeeded:
            sentence += (
                f" Version {attempt.version} was created by a process of its own in the background, "
                f"while worker {attempt.elected}, which had started it, read on."
            )
    return sentence


def faults(timeline: Timeline) -> list[str]:
    """Return what in *timeline*, which is over, breaks a promise; an empty list if nothing does."""
    attempts = timeline.attempts()
    return [
        *(f"{name_of(e.worker)} failed at {e.at:.2f} s: {e.why}" for e in timeline.events("fails")),
        *_lost(attempts),
        *_creators_at_once(attempts),
        *_wrong_counts(attempts),
        *_too_early(attempts, timeline.expiretime),
        *_too_soon_after_a_failure(attempts, timeline.backoff),
        *_waits(attempts, timeline.events("reads")),
        *_not_beside(attempts, timeline.events("reads")),
        *(
            f"worker {e.worker} read a torn datafile until {e.at:.3f} s"
            for e in timeline.events("leaves")
            if e.torn
        ),
    ]


def _lost(attempts: list[Attempt]) -> Iterator[str]:
    """Report each creation that has ended otherwise than as planned."""
    for attempt in attempts:
        if not attempt.succeeded and attempt.last not in ("raises", "killed", "fails"):
            yield f"{name_of(attempt.worker)} began to create version {attempt.version}, which was never in place"


def _creators_at_once(attempts: list[Attempt]) -> Iterator[str]:
    for one, other in pairwise(attempts):
        if other.began < one.ended:
            yield (
                f"{name_of(other.worker)} began to create at {other.began:.3f} s, "
                f"while {name_of(one.worker)}, which began at {one.began:.3f} s, had not ended"
            )


def _wrong_counts(attempts: list[Attempt]) -> Iterator[str]:
    done = Counter(attempt.version for attempt in attempts if attempt.succeeded)
    for version in range(1, max(done, default=0) + 1):
        if done[version] != 1:
            yield f"version {version} was created {done[version]} times instead of once"
    if not done:
        yield "nothing was ever created"
    elif max(done) == 1:
        yield "no expiry was seen: this machine is too busy, or there was too little time"


def _too_early(attempts: list[Attempt], expiretime: float) -> Iterator[str]:
    for one, other in pairwise(attempt for attempt in attempts if attempt.succeeded):
        if one.built is not None and other.began - one.built < expiretime - _CLOCKS:
            yield (
                f"version {other.version} was begun {other.began - one.built:.3f} s after version {one.version} "
                f"was built, which is stale only after {expiretime:g} s"
            )


def _too_soon_after_a_failure(attempts: list[Attempt], backoff: float) -> Iterator[str]:
    for attempt in attempts:
        if attempt.last == "raises":
            failed = f"worker {attempt.worker} failed to create version {attempt.version}"
            later = _until_the_next([attempt], attempts)
            if later is None:
                yield f"{failed}, and none tried again: this machine is too busy, or there was too little time"
            elif later < backoff - _CLOCKS:
                yield f"{failed}, and the next attempt began {later:.3f} s later, within the backoff"


def _waits(attempts: list[Attempt], passes: list[Event]) -> Iterator[str]:
    for event in _passes_after_the_first(attempts, passes):
        if event.outcome == "waited":
            asked = event.at - event.waited
            yield f"worker {event.worker} found no version at {asked:.3f} s, after the first creation"
        for attempt in attempts:
            kept = _waited_for_creation(event, attempt)
            returned = attempt.ended if attempt.last == "raises" else attempt.built
            if returned is not None and kept > (returned - attempt.began) * _TOO_LONG:
                yield (
                    f"worker {event.worker} waited {kept:.3f} s for {name_of(attempt.worker)}'s creation "
                    f"of version {attempt.version}"
                )


def _passes_after_the_first(attempts: list[Attempt], passes: list[Event]) -> list[Event]:
    """Return the passes that asked after the first creation had ended, and did not run the creator."""
    ends = [attempt.ended for attempt in attempts if attempt.succeeded]
    return [p for p in passes if ends and p.at - p.waited > min(ends) and not _ran_the_creator(p, attempts)]


def _ran_the_creator(event: Event, attempts: list[Attempt]) -> bool:
    return any(a.worker == event.worker and event.at - event.waited <= a.began <= event.at for a in attempts)


def _not_beside(attempts: list[Attempt], passes: list[Event]) -> Iterator[str]:
    """Report each creation in the background that the worker that had started it waited for."""
    for attempt in attempts:
        own = [p for p in passes if p.worker == attempt.elected and p.at - p.waited < attempt.began]
        if own and attempt.built is not None and own[-1].at > attempt.built:
            yield (
                f"worker {attempt.elected}, which had version {attempt.version} created in the background, "
                f"did not read before that was built"
            )


def _waited_for_creation(event: Event, attempt: Attempt) -> float:
    """Return how long a pass waited while the creator of *attempt* ran in another worker."""
    return _overlap(event, attempt.began, attempt.ended if attempt.built is None else attempt.built)


def _waited_for_swap(event: Event, attempt: Attempt) -> float:
    """Return how long a pass waited while another worker swapped in the result of *attempt*."""
    return 0.0 if attempt.built is None else _overlap(event, attempt.built, attempt.ended)


def _overlap(event: Event, begin: float, end: float) -> float:
    """Return the seconds of the pass's wait from *begin* to *end*; the pass did not create in that time."""
    return max(0.0, min(event.at, end) - max(event.at - event.waited, begin))


def _until_the_next(ended: list[Attempt], attempts: list[Attempt]) -> float | None:
    """Return the seconds from the end of the first of these attempts to the beginning of the next one of all."""
    successor = _successor(ended[0], attempts) if ended else None
    return None if successor is None else successor.began - ended[0].ended


def _successor(attempt: Attempt, attempts: list[Attempt]) -> Attempt | None:
    return next((other for other in attempts if other.began >= attempt.ended), None)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
