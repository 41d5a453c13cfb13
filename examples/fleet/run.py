"""One run over one origin: the servers start, clients come, a host is cut off, a creator is stopped."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import time

from fleet.crowd import Crowd
from fleet.network import Host, Network
from fleet.record import DISTURBANCES, Creation, Disturbance, History, append
from fleet.servers import Store, listens, start_gunicorn, start_nginx, wait_until
from fleet.verdict import Settings, Story

__all__ = ["CLIENTS", "HOSTS", "Result", "run"]

HOSTS = ("web1", "web2")
CLIENTS = 6
#: Seconds for which each thing that must happen is waited for.
_PATIENCE = 60.0
#: Creations that the demo tries to stop in the middle; on a loaded machine one may be over before.
_TRIES = 10


@dataclass(frozen=True)
class Result:
    """What came of a run. *failures*: requests without an answer, as the clients saw them. *requests*: what the
    origin was asked while nothing was disturbed, by purpose, during so many *versions*."""

    title: str
    story: Story
    failures: list[str]
    requests: Counter[str]
    versions: int
    has_namespaces: bool


def run(
    store: Store,
    settings: Settings,
    directory: Path,
    *,
    workers: int,
    namespaces: bool | None = None,
    undisturbed: int = 1,
) -> Result:
    """Run the fleet over *store* in an empty *directory*.

    :param workers: of each host.
    :param namespaces: whether hosts are network namespaces; ``None``: where that can be.
    :param undisturbed: expiries before the first host is cut off.
    :raises TimeoutError, RuntimeError: if something has not happened, or a server has not started.
    """
    record, logs = directory / "record", directory / "logs"
    record.mkdir()
    logs.mkdir()
    history = History(record)
    with Network(HOSTS, store.socket, logs, namespaces=namespaces) as network:
        store.start(network)
        sockets = []
        for host in network.hosts:
            sockets.append(directory / host.name)
            replica = directory / f"disk-{host.name}"
            replica.mkdir()
            variables = {
                "FLEET_HOST": host.name,
                "FLEET_DATAFILE": str(replica / "report.json"),
                "FLEET_RECORD": str(record),
                "FLEET_EXPIRE": str(settings.expire),
                "FLEET_CREATION": str(settings.creation),
                "FLEET_TTL": str(settings.ttl),
                "FLEET_CHECK": str(settings.check),
                "FLEET_MAX_STALE": str(settings.max_stale),
                **store.environment(host.port),
            }
            start_gunicorn(network, host, sockets[-1], workers, variables)
        for path in sockets:
            wait_until(partial(listens, path), "gunicorn", partial(_logs_of, network))
        nginx = start_nginx(network, directory, sockets, record)
        stage = _Stage(history, record, settings)
        with Crowd(nginx, CLIENTS) as crowd:
            requests, versions = stage.leave_alone(store, undisturbed)
            stage.cut(network.hosts[1])
            stage.pause()
            stage.wait_for_version(stage.newest + 1)
        stage.wait(lambda: all(c.outcome for c in history.creations), "the end of the last creation")
        has_namespaces = network.has_namespaces
    history.update()
    story = Story(history.creations, history.answers, history.disturbances, settings)
    return Result(store.title, story, crowd.failures, requests, versions, has_namespaces)


class _Stage:
    """What is done to the fleet, and what is waited for."""

    def __init__(self, history: History, record: Path, settings: Settings) -> None:
        self._history, self._record, self._settings = history, record, settings

    @property
    def newest(self) -> int:
        """The highest generation that is published."""
        told = [c.generation for c in self._history.creations if c.outcome == "created"]
        # An answer may come before its creator has recorded the end.
        return max([*told, *(answer.generation for answer in self._history.answers)], default=0)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until *condition* holds of the record.

        :raises TimeoutError: if it does not in time.
        """

        def holds() -> bool:
            self._history.update()
            return condition()

        wait_until(holds, what, self._told, _PATIENCE)

    def wait_for_version(self, generation: int, hosts: tuple[str, ...] = HOSTS) -> None:
        """Wait until each of the *hosts* answers from this *generation*, or a later one."""
        for host in hosts:
            self.wait(partial(self._answered, host, generation), f"generation {generation} on {host}")

    def _answered(self, host: str, generation: int, since: float = 0.0) -> bool:
        return any(
            answer.host == host and answer.generation >= generation and answer.asked > since
            for answer in reversed(self._history.answers)
        )

    def leave_alone(self, store: Store, expiries: int) -> tuple[Counter[str], int]:
        """Wait for so many *expiries*; returns what the origin was asked meanwhile, and the number of versions."""
        self.wait_for_version(1)
        before, first = store.requests(), self.newest
        self.wait_for_version(first + expiries)
        return store.requests() - before, self.newest - first

    def cut(self, host: Host) -> None:
        """Cut *host* off until another one has published, and this one has since answered from its old version."""
        host.cut()
        begin = time()
        try:
            self.wait(lambda: self._has_published(host.name, begin), "a version of another host")
            published = time()
            self.wait(
                lambda: self._answered(host.name, 1, published), f"an answer of {host.name}, which is cut off"
            )
        finally:
            end = time()
            host.mend()
        self._note(Disturbance("cut", host.name, begin, end))
        self.wait(lambda: self._answered(host.name, self.newest, end), f"{host.name} to catch up")

    def _has_published(self, host: str, since: float) -> bool:
        """Return whether another host than *host* has published what it has begun *since*."""
        creations = self._history.creations
        return any(c.host != host and c.outcome == "created" and c.begin > since for c in creations)

    def pause(self) -> None:
        """Stop a creator, until another host has created its version and its own host answers from that."""
        for _ in range(_TRIES):
            creation = self._next_creation()
            os.kill(creation.pid, signal.SIGSTOP)
            begin = time()
            try:
                self.wait(partial(_is_stopped, creation.pid), f"worker {creation.pid} to stop")
                if self._steps_of(creation.token).built is not None:
                    continue  # it was too late
                self.wait(partial(self._is_taken_over, creation), f"a takeover from {creation.host}")
                self.wait_for_version(creation.generation, (creation.host,))
            finally:
                end = time()
                os.kill(creation.pid, signal.SIGCONT)
            self._note(Disturbance("pause", creation.host, begin, end, creation.pid, creation.token))
            self.wait(partial(self._has_ended, creation.token), "the end of the stopped creation")
            return
        raise TimeoutError(f"no creator could be stopped in {_TRIES} creations. {self._told()}")

    def _next_creation(self) -> Creation:
        self._history.update()
        known = {creation.token for creation in self._history.creations}
        self.wait(lambda: self._history.creations[-1].token not in known, "the next creation")
        return self._history.creations[-1]

    def _steps_of(self, token: str) -> Creation:
        return next(creation for creation in self._history.creations if creation.token == token)

    def _has_ended(self, token: str) -> bool:
        return self._steps_of(token).outcome != ""

    def _is_taken_over(self, creation: Creation) -> bool:
        return any(
            other.generation == creation.generation and other.outcome == "created" and other.host != creation.host
            for other in self._history.creations
        )

    def _note(self, disturbance: Disturbance) -> None:
        append(self._record / DISTURBANCES, asdict(disturbance))

    def _told(self) -> str:
        outcomes = Counter(creation.outcome or "running" for creation in self._history.creations)
        return f"So far: creations {dict(outcomes)}, {len(self._history.answers)} answers."


def _logs_of(network: Network) -> str:
    return "\n".join(network.log(f"gunicorn-{host.name}") for host in network.hosts)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
