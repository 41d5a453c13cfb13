"""Dogpile for tasks: passes do not pause, waits can be cancelled, creations cannot."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import dogpile_fs
from dogpile_fs import Backoff, CreationFailed, Event, LockTimeout, NeedRegenerationException, WouldDeadlock
from dogpile_fs._aio import functions
from dogpile_fs.aio import Dogpile
from tests.support.places import descriptors
from tests.support.processes import PATIENCE, Processes, Record, wait_for

from .conftest import Run


async def nothing() -> None:
    pass


async def until(condition: Any) -> None:
    """Wait in a task until *condition* holds."""
    while not condition():
        await anyio.sleep(0.001)


def is_at_once(awaitable: Any) -> Any:
    """Return the result of *awaitable*, which does not pause its task."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    raise AssertionError("the task has paused")


@pytest.fixture(params=["thread scope", "process scope", "directory"])
def dogpile(request: pytest.FixtureRequest, path: str, tmp_path: Path) -> Dogpile:
    if request.param == "thread scope":
        return Dogpile(3600)
    return Dogpile(3600, path, directory=tmp_path if request.param == "directory" else None)


def test_a_coroutine_function_creates_in_the_event_loop_and_a_plain_one_beside_it(
    dogpile: Dogpile, run: Run
) -> None:
    async def main() -> None:
        threads = []

        async def creator() -> str:
            await anyio.sleep(0)
            threads.append(threading.current_thread())
            return "by a task"

        def plain() -> str:
            threads.append(threading.current_thread())
            return "by a thread"

        async with dogpile.acquire(creator) as value:
            assert value == "by a task"
        await dogpile.invalidate()
        async with dogpile.acquire(plain) as value:
            assert value == "by a thread"
        await dogpile.invalidate()
        async with dogpile.acquire(lambda: creator()) as value:
            assert value == "by a task"
        assert (await dogpile.status()).generation == 3
        here = threading.current_thread()
        assert [thread is here for thread in threads] == [True, False, True]

    run(main)


def test_a_pass_does_not_pause_its_task(path: str, run: Run) -> None:
    dogpile = Dogpile(3600, path)

    async def main() -> None:
        await dogpile.refresh(nothing)
        for _ in range(3):  # also with the guard of an earlier pass
            block = dogpile.acquire(nothing)
            assert is_at_once(block.__aenter__()) is None
            is_at_once(block.__aexit__(None, None, None))
        await dogpile.invalidate()
        go_on = anyio.Event()

        async def creator() -> None:
            await go_on.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dogpile.refresh, creator)
            await until(dogpile._sync.dogpilelock.locked)
            for _ in range(3):
                block = dogpile.acquire(nothing)
                is_at_once(block.__aenter__())
                assert (await dogpile.status()).state == "stale"
                is_at_once(block.__aexit__(None, None, None))
            go_on.set()

    run(main)


def test_a_hundred_tasks_create_once_and_wake_together(dogpile: Dogpile, run: Run) -> None:
    async def main() -> None:
        creations, inside = [], []
        all_in = anyio.Event()

        async def creator() -> None:
            creations.append(1)
            await anyio.sleep(0.05)

        async def caller() -> None:
            async with dogpile.acquire(creator):
                inside.append(1)
                if len(inside) == 100:
                    all_in.set()
                await all_in.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(caller)
        assert len(creations) == 1

    before = threading.active_count()
    run(main)
    wait_for(lambda: threading.active_count() <= before + 1, "the threads to end")


