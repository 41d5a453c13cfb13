"""The agreement of hosts, broken on purpose: the judge must report each mutant, under the fault that shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from dogpile_fs._dogpile.head import Head
from dogpile_fs._dogpile.heartbeat import Heartbeat
from dogpile_fs._dogpile.host_election import HostElection
from dogpile_fs._dogpile.host_scope import HostScope, Overtaken
from dogpile_fs._dogpile.stamp import Stamp
from dogpile_fs._sidecar.origin_watch import OriginWatch
from dogpile_fs.origin import Down, Lost

__all__ = ["FAULTS", "apply"]


def apply(name: str) -> None:
    """Break this process's copy of the library in the way called *name*."""
    _MUTANTS[name]()


def _unconditional() -> None:
    """A version is published whatever the head is by then."""
    publish, write, state = HostElection._publish, HostScope.write, threading.local()

    def published(self: HostElection, heartbeat: Heartbeat, *args: Any) -> Stamp:
        state.publishes, heartbeat._is_lost = True, False
        try:
            return publish(self, heartbeat, *args)
        finally:
            state.publishes = False

    def stop(self: Heartbeat) -> tuple[Head, str]:
        self._stop.set()
        self._thread.join()
        return self._head, self._tag

    def written(self: HostScope, head: Head, tag: str | None, is_ours: Any) -> tuple[Head, str]:
        if getattr(state, "publishes", False):
            found = self.look()
            tag = found[1] if isinstance(found, tuple) else None
        return write(self, head, tag, is_ours)

    HostElection._publish = published  # type: ignore[assignment,method-assign]
    Heartbeat.stop = stop  # type: ignore[method-assign]
    HostScope.write = written  # type: ignore[method-assign]


def _wall_clock() -> None:
    """An attempt is taken over when it is older than the ttl, by the clock of this host."""
    look, begun = HostScope.look, [0.0]

    def looked(self: HostScope, *args: Any, **more: Any) -> Any:
        found = look(self, *args, **more)
        if isinstance(found, tuple):
            attempt = found[0].record.attempt
            begun[0] = time.time() if attempt is None else attempt.since
        return found

    HostScope.look = looked  # type: ignore[method-assign]
    OriginWatch.seen_for = lambda self: time.time() - begun[0]  # type: ignore[method-assign]


def _counter() -> None:
    """The tags of Redis are a number that it counts itself."""
    from dogpile_fs.origin import redis_server

    def swap(self: redis_server.RedisServer, value: bytes, tag: str | None) -> str:
        redis = self._within(5.0)
        script = redis_server._SWAP.replace("ARGV[2]", "(tonumber(tag or '0') + 1)")
        if not self._answer(lambda: redis.eval(script, 1, self.key, tag or "", "", value)):
            raise Lost("the tag is another one")
        return str(int(tag or 0) + 1)

    redis_server.RedisServer.swap = swap  # type: ignore[method-assign]


def _no_read_back() -> None:
    """A write without an answer, and one that was refused, counts as lost."""
    from dogpile_fs._dogpile.head import encode_head, new_nonce

    def write(self: HostScope, head: Head, tag: str | None, is_ours: Any) -> tuple[Head, str]:
        try:
            return head, self.engine.swap(encode_head(head, new_nonce()), tag)
        except (Lost, Down) as error:
            found = self.look()
            assert not isinstance(found, str)
            raise Overtaken(str(error), found) from error

    HostScope.write = write  # type: ignore[method-assign]


def _seeding() -> None:
    """An origin that is empty gets the replica of the first host that finds it so."""
    create = HostElection._create

    def created(self: HostElection, build: Any, head: Head, tag: str | None, raw: Any, watch: Any) -> Stamp:
        if tag is None and raw.has_value:
            stamp = Stamp(raw.fingerprint, is_new=False)

            def seed(publish: Callable[..., Stamp]) -> Stamp:
                return publish(self.scope.path, stamp, lambda: stamp)

            build = seed
        return create(self, build, head, tag, raw, watch)

    HostElection._create = created  # type: ignore[method-assign]


def _no_floor() -> None:
    """A directory gives the number of a head that was removed once more."""
    import os

    from dogpile_fs.origin import shared_directory

    def take(self: shared_directory.SharedDirectory, number: int, temporary: str) -> None:
        try:
            os.link(temporary, self._head(number))
        except FileExistsError:
            if os.stat(temporary).st_nlink != 2:
                raise Lost("it is there") from None

    shared_directory.SharedDirectory._take = take  # type: ignore[method-assign]


_MUTANTS: dict[str, Callable[[], None]] = {
    "unconditional": _unconditional,
    "wall-clock": _wall_clock,
    "counter": _counter,
    "no-read-back": _no_read_back,
    "seeding": _seeding,
    "no-floor": _no_floor,
}
#: The fault under which the mutant shows, and the kind of origin.
FAULTS = {
    "unconditional": ("stop", "directory"),
    "wall-clock": ("clocks", "redis"),
    "counter": ("set-back", "redis"),
    "no-read-back": ("lost", "directory"),
    "seeding": ("wipe", "directory"),
    "no-floor": ("stop-for-long", "directory"),
}
