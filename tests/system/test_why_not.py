"""``docs/why_not.rst``: what the page says of other packages is what they do, each in its own words.

A package that is not installed is skipped; ``tox -e docs`` has all of them.
"""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.processes import PATIENCE, wait_for

#: Begins each program: a creator that leaves a mark and takes so long that the others come meanwhile.
_CREATOR = """
import os, signal, sys, time

def create():
    with open("created", "a") as file:
        file.write("x")
    time.sleep(float(os.environ.get("SECONDS", "0")))
    return "value"

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def together():
    open(f"ready-{os.getpid()}", "x").close()
    while not os.path.exists("go"):
        time.sleep(0.005)
"""


def started(directory: Path, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CREATOR + textwrap.dedent(program)],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        env={"SECONDS": "1", "PATH": "/usr/bin:/bin"},
    )


def run(directory: Path, program: str) -> str:
    """Run *program* to its end, by whichever way, and return what it prints."""
    return started(directory, program).communicate(timeout=PATIENCE)[0].strip()


def started_together(directory: Path, program: str, count: int) -> list[subprocess.Popen[str]]:
    """Start *program* several times, and let all go on from its ``together()`` at one moment."""
    running = [started(directory, program) for _ in range(count)]
    wait_for(lambda: len(list(directory.glob("ready-*"))) == count, "all of them")
    (directory / "go").touch()
    return running


def run_together(directory: Path, program: str, count: int) -> list[str]:
    running = started_together(directory, program, count)
    return [each.communicate(timeout=PATIENCE)[0].strip() for each in running]


def creations(directory: Path) -> int:
    return len((directory / "created").read_text())


def held(directory: Path, program: str) -> subprocess.Popen[str]:
    """Start *program*, and return when it has printed that it holds its lock."""
    process = started(directory, program)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


# Plain locks


@pytest.mark.parametrize(
    ("module", "lock", "refused"),
    [
        ("filelock", "filelock.FileLock('lock', timeout=0).acquire()", "filelock.Timeout"),
        (
            "portalocker",
            "portalocker.Lock('lock', timeout=0, fail_when_locked=True).acquire()",
            "portalocker.exceptions.LockException",
        ),
    ],
)
def test_a_caller_that_comes_while_it_is_held_waits_or_gets_nothing(
    module: str, lock: str, refused: str, tmp_path: Path
) -> None:
    pytest.importorskip(module)
    holder = held(tmp_path, f"import {module}\nlock = {lock}\nprint('held', flush=True)\ntime.sleep(60)")
    try:
        program = f"import {module}\ntry:\n    lock = {lock}\nexcept {refused}:\n    print('refused')"
        assert run(tmp_path, program) == "refused"
    finally:
        holder.kill()
        holder.communicate()
    assert run(tmp_path, f"import {module}\nlock = {lock}\nprint('free')") == "free"


def test_fasteners_does_not_exclude_threads_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("fasteners")
    program = """
        import fasteners
        one, other = fasteners.InterProcessLock("lock"), fasteners.InterProcessLock("lock")
        print(one.acquire(), other.acquire(blocking=False))
    """
    assert run(tmp_path, program) == "True True"


def test_the_plain_locks_wait_by_polling() -> None:
    filelock, portalocker = pytest.importorskip("filelock"), pytest.importorskip("portalocker")
    fasteners = pytest.importorskip("fasteners")
    assert inspect.signature(filelock.BaseFileLock.__init__).parameters["poll_interval"].default == 0.05
    assert inspect.signature(portalocker.Lock.__init__).parameters["check_interval"].default == 0.25
    assert inspect.signature(fasteners.InterProcessLock.acquire).parameters["delay"].default == 0.01


# diskcache


def test_each_process_creates_at_a_cold_start_of_memoize_stampede(tmp_path: Path) -> None:
    pytest.importorskip("diskcache")
    run(tmp_path, "import diskcache\ndiskcache.Cache('cache')")
    program = """
        import diskcache
        cache = diskcache.Cache("cache")
        together()
        diskcache.memoize_stampede(cache, 60, name="value")(create)()
    """
    run_together(tmp_path, program, 3)
    assert creations(tmp_path) == 3


def test_each_process_creates_when_a_value_of_memoize_stampede_has_expired(tmp_path: Path) -> None:
    pytest.importorskip("diskcache")
    program = """
        import diskcache
        cache = diskcache.Cache("cache")
        {}
        diskcache.memoize_stampede(cache, 0.5, name="value")(create)()
    """
    run(tmp_path, program.format("pass"))
    time.sleep(0.6)
    run_together(tmp_path, program.format("together()"), 3)
    assert creations(tmp_path) == 4


def test_a_killed_holder_keeps_a_lock_of_diskcache(tmp_path: Path) -> None:
    pytest.importorskip("diskcache")
    lock = 'import diskcache\nlock = diskcache.Lock(diskcache.Cache("cache"), "lock")\n'
    run(tmp_path, lock + "lock.acquire()\nkilled()")
    waiter = started(tmp_path, lock + 'lock.acquire()\nprint("free")')
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.communicate(timeout=3)
    waiter.kill()
    waiter.communicate()


# dogpile.cache

_REGION = """
from dogpile.cache import make_region
region = make_region().configure("dogpile.cache.dbm", expiration_time=60, arguments={"filename": "cache.dbm"})
"""