def _cold(path: str, record: Record, barrier: Any, options: dict[str, Any]) -> None:
    async def main() -> None:
        dogpile = Dogpile(3600, path)

        async def creator() -> None:
            record.write("create")
            await anyio.sleep(0.1)

        async def caller() -> None:
            async with dogpile.acquire(creator):
                record.write("inside")

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(caller)

    barrier.wait()
    anyio.run(main, **options)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hundred_cold_tasks_in_each_of_four_processes_create_once(
    path: str, record: Record, processes: Processes, backend: str
) -> None:
    barrier = multiprocessing.Barrier(4)
    processes.start_many(4, _cold, path, record, barrier, {"backend": backend})
    processes.join()
    assert len(record.events("create")) == 1
    assert len(record.events("inside")) == 400


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_creation_goes_on_without_the_task_that_was_elected(dogpile: Dogpile, run: Run, is_plain: bool) -> None:
    async def main() -> None:
        go_on, creations = threading.Event(), []

        def plain() -> None:
            creations.append(1)
            assert go_on.wait(PATIENCE)

        async def creator() -> None:
            creations.append(1)
            await until(go_on.is_set)

        own = plain if is_plain else creator
        with anyio.move_on_after(60) as scope:
            async with anyio.create_task_group() as tasks:

                async def elected() -> None:
                    async with dogpile.acquire(own):
                        raise AssertionError("it is cancelled before that")

                tasks.start_soon(elected)
                await until(lambda: creations)
                scope.cancel()
        assert (await dogpile.status()).creating
        go_on.set()
        async with dogpile.acquire(own):  # waits for it
            pass
        assert creations == [1]
        assert (await dogpile.status()).generation == 1

    run(main)


def test_a_failure_is_logged_counted_and_told_if_its_task_is_gone(
    path: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "dogpile_fs")
    events: list[Event] = []
    dogpile = Dogpile(3600, path, on_event=events.append, backoff=Backoff(60))

    async def main() -> None:
        go_on = anyio.Event()

        async def creator() -> None:
            await go_on.wait()
            raise ValueError("the source is down")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(dogpile.refresh, creator))
            await until(dogpile._sync.dogpilelock.locked)
            tasks.cancel_scope.cancel()
        go_on.set()
        await until(lambda: not dogpile._sync.dogpilelock.locked())
        assert (await dogpile.status()).failures == 1
        with pytest.raises(CreationFailed):
            async with dogpile.acquire(creator):
                pass

    run(main)
    assert [event.kind for event in events] == ["creating", "failed"]
    assert "ValueError: the source is down" in caplog.text


def test_the_creators_error_comes_out_and_the_mutex_is_free(dogpile: Dogpile, run: Run) -> None:
    async def main() -> None:
        async def creator() -> None:
            raise KeyError("no row")

        def plain() -> None:
            raise KeyError("no row")

        for function in (creator, plain):
            with pytest.raises(KeyError, match="no row"):
                await dogpile.refresh(function)
        with pytest.raises(RuntimeError) as caught:
            await dogpile.refresh(lambda: next(iter(())))
        assert isinstance(caught.value.__cause__, StopIteration)
        assert await dogpile.refresh(nothing)

    run(main)


@pytest.mark.parametrize("has_creator", [True, False])
def test_a_waiter_that_is_cancelled_or_times_out_is_gone_at_once(
    dogpile: Dogpile, run: Run, has_creator: bool
) -> None:
    creator = nothing if has_creator else None

    async def main() -> None:
        go_on = anyio.Event()

        async def create() -> None:
            await go_on.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dogpile.refresh, create)
            await until(dogpile._sync.dogpilelock.locked)
            began = time.monotonic()
            with anyio.move_on_after(0.05) as scope:
                async with dogpile.acquire(creator):
                    raise AssertionError("there is nothing yet")
            assert scope.cancelled_caught
            for timeout in (0, 0.05):
                with pytest.raises(LockTimeout, match="did not end within"):
                    async with dogpile.acquire(creator, timeout=timeout):
                        raise AssertionError("there is nothing yet")
                with pytest.raises(LockTimeout, match="the creation that runs now"):
                    await dogpile.refresh(nothing, force=True, timeout=timeout)
            assert time.monotonic() - began < 20
            go_on.set()
        async with dogpile.acquire(creator):
            assert (await dogpile.status()).generation == 1

    run(main)


