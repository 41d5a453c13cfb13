"""Row 15: caches of many keys: do the costs of a hit and of a miss grow with their number, and do creators of
different keys wait for each other?"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import peers
from benchmarks.contenders.many_keys import CACHES, Value, opened, value_of
from benchmarks.measuring.harness import Crowd, Track, seconds
from benchmarks.measuring.measures import (
    BYTES,
    COUNT,
    SECONDS,
    Bar,
    Check,
    Figure,
    Plot,
    Ratio,
    Scenario,
    Spread,
    paired,
    rotated,
)
from benchmarks.scenarios.rows_01_to_04_single_calls import turns

__all__ = ["ColdStart", "Size", "Use", "measure", "outcome", "scenario"]

OURS = (peers.DATAFILES, peers.CACHED_FILE)
HIT, OTHER, MISS, LOOK, REMOVE, DESCRIPTORS, ROOM, CREATIONS, LAST = (
    "a hit of one key",
    "a key's first hit in a process",
    "a miss",
    "prune that removes none, per key",
    "prune that removes all, per key",
    "descriptors",
    "room on the disk per key",
    "creations per key",
    "until all have an answer",
)
FLAT, MOST_CREATORS = 1.3, 2.0
#: Descriptors that a process may have open for all keys together: those of the lock file and the records, of a
#: directory, and of what Python opens once, as for random numbers.
MOST_DESCRIPTORS = 8
#: Keys up to which the removal of all is measured. It is as long as many misses.
_MOST_REMOVED = 1_000
#: Processes that fill the caches before they are measured.
_FILLERS = 2
_AN_AGE = 10 * 3600.0  # seconds; older than all keys
_FILLED_WITHIN = 600.0  # seconds


@dataclass(frozen=True)
class Size:
    numbers: tuple[int, ...]
    rounds: int
    hit_rounds: int
    turn: float  # seconds, of hits of one key
    sample: int  # keys that are asked for once, in each round
    longest: float  # seconds after which no more of a sample are asked for
    cold_rounds: int
    processes: int
    keys: int  # of a cold start
    creation: float  # seconds
    #: Seconds, beside those in which all keys are created one after the other: of ours, and of the peers.
    patience: float
    patience_with_peers: float

    def longest_cold_start(self, name: str) -> float:
        """Return the seconds after which the processes of a cold start are interrupted."""
        return self.keys * self.creation + (self.patience if name in OURS else self.patience_with_peers)


FULL = Size(
    numbers=(1, 1_000, 100_000),
    rounds=5,
    hit_rounds=15,
    turn=0.005,
    sample=100,
    longest=0.5,
    cold_rounds=3,
    processes=50,
    keys=20,
    creation=1.0,
    patience=15.0,
    patience_with_peers=5.0,
)
QUICK = Size(
    numbers=(1, 50),
    rounds=1,
    hit_rounds=3,
    turn=0.0005,
    sample=10,
    longest=0.1,
    cold_rounds=1,
    processes=12,
    keys=5,
    creation=0.1,
    patience=60.0,  # a check says that all have an answer, and must not depend on the machine
    patience_with_peers=2.0,
)


@dataclass(frozen=True)
class Use:
    """The outcome of one process that uses a cache which has so many keys already."""

    #: Seconds of processor time of the first hit of a key, and of a miss; the first is None with one key.
    other: float | None
    miss: float
    missed: int
    descriptors: int


@dataclass(frozen=True)
class Removal:
    """The outcome of pruning: seconds of processor time per key; None where the cache has no such call."""

    look: float | None
    remove: float | None
    #: What the removal of all returned, and how many keys there were.
    removed: Any
    keys: int


@dataclass(frozen=True)
class ColdStart:
    """The outcome of one cold start."""

    #: Of each key.
    creations: list[int]
    #: The number of processes without an answer in time, and with a wrong one.
    missing: int
    wrong: int
    #: Seconds from the beginning until the last process has its answer.
    last: float


@dataclass
class Found:
    """All that was measured, by the cache's name and the number of its keys."""

    hits: dict[tuple[str, int], list[float]]
    uses: dict[tuple[str, int], list[Use]]
    removals: dict[tuple[str, int], Removal]
    #: Bytes of disk per key, with the largest number of them.
    room: dict[str, float]
    cold: dict[str, list[ColdStart]]
    #: Those that could not be filled in time, and are not in the dictionaries above.
    too_slow: list[tuple[str, int]]


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    names = [name for name in CACHES if peers.is_installed(name)]
    for name in names:
        peers.prepare(name)
    places, too_slow = _filled(names, size, scratch)
    room = {each[0]: _room(place) / each[1] for each, place in places.items() if each[1] == size.numbers[-1]}
    crowd = Crowd(scratch, patience=600)
    crowd.add("all contenders", _hit, places, size)
    hits = crowd.run()[0].reported["costs"]
    uses: dict[tuple[str, int], list[Use]] = {each: [] for each in places}
    for number in range(size.rounds):
        for each in rotated(list(places), number):
            crowd = Crowd(scratch, patience=120)
            crowd.add(each[0], _use, *each, places[each], number, size)
            uses[each].append(Use(**crowd.run()[0].reported))
    removals = {}
    for each, place in places.items():
        crowd = Crowd(scratch, patience=300)
        crowd.add(each[0], _remove, *each, place, each[1] + sum(use.missed for use in uses[each]))
        removals[each] = Removal(**crowd.run()[0].reported)
    cold: dict[str, list[ColdStart]] = {name: [] for name in names}
    for number in range(size.cold_rounds):
        for name in rotated(names, number):
            cold[name].append(_start_cold(name, size, scratch))
    found = Found(dict(zip(places, hits, strict=True)), uses, removals, room, cold, too_slow)
    return [scenario(found, size)]