def test_dogpile_cache_with_files_creates_once_and_survives_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("dogpile.cache")
    program = _REGION + 'together()\nprint(region.get_or_create("key", create))'
    assert run_together(tmp_path, program, 3) == ["value"] * 3
    assert creations(tmp_path) == 1
    run(tmp_path, _REGION + 'region.get_or_create("other", killed)')
    assert run(tmp_path, _REGION + 'print(region.get_or_create("other", create))') == "value"


def test_dogpile_cache_with_files_has_one_lock_for_all_keys(tmp_path: Path) -> None:
    pytest.importorskip("dogpile.cache")
    holder = held(
        tmp_path,
        _REGION + 'region.backend.get_mutex("one").acquire(True)\nprint("held", flush=True)\ntime.sleep(60)',
    )
    try:
        assert run(tmp_path, _REGION + 'print(region.backend.get_mutex("other").acquire(False))') == "False"
    finally:
        holder.kill()
        holder.communicate()


#: Each makes a function, ``value``, whose old value is stale by the time that it is called again.
_CACHES = {
    "dogpile.cache": _REGION
    + """
def caching(function):
    return lambda: region.get_or_create("key", function, expiration_time=0.2)
""",
    "diskcache": """
import diskcache
caching = diskcache.memoize_stampede(diskcache.Cache("cache"), 0.2, name="value")
""",
    "cachier": """
from datetime import timedelta
from cachier import cachier
caching = cachier(cache_dir="cache", stale_after=timedelta(seconds=0.2))
""",
}


@pytest.mark.parametrize("module", _CACHES)
def test_a_creator_that_fails_is_called_by_each_caller_which_gets_its_error(module: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    program = """
        calls = []

        def value():
            calls.append(1)
            if len(calls) > 1:
                raise ConnectionError
            return 1

        value = caching(value)
        value()
        time.sleep(0.4)
        for _ in range(3):
            try:
                value()
            except ConnectionError:
                print("raised", len(calls))
    """
    assert run(tmp_path, _CACHES[module] + textwrap.dedent(program)) == "raised 2\nraised 3\nraised 4"


# cachier

_CACHIER = """
from datetime import timedelta
from cachier import cachier
"""


def test_a_killed_creator_of_cachier_makes_the_next_caller_wait(tmp_path: Path) -> None:
    pytest.importorskip("cachier")
    decorated = """
        @cachier(cache_dir="cache", stale_after=timedelta(seconds=60))
        def value():
            {}
            return create()
    """
    run(tmp_path, _CACHIER + textwrap.dedent(decorated.format("killed()")) + "value()")
    waiter = started(tmp_path, _CACHIER + textwrap.dedent(decorated.format("pass")) + 'print(value(), "made")')
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.communicate(timeout=5)
    waiter.kill()
    waiter.communicate()


def test_callers_of_cachier_that_come_during_the_first_creation_wait_on_after_it(tmp_path: Path) -> None:
    pytest.importorskip("cachier")
    program = _CACHIER + textwrap.dedent("""
        @cachier(cache_dir="cache", stale_after=timedelta(seconds=60))
        def value():
            return create()

        {}
        value()
    """)
    running = [started(tmp_path, program.format("together()")) for _ in range(2)]
    try:
        wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2, "those that come later")
        running.append(started(tmp_path, program.format("pass")))
        wait_for(lambda: (tmp_path / "created").exists(), "the creation")
        (tmp_path / "go").touch()
        wait_for(lambda: any(each.poll() is not None for each in running), "the one that creates")
        time.sleep(3)
        assert sum(each.poll() is None for each in running) == 2
        assert creations(tmp_path) == 1
    finally:
        for each in running:
            each.kill()
            each.communicate()


# A lock in Redis


@pytest.fixture
def port() -> int:
    pytest.importorskip("redis")
    return servers.redis().port


def test_a_lease_in_redis_ends_although_its_holder_works_on(port: int, tmp_path: Path) -> None:
    lock = f'import redis\nlock = redis.Redis(port={port}).lock("why-not-lease", timeout=0.5)\n'
    holder = held(tmp_path, lock + 'lock.acquire()\nprint("held", flush=True)\ntime.sleep(60)')
    try:
        assert run(tmp_path, lock + "print(lock.acquire(blocking_timeout=30))") == "True"
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_in_redis_without_a_lease_stays_with_a_killed_holder(port: int, tmp_path: Path) -> None:
    lock = f'import redis\nlock = redis.Redis(port={port}).lock("why-not-killed")\n'
    run(tmp_path, lock + "lock.acquire()\nkilled()")
    assert run(tmp_path, lock + "print(lock.acquire(blocking_timeout=1))") == "False"


# flock(1)


def sh(directory: Path, command: str) -> int:
    return subprocess.run(["/bin/sh", "-c", command], cwd=directory, timeout=PATIENCE, check=False).returncode


def test_flock_and_a_redirection_leave_half_a_file(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.write_text("whole\n")
    running = subprocess.Popen(
        ["/bin/sh", "-c", "flock -n lock sh -c 'echo half; sleep 60; echo whole' > report"],
        cwd=tmp_path,
        process_group=0,
    )
    try:
        wait_for(lambda: report.read_text() == "half\n", "the first half")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert report.read_text() == "half\n"
    # Not -n: what was killed has the lock until the system has ended it.
    assert sh(tmp_path, "flock lock sh -c 'exit 3' > report") == 3
    assert report.read_text() == ""


def test_flock_does_not_know_how_old_the_file_is(tmp_path: Path) -> None:
    for _ in range(2):
        assert sh(tmp_path, "flock -n lock sh -c 'echo x >> made'") == 0
    assert (tmp_path / "made").read_text() == "x\nx\n"