def test_a_caller_without_a_creator_wakes_when_another_process_has_created(
    path: str, run: Run, processes: Processes
) -> None:
    async def main() -> None:
        inside = []

        async def reader() -> None:
            async with Dogpile(3600, path).acquire():
                inside.append(1)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(reader)
            await anyio.sleep(0.05)
            assert inside == []
            processes.start(lambda: dogpile_fs.Dogpile(3600, path).refresh(lambda: None))
        assert inside == [1] * 3

    run(main)


def test_a_task_waits_for_the_holder_of_the_lock_file_that_is_there(path: str, run: Run) -> None:
    async def main() -> None:
        dogpile, lock_file = Dogpile(3600, path), path + ".dogpile.lock"
        old, new = dogpile_fs.FileMutex(lock_file), dogpile_fs.FileMutex(lock_file)
        old.acquire()
        ends = []

        async def caller(name: str) -> None:
            async with dogpile.acquire(nothing):
                ends.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller, "of the old file")
            await anyio.sleep(0.05)
            os.unlink(lock_file)
            new.acquire()
            tasks.start_soon(caller, "of the new file")
            await anyio.sleep(0.05)
            assert ends == []
            new.release()
            await until(lambda: ends)
            assert ends == ["of the new file"], "and not before the holder of the old one has ended"
            old.release()

    run(main)


def test_a_plain_function_that_runs_another_is_not_kept_waiting_for_itself(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions._limit, "_free", threading.BoundedSemaphore(1))

    async def main() -> None:
        one, other = (Dogpile(3600, tmp_path / name) for name in ("one", "other"))
        created = []

        def creator() -> None:
            anyio.run(partial(other.refresh, lambda: created.append("other")))
            created.append("one")

        await one.refresh(creator)
        assert created == ["other", "one"]

    run(main)


def test_a_timeout_of_the_creator_is_its_own_error(dogpile: Dogpile, run: Run) -> None:
    async def main() -> None:
        async def creator() -> None:
            await anyio.sleep(1.2)  # longer than a thread waits between two looks at the event loop
            raise TimeoutError("the source is slow")

        with pytest.raises(TimeoutError, match="the source is slow"):
            await dogpile.refresh(creator)

    run(main)


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_creator_that_acquires_what_it_creates_would_wait_for_itself(
    dogpile: Dogpile, run: Run, is_plain: bool
) -> None:
    async def main() -> None:
        async def creator() -> None:
            async with dogpile.acquire(nothing):
                pass

        def plain() -> None:
            with dogpile._sync.acquire(lambda: None):
                pass

        with pytest.raises(WouldDeadlock):
            await dogpile.refresh(plain if is_plain else creator)
        assert await dogpile.refresh(nothing)

    run(main)


def test_two_creators_that_wait_for_each_others_resources_are_told(tmp_path: Path, run: Run) -> None:
    one, other = (Dogpile(3600, tmp_path / name) for name in ("one", "other"))

    async def main() -> None:
        begun = 0
        ends = []

        async def create(mine: Dogpile, others: Dogpile) -> None:
            async def creator() -> None:
                nonlocal begun
                begun += 1
                await until(lambda: begun >= 2)
                async with others.acquire(nothing):
                    pass

            try:
                async with mine.acquire(creator):
                    ends.append("created")
            except WouldDeadlock:
                ends.append("refused")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create, one, other)
            tasks.start_soon(create, other, one)
        assert sorted(ends) == ["created", "refused"]

    run(main)