# Measuring


def _filled(
    names: Sequence[str], size: Size, scratch: Path
) -> tuple[dict[tuple[str, int], Path], list[tuple[str, int]]]:
    """Return the directories with caches that have so many keys; and those caches that took too long."""
    places = {}
    too_slow = []
    for name in names:
        for number in size.numbers:
            place = Path(tempfile.mkdtemp(dir=scratch))
            crowd = Crowd(scratch, _FILLED_WITHIN)
            for filler in range(_FILLERS):
                crowd.add(name, _fill, name, place, number, filler)
            if all(track.finished for track in crowd.run()):
                places[name, number] = place
            else:
                too_slow.append((name, number))
    return places, too_slow


def _fill(track: Track, name: str, place: Path, number: int, filler: int) -> None:
    track.begin()
    keys = [_key(n) for n in range(filler, number, _FILLERS)]
    cache = opened(name, place)
    if keys and cache.fill is not None:
        cache.fill(keys)
    else:
        for key in keys:
            cache.get(key)


def _key(number: int) -> str:
    return f"key-{number}"


def _hit(track: Track, places: dict[tuple[str, int], Path], size: Size) -> None:
    """Hit one key of each cache, in turn, again and again."""
    functions = {
        f"{name} {number}": _hits(opened(name, place, _never).get, _key(number // 2))
        for (name, number), place in places.items()
    }
    track.begin()
    track.reported["costs"] = list(turns(functions, size.hit_rounds, size.turn).values())


def _hits(get: Callable[[str], Value], key: str) -> Callable[[int], float]:
    def timed(loops: int) -> float:
        started = time.process_time()
        for _ in range(loops):
            get(key)
        return time.process_time() - started

    return timed


def _never(key: str) -> Value:
    raise AssertionError(f"a hit that is measured must not create {key}")


def _use(track: Track, name: str, number: int, place: Path, round_number: int, size: Size) -> None:
    """Ask for some keys that are there, each once, and then for some that are not."""
    there = random.Random(round_number).sample(range(number), min(number, size.sample + 1))
    new = [f"new-{round_number}-{n}" for n in range(size.sample)]
    track.begin()
    before = _open_descriptors()
    get = opened(name, place).get
    get(_key(there[0]))  # opens what is opened once
    other = _cost(get, [_key(n) for n in there[1:]], size.longest)[0] if number > 1 else None
    miss, missed = _cost(get, new, size.longest)
    track.reported.update(other=other, miss=miss, missed=missed, descriptors=_open_descriptors() - before)


def _cost(get: Callable[[str], Value], keys: Sequence[str], longest: float) -> tuple[float, int]:
    """Return the seconds for each of the *keys*, and how many were asked for until the *longest* time was over."""
    asked = 0
    started = time.process_time()
    for key in keys:
        get(key)
        asked += 1
        if time.process_time() - started > longest:
            break
    return (time.process_time() - started) / asked, asked


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _room(place: Path) -> int:
    """Return the bytes of disk that are in use below *place*."""
    return 512 * sum(
        os.lstat(os.path.join(directory, name)).st_blocks
        for directory, directories, files in os.walk(place)
        for name in (*directories, *files)
    )


def _remove(track: Track, name: str, number: int, place: Path, keys: int) -> None:
    track.begin()
    cache = opened(name, place, _never)
    look = remove = removed = None
    if (prune := cache.prune) is not None:
        started = time.process_time()
        prune(_AN_AGE)
        look = (time.process_time() - started) / keys
    if (clear := cache.clear) is not None and number <= _MOST_REMOVED:
        started = time.process_time()
        removed = clear()
        remove = (time.process_time() - started) / keys
    track.reported.update(look=look, remove=remove, removed=removed, keys=keys)


def _start_cold(name: str, size: Size, scratch: Path) -> ColdStart:
    place = Path(tempfile.mkdtemp(dir=scratch))
    warm = Path(tempfile.mkdtemp(dir=scratch))
    opened(name, warm).get("warm")
    crowd = Crowd(scratch, size.longest_cold_start(name))
    for number in range(size.processes):
        crowd.add(name, _come, name, place, warm, _key(number % size.keys), size.creation)
    return outcome(crowd.run(), size.keys)


def _come(track: Track, name: str, place: Path, warm: Path, key: str, creation: float) -> None:
    def creator(key: str) -> Value:
        track.mark("creation begins")
        time.sleep(creation)
        return value_of(key)

    opened(name, warm).get("warm")  # the keys are cold here, not the process
    get = opened(name, place, creator).get
    track.reported["began"] = track.begin()
    track.reported["key"] = key
    value = get(key)
    track.mark("answered")
    track.reported["is_right"] = value == value_of(key)


# Computing


def outcome(tracks: Sequence[Track], keys: int) -> ColdStart:
    """Return the outcome in the tracks of one cold start of so many keys."""
    creations = dict.fromkeys((_key(number) for number in range(keys)), 0)
    for track in tracks:
        creations[track.reported["key"]] += len(track.moments("creation begins"))
    answered = [
        seconds(track.reported["began"], at) for track in tracks if (at := track.at("answered")) is not None
    ]
    return ColdStart(
        creations=list(creations.values()),
        missing=len(tracks) - len(answered),
        wrong=sum(not track.reported.get("is_right", True) for track in tracks),
        last=max(answered, default=float("nan")),
    )


def scenario(found: Found, size: Size) -> Scenario:
    """Return the row, from what was measured of each cache."""
    row = Scenario(
        number=15,
        title="Many keys",
        setting="Caches that have so many keys, each with a value of 200 bytes of JSON. Hits, misses and "
        f"``prune`` are in processor time. Then a cold start: {size.processes} processes begin at one moment and "
        f"ask for {size.keys} keys, each process for one; the creators sleep for {size.creation:g} s. It is "
        "measured from the beginning.",
        ours=list(OURS),
        notes=[
            "Ours are made with ``durable=False``, because no peer waits for the disk at each creation. Row 9 has "
            "what that costs.",
            "Hits of one key come one after the other. A key's first hit in a process makes its object, and reads "
            "and parses its file; so does that of a key which is no longer among the 1,024 used last. The peers "
            "read their file or database at every hit.",
            "memoize_stampede guards a value that is about to expire, and not the first one: all compute it. By "
            "hand: look, take a ``diskcache.Lock`` for the key, look again, create, ``Cache.set``.",
            "dogpile.cache's dbm backend has one file, and one lock file for all keys: their creators wait for "
            "each other. Where Python has only dbm.dumb, as here, each opening reads the names of all keys, and "
            "each hit is one.",
            "joblib.Memory and Django's ``get_or_set`` have no lock: all processes that find nothing create. "
            "Django's cache lists its directory at every ``set``, to see whether there are too many files. It was "
            "filled without that, and with a MAX_ENTRIES above its default of 300.",
            "cachier has a mark that a value is being made. Processes that find it wait for a change of the file; "
            "in version 4.2.0 they did not notice it, with and without ``separate_files``. Its option "
            "``wait_for_calc_timeout``, after which they compute the value themselves, is not set by default. "
            "Without ``separate_files`` it writes all keys again at each creation.",
            f"The removal of all was measured with at most {_MOST_REMOVED:,} keys. dogpile.cache has no such call "
            "for dbm files; cachier and Django have none that removes only what is old.",
        ],
        plots=[
            Plot("lines", "A hit of one key", HIT, x="keys", y="seconds", logarithmic=True),
            Plot("lines", "A miss", MISS, x="keys", y="seconds", logarithmic=True),
            Plot("bars", "Cold start: until all have an answer", LAST, x="seconds"),
        ],
    )
    missing = [name for name in CACHES if name not in found.cold]
    if missing:
        row.notes.append(f"Not installed here: {', '.join(missing)}.")
    in_time = f"filled within {_FILLED_WITHIN:g} s"
    if found.too_slow:
        row.notes.append(f"Not {in_time}, and so not measured: {', '.join(map(_called, found.too_slow))}.")
    of_ours = [each for each in found.too_slow if each[0] in OURS]
    row.checks.append(Check(f"ours are {in_time}", not of_ours, ", ".join(map(_called, of_ours)) or "all were"))
    for each in sorted(found.uses, key=lambda each: each[1]):
        _add_use(row, found, *each)
    for name in found.cold:
        _add_cold_start(row, found.cold, name, size)
    for name in OURS:
        if all((name, number) in found.uses for number in size.numbers):
            _judge(row, found, name, size)
    return row


def _add_use(row: Scenario, found: Found, name: str, number: int) -> None:
    """Add the figures of the cache *name* with so many keys."""
    uses, removal = found.uses[name, number], found.removals[name, number]
    costs = {
        HIT: found.hits[name, number],
        OTHER: _others(uses),
        MISS: [use.miss for use in uses],
        LOOK: [] if removal.look is None else [removal.look],
        REMOVE: [] if removal.remove is None else [removal.remove],
    }
    row.figures += [
        Figure(name, what, SECONDS, Spread.of(values) if values else None, at=number)
        for what, values in costs.items()
    ]
    row.figures.append(Figure(name, DESCRIPTORS, COUNT, Spread.of(use.descriptors for use in uses), at=number))
    if number == max(number for _, number in found.uses):
        row.figures.append(Figure(name, ROOM, BYTES, Spread.of([found.room[name]]), at=number))
    if name == peers.DATAFILES or (peers.DATAFILES, number) not in found.uses:
        return
    ours = {
        HIT: found.hits[peers.DATAFILES, number],
        OTHER: _others(found.uses[peers.DATAFILES, number]),
        MISS: [use.miss for use in found.uses[peers.DATAFILES, number]],
    }
    row.ratios += [
        Ratio(name, peers.DATAFILES, what, paired(costs[what], values), at=number)
        for what, values in ours.items()
        if values
    ]


def _called(each: tuple[str, int]) -> str:
    return f"{each[0]} with {each[1]:,} keys"


def _others(uses: Sequence[Use]) -> list[float]:
    return [use.other for use in uses if use.other is not None]


def _add_cold_start(row: Scenario, cold: dict[str, list[ColdStart]], name: str, size: Size) -> None:
    """Add the figures of the cold starts of the cache *name*."""
    outcomes = cold[name]
    every = [count for one in outcomes for count in one.creations]
    row.figures.append(Figure(name, CREATIONS, COUNT, Spread.of(every), at=size.keys))
    without = max(one.missing for one in outcomes)
    if without:
        said = f"{without} without one after {size.longest_cold_start(name):g} s"
        row.figures.append(Figure(name, LAST, SECONDS, None, at=size.keys, said=said))
        return
    lasts = [one.last for one in outcomes]
    row.figures.append(Figure(name, LAST, SECONDS, Spread.of(lasts), at=size.keys))
    if name != peers.DATAFILES and not any(one.missing for one in cold[peers.DATAFILES]):
        ratio = paired(lasts, [one.last for one in cold[peers.DATAFILES]])
        row.ratios.append(Ratio(name, peers.DATAFILES, LAST, ratio, at=size.keys))


def _judge(row: Scenario, found: Found, name: str, size: Size) -> None:
    """Add the bars and the checks of ours."""
    first, *between, last = size.numbers
    flat = [(HIT, first, paired(found.hits[name, last], found.hits[name, first]))]
    if between:
        many, fewer = found.uses[name, last], found.uses[name, between[-1]]
        flat += [
            (OTHER, between[-1], paired(_others(many), _others(fewer))),
            (MISS, between[-1], paired([use.miss for use in many], [use.miss for use in fewer])),
        ]
    row.bars += [
        Bar(
            f"{name}, {last:,} keys: {what}, against that with {fewer_keys:,}: at most {FLAT:g} times",
            FLAT,
            "at most",
            ratio,
        )
        for what, fewer_keys, ratio in flat
    ]
    outcomes = found.cold[name]
    row.bars.append(
        Bar(
            f"{name}: {size.processes} processes, {size.keys} cold keys: all have an answer in at most "
            f"{MOST_CREATORS:g} times a creator's {size.creation:g} s",
            MOST_CREATORS,
            "at most",
            Spread.of(one.last / size.creation for one in outcomes),
        )
    )
    every = sorted({count for one in outcomes for count in one.creations})
    missing, wrong = sum(one.missing for one in outcomes), sum(one.wrong for one in outcomes)
    descriptors = {number: max(use.descriptors for use in found.uses[name, number]) for number in size.numbers}
    row.checks += [
        Check(f"{name}: exactly one creation per key", every == [1], " or ".join(map(str, every))),
        Check(
            f"{name}: every process has the right answer",
            not missing and not wrong,
            f"{missing} without one, {wrong} with a wrong one",
        ),
        Check(
            f"{name}: at most {MOST_DESCRIPTORS} descriptors, however many keys there are",
            all(count <= MOST_DESCRIPTORS for count in descriptors.values()),
            ", ".join(f"{count} (of {number:,})" for number, count in descriptors.items()),
        ),
    ]
    for number in size.numbers:
        removal = found.removals[name, number]
        if removal.remove is not None:
            row.checks.append(
                Check(
                    f"{name}, keys at first: {number:,}: prune removes these and those that were missed",
                    removal.removed == removal.keys,
                    f"{removal.removed} of {removal.keys}",
                )
            )
