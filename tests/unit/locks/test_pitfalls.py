"""The known pitfalls of file locks, one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dogpile_fs import Dogpile, FileMutex, ReadWriteFileLock, SyncReaderDogpile, WouldDeadlock
from tests.support.processes import Processes, Record, ended_well, in_child, overlaps, wait_for

# flock belongs to the open file description: a copy made by fork excludes no process, and unlocks for all.


def _create_repeatedly(dogpile: Dogpile, record: Record, times: int) -> None:
    def creator() -> None:
        record.write("create")
        time.sleep(0.001)
        record.write("created")

    for _ in range(times):
        dogpile.refresh(creator, force=True)


def _read_repeatedly(lock: ReadWriteFileLock, record: Record, times: int) -> None:
    for _ in range(times):
        with lock.read():
            record.write("read")
            time.sleep(0.001)
            record.write("has read")


def _write_repeatedly(lock: ReadWriteFileLock, record: Record, times: int) -> None:
    for _ in range(times):
        with lock.write():
            record.write("write")
            record.write("has written")


def test_a_dogpile_made_and_used_before_fork_excludes_in_all_children(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = SyncReaderDogpile(3600, path)
    with dogpile.acquire(lambda: None):
        pass
    processes.start_many(6, _create_repeatedly, dogpile, record, 30)
    _create_repeatedly(dogpile, record, 30)
    processes.join()
    assert overlaps(*[record.spans("create", "created")] * 2) == []
    assert dogpile.status().generation == 1 + 7 * 30


def test_a_read_write_lock_used_before_fork_excludes_in_all_children(
    path: str, record: Record, processes: Processes
) -> None:
    lock = ReadWriteFileLock(path)
    with lock.read():
        pass
    processes.start_many(4, _read_repeatedly, lock, record, 50)
    processes.start_many(2, _write_repeatedly, lock, record, 50)
    processes.join()
    assert overlaps(record.spans("read", "has read"), record.spans("write", "has written")) == []


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_dogpile_pickled_to_a_spawned_process_coordinates_with_it(
    path: str, record: Record, processes: Processes, method: str
) -> None:
    dogpile = SyncReaderDogpile(3600, path, timeout=50, mode=0o640)
    processes.start_many(2, _create_repeatedly, dogpile, record, 20, method=method)
    _create_repeatedly(dogpile, record, 20)
    processes.join()
    assert overlaps(*[record.spans("create", "created")] * 2) == []
    assert dogpile.status().generation == 60
    assert os.stat(path + ".dogpile").st_mode & 0o777 == 0o640


def test_a_child_that_leaves_the_parents_mutex_block_does_not_unlock_the_parent(path: str) -> None:
    mutex, other = FileMutex(path), FileMutex(path)
    in_parent = os.getpid()
    with mutex:
        child = os.fork()
        if child:
            assert ended_well(child)
            assert not other.acquire(wait=False)
    if os.getpid() != in_parent:
        os._exit(0 if not mutex.acquire(wait=False) else 1)
    assert other.acquire(wait=False)


def test_a_child_that_leaves_the_parents_read_block_does_not_unlock_the_parent(path: str) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    in_parent = os.getpid()
    lock.acquire_read_lock()
    with lock.read():
        child = os.fork()
        if child:
            assert ended_well(child)
            assert not other.acquire_write_lock(wait=False)
    lock.release_read_lock()
    if os.getpid() != in_parent:
        # The child is no reader: otherwise a writer would have to wait for its parent alone now.
        os._exit(0 if not lock._inside() else 1)
    assert other.acquire_write_lock(wait=False)


def test_a_child_that_leaves_the_parents_write_block_does_not_unlock_the_parent(path: str) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    in_parent = os.getpid()
    with lock.write():
        child = os.fork()
        if child:
            assert ended_well(child)
            assert not other.acquire_read_lock(wait=False)
    if os.getpid() != in_parent:
        os._exit(0)
    assert other.acquire_read_lock(wait=False)


def test_a_child_that_lives_on_does_not_keep_its_dead_parents_locks(
    path: str, record: Record, processes: Processes
) -> None:
    def hold_fork_and_wait() -> None:
        with FileMutex(path), ReadWriteFileLock(path + ".rw").write():
            if os.fork() == 0:
                record.write("child")
                time.sleep(3600)
            time.sleep(3600)

    parent = processes.start(hold_fork_and_wait)
    child = record.wait("child")[0].pid
    try:
        assert not FileMutex(path).acquire(wait=False)
        assert not ReadWriteFileLock(path + ".rw").acquire_read_lock(wait=False)
        parent.kill()
        parent.join()
        assert FileMutex(path).acquire(timeout=10)
        assert ReadWriteFileLock(path + ".rw").acquire_write_lock(timeout=10)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_forked_inside_the_creator_neither_stamps_nor_frees_the_mutex(path: str) -> None:
    dogpile, other = Dogpile(3600, path), Dogpile(3600, path)
    in_parent = os.getpid()
    seen: list[object] = []

    def creator() -> None:
        child = os.fork()
        if child:
            assert ended_well(child)
            seen.append((other.has_value, other.status().creating))

    dogpile.refresh(creator)
    if os.getpid() != in_parent:
        os._exit(0)
    assert seen == [(False, True)]
    assert dogpile.status().generation == 1


@pytest.mark.forks_among_threads
def test_forks_while_other_threads_lock_leave_no_child_hanging(path: str) -> None:
    dogpile = SyncReaderDogpile(0.001, path)
    stop = threading.Event()

    def creator() -> None:
        with dogpile.acquire_write_lock():
            pass

    def use() -> None:
        while not stop.is_set():
            with dogpile.acquire(creator):
                pass

    def use_once() -> None:
        with dogpile.acquire(creator, timeout=30):
            pass

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    try:
        for _ in range(60):
            assert ended_well(in_child(use_once))
    finally:
        stop.set()
        for user in users:
            user.join()


@pytest.mark.forks_among_threads
def test_thread_scope_forked_while_a_thread_creates_starts_free_in_the_child() -> None:
    dogpile = SyncReaderDogpile(3600)
    creating, enough = threading.Event(), threading.Event()

    def creator() -> None:
        creating.set()
        enough.wait()

    def create() -> None:
        with dogpile.acquire(creator):
            pass

    def use_in_child() -> None:
        with dogpile.acquire(lambda: None, timeout=10):
            pass
        with dogpile.acquire_write_lock(timeout=10):
            pass

    thread = threading.Thread(target=create)
    thread.start()
    creating.wait()
    child = in_child(use_in_child)
    enough.set()
    thread.join()
    assert ended_well(child)


# A deleted lock file splits its users over two inodes.


def test_a_caller_that_wins_a_lock_on_a_file_that_is_gone_starts_over(path: str) -> None:
    holder, waiter = FileMutex(path), FileMutex(path)
    holder.acquire()
    won = threading.Event()

    def wait() -> None:
        waiter.acquire()
        won.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: _is_waited_for(path), "the waiter")
    os.unlink(path)
    newcomer = FileMutex(path)
    newcomer.acquire()
    holder.release()
    assert not won.wait(0.1), "it holds a lock on a file that no other process will ever open"
    newcomer.release()
    assert won.wait(30)
    thread.join()


def _is_waited_for(lock_file: str) -> bool:
    inode = os.stat(lock_file).st_ino
    with open("/proc/locks") as locks:
        return any("->" in line and f":{inode} " in line for line in locks)


def test_holding_a_lock_file_that_was_deleted_is_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with FileMutex(path):
        os.unlink(path)
    with ReadWriteFileLock(path).write():
        os.unlink(path)
    assert [record.message.count(path) for record in caplog.records] == [1, 1]


def test_readers_find_a_replaced_lock_file_within_ten_milliseconds(path: str) -> None:
    readers, writer = ReadWriteFileLock(path), ReadWriteFileLock(path)
    with readers.read():
        pass
    os.unlink(path)
    with writer.write():
        time.sleep(0.011)
        assert not readers.acquire_read_lock(wait=False)
    assert readers.acquire_read_lock(wait=False)
    assert not writer.acquire_write_lock(wait=False)


def test_readers_inside_a_deleted_file_and_newcomers_leave_in_any_order(path: str) -> None:
    lock, writer = ReadWriteFileLock(path), ReadWriteFileLock(path)
    inside, leave = threading.Event(), threading.Event()

    def read_the_old() -> None:
        with lock.read():
            inside.set()
            leave.wait()

    old = threading.Thread(target=read_the_old)
    old.start()
    inside.wait()
    os.unlink(path)
    time.sleep(0.011)
    with lock.read():
        assert not writer.acquire_write_lock(wait=False)
        leave.set()
        old.join()
        assert not writer.acquire_write_lock(wait=False)
    assert writer.acquire_write_lock(wait=False)


def _read_until_told(path: str, record: Record) -> None:
    with ReadWriteFileLock(path).read():
        record.write("inside")
        record.wait("leave")


def test_a_reader_inside_whose_lock_file_was_deleted_is_not_seen_through_the_new_one(
    path: str, record: Record, processes: Processes
) -> None:
    reader = processes.start(_read_until_told, path, record)
    record.wait("inside")
    writer = ReadWriteFileLock(path)
    assert not writer.acquire_write_lock(wait=False)
    os.unlink(path)
    assert writer.acquire_write_lock(wait=False)
    record.write("leave")
    processes.join(reader)
    writer.release_write_lock()


# Under a cooperative scheduler a blocking flock stops the whole worker.

_GREENLETS = """
import sys
if {import_first}:
    import dogpile_fs