def test_value_functions_run_in_the_event_loop(dogpile: Dogpile, run: Run) -> None:
    async def main() -> None:
        here, values = threading.current_thread(), {}

        async def creator() -> str:
            values["key"] = "made"
            return "made"

        async def value_fn() -> str:
            assert threading.current_thread() is here
            await anyio.sleep(0)
            try:
                return values["key"] + " before"
            except KeyError:
                raise NeedRegenerationException from None

        async with dogpile.acquire(creator, value_fn) as value:
            assert value == "made"
        async with dogpile.acquire(creator, value_fn) as value:
            assert value == "made before"
        values.clear()
        async with dogpile.acquire(creator, value_fn) as value:
            assert value == "made"

        async def pair() -> tuple[str, float]:
            return "old", 1.0

        async def creator_of_pair() -> tuple[str, float]:
            return "new", time.time()

        async with dogpile.acquire(creator_of_pair, None, pair) as value:
            assert value == "new"

    run(main)


def test_a_need_of_regeneration_in_the_block_invalidates(dogpile: Dogpile, run: Run) -> None:
    async def main() -> None:
        await dogpile.refresh(nothing)
        for _ in range(2):
            with pytest.raises(NeedRegenerationException):
                async with dogpile.acquire(nothing):
                    raise NeedRegenerationException
            assert not dogpile.has_value
            async with dogpile.acquire(nothing):
                assert dogpile.has_value

    run(main)


def test_tasks_threads_and_processes_share_the_lock(path: str, run: Run) -> None:
    async def main() -> None:
        dogpile, sync = Dogpile(3600, path), dogpile_fs.Dogpile(3600, path)
        creations, go_on = [], threading.Event()

        def slow() -> None:
            creations.append("thread")
            assert go_on.wait(PATIENCE)

        async def creator() -> None:
            creations.append("task")

        thread = threading.Thread(target=sync.refresh, args=(slow,))
        thread.start()
        await until(lambda: creations)
        async with anyio.create_task_group() as tasks:

            async def caller() -> None:
                async with dogpile.acquire(creator):
                    assert not thread.is_alive() or creations == ["thread"]

            tasks.start_soon(caller)
            await anyio.sleep(0.02)
            go_on.set()
        thread.join()
        assert creations == ["thread"]

    run(main)


@pytest.mark.parametrize("rounds", [int(os.environ.get("DOGPILE_FS_CANCELS", "1500"))])
def test_random_cancels_leave_nothing_held_and_no_descriptor(tmp_path: Path, run: Run, rounds: int) -> None:
    chance = random.Random(15)
    paths = [str(tmp_path / str(number)) for number in range(4)]

    async def main() -> None:
        running = [0] * len(paths)
        cancelled = 0

        async def caller(number: int) -> None:
            nonlocal cancelled
            dogpile = dogpiles[number]

            async def creator() -> None:
                running[number] += 1
                assert running[number] == 1
                try:
                    await anyio.sleep(chance.random() * 0.003)
                finally:
                    running[number] -= 1

            with anyio.move_on_after(chance.random() * 0.004) as scope:
                match chance.randrange(4):
                    case 0:
                        await dogpile.invalidate(hard=chance.random() < 0.7)
                    case 1:
                        await dogpile.refresh(creator, force=chance.random() < 0.3)
                    case _:
                        async with dogpile.acquire(creator):
                            await anyio.sleep(chance.random() * 0.001)
            cancelled += scope.cancelled_caught

        dogpiles = [Dogpile(3600, path) for path in paths]
        for _ in range(rounds // 50):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(caller, chance.randrange(len(paths)))
        assert cancelled > rounds / 20
        for dogpile in dogpiles:
            assert await dogpile.refresh(nothing, force=True, timeout=PATIENCE)
            assert not (await dogpile.status()).creating

    run(main)
    gc.collect()
    ours = wait_for(lambda: not [d for d in descriptors().values() if d.endswith(".lock")], "the last lock file")
    assert ours


@pytest.mark.parametrize("is_trio", [False, True])
def test_an_event_loop_that_ends_ends_its_creations(path: str, is_trio: bool) -> None:
    begun = []

    async def creator() -> None:
        begun.append(1)
        await anyio.sleep(3600)

    async def main() -> None:
        dogpile = Dogpile(3600, path)
        with anyio.move_on_after(60) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dogpile.refresh, creator)
                await until(lambda: begun)
                scope.cancel()

    anyio.run(main, backend="trio" if is_trio else "asyncio")
    after = dogpile_fs.Dogpile(3600, path)
    wait_for(lambda: not after.status().creating, "the end of the creation")
    assert (after.status().failures, after.status().generation) == (0, 0)
    assert after.refresh(lambda: None)


