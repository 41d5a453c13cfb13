"""The faults of a trial: each strikes once while all hosts run, and is over when it returns."""

from __future__ import annotations

import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dogpile_fs._dogpile.head import decode_head, encode_head, new_nonce
from dogpile_fs.origin import UNCHANGED, Down, Lost

from .proxy import Proxy
from .steps import STEPS
from .trial import ROOM, Host, Trial, Worker

__all__ = ["ALL", "FAULTS", "ON_DEMAND", "Fault"]

#: Kinds of origins: ``s3`` is moto, ``az`` Azurite, ``rgw`` the gateway of Ceph.
ALL = ("directory", "redis", "s3", "az", "rgw")
#: Those that are tried only where they are asked for: it takes a cluster.
ON_DEMAND = ("rgw",)
_OBJECTS = ("s3", "az", "rgw")
#: Seconds for which a creator is stopped: longer than the ttl, and than the judge lets a reader wait.
_STOP = 4.0
#: The same at a step at which it may hold what others of its host need: long enough for a version to expire first.
_STOP_AT_STEP = 7.0
#: Seconds from the begin of a creation after which its creator runs, and has not ended: its process publishes
#: at once when it goes on.
_CREATOR_RUNS = 0.1
#: Seconds for which answers are lost, or a host is cut.
_DISTURBED = 3.0
#: Versions that are published while answers are lost, after these seconds.
_MEANWHILE = 2
#: Seconds for which each of them is waited for.
_LONGEST_DISTURBED = 10.0
_CUT = 1.0, 4.0
#: Seconds from the begin of a creation at which it is struck: before, in and after the publication.
_MOMENT = 0.0, 0.7
#: Steps of the protocol at which one trial kills.
_STEPS = 3
#: Heads in whose time a head is removed: more than twice as many as a directory keeps.
_HEADS = 40


@dataclass(frozen=True)
class Fault:
    """*strike* does the harm; *kinds*: of origins that it is for."""

    strike: Callable[[Trial], None]
    kinds: tuple[str, ...] = ALL


def _none(trial: Trial) -> None:
    trial.next_version()


def _stop(trial: Trial) -> None:
    """The creating process is stopped beyond the ttl, and goes on."""
    worker = trial.creating()
    with trial.harm("stopped", worker):
        worker.popen.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        trial.next_version()
        trial.rest(max(0.0, began + _STOP - time.monotonic()))
        worker.popen.send_signal(signal.SIGCONT)


def _kill(trial: Trial) -> None:
    """The creating process is killed, at some moment; the other one of its host goes on."""
    worker = trial.creating()
    trial.rest(trial.random.uniform(*_MOMENT))
    _killed(trial, worker)
    trial.next_version()


def _kill_host(trial: Trial) -> None:
    """All processes of the host that creates are killed, and started again later."""
    host = trial.host_of(trial.creating())
    trial.rest(trial.random.uniform(*_MOMENT))
    for worker in host.workers:
        _killed(trial, worker)
    trial.next_version()
    trial.start(host)
    trial.next_version()


def _kill_steps(trial: Trial) -> None:
    """A process is killed at a step of the protocol, and started again; then another one at the next step."""
    for number in range(_STEPS):
        step = STEPS[(_STEPS * trial.seed + number) % len(STEPS)]
        if step.startswith("end."):  # it comes after a death
            _start_again(trial, trial.reached("creator.in", "killed"))
        _start_again(trial, trial.reached(step, "killed"))
        trial.next_version()


def _start_again(trial: Trial, worker: Worker) -> None:
    worker.popen.wait()
    host = trial.host_of(worker)
    host.workers.remove(worker)
    trial.add_workers(host, 1)


def _stop_at_step(trial: Trial) -> None:
    """A process is stopped at a step of the protocol, beyond the ttl, and goes on."""
    step = STEPS[trial.seed % len(STEPS)]
    if step.startswith("end."):
        _start_again(trial, trial.reached("creator.in", "killed"))
    worker = trial.reached(step, "stopped")
    trial.rest(_STOP_AT_STEP)
    worker.popen.send_signal(signal.SIGCONT)
    trial.next_version()


def _stop_for_long(trial: Trial) -> None:
    """A process is stopped in the middle of a write, until its head has been written and removed by others."""
    worker, engine = trial.reached("link.before", "stopped"), trial.engine
    for _ in range(_HEADS):
        with suppress(Lost, Down):
            found = engine.read()
            if found is not None and found != UNCHANGED:
                engine.swap(encode_head(decode_head(found[0]), new_nonce()), found[1])
    trial.next_version()
    worker.popen.send_signal(signal.SIGCONT)
    trial.next_version()


