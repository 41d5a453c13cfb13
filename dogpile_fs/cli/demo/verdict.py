"""What a timeline comes to: its totals, the sentence that sums it up, and which promises it does not bear out.

Pure, as the timeline is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .timeline import Attempt, Passed, Timeline

__all__ = ["Totals", "faults", "summary", "totals"]

#: A creation may be this much younger than the expiretime by the clocks of two processes (seconds).
_CLOCKS = 0.05
#: The part of a creation that nobody else spends waiting.
_TOO_LONG = 0.75


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over the whole demo, and times in seconds.

    *reads* are *fresh* passes, *stale* ones, those that *waited* for the first creation, and those that
    *created*. *expiries*: versions that were stale and had a successor made. *longest_wait*: of a pass that did
    not create, after the first creation; *longest_for_swap*, *longest_for_creation*: how long such a pass was
    kept waiting while another swapped, or created. *takeover*: from a creator's death to the next one's beginning.
    """

    reads: int
    fresh: int
    stale: int
    waited: int
    created: int
    torn: int
    creations: int
    expiries: int
    killed: int
    longest_wait_for_first: float
    longest_wait: float
    longest_for_swap: float
    longest_for_creation: float
    takeover: float | None

    def lines(self) -> list[tuple[str, str]]:
        """What they are called and what they say, for people."""
        longest = _seconds(self.longest_wait)
        if self.longest_for_swap > self.longest_wait / 2:
            longest += " for a swap"
        lines = [
            (
                "reads",
                f"{self.reads}: {self.fresh} fresh, {self.stale} stale, "
                f"{self.waited} waited, {self.created} created",
            ),
            ("torn reads", str(self.torn)),
            ("creations", f"{self.creations}: the first, and 1 per expiry ({self.expiries})"),
            ("longest wait", f"{_seconds(self.longest_wait_for_first)} for the first creation"),
            ("after that", f"{longest}; {_seconds(self.longest_for_creation)} during a creation"),
        ]
        if self.takeover is not None:
            later = _seconds(self.takeover)
            lines.append(("killed", f"{self.killed} while it was creating; another took over {later} later"))
        return lines


def totals(timeline: Timeline) -> Totals:
    """The totals of what *timeline* has so far."""
    attempts, passes = timeline.attempts(), timeline.passes()
    kinds = Counter(passed.outcome for passed in passes)
    later = list(_passes_after_the_first(attempts, passes))
    killed = [attempt for attempt in attempts if attempt.how == "killed"]
    return Totals(
        reads=len(passes),
        fresh=kinds["fresh"],
        stale=kinds["stale"],
        waited=kinds["waited"],
        created=kinds["created"],
        torn=sum(event.torn for event in timeline.events("leaves")),
        creations=sum(attempt.how == "done" for attempt in attempts),
        expiries=len({attempt.version for attempt in attempts if attempt.how == "done"} - {1}),
        killed=len(killed),
        longest_wait_for_first=max((p.entered - p.asked for p in passes if p.outcome == "waited"), default=0.0),
        longest_wait=max((p.entered - p.asked for p in later), default=0.0),
        longest_for_swap=max((_swapping(p, a) for p in later for a in attempts), default=0.0),
        longest_for_creation=max((_creating(p, a) for p in later for a in attempts), default=0.0),
        takeover=min(
            (a.began - k.ended for k in killed[:1] for a in attempts if k.ended and a.began >= k.ended),
            default=None,
        ),
    )


def summary(timeline: Timeline) -> str:
    """What was seen, in a sentence or two; for a timeline without :func:`faults`."""
    counts = totals(timeline)
    sentence = (
        f"{timeline.workers} processes, {_plural(counts.expiries, 'expiry', 'expiries')}, "
        f"{_plural(counts.creations, 'creation')}: nobody waited for a creation but for the first, "
        "and no read was torn."
    )
    for attempt in timeline.attempts():
        successor = _successor(attempt, timeline)
        if attempt.how == "killed" and successor is not None:
            sentence += (
                f" Worker {attempt.worker} was killed in the middle of a creation, "
                f"and worker {successor.worker} took over."
            )
    return sentence


