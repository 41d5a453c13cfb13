"""The verdict over a record: what the hosts must have done, whatever was done to them.

Pure: a record in, sentences out. Each rule is a function that yields one sentence per fault.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fleet.record import Answer, Creation, Disturbance

__all__ = ["RULES", "Settings", "Story", "faults"]

#: Seconds within which nginx tells a time: it writes milliseconds, and reads its clock once in a round of events.
_NGINX = 0.01
#: Seconds of the longest pause between two questions of a host whose origin did not answer.
_BACKOFF = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All in seconds: *expire*, *ttl*, *check* and *max_stale* as in the application; *creation*: what the creator
    takes; *late*: beyond *check*, for which a host that is not cut off may answer from a version that another one
    has replaced; *clocks*: by which a host may be wrong about the clock of the origin."""

    expire: float
    creation: float
    ttl: float
    check: float
    max_stale: float
    late: float = 5.0
    clocks: float = 0.05


class Story:
    """A record, brought into order: the *creations*, the *answers* and the *disturbances* of one run."""

    def __init__(
        self,
        creations: Iterable[Creation],
        answers: Iterable[Answer],
        disturbances: Iterable[Disturbance],
        settings: Settings,
    ) -> None:
        self.creations = sorted(creations, key=lambda creation: creation.begin)
        self.answers = sorted(answers, key=lambda answer: answer.asked)
        self.disturbances = sorted(disturbances, key=lambda disturbance: disturbance.begin)
        self.settings = settings
        self.of_token = {creation.token: creation for creation in self.creations}
        #: The creations whose versions are those of the fleet.
        self.published = [creation for creation in self.creations if creation.outcome == "created"]

    @property
    def hosts(self) -> list[str]:
        """The names of the hosts, in order."""
        named = {creation.host for creation in self.creations} | {answer.host for answer in self.answers}
        return sorted(named - {""})

    def of(self, kind: str) -> list[Disturbance]:
        """Return the disturbances of one *kind*."""
        return [disturbance for disturbance in self.disturbances if disturbance.kind == kind]

    def answers_of(self, host: str) -> list[Answer]:
        """Return the answers of one *host* that have data."""
        return [answer for answer in self.answers if answer.host == host and answer.token]

    def newest_before(self, moment: float) -> int:
        """Return the highest generation that was published by then; 0 before the first."""
        ended = (creation.generation for creation in self.published if (creation.end or moment) < moment)
        return max(ended, default=0)


def _name(creation: Creation) -> str:
    return f"the creation of generation {creation.generation} by worker {creation.pid} of {creation.host}"


def one_creation_per_expiry(story: Story) -> Iterator[str]:
    """Each generation was created once, over all hosts, and none before the one before it was stale.

    A creation may begin while another one runs only when nothing can have been heard of that for the ttl.
    """
    settings = story.settings
    counts = Counter(creation.generation for creation in story.published)
    for generation in range(1, max(counts, default=1) + 1):
        if counts[generation] != 1:
            yield f"generation {generation} was created {counts[generation]} times"
    built = {creation.generation: creation.built or creation.begin for creation in story.published}
    for creation in story.creations:
        before = built.get(creation.generation - 1)
        if before is not None and creation.begin - before < settings.expire - settings.clocks:
            age = f"{creation.begin - before:.2f} s old, fresh for {settings.expire:g} s"
            yield f"{_name(creation)} began when the one before was {age}"
    for earlier, later in pairwise(story.creations):
        runs = earlier.built is None or later.begin < earlier.built
        if runs and earlier.end is not None and later.begin > earlier.end:
            runs = False
        if runs and later.begin - earlier.begin < settings.ttl - settings.clocks:
            yield f"{_name(later)} began {later.begin - earlier.begin:.2f} s after {_name(earlier)}, which ran"


def no_answer_without_data(story: Story) -> Iterator[str]:
    """Each answer is a success, and tells a version."""
    if not story.answers:
        yield "there is no answer on record"
    for answer in story.answers:
        if answer.status != 200 or not answer.token or not answer.host:
            yield f"an answer of {answer.host or 'no host'} had status {answer.status} and no data"


def no_answer_too_old(story: Story) -> Iterator[str]:
    """No answer is older than ``max_stale``; and a host that reaches the origin follows the others soon."""
    settings, ends = story.settings, {c.generation: c.end for c in story.published}
    for answer in story.answers:
        if answer.age > settings.max_stale:
            yield f"an answer of {answer.host} was {answer.age:.1f} s old, {settings.max_stale:g} s allowed"
        replaced = ends.get(answer.generation + 1)
        if not answer.token or replaced is None or _is_excused(story, answer):
            continue
        if answer.asked > replaced + settings.check + settings.late:
            yield (
                f"{answer.host} answered from generation {answer.generation} {answer.asked - replaced:.1f} s "
                f"after the next one was published"
            )