def _killed(trial: Trial, worker: Worker) -> None:
    with trial.harm("killed", worker):
        worker.popen.kill()
        worker.popen.wait()


def _cut(trial: Trial) -> None:
    """The host that creates is cut off, before it publishes, meanwhile or after it, and comes back."""
    host = trial.host_of(trial.creating())
    trial.rest(trial.random.uniform(*_MOMENT))
    host.cut(is_silent=trial.random.random() < 0.5)
    trial.rest(trial.random.uniform(*_CUT))
    host.mend()
    trial.next_version()


def _cut_before(trial: Trial) -> None:
    """The host that creates is cut off when it is about to publish, and comes back."""
    _cut_at(trial, "publish.before")


def _cut_after(trial: Trial) -> None:
    """The host that creates is cut off when it has just published, before it has its version in place."""
    _cut_at(trial, "publish.after")


def _cut_at(trial: Trial, step: str) -> None:
    worker = trial.reached(step, "stopped")
    host = trial.host_of(worker)
    host.cut(is_silent=trial.random.random() < 0.5)
    worker.popen.send_signal(signal.SIGCONT)
    trial.rest(trial.random.uniform(*_CUT))
    host.mend()
    trial.next_version()


def _lost(trial: Trial) -> None:
    """Writes are made, and their answers are lost."""
    trial.creating()
    with _switched_on(trial, "lost"):
        _disturb(trial, "loses", 0.5 if trial.kind in _OBJECTS else 0.2)


def _refused(trial: Trial) -> None:
    """The server refuses writes. A bucket says 409, 412, 429 or 500, and a directory EIO, ESTALE, ENOSPC or
    EDQUOT, whether or not they have done what they were asked; Redis says that it has no memory, then no replica.
    """
    trial.creating()
    if trial.kind != "redis":
        with _switched_on(trial, "refused"):
            _disturb(trial, "refuses", 0.5)
        return
    redis = _redis(trial)
    for name, bad, good in (("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")):
        redis.config_set(name, bad)
        trial.rest(_DISTURBED / 2)
        redis.config_set(name, good)
        trial.next_version()


@contextmanager
def _switched_on(trial: Trial, name: str) -> Iterator[None]:
    switch = trial.control / name
    switch.touch()
    yield
    switch.unlink()


def _disturb(trial: Trial, how: str, part: float) -> None:
    proxies = [host.reach for host in trial.hosts if isinstance(host.reach, Proxy)]
    for proxy in proxies:
        setattr(proxy, how, part)
    trial.rest(_DISTURBED)
    with suppress(AssertionError):  # on a loaded machine too; and where too much is lost, there may be none
        for _ in range(_MEANWHILE):
            trial.next_version(_LONGEST_DISTURBED)
    for proxy in proxies:
        setattr(proxy, how, 0.0)


def _clocks(trial: Trial) -> None:
    """The clocks are wrong from the beginning; each host has created meanwhile, if chance has it."""
    for host in trial.hosts:
        with suppress(AssertionError):
            trial.wait(lambda host=host: _creates(trial, host), "creation", 5.0)  # type: ignore[misc]


def _creates(trial: Trial, host: Host) -> bool:
    head = trial.head()
    attempt = None if head is None else head.record.attempt
    return attempt is not None and any(worker.popen.pid == attempt.pid for worker in host.workers)


def _wipe(trial: Trial) -> None:
    """The origin is emptied while all run."""
    with trial.harm("loss"):
        if trial.kind == "directory":
            origin = Path(trial.origin.url)
            away = origin.with_suffix(".away")
            origin.rename(away)
            shutil.rmtree(away)
        elif trial.kind == "redis":
            _redis(trial).flushall()
        else:
            _empty_bucket(trial)
    trial.next_version()


def _empty_bucket(trial: Trial) -> None:
    obstore: Any = import_module("obstore")
    stores, prefix, options = (
        import_module("obstore.store"),
        trial.origin.url.rpartition("/")[2],
        {"allow_http": True},
    )
    if trial.kind in ("s3", "rgw"):
        store = stores.S3Store("tests", prefix=prefix, client_options=options)
    else:
        store = stores.AzureStore(container_name="tests", prefix=prefix, client_options=options)
    for page in obstore.list(store):
        for meta in page:
            with suppress(FileNotFoundError):
                obstore.delete(store, meta["path"])