def faults(timeline: Timeline) -> list[str]:
    """What in *timeline*, when all is over, is not as it was promised; empty if all is well."""
    attempts, passes = timeline.attempts(), timeline.passes()
    return [
        *_failures(timeline),
        *_creators_at_once(attempts),
        *_wrong_counts(attempts),
        *_too_early(attempts, timeline.expiretime),
        *_waits(attempts, passes),
        *_torn(timeline),
    ]


def _failures(timeline: Timeline) -> Iterator[str]:
    for event in timeline.events("fails"):
        yield f"worker {event.worker} failed at {event.at:.2f} s: {event.why}"


def _creators_at_once(attempts: list[Attempt]) -> Iterator[str]:
    for one, other in pairwise(attempts):
        if one.ended is None or other.began < one.ended:
            yield (
                f"worker {other.worker} began to create at {other.began:.3f} s, "
                f"while worker {one.worker}, who began at {one.began:.3f} s, had not ended"
            )


def _wrong_counts(attempts: list[Attempt]) -> Iterator[str]:
    done = Counter(attempt.version for attempt in attempts if attempt.how == "done")
    for version in range(1, max(done, default=0) + 1):
        if done[version] != 1:
            yield f"version {version} was created {done[version]} times instead of once"
    if not done:
        yield "nothing was ever created"
    elif max(done) == 1:
        yield "no expiry was seen: this machine is too busy, or there was too little time"


def _too_early(attempts: list[Attempt], expiretime: float) -> Iterator[str]:
    done = [attempt for attempt in attempts if attempt.how == "done"]
    for one, other in pairwise(done):
        if one.built is not None and other.began - one.built < expiretime - _CLOCKS:
            yield (
                f"version {other.version} was begun {other.began - one.built:.3f} s after version {one.version} "
                f"was built, which is stale only after {expiretime:g} s"
            )


def _waits(attempts: list[Attempt], passes: list[Passed]) -> Iterator[str]:
    for passed in _passes_after_the_first(attempts, passes):
        if passed.outcome == "waited":
            yield f"worker {passed.worker} found nothing at {passed.asked:.3f} s, after the first creation"
        for attempt in attempts:
            # Who is made to wait for a creation is so from early in it, when he came from his last read; who is
            # late by less has met the swap, or a machine that is busy.
            kept = _creating(passed, attempt)
            if attempt.built is not None and kept > (attempt.built - attempt.began) * _TOO_LONG:
                yield (
                    f"worker {passed.worker} waited {kept:.3f} s for worker {attempt.worker}'s creation "
                    f"of version {attempt.version}"
                )


def _torn(timeline: Timeline) -> Iterator[str]:
    for event in timeline.events("leaves"):
        if event.torn:
            yield f"worker {event.worker} read a torn datafile, as it found at {event.at:.3f} s"


def _passes_after_the_first(attempts: list[Attempt], passes: list[Passed]) -> Iterator[Passed]:
    """Those that asked when the first creation was over, and did not create."""
    first = min((a.ended for a in attempts if a.how == "done" and a.ended is not None), default=None)
    return (p for p in passes if first is not None and p.asked > first and p.outcome != "created")


def _creating(passed: Passed, attempt: Attempt) -> float:
    """How long *passed* waited while the creator of *attempt* ran in another process."""
    return _overlap(passed, attempt, attempt.began, attempt.ended if attempt.built is None else attempt.built)


def _swapping(passed: Passed, attempt: Attempt) -> float:
    """How long *passed* waited while another process swapped in the result of *attempt*."""
    return 0.0 if attempt.built is None else _overlap(passed, attempt, attempt.built, attempt.ended)


def _overlap(passed: Passed, attempt: Attempt, begin: float, end: float | None) -> float:
    if passed.worker == attempt.worker:
        return 0.0
    until = passed.entered if end is None else min(passed.entered, end)
    return max(0.0, until - max(passed.asked, begin))


def _successor(attempt: Attempt, timeline: Timeline) -> Attempt | None:
    return next((a for a in timeline.attempts() if attempt.ended is not None and a.began >= attempt.ended), None)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