def test_a_program_ends_that_has_left_its_event_loop_open_and_a_creation_in_it(path: str) -> None:
    script = f"""
import asyncio
from dogpile_fs.aio import Dogpile

async def creator():
    await asyncio.sleep(3600)

async def main():
    dogpile = Dogpile(3600, {path!r})
    task = asyncio.ensure_future(dogpile.refresh(creator))
    while not (await dogpile.status()).creating:
        await asyncio.sleep(0.01)
    task.cancel()

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=PATIENCE)
    status = dogpile_fs.Dogpile(3600, path).status()
    assert (status.creating, status.failures) == (False, 0)


def test_a_plain_with_is_refused(dogpile: Dogpile, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="async"), dogpile.acquire(nothing):  # type: ignore[attr-defined]
            pass
        await dogpile.refresh(nothing)
        for _ in range(2):
            with pytest.raises(TypeError), dogpile.acquire(nothing):  # type: ignore[attr-defined]
                pass

    run(main)


def test_it_is_told_of_new_versions_in_its_event_loop(path: str, run: Run) -> None:
    async def main() -> None:
        dogpile, here, told = Dogpile(3600, path), threading.current_thread(), []
        is_told = anyio.Event()

        async def callback(which: Dogpile) -> None:
            await anyio.sleep(0)
            told.append((which is dogpile, threading.current_thread() is here))
            is_told.set()

        with dogpile.on_new_version(callback):
            await dogpile.refresh(nothing)
            await is_told.wait()
        assert told == [(True, True)]

    run(main)


def test_it_is_pickled_and_used_after_a_fork(path: str, processes: Processes) -> None:
    dogpile = Dogpile(60, path, timeout=5)
    anyio.run(dogpile.refresh, nothing)
    copy = pickle.loads(pickle.dumps(dogpile))
    assert (copy.path, copy.expiretime, type(copy)) == (path, 60, Dogpile)
    assert repr(copy) == f"aio.Dogpile(60.0, {path!r})"

    def child() -> None:
        async def main() -> None:
            await dogpile.invalidate(hard=True)
            async with dogpile.acquire(nothing):
                pass

        anyio.run(main)

    processes.start(child)
    processes.join()
    assert dogpile.version == copy.version
    assert dogpile.createdtime > 0


def test_the_package_imports_no_event_loop() -> None:
    script = (
        # Some releases of these two import asyncio themselves; portalocker with redis, if that is installed.
        "import sys; sys.modules['redis'] = None; import filelock, portalocker; before = {*sys.modules}; "
        "from dogpile_fs import *; "
        "print([name for name in ('anyio', 'asyncio', 'trio') if name in {*sys.modules} - before])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_anyio_the_import_says_what_to_install() -> None:
    script = "import sys; sys.modules['anyio'] = None; import dogpile_fs.aio"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "python -m pip install 'dogpile_fs[aio]'" in done.stderr.splitlines()[-1]


def test_a_task_that_is_cancelled_natively_leaves_its_creation_alone(path: str) -> None:
    async def main() -> None:
        dogpile, creations, go_on = Dogpile(3600, path), [], asyncio.Event()

        async def creator() -> None:
            creations.append(1)
            await go_on.wait()

        tasks = [asyncio.create_task(dogpile.refresh(creator, force=True)) for _ in range(3)]
        await until(lambda: creations)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        go_on.set()
        async with dogpile.acquire(nothing):
            assert creations == [1]

    asyncio.run(main())
