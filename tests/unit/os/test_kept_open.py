"""A process with many objects keeps a share of its descriptors free, and passes as before."""

from __future__ import annotations

import os
import random
import resource
import threading
import time
from pathlib import Path

import pytest

from dogpile_fs import Datafile, Dogpile, LockTimeout, SyncReaderDogpile
from dogpile_fs._os import kept_open
from tests.support.processes import Processes

#: The limit of open files of these processes, and how many of them other parts of the process have.
LIMIT, OTHERS = 256, 64


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])
def test_more_objects_than_descriptors_keep_half_of_them_at_most(
    tmp_path: Path, kind: type[Dogpile], processes: Processes
) -> None:
    def run() -> None:
        limited()
        dogpiles = [kind(3600, tmp_path / str(number)) for number in range(2 * LIMIT)]
        for _ in range(2):
            for dogpile in dogpiles:
                with dogpile.acquire(lambda: None):
                    pass
                with dogpile.acquire():
                    assert descriptors() <= LIMIT // 2 + OTHERS
        assert all(dogpile._record.generation == 1 for dogpile in dogpiles)

    processes.start(run)
    processes.join()


def test_an_object_that_is_used_often_keeps_its_descriptor(tmp_path: Path, processes: Processes) -> None:
    def run() -> None:
        limited()
        used = SyncReaderDogpile(3600, tmp_path / "used", init=True)
        with used.acquire():
            pass
        sidecar = used._shared.scope.peek().open_file
        for number in range(2 * LIMIT):
            with SyncReaderDogpile(3600, tmp_path / "used").acquire(), used.acquire():
                others.append(SyncReaderDogpile(3600, tmp_path / str(number), init=True))
            with others[-1].acquire():
                time.sleep(0.0005)
        assert used._shared.scope.peek().open_file is sidecar
        assert others[0]._shared.last_guard is None

    others: list[SyncReaderDogpile] = []
    processes.start(run)
    processes.join()


def test_a_block_stays_entered_while_its_object_lets_go(tmp_path: Path, processes: Processes) -> None:
    def run() -> None:
        limited()
        first = SyncReaderDogpile(3600, tmp_path / "first", init=True)
        for _ in range(2):
            with first.acquire():
                pass
        with first.acquire():
            for number in range(LIMIT):
                others.append(SyncReaderDogpile(3600, tmp_path / str(number), init=True))
                with others[-1].acquire():
                    pass
            assert first._shared.last_guard is None
            writer = SyncReaderDogpile(3600, tmp_path / "first")
            with pytest.raises(LockTimeout), writer.acquire_write_lock(timeout=0):
                pass
        with writer.acquire_write_lock(timeout=0):
            pass

    others: list[SyncReaderDogpile] = []
    processes.start(run)
    processes.join()


def test_threads_that_use_many_objects_get_the_right_file_from_each(tmp_path: Path, processes: Processes) -> None:
    def creator(target: str) -> None:
        Path(target).write_text(Path(target).name.split("-")[-1])

    def run() -> None:
        limited()
        files = [
            Datafile(tmp_path / f"{number}", 3600, creator, durable=False, readers=number % 2 == 0)
            for number in range(LIMIT)
        ]
        for number, file in enumerate(files):
            Path(tmp_path / str(number)).write_text(str(number))
            file.touch()
        wrong: list[object] = []
        end = time.monotonic() + 2

        def use(seed: int) -> None:
            chosen = random.Random(seed)
            while time.monotonic() < end and not wrong:
                number = chosen.randrange(len(files))
                try:
                    with files[number].open("r") as file:
                        text = file.read()
                    if not text == files[number].load(lambda file: file.read()).decode() == str(number):
                        wrong.append((number, text))
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, wrong
        assert descriptors() <= LIMIT // 2 + OTHERS

    processes.start(run)
    processes.join()


def test_a_thread_that_has_counted_long_ago_does_not_put_off_the_next_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: list[int] = []

    def counted() -> int:
        counts.append(len(counts))
        if len(counts) == 1:
            for _ in range(200):  # what other threads open meanwhile
                kept_open.has_opened()
        return 0

    monkeypatch.setattr(kept_open, "limit", lambda: 100)
    monkeypatch.setattr(kept_open, "_count", counted)
    kept_open.has_opened()
    before = len(counts)
    kept_open.has_opened()
    assert len(counts) == before + 1


@pytest.mark.parametrize(("most", "kept"), [(1024, 512), (20_000, 15_904), (resource.RLIM_INFINITY, 1 << 30)])
def test_half_may_be_kept_or_all_but_four_thousand(monkeypatch: pytest.MonkeyPatch, most: int, kept: int) -> None:
    monkeypatch.setattr(kept_open, "getrlimit", lambda _: (most, most))
    assert kept_open.limit() == kept


def test_a_limit_that_is_lowered_after_many_were_opened_counts(tmp_path: Path, processes: Processes) -> None:
    def run() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        dogpiles = [Dogpile(3600, tmp_path / str(number), init=True) for number in range(LIMIT)]
        for dogpile in dogpiles:
            with dogpile.acquire():
                pass
        assert descriptors() > LIMIT
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, hard))
        kept_open.has_opened()
        assert descriptors() <= LIMIT // 2 + OTHERS

    if kept_open.limit() <= LIMIT:
        pytest.skip("this process may not open enough")
    processes.start(run)
    processes.join()