from gevent import monkey
monkey.patch_all()
import gevent, time, threading
from dogpile_fs import *

path = sys.argv[1]
ticks = [0]
def tick():
    while True:
        gevent.sleep(0.001)
        ticks[0] += 1
gevent.spawn(tick)

def waits(wait, until):
    "Run wait and, once others have been served meanwhile, until; True if that works."
    waiter = gevent.spawn(wait)
    before = ticks[0]
    while ticks[0] < before + 50:
        gevent.sleep(0.001)
    assert not waiter.ready(), waiter
    until()
    waiter.join(30)
    assert waiter.successful(), waiter.exception

{body}
print("ended well")
"""

_GEVENT_CASES = {
    "a greenlet waits for a greenlet's first creation": """
import gevent.event
for dogpile, other in [(Dogpile(3600, path), Dogpile(3600, path)), (Dogpile(3600),) * 2]:
    enough = gevent.event.Event()
    creating = gevent.spawn(lambda: dogpile.refresh(enough.wait))
    gevent.sleep(0.01)
    def wait():
        with other.acquire(lambda: 1/0):
            pass
    waits(wait, enough.set)
    creating.get(timeout=30)
""",
    "a greenlet waits for another process's first creation": """
import subprocess
script = "import sys; from dogpile_fs import *; Dogpile(3600, sys.argv[1]).refresh(input)"
creating = subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE)
dogpile = Dogpile(3600, path)
while not dogpile.status().creating:
    gevent.sleep(0.001)