def _is_excused(story: Story, answer: Answer) -> bool:
    return any(
        cut.host == answer.host and cut.begin <= answer.time and answer.asked <= cut.end + _BACKOFF
        for cut in story.of("cut")
    )


def generations_only_upwards(story: Story) -> Iterator[str]:
    """A request that came after an answer of the same host gets its generation, or a later one."""
    for host in story.hosts:
        answers = story.answers_of(host)
        by_end = iter(sorted(answers, key=lambda answer: answer.time))
        ended, highest = next(by_end, None), 0
        for answer in answers:  # by the time at which they came
            while ended is not None and ended.time < answer.asked - _NGINX:
                highest, ended = max(highest, ended.generation), next(by_end, None)
            if answer.generation < highest:
                yield f"{host} answered from generation {answer.generation} after generation {highest}"


def only_what_was_published(story: Story) -> Iterator[str]:
    """No answer shows what was not published: not what a fenced creator has made, nor anything else."""
    seen: dict[str, str] = {}
    for answer in story.answers:
        if answer.token:
            seen.setdefault(answer.token, answer.host)
    tokens: dict[int, set[str]] = defaultdict(set)
    for token, host in seen.items():
        creation = story.of_token.get(token)
        if creation is None:
            yield f"{host} answered from a version of which no creation is on record"
        elif creation.outcome != "created":
            yield f"{host} answered from {_name(creation)}, which {creation.outcome or 'has not ended'}"
    for answer in story.answers:
        if answer.token:
            tokens[answer.generation].add(answer.token)
    for generation, different in sorted(tokens.items()):
        if len(different) > 1:
            yield f"there were {len(different)} different versions with the number {generation}"
    for creation in story.creations:
        if creation.outcome == "failed" and not _was_cut(story, creation):
            yield f"{_name(creation)} failed, and its host was not cut off"


def _was_cut(story: Story, creation: Creation) -> bool:
    end = creation.end or creation.begin
    return any(
        cut.host == creation.host and creation.begin < cut.end and cut.begin < end for cut in story.of("cut")
    )


def cut_off_and_caught_up(story: Story) -> Iterator[str]:
    """A host that was cut off answered from its replica meanwhile, made no version, and caught up afterwards."""
    for cut in story.of("cut"):
        meanwhile = [
            c for c in story.published if c.host != cut.host and c.begin > cut.begin and (c.end or 0.0) < cut.end
        ]
        if not meanwhile:
            yield f"no other host has published while {cut.host} was cut off"
            continue
        first = min(creation.end or 0.0 for creation in meanwhile)
        answers = story.answers_of(cut.host)
        if not any(first < answer.asked and answer.time < cut.end for answer in answers):
            yield f"{cut.host} did not answer while it was cut off"
        for answer in answers:
            if cut.begin < answer.asked and answer.time < cut.end and answer.generation >= _first(meanwhile):
                yield f"{cut.host} was not cut off: it answered from generation {answer.generation}"
                break
        newest = story.newest_before(cut.end)
        if not any(answer.asked > cut.end and answer.generation >= newest for answer in answers):
            yield f"{cut.host} has not caught up with generation {newest}"


def _first(creations: Iterable[Creation]) -> int:
    return min(creation.generation for creation in creations)


def paused_and_fenced(story: Story) -> Iterator[str]:
    """A creator that was stopped for longer than the ttl was fenced, and another host created meanwhile."""
    for pause in story.of("pause"):
        creation = story.of_token.get(pause.token)
        if creation is None:
            yield f"worker {pause.pid} of {pause.host} was stopped, and its creation is not on record"
            continue
        lasted = f"for {pause.end - pause.begin:.1f} s"
        if creation.outcome != "fenced":
            ended = creation.outcome or "without an end on record"
            yield f"{_name(creation)} was stopped {lasted} and ended {ended}, not fenced"
        if pause.end - pause.begin < story.settings.ttl:
            yield f"{_name(creation)} was stopped {lasted}, which is not beyond the ttl"
        if not any(
            other.generation == creation.generation and other.host != pause.host and other.begin > pause.begin
            for other in story.published
        ):
            yield f"no other host has taken {_name(creation)} over"


Rule = Callable[[Story], Iterator[str]]

#: Each with what it says when it holds.
RULES: Sequence[tuple[Rule, str]] = (
    (one_creation_per_expiry, "one creation per expiry over all hosts"),
    (no_answer_without_data, "no answer without data"),
    (no_answer_too_old, "no answer older than allowed"),
    (generations_only_upwards, "generations only upwards on each host"),
    (only_what_was_published, "nothing was seen that was not published"),
    (cut_off_and_caught_up, "the host that was cut off answered from its replica, and caught up"),
    (paused_and_fenced, "the stopped creator was fenced"),
)


def faults(story: Story) -> list[str]:
    """Return all faults by the record, one sentence each; empty when every rule was kept."""
    return [fault for rule, _ in RULES for fault in rule(story)]
