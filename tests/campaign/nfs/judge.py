"""The judge: which promises the records of a trial break."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["MARGIN", "creations", "judge", "pruned_too_early", "seconds_late", "writers_beside_readers"]

#: Seconds by which the clocks of two guests may differ. Creations that overlap by less are not noticed.
MARGIN = 0.1
Record = dict[str, Any]


def creations(records: Sequence[Record]) -> list[tuple[str, float, float]]:
    """Return the version, beginning and end of each creation that came to its end, by their beginnings."""
    ends = {record["version"]: record["time"] for record in records if record["what"] == "end"}
    begun = [record for record in records if record["what"] == "begin"]
    return sorted(
        ((each["version"], each["time"], ends[each["version"]]) for each in begun if each["version"] in ends),
        key=lambda creation: creation[1],
    )


def judge(records: Sequence[Record], *, expires: float | None = None, overlaps: int = 0) -> Iterator[str]:
    """Yield what is wrong.

    :param expires: seconds after which a version is stale, where each expiry must bring one creation.
    :param overlaps: how many creations may begin while another one runs: those of hosts that were cut off.
    """
    for record in records:
        if record["what"] == "error":
            yield f"an error reached a caller of {record['host']}: {record['error']}"
        elif record["what"] == "ended" and record["status"] != 0:
            yield f"worker {record['name']} of {record['host']} has ended with {record['status']}"
    made = creations(records)
    found = [(one, next_) for one, next_ in pairwise(made) if next_[1] < one[2] - MARGIN]
    if len(found) > overlaps:
        yield f"creations overlap: {found}"
    if expires is not None:
        for one, next_ in pairwise(made):
            if next_[1] - one[2] < expires - MARGIN:
                yield f"a creation began {next_[1] - one[2]:.3f} s after the end of the one before"
    order = {record["version"]: record["time"] for record in records if record["what"] == "begin"}
    seen: dict[tuple[str, int], float] = defaultdict(float)
    for record in (each for each in records if each["what"] == "read"):
        reader, version = (record["host"], record["pid"]), record["version"]
        if version not in order:
            yield f"{reader} has read no version: {version}"
        elif order[version] < seen[reader]:
            yield f"{reader} has read {version} after a newer one"
        else:
            seen[reader] = order[version]


def seconds_late(records: Sequence[Record], host: str, by: str) -> list[float | None]:
    """Return how late readers of *host* that read *by* were, in seconds, for each version.

    A newer version counts as well. ``None`` where no reader has seen either.
    """
    made = creations(records)
    begun = {version: begin for version, begin, _end in made}
    reads = [
        (record["time"], begun.get(record["version"], 0.0))
        for record in records
        if record["what"] == "read" and (record["host"], record["by"]) == (host, by)
    ]
    return [
        next((max(0.0, at - end) for at, seen in reads if seen >= begin), None) for _version, begin, end in made
    ]


def pruned_too_early(
    keys: Sequence[Sequence[Record]], prunes: Sequence[Record], older_than: float
) -> Iterator[str]:
    """Yield each prune that removed more keys than were older than *older_than* seconds.

    :param keys: the records of each key.
    """
    for prune in prunes:
        ends = [[end for _version, _begin, end in creations(records) if end < prune["began"]] for records in keys]
        old = sum(bool(each) and prune["began"] - max(each) > older_than - MARGIN for each in ends)
        if prune["gone"] > old:
            yield f"a prune removed {prune['gone']} keys at {prune['began']}, when {old} were old enough: {ends}"


def writers_beside_readers(records: Sequence[Record]) -> Iterator[str]:
    """Yield each writer that was inside beside another writer or a reader."""
    wrote = [each for each in records if each["what"] == "wrote"]
    for number, writer in enumerate(wrote):
        for other in (*wrote[number + 1 :], *(each for each in records if each["what"] == "inside")):
            both = min(writer["time"], other["time"]) - max(writer["came"], other["came"])
            if both > MARGIN:
                yield f"inside together for {both:.3f} s: {writer} and {other}"