def wait():
    with dogpile.acquire():
        pass
def go_on():
    creating.stdin.write(b"\\n")
    creating.stdin.close()
waits(wait, go_on)
assert creating.wait() == 0
""",
    "a mutex": """
mutex, other = FileMutex(path), FileMutex(path)
mutex.acquire()
waits(mutex.acquire, mutex.release)
waits(other.acquire, mutex.release)
""",
    "readers and writers": """
lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
import gevent.event
def held(block, *args):
    inside, leave = gevent.event.Event(), gevent.event.Event()
    def hold():
        with block(*args):
            inside.set()
            leave.wait()
    greenlet = gevent.spawn(hold)
    inside.wait()
    return leave.set
def write():
    with lock.write(): pass
def read():
    with lock.read(): pass
waits(write, held(other.read))
waits(write, held(lock.read))
waits(read, held(other.write))
waits(read, held(lock.write))
""",
    "a thread-scope SyncReaderDogpile": """
dogpile = SyncReaderDogpile(3600, init=True)
import gevent.event
inside, leave = gevent.event.Event(), gevent.event.Event()
def use():
    with dogpile.acquire(lambda: None):
        inside.set()
        leave.wait()
gevent.spawn(use)
inside.wait()
def write():
    with dogpile.acquire_write_lock(): pass