def _redis(trial: Trial) -> Any:
    assert trial.server is not None
    return import_module("redis").Redis("127.0.0.1", trial.server.port)


def _restart(trial: Trial) -> None:
    """Redis fails over to a server that has nothing."""
    assert trial.server is not None
    with trial.harm("loss"):
        trial.server.restart()
    trial.next_version()


def _set_back(trial: Trial) -> None:
    """Redis fails over to a server that has not seen the begin of a creation; another host begins one there."""
    redis, found = _redis(trial), None
    keys: dict[bytes, bytes] = {}
    while found is None:  # the last state without an attempt, and the creation after it
        head = trial.head()
        state = {key: redis.dump(key) for key in redis.scan_iter()}
        if head is not None and not head.is_attempted and trial.head() == head:
            keys = state
        elif head is not None and head.is_attempted and keys:
            attempt = head.record.attempt
            found = next((each for each in trial.workers() if attempt and each.popen.pid == attempt.pid), None)
    trial.rest(_CREATOR_RUNS)
    with trial.harm("stopped", found):
        found.popen.send_signal(signal.SIGSTOP)
        with trial.harm("loss"), redis.pipeline() as change:
            change.flushall()
            for key, value in keys.items():
                change.restore(key, 0, value)
            change.execute()
        other = trial.others(trial.host_of(found))
        with suppress(AssertionError):  # by the other process of the same host, instead
            trial.wait(lambda: _creates(trial, other), "creation", 10.0)
        found.popen.send_signal(signal.SIGCONT)
    trial.next_version()


def _damage(trial: Trial) -> None:
    """The blob of the current version is overwritten before all hosts have fetched it."""
    _spoil(trial, lambda name: trial.engine.put(name, str(trial.root / "spoilt")))


def _remove(trial: Trial) -> None:
    """The blob of the current version is removed before all hosts have fetched it."""
    _spoil(trial, trial.engine.remove)


def _spoil(trial: Trial, spoil: Callable[[str], None]) -> None:
    (trial.root / "spoilt").write_bytes(b"spoilt")
    host = trial.others(trial.host_of(trial.creating()))
    host.cut(is_silent=False)  # so that it has not fetched it
    trial.next_version()
    head = trial.head()
    if head is not None and head.blob is not None:
        spoil(head.blob.name)
    host.mend()
    trial.next_version()


def _full(trial: Trial) -> None:
    """The disk of one host is full while it fetches, or its files may not grow to the size of a version."""
    host = trial.hosts[-1]
    with ExitStack() as stopped:  # so that it is the other host that creates
        for worker in host.workers:
            stopped.enter_context(trial.harm("stopped", worker))
            worker.popen.send_signal(signal.SIGSTOP)
        trial.creating(on=trial.others(host))
        for worker in host.workers:
            worker.popen.send_signal(signal.SIGCONT)
    with _filled(host.directory / "filler") if trial.has_small_disk else _limited(host):
        trial.next_version()
        trial.rest(_DISTURBED)
    trial.next_version()


@contextmanager
def _filled(file: Path) -> Iterator[None]:
    with open(file, "wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(1 << 16)):
            pass
    yield
    file.unlink()


@contextmanager
def _limited(host: Host) -> Iterator[None]:
    limits = {each: resource.prlimit(each.popen.pid, resource.RLIMIT_FSIZE) for each in host.workers}
    for worker, (_, hard) in limits.items():
        resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE, (ROOM, hard))
    yield
    for worker, limit in limits.items():
        resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE, limit)


#: By name.
FAULTS = {
    "none": Fault(_none),
    "stop": Fault(_stop),
    "kill": Fault(_kill),
    "kill-host": Fault(_kill_host),
    "kill-steps": Fault(_kill_steps),
    "stop-at-step": Fault(_stop_at_step),
    "stop-for-long": Fault(_stop_for_long, ("directory",)),
    "cut": Fault(_cut),
    "cut-before": Fault(_cut_before),
    "cut-after": Fault(_cut_after),
    "lost": Fault(_lost),
    "refused": Fault(_refused),
    "clocks": Fault(_clocks),
    "wipe": Fault(_wipe),
    "restart": Fault(_restart, ("redis",)),
    "set-back": Fault(_set_back, ("redis",)),
    "damaged": Fault(_damage),
    "removed": Fault(_remove),
    "full": Fault(_full),
    "unfit": Fault(_none, ("s3",)),
}
