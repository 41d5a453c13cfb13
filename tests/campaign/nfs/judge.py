"""The judge: which promises the records of a trial break."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["MARGIN", "creations", "judge", "seconds_late"]

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