waits(write, leave.set)
""",
}


@pytest.mark.parametrize("import_first", [False, True])
@pytest.mark.parametrize("case", _GEVENT_CASES)
def test_under_gevent_waiting_serves_other_greenlets(path: str, case: str, import_first: bool) -> None:
    pytest.importorskip("gevent")
    script = _GREENLETS.format(body=_GEVENT_CASES[case], import_first=import_first)
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.endswith("ended well\n"), done.stderr


# A reader that enters a second time while a writer waits would wait for the writer that waits for it.


@pytest.mark.parametrize("through_another_object", [False, True])
def test_a_reader_may_enter_again_while_a_writer_waits(path: str, through_another_object: bool) -> None:
    lock, writer = ReadWriteFileLock(path), ReadWriteFileLock(path)
    again = ReadWriteFileLock(path) if through_another_object else lock
    wrote = threading.Event()

    def write() -> None:
        with writer.write():
            wrote.set()

    thread = threading.Thread(target=write)
    with lock.read():
        thread.start()
        wait_for(lambda: _is_waited_for(path), "the writer")
        with again.read(timeout=30), again.read(timeout=30):
            assert not wrote.is_set()
    assert wrote.wait(30)
    thread.join()


def test_in_a_nested_block_what_is_stale_passes_through(path: str) -> None:
    dogpile = SyncReaderDogpile(3600, path)

    def creator() -> None:
        with dogpile.acquire_write_lock():
            pass

    with dogpile.acquire(creator):
        dogpile.invalidate()
        with dogpile.acquire(creator):
            assert dogpile.is_expired
    with dogpile.acquire(creator):
        assert not dogpile.is_expired


# A thread that would wait for itself is refused at once.


def _write_in_read(dogpile: SyncReaderDogpile) -> None:
    with dogpile.acquire(lambda: None), dogpile.acquire_write_lock():
        pass


def _read_in_write(dogpile: SyncReaderDogpile) -> None:
    dogpile.refresh(lambda: None)
    with dogpile.acquire_write_lock(), dogpile.acquire():
        pass


def _write_in_write(dogpile: SyncReaderDogpile) -> None:
    with dogpile.acquire_write_lock(), dogpile.acquire_write_lock():
        pass


def _acquire_in_creator(dogpile: SyncReaderDogpile) -> None:
    with dogpile.acquire(lambda: _acquire_in_creator(dogpile)):
        pass


def _force_in_creator(dogpile: SyncReaderDogpile) -> None:
    dogpile.refresh(lambda: dogpile.refresh(lambda: None, force=True))


@pytest.mark.parametrize("scope", ["thread", "process"])
@pytest.mark.parametrize(
    "wait_for_oneself",
    [_write_in_read, _read_in_write, _write_in_write, _acquire_in_creator, _force_in_creator],
)
def test_waiting_for_oneself_raises_and_harms_nothing(
    path: str, scope: str, wait_for_oneself: Callable[[SyncReaderDogpile], None]
) -> None:
    dogpile = SyncReaderDogpile(3600, path if scope == "process" else None)
    with pytest.raises(WouldDeadlock, match="itself"):
        wait_for_oneself(dogpile)
    with dogpile.acquire(lambda: None, timeout=10):
        pass
    with dogpile.acquire_write_lock(timeout=10):
        pass


# A memory-mapped sidecar would kill its readers with SIGBUS when it is truncated.


def test_truncating_the_sidecar_while_others_pass_kills_nobody(
    path: str, record: Record, processes: Processes
) -> None:
    def use(stop: str) -> None:
        dogpile = Dogpile(3600, path)
        while not os.path.exists(stop):
            with dogpile.acquire(lambda: None):
                pass

    dogpile = Dogpile(3600, path)
    dogpile.refresh(lambda: None)
    users = processes.start_many(2, use, path + ".stop")
    for size in [0, 511, 100, 1, 0, 4096] * 20:
        os.truncate(path + ".dogpile", size)
        with dogpile.acquire(lambda: None):
            pass
    open(path + ".stop", "w").close()
    processes.join(*users)


# Stale passes happen on every request while another caller creates.

_COUNT_ELECTIONS = """
import sys, time
from dogpile_fs import Dogpile, FileMutex
opened = []
dogpile = Dogpile(3600, sys.argv[1])
dogpile.refresh(lambda: None)
dogpile.invalidate()
with FileMutex(sys.argv[1] + ".dogpile.lock"):
    sys.addaudithook(lambda event, args: event == "open" and opened.append(args[0]))
    began = time.monotonic()
    for _ in range(20000):
        with dogpile.acquire(lambda: 1/0):
            pass
    took = time.monotonic() - began
print(sum(str(name).endswith(".lock") for name in opened), took)
"""


def test_after_a_lost_election_nobody_stands_again_for_five_milliseconds(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_ELECTIONS, path], capture_output=True, text=True, timeout=120, check=True
    )
    elections, took = done.stdout.split()
    assert 1 <= int(elections) <= float(took) / 0.005 + 1


# A clock that jumps.


def test_a_createdtime_in_the_future_is_stale_and_not_fresh_for_ever(path: str) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.createdtime = time.time() + 86400
    assert dogpile.is_expired
    assert dogpile.refresh(lambda: None)
    assert not dogpile.is_expired
    assert dogpile.createdtime <= time.time()
