"""The trials: what is done to the hosts, and what must hold then."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

from .guests import Fleet
from .judge import creations, judge, pruned_too_early, seconds_late, writers_beside_readers
from .keys import KEYS

__all__ = ["TRIALS", "Found"]

#: What a trial yields: violations, and figures by their names.
Found = Iterator[str | tuple[str, float]]
_EXPIRES = 2.0


def no_fault(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """Processes of both hosts read and create, and each expiry brings one creation."""
    names = [f"{path}-{each}" for each in range(3)]
    for guest in fleet.clients:
        for name, by in zip(names, ("open", "open", "load"), strict=True):
            guest.start(name, name=path, by=by, seconds=seconds, creates=0.3, expires=_EXPIRES)
    for guest in fleet.clients:
        guest.wait(*names, patience=seconds + 60)
    records = fleet.records(path)
    yield from judge(records, expires=_EXPIRES)
    yield "creations", len(creations(records))
    if len(creations(records)) < seconds / (_EXPIRES + 2):
        yield f"only {len(creations(records))} creations"
    yield "reads", sum(record["calls"] for record in records if record["what"] == "done")


def swaps(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """A host swaps as fast as it can while the other one reads: no error, and the new version is seen."""
    yield from _swapped(fleet, path, seconds / 4, 0.0)


def news(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """A host swaps now and then, and the other one sees it late."""
    yield from _swapped(fleet, path, seconds / 2, 4.0)


def _swapped(fleet: Fleet, path: str, seconds: float, pause: float) -> Found:
    fleet.a.start(f"{path}-first", name=path, by="force", creates=0.0)
    fleet.a.wait(f"{path}-first")
    fleet.a.start(path, name=path, by="force", seconds=seconds, pause=pause, creates=0.0)
    ways = ("open", "load", "slowly")
    for by in ways:
        fleet.b.start(f"{path}-{by}", name=path, by=by, seconds=seconds + 10, pause=0.02)
    fleet.a.wait(path, patience=seconds + 60)
    fleet.b.wait(*(f"{path}-{by}" for by in ways), patience=seconds + 60)
    records = fleet.records(path)
    yield from judge(records)
    yield "swaps", len(creations(records))
    yield "ESTALE inside blocks", sum(record["what"] == "stale inside a block" for record in records)
    for by in ("open", "load"):
        late = seconds_late(records, "b", by)
        if None in late:
            yield f"{late.count(None)} versions were not seen by {by}"
        yield from ((f"seconds until {by} sees it", each) for each in late if each is not None)


def killed(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """The first creator is killed while others wait: one of them creates."""
    fleet.a.start(path, name=path, by="open", creates=600.0)
    fleet.a.seen(what="begin", path=path)
    names = [f"{path}-{each}" for each in range(2)]
    for guest in fleet.clients:
        for name in names:
            guest.start(name, name=path, by="open", creates=0.1)
    time.sleep(2.0)  # they wait by then
    fleet.a.tell("kill", path)
    for guest in fleet.clients:
        guest.wait(*names)
    records = fleet.records(path)
    yield from judge(records)
    made, reads = creations(records), [record for record in records if record["what"] == "read"]
    if len(made) != 1 or len(reads) != 4:
        yield f"{len(made)} creations and {len(reads)} reads, not 1 and 4"
    at = next(record["time"] for record in fleet.a.records() if record.get("killed") == path)
    yield from (("seconds until the next one creates", begin - at) for _version, begin, _end in made)
    yield "seconds until all have read", max((record["time"] for record in reads), default=at) - at


def cut_off(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """The host of the creator is cut off, and the other one creates; then the first one comes back.

    The creator has opened the new version before, which the other host removes.
    """
    yield from _cut_off(fleet, path, number, waits="open")


def cut_off_when_made(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """The same, and the new version was complete before."""
    yield from _cut_off(fleet, path, number, waits="made")


def lock_lost(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """The same, and the other host only takes the mutex: nothing but the lost lock shows that."""
    yield from _cut_off(fleet, path, number, waits="made", by="lock")


def _cut_off(fleet: Fleet, path: str, number: int, *, waits: str, by: str = "force") -> Found:
    a, b, go, stop = fleet.a, fleet.b, f"go-{path}", f"stop-{path}"
    b.start(f"{path}-first", name=path, by="force", creates=0.0)
    b.wait(f"{path}-first")
    a.start(path, name=path, by="force", creates=0.0, until=go, waits=waits)
    lost = a.seen(what="begin", path=path)["version"]
    for guest in fleet.clients:
        guest.start(f"{path}-reader", name=path, by="open", seconds=600.0, until=stop)
    time.sleep(1.0 + number % 4)
    a.cut()
    try:
        at = time.time()
        b.start(f"{path}-next", name=path, by=by, creates=0.2)
        b.wait(f"{path}-next", patience=150)
        yield "seconds until the other host has the mutex", time.time() - at
        # The creator returns while its host is cut off, as it comes back, or some time later.
        if number % 3 == 0:
            fleet.allow(go)
            time.sleep(2.0)
    finally:
        a.mend()
    if number % 3 == 2:
        time.sleep(8.0)
    fleet.allow(go)
    a.wait(path, patience=150)
    time.sleep(6.0)  # longer than a system believes what it has of a file
    fleet.allow(stop)
    for guest in fleet.clients:
        guest.wait(f"{path}-reader", patience=150)
        guest.start(f"{path}-last", name=path, by="open", pause=0.0)
        guest.wait(f"{path}-last")
    records = fleet.records(path)
    for each in (each for each in records if (each["host"], each["by"]) == ("a", "force")):
        if each["what"] in ("refreshed", "error"):
            yield f"the creator that comes back: {each.get('outcome') or each['error']}", 1
    # What was opened before is gone, and so the creator may fail.
    yield from judge([each for each in records if each["what"] != "error" or each["by"] != "force"], overlaps=1)
    reads = [record for record in records if record["what"] == "read"]
    yield from (f"{each['host']} has read what was lost" for each in reads if each["version"] == lost)
    last = {each["version"] for each in reads[-2:]}
    newest = creations([each for each in records if each.get("version") != lost])[-1][0]
    if last != {newest}:
        yield f"in the end the hosts read {last}, not {newest}"


def keys(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """Processes of both hosts read and create several keys, and each expiry of a key brings one creation."""
    yield from _keys(fleet, path, seconds)


def keys_pruned(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """A host removes keys that are old while both create them: no key goes that was created a moment ago."""
    older_than, names = 3.0 + number % 3, [f"{path}-{each}" for each in range(2)]
    a, b = fleet.clients if number % 2 else reversed(fleet.clients)
    options = {"module": "keys", "name": path, "seconds": seconds}
    a.start(names[0], by="force", pause=0.1, creates=0.1, **options)
    a.start(names[1], by="open", pause=0.5, creates=0.1, **options)
    b.start(names[0], by="prune", pause=0.1, expires=older_than, **options)
    b.start(names[1], by="open", pause=0.5, creates=0.1, **options)
    for guest in fleet.clients:
        guest.wait(*names, patience=seconds + 60)
    of_keys = [fleet.records(f"{path}/{key}") for key in range(KEYS)]
    for records in of_keys:
        yield from judge(records)
    prunes = [record for record in fleet.records(path) if record["what"] == "pruned"]
    yield from judge(fleet.records(path))
    yield from pruned_too_early(of_keys, prunes, older_than)
    yield "creations", sum(len(creations(records)) for records in of_keys)
    yield "keys removed", sum(each["gone"] for each in prunes)


def _keys(fleet: Fleet, path: str, seconds: float) -> Found:
    names = [f"{path}-{each}" for each in range(3)]
    for guest in fleet.clients:
        for name in names:
            guest.start(name, module="keys", name=path, by="open", seconds=seconds, creates=0.1, expires=_EXPIRES)
    for guest in fleet.clients:
        guest.wait(*names, patience=seconds + 60)
    for key in range(KEYS):
        records = fleet.records(f"{path}/{key}")
        yield from judge(records, expires=_EXPIRES)
        yield "creations of a key", len(creations(records))
        if len(creations(records)) < seconds / (_EXPIRES + 4):
            yield f"only {len(creations(records))} creations of key {key}"
    yield from judge(fleet.records(path))
    yield "reads", sum(record["calls"] for record in fleet.records(path) if record["what"] == "done")


def readers(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """A host swaps while readers are inside blocks on both: what is at the path stays the same in each block."""
    swaps, blocks = yield from _beside_readers(fleet, path, "readers", seconds, inside=(number % 4) / 4)
    yield from judge(fleet.records(path))
    if not swaps or not blocks:
        yield f"{swaps} swaps and {blocks} blocks"


def readers_overlap(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """A host swaps beside four readers of one host that come and go without a pause; it may wait for them all."""
    options = {"module": "readers", "name": path}
    fleet.a.start(f"{path}-first", by="force", creates=0.0, **options)
    fleet.a.wait(f"{path}-first")
    readers_of, names = fleet.clients[number % 2], [f"{path}-{each}" for each in range(4)]
    for name in names:
        readers_of.start(name, by="open", pause=0.0, inside=0.5, seconds=seconds / 2, **options)
    readers_of.seen(what="inside", path=path)
    fleet.a.start(path, by="force", creates=0.0, **options)
    readers_of.wait(*names, patience=300)
    fleet.a.wait(path, patience=300)
    records = fleet.records(path)
    yield from judge(records)
    came = max(each["time"] for each in records if each["what"] == "inside")
    (_first, swap) = (each for each in records if each["what"] == "swapped")
    yield "seconds of a swap", swap["took"]
    yield from (("longest pass of a reader", each["longest"]) for each in records if each["what"] == "done")
    yield "swaps that waited for the last reader", swap["time"] > came


def writers(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """Both hosts change a file in place and read it, under one SyncReaderDogpile: never both at once."""
    swaps, blocks = yield from _beside_readers(fleet, path, "sync_reader", seconds)
    yield from judge(fleet.records(path))
    yield from writers_beside_readers(fleet.records(path))
    if not swaps or not blocks:
        yield f"{swaps} writers and {blocks} blocks"


def _beside_readers(
    fleet: Fleet, path: str, module: str, seconds: float, **inside: float
) -> Generator[str | tuple[str, float], None, tuple[int, int]]:
    """Yield the figures of a writer on one host beside readers on both; return how many swaps and blocks were."""
    fleet.a.start(f"{path}-first", module=module, name=path, by="force", creates=0.0)
    fleet.a.wait(f"{path}-first")
    options = {"module": module, "name": path, "seconds": seconds}
    fleet.a.start(path, by="force", pause=0.5, creates=0.1, **options)
    names = [f"{path}-{each}" for each in range(2)]
    for guest in fleet.clients:
        for name in names:
            guest.start(name, by="open", pause=0.2, **options, **inside)
    fleet.a.wait(path, patience=seconds + 120)
    for guest in fleet.clients:
        guest.wait(*names, patience=seconds + 120)
    records = fleet.records(path)
    took = [record["took"] for record in records if record["what"] == "swapped"]
    yield from (("seconds of a swap", each) for each in took)
    blocks = [record for record in records if record["what"] == "inside"]
    yield "blocks", len(blocks)
    yield from (
        ("seconds of a reader", each["longest"])
        for each in records
        if each["what"] == "done" and each["by"] == "open"
    )
    return len(took), len(blocks)


def neighbours(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """Each host creates a datafile of its own in one directory: neither harms what the other one builds."""
    for guest in fleet.clients:
        guest.start(path, name=f"{path}-{guest.name}", by="force", pause=0.0, creates=0.0, seconds=seconds)
    for guest in fleet.clients:
        guest.wait(path, patience=seconds + 60)
    for guest in fleet.clients:
        records = fleet.records(f"{path}-{guest.name}")
        yield from judge(records)
        yield "creations", len(creations(records))


def directory(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """Processes of both hosts read and create a directory: whole versions, and each expiry brings one creation."""
    names = [f"{path}-{each}" for each in range(3)]
    for guest in fleet.clients:
        for name, by in zip(names, ("open", "open", "slowly"), strict=True):
            guest.start(name, module="directory", name=path, by=by, seconds=seconds, creates=0.1, expires=_EXPIRES)
    for guest in fleet.clients:
        guest.wait(*names, patience=seconds + 60)
    records = fleet.records(path)
    yield from judge(records, expires=_EXPIRES)
    yield "creations", len(creations(records))
    if len(creations(records)) < seconds / (_EXPIRES + 3):
        yield f"only {len(creations(records))} creations"
    yield "reads", sum(record["calls"] for record in records if record["what"] == "done")
    yield "versions gone inside a slow block", sum(each["what"] == "gone inside a block" for each in records)


def restarted(fleet: Fleet, path: str, number: int, seconds: float) -> Found:
    """The server stops and starts again while a host creates and both read: the creator has its lock back."""
    names = [f"{path}-{each}" for each in range(3)]
    for guest in fleet.clients:
        for name in names:
            guest.start(name, name=path, by="open", seconds=seconds, creates=1.0, expires=_EXPIRES)
    time.sleep(5.0)
    while (records := fleet.records(path)) and not any(each["what"] == "begin" for each in records[-2:]):
        time.sleep(0.02)
    fleet.server.tell("restart", 1.0 + 2 * (number % 3))
    stopped = fleet.server.seen(what="server stopped")["time"]
    fleet.server.seen(what="server started")
    for guest in fleet.clients:
        guest.wait(*names, patience=seconds + 120)
    records = fleet.records(path)
    yield from judge(records, expires=_EXPIRES)
    yield "creations", len(creations(records))
    started = fleet.server.seen(what="server started")["time"]
    read = {each["version"] for each in records if each["what"] == "read"}
    spanning = [version for version, begin, end in creations(records) if begin < stopped < end]
    yield "creations that went on over the stop", len(spanning)
    yield "of which were read", len(read.intersection(spanning))
    after = [begin for _version, begin, _end in creations(records) if begin > started]
    yield from (("seconds from the start to the next creation", each - started) for each in after[:1])


TRIALS: dict[str, Callable[[Fleet, str, int, float], Found]] = {
    trial.__name__: trial
    for trial in (
        *(no_fault, swaps, news, killed, cut_off, cut_off_when_made, lock_lost),
        *(keys, keys_pruned, neighbours, readers, readers_overlap, writers, directory, restarted),
    )
}
