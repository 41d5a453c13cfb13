"""The state after a power cut: the files, the sidecar's statements about them, and whether everything works on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dogpile_fs import DataDirectory, Datafile, DogpileError, atomic_write
from tests.support.places import left_beside

from .generations import contents, fill_directory, generation_in, generation_of
from .swapping import INDEX, PLAIN, REPORT, SETTINGS, Moment

__all__ = ["Finding", "look_around"]

_FOR_EVER = 1e6
_NEXT = 10**9
_PATIENCE = 20.0
#: Seconds by which an mtime may differ from ``time.time()``: the kernel stamps by its tick, which is 10 ms at
#: most.
_TICK = 0.011
_SECTOR = 512


@dataclass
class Finding:
    """*outcomes*: the state of each file or directory: ``last`` (the last generation whose call had returned),
    ``newer`` (one whose call had begun), ``older``, ``none yet``, ``missing``; of a file also ``empty``, ``cut
    short``, ``zeros`` (it ends with them) or ``torn``, which of a directory means any of these. *state*: the
    datafile's, by its status; *by*: ``stamp`` or ``mtime``, on which that is based. *forgotten*: it was
    invalidated, and is fresh. *served*: it is not whole, and is fresh.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    state: str = ""
    by: str = ""
    forgotten: bool = False
    served: bool = False
    violations: list[str] = field(default_factory=list)


def look_around(place: Path, then: Moment, *, durable: bool) -> Finding:
    """Return all findings about *place*, after a cut at a moment at which *then* was known."""
    finding = Finding()
    found = {what: _file(place / what) for what in (REPORT, SETTINGS)}
    found |= {what: _directory(place / what) for what in (INDEX, PLAIN)}
    for what, there in found.items():
        outcome = finding.outcomes[what] = _outcome(there, then.returned[what], then.begun[what])
        if outcome == "impossible" or (durable and outcome not in ("last", "newer", "none yet")):
            finding.violations.append(
                f"{what} is {outcome}: {there}; {then.returned[what]} had returned, {then.begun[what]} begun"
            )
    if durable:
        for path in sorted(place.glob(".dogpile/.dogpile-kept-*")):
            if isinstance(kept := _file(path), str):
                finding.violations.append(f"the kept version {path.name} is {kept}")
    try:
        finding.violations.extend(_faults_of_status(finding, place, found[REPORT], then))
        if durable and finding.forgotten:
            finding.violations.append(f"generation {found[REPORT]} was invalidated, and is fresh")
        finding.violations.extend(_what_does_not_go_on(place, found[REPORT]))
    except (OSError, DogpileError) as error:
        finding.violations.append(f"it cannot go on: {error!r}")
    return finding


def _faults_of_status(finding: Finding, place: Path, there: int | str, then: Moment) -> Iterator[str]:
    """Yield the errors in the datafile's status, and complete *finding*."""
    status = Datafile(place / REPORT, _FOR_EVER).status()
    finding.state = status.state
    finding.by = "nothing" if status.resource is None else "mtime" if status.host is None else "stamp"
    if there == "missing":
        if status.state != "missing":
            yield f"nothing is there, and it is called {status.state}"
        return
    if not isinstance(there, int):
        finding.served = status.state == "fresh"
        return
    finding.forgotten = status.state == "fresh" and there <= then.invalidated
    if status.createdtime is None:
        return
    span, following = then.reports[there], then.reports.get(there + 1)
    latest = span.returned or (following.begun if following is not None else time.time())
    too_new = status.createdtime > latest
    too_old = status.state == "fresh" and status.createdtime < span.begun - _TICK
    if too_new or too_old:
        yield (
            f"generation {there} was created from {span.begun} to {latest}, and is called {status.state} "
            f"since {status.createdtime}, by {status.version}; there is {os.stat(place / REPORT)}"
        )


def _what_does_not_go_on(place: Path, before: int | str) -> Iterator[str]:
    """Yield the failures of a creation, a write and a rollback; *before* is the generation that was there."""
    path = str(place / REPORT)
    began = time.time()
    report = Datafile(
        path, _FOR_EVER, lambda target: Path(target).write_bytes(contents(_NEXT)), keep=1, timeout=_PATIENCE
    )
    if not report.refresh(force=True):
        yield "a forced refresh did not create"
    status = report.status()
    if status.state != "fresh" or status.createdtime is None or not began <= status.createdtime <= time.time():
        yield f"created anew at {began}, it is {status}"
    if (read := report.load(_loaded)) != _NEXT:
        yield f"after a forced refresh {read} is read"
    with atomic_write(place / SETTINGS) as file:
        file.write(contents(_NEXT))
    if (there := _file(place / SETTINGS)) != _NEXT:
        yield f"after an atomic_write {there} is read"
    for what in (INDEX, PLAIN):
        index = DataDirectory(
            place / what, _FOR_EVER, lambda target: fill_directory(Path(target), _NEXT), timeout=_PATIENCE
        )
        index.refresh(force=True)
        with index.open() as version:
            if (there := _directory(Path(version))) != _NEXT:
                yield f"after a forced refresh {there} is in the directory {what}"
    if left := left_beside(path):
        yield f"temporary files stay: {left}"
    versions = [name for name in os.listdir(place) if name.startswith((".dogpile-dir-", ".dogpile-old-"))]
    if len(versions) != 1:
        yield f"versions of the directory stay: {versions}"
    if isinstance(before, int):
        report.rollback()
        if (read := report.load(_loaded)) != before:
            yield f"rolled back to {read}, and not to {before}"


def _loaded(file: BinaryIO) -> int | None:
    return generation_of(file.read())


def _file(path: Path) -> int | str:
    """Return the generation at *path*, or a word for other contents."""
    if not path.exists():
        return "missing"
    data = path.read_bytes()
    number = generation_of(data)
    if number is not None:
        return number
    if not data:
        return "empty"
    if data.endswith(bytes(_SECTOR)):
        return "zeros"
    return "cut short" if data[:12].isdigit() and contents(int(data[:12])).startswith(data) else "torn"


def _directory(path: Path) -> int | str:
    if not path.exists():
        return "missing"
    number = generation_in(path)
    return "torn" if number is None else number


def _outcome(there: int | str, returned: int, begun: int) -> str:
    if isinstance(there, str):
        return "none yet" if there == "missing" and returned == 0 else there
    if there > begun:
        return "impossible"
    return "last" if there == returned else "newer" if there > returned else "older"
