"""What happened, host by host, as text. Pure: a story in, lines out."""

from __future__ import annotations

from collections.abc import Iterator

from fleet.run import HOSTS, Result
from fleet.verdict import Story

__all__ = ["report"]


def report(result: Result) -> Iterator[str]:
    """Return the lines about one run."""
    story = result.story
    kind = "network namespaces" if result.has_namespaces else "groups of processes, each behind a relay"
    yield f"{result.title}; hosts are {kind}; stale after {story.settings.expire:g} s"
    zero = min((answer.asked for answer in story.answers), default=0.0)
    for host in story.hosts:
        yield from _host(story, host, zero)
    told = ", ".join(
        f"{what} {count / result.versions / len(HOSTS):.1f}" for what, count in sorted(result.requests.items())
    )
    yield f"  requests at the origin for each version and host, undisturbed, {result.versions} version(s): {told}"


def _host(story: Story, host: str, zero: float) -> Iterator[str]:
    answers, expire = story.answers_of(host), story.settings.expire
    fresh = sum(answer.age < expire for answer in answers)
    made = [str(creation.generation) for creation in story.published if creation.host == host]
    yield (
        f"  {host}: {len(answers)} answers of {len({answer.pid for answer in answers})} workers, {fresh} fresh "
        f"and {len(answers) - fresh} stale, the oldest {max((a.age for a in answers), default=0):.1f} s; "
        f"created generation {', '.join(made) or 'none'}"
    )
    for each in story.disturbances:
        if each.host != host:
            continue
        at, lasted = f"at {each.begin - zero:.1f} s", f"for {each.end - each.begin:.1f} s"
        if each.kind == "cut":
            meanwhile = [a for a in answers if each.begin < a.asked and a.time < each.end]
            newest = story.newest_before(each.end)
            after = [a.asked - each.end for a in answers if a.asked > each.end and a.generation >= newest]
            caught = f"{min(after):.1f} s after its end" if after else "never"
            yield (
                f"    {at} cut off from the origin {lasted}: {len(meanwhile)} answers from its replica; "
                f"generation {newest} {caught}"
            )
        else:
            creation = story.of_token.get(each.token)
            ended = (creation.outcome if creation else "") or "no end on record"
            number = creation.generation if creation else 0
            others = [c for c in story.published if c.generation == number and c.host != host]
            took = f"; {others[0].host} created it {others[0].begin - each.begin:.1f} s later" if others else ""
            yield (
                f"    {at} worker {each.pid} stopped {lasted} while it created generation {number}{took}; "
                f"its own result: {ended}"
            )
