"""The judge of a trial: a pure function over what all hosts have seen. It reports only what that proves.

A request tells the head that the origin had at a moment between its begin and its end; so of two requests that
overlap, nothing is concluded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .tale import FOR_EVER, Creation, Harm, Read, Request, State, Tale

__all__ = ["violations"]

#: Seconds for which a reader that has a replica, and has only passed, may be delayed by the machine. Below the
#: seconds for which a process is stopped.
_DELAY = 3.0
#: Seconds for questions to the origin, which it may leave without an answer.
_QUESTION = 6.0


def violations(tale: Tale) -> list[str]:
    """Return what breaks a promise, as sentences."""
    if tale.is_unfit:
        return list(_unfit_is_used(tale))
    rules = (
        _read_nothing,
        _numbered_twice,
        _published_twice,
        _set_back,
        _read_but_not_published,
        _fenced_but_published,
        _taken_over_too_soon,
        _read_backwards,
        _waited,
        _failed,
        _fit_is_refused,
    )
    found = [each for rule in rules for each in rule(tale)]
    return found if tale.has_settled else [*found, "the hosts did not come to one version after the fault"]


def _published(tale: Tale) -> Iterator[State]:
    for request in tale.requests:
        if request.tells is not None and request.tells.sha:
            yield request.tells


def _read_nothing(tale: Tale) -> Iterator[str]:
    """A trial tells something only if all hosts have read."""
    hosts = {read.host for read in tale.reads} | {request.process[:2] for request in tale.requests}
    for host in sorted(hosts - {read.host for read in tale.reads if read.sha}):
        yield f"no process of {host} has read anything"
    if not hosts:
        yield "nothing was read"


def _numbered_twice(tale: Tale) -> Iterator[str]:
    """A generation of a lineage is one version."""
    versions: dict[tuple[str, int], set[str]] = defaultdict(set)
    for state in _published(tale):
        versions[state.lineage, state.generation].add(state.sha)
    for (lineage, generation), shas in versions.items():
        if len(shas) > 1:
            yield f"generation {generation} of the lineage {lineage} is {len(shas)} versions: {_names(shas)}"


def _published_twice(tale: Tale) -> Iterator[str]:
    """A version is published once: no replica is given to an origin that has lost it."""
    nonces: dict[str, set[str]] = defaultdict(set)
    for state in _published(tale):
        nonces[state.sha].add(state.published[0])
    for sha, published in nonces.items():
        if len(published) > 1:
            yield f"the version {sha[:8]} was published {len(published)} times"


def _set_back(tale: Tale) -> Iterator[str]:
    """The generations of a lineage only grow, unless the origin was set back by the trial."""
    highest: dict[str, tuple[int, Request]] = {}
    ended: list[Request] = sorted((each for each in tale.requests if each.tells), key=lambda each: each.ended)
    number = 0
    for request in sorted(ended, key=lambda each: each.began):
        while ended[number].ended < request.began:
            state = ended[number].tells
            assert state is not None
            if state.generation > highest.get(state.lineage, (-1,))[0]:
                highest[state.lineage] = state.generation, ended[number]
            number += 1
        state = request.tells
        assert state is not None
        before = highest.get(state.lineage)
        if before is not None and before[0] > state.generation and not _loss(tale, before[1].began, request.ended):
            yield f"the origin went from generation {before[0]} back to {state.generation}, at {request.ended:.3f}"
            return


def _read_but_not_published(tale: Tale) -> Iterator[str]:
    """What a reader has seen, a head has named, and a process of its host has read or written that head before."""
    counts = {nonce for state in _published(tale) for nonce in state.published}
    named: dict[tuple[str, str], float] = {}
    for request in tale.requests:
        state = request.state
        if state is not None and state.sha and state.published[0] in counts:
            key = request.process[:2], state.sha
            named[key] = min(request.began, named.get(key, FOR_EVER))
    for read in tale.reads:
        if read.sha and named.get((read.host, read.sha), FOR_EVER) > read.ended:
            yield f"{read.process} has read {read.sha[:8]} at {read.ended:.3f}, and no head had named it"


def _fenced_but_published(tale: Tale) -> Iterator[str]:
    """What a fenced creator has made is named by no head, and is read by nobody."""
    seen = {state.sha for state in _published(tale)} | {read.sha for read in tale.reads}
    for creation in tale.creations:
        if creation.sha not in seen:
            continue
        if creation.is_fenced and not _loss(tale, creation.began, FOR_EVER):
            yield f"{creation.process} calls its creation {creation.sha[:8]} fenced, and it was published"
        by = _fenced_by(tale, creation)
        if by is not None:
            yield (
                f"the creation {creation.sha[:8]} of {creation.process} was published, although {by.process} had "
                f"found at {by.ended:.3f} that it was no longer on record"
            )


def _fenced_by(tale: Tale, creation: Creation) -> Request | None:
    """Return a request that shows, before the creation was published, that its attempt was not on record."""
    own = [each for each in tale.requests if each.process == creation.process and each.what == "swap"]
    begins = [each for each in own if each.began < creation.began and each.state and each.state.attempt]
    publishes = [each for each in own if each.state and each.state.sha == creation.sha and not each.state.attempt]
    if not begins or not publishes or begins[-1].state is None:
        return None
    attempt, published = begins[-1].state.attempt, publishes[0].began
    begun = [each.ended for each in tale.requests if each.tells and each.tells.attempt == attempt]
    if not begun:
        return None
    for request in tale.requests:
        state = request.tells
        is_between = min(begun) < request.began and request.ended < published
        if state is not None and is_between and state.attempt != attempt and state.sha != creation.sha:
            return request
    return None


def _taken_over_too_soon(tale: Tale) -> Iterator[str]:
    """An attempt is taken over by another process only when its head has been unchanged for the ttl."""
    made: dict[str, Request] = {}
    begun: dict[str, str] = {}
    for request in sorted(tale.requests, key=lambda each: each.ended):
        state = request.tells
        if request.what != "swap" or state is None:
            continue
        before = made.get(request.tag)
        if before is not None and before.state is not None and before.state.attempt not in ("", state.attempt):
            owner = begun.get(before.state.attempt)
            if owner not in (None, request.process) and request.ended < before.began + tale.ttl:
                yield (
                    f"{request.process} took the creation of {owner} over, {request.ended - before.began:.3f} s "
                    f"after that had written to the head; the ttl is {tale.ttl} s"
                )
        if state.attempt:
            begun.setdefault(state.attempt, request.process)
        made[request.new_tag] = request


def _read_backwards(tale: Tale) -> Iterator[str]:
    """A process reads no earlier version after a later one."""
    numbers = {state.sha: (state.lineage, state.generation) for state in _published(tale) if not state.attempt}
    last: dict[str, Read] = {}
    for read in sorted((each for each in tale.reads if each.sha in numbers), key=lambda each: each.began):
        before = last.get(read.process)
        if before is not None and before.sha in numbers and not _loss(tale, before.began - tale.ttl, read.ended):
            (lineage, generation), (later, other) = numbers[before.sha], numbers[read.sha]
            if lineage == later and other < generation:
                yield f"{read.process} has read generation {other} after {generation}, at {read.ended:.3f}"
        last[read.process] = read


def _with_replica(tale: Tale) -> Iterator[Read]:
    """Yield the reads of processes whose host had a replica before they began."""
    since: dict[str, float] = {}
    for read in tale.reads:
        if read.sha:
            since[read.host] = min(read.ended, since.get(read.host, FOR_EVER))
    return (read for read in tale.reads if since.get(read.host, FOR_EVER) < read.began)


def _waited(tale: Tale) -> Iterator[str]:
    """A reader that has a replica waits for no other caller: only the one that creates or fetches takes longer."""
    for read in _with_replica(tale):
        if read.worked or _excused(tale, read.process, read.began, read.ended):
            continue
        asks = any(
            each.process == read.process and each.began < read.ended and read.began < each.ended
            for each in tale.requests
        )
        if read.ended - read.began > (_QUESTION if asks else 0.0) + _DELAY:
            yield f"{read.process} has waited for {read.ended - read.began:.1f} s, from {read.began:.3f} on"


def _failed(tale: Tale) -> Iterator[str]:
    """No read of a host that has a replica fails."""
    for read in _with_replica(tale):
        if read.error:
            yield f"{read.process} got {read.error}, at {read.ended:.3f}: {read.message}"


def _fit_is_refused(tale: Tale) -> Iterator[str]:
    """A server that keeps its conditions is not called unfit, whatever other hosts do to it meanwhile."""
    for read in tale.reads:
        if read.error == "OriginUnfit":
            yield f"{read.process} calls a server unfit that is fit: {read.message}"


def _unfit_is_used(tale: Tale) -> Iterator[str]:
    """A server that ignores conditions is refused, before a creator runs."""
    for creation in tale.creations:
        yield f"{creation.process} has created for an origin that is not fit"
    for read in tale.reads:
        if read.sha:
            yield f"{read.process} has read {read.sha[:8]} from an origin that is not fit"
    if not any(read.error == "OriginUnfit" for read in tale.reads):
        yield "no reader was told that the origin is not fit"


def _loss(tale: Tale, began: float, ended: float) -> bool:
    """Return whether the origin has lost something in between."""
    return any(harm.what == "loss" and harm.began <= ended and began <= harm.ended for harm in tale.harms)


def _excused(tale: Tale, process: str, began: float, ended: float) -> bool:
    """Return whether the process was stopped or killed in between."""
    return any(_strikes(harm, process) and harm.began <= ended and began <= harm.ended for harm in tale.harms)


def _strikes(harm: Harm, process: str) -> bool:
    return harm.process == process and harm.what in ("killed", "stopped")


def _names(shas: set[str]) -> str:
    return ", ".join(sorted(sha[:8] for sha in shas))
