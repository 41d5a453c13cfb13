"""Metrics of resources for Prometheus, from their sidecars and files.

Nothing is counted per process: each process that looks gives the same numbers, none of them is lost when a process
ends, and nothing has to be summed over workers. ``docs/monitoring.rst`` shows how to serve them, and
``examples/monitoring`` has alert rules for them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from ._datafile.at_path import dogpile_at, size_at
from ._datafile.resource import Resource
from ._dogpile.dogpile import Dogpile
from ._dogpile.status import Status
from ._os.paths import absolute
from .errors import DogpileError

if TYPE_CHECKING:
    from prometheus_client import Metric

    from ._datafile.datadirectory import DataDirectory
    from ._datafile.datafile import Datafile

    Watched = str | os.PathLike[str] | Datafile | DataDirectory | Dogpile

__all__ = ["CONTENT_TYPE", "Collector"]

_log = logging.getLogger("dogpile_fs")

#: What an HTTP server says of :meth:`Collector.text`: Prometheus' text format, of the version that all of its
#: releases read.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = ("fresh", "stale", "expired", "missing")


class _Family(NamedTuple):
    """What all series of one name have in common."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ("path",)


#: In the order in which they are written.
_FAMILIES = {
    "dogpile_fs_up": _Family("gauge", "Whether the resource could be looked at (1) or not (0)."),
    "dogpile_fs_state": _Family(
        "gauge", "1 for the state that the resource is in, 0 for the others.", ("path", "state")
    ),
    "dogpile_fs_age_seconds": _Family("gauge", "Seconds since the last creation ended."),
    "dogpile_fs_fresh_until_timestamp_seconds": _Family(
        "gauge", "When the version becomes, or became, stale by its age; no series if it never does."
    ),
    "dogpile_fs_creations_total": _Family("counter", "Creations so far, touches and rollbacks included."),
    "dogpile_fs_failures_total": _Family("counter", "Creations that have failed or died."),
    "dogpile_fs_failures_in_a_row": _Family(
        "gauge", "Creations that have failed or died since the last one that succeeded."
    ),
    "dogpile_fs_creation_seconds": _Family("gauge", "How long the last creation took."),
    "dogpile_fs_creating_since_timestamp_seconds": _Family(
        "gauge", "When the creation that runs now began; no series if none runs."
    ),
    "dogpile_fs_retry_at_timestamp_seconds": _Family(
        "gauge", "When the next attempt is, or was, due after a failure; no series if it need not wait."
    ),
    "dogpile_fs_size_bytes": _Family("gauge", "Size of the file; no series for a directory."),
}

#: For each name the series of one resource: the values of the labels, and the value.
_Series = dict[str, dict[tuple[str, ...], float]]


def _series_of(label: str, status: Status, size: int | None) -> _Series:
    """Return the series of the resource whose path is written as *label*.

    Counts and states are always there. A moment, a duration or a size that is not known has no series: 0 would be
    a wrong value, and NaN would spoil each sum that it is part of.
    """
    values = {
        "dogpile_fs_up": 1,
        "dogpile_fs_age_seconds": status.age,
        "dogpile_fs_fresh_until_timestamp_seconds": status.fresh_until,
        "dogpile_fs_creations_total": status.generation,
        "dogpile_fs_failures_total": status.failures_total,
        "dogpile_fs_failures_in_a_row": status.failures,
        "dogpile_fs_creation_seconds": status.cost,
        "dogpile_fs_creating_since_timestamp_seconds": status.creating_since,
        "dogpile_fs_retry_at_timestamp_seconds": status.retry_at,
        "dogpile_fs_size_bytes": size,
    }
    states: _Series = {"dogpile_fs_state": {(label, state): int(state == status.state) for state in _STATES}}
    return states | {name: {(label,): value} for name, value in values.items() if value is not None}


class Collector:
    """The metrics of some resources, for prometheus_client or as text.

    :param resources: paths of files and directories, and objects (``Datafile``, ``DataDirectory``, ``Dogpile``). A
        version at a path expires as its last creator has recorded, that of an object as the object says. Of a path
        that is given twice the first one counts.
    :param directory: where the coordination files of the paths are, if not beside them.
    :raises TypeError: for what is neither, and for a ``Dogpile`` without a path.
    :raises PathError: for a path that no file can have.

    With prometheus_client (``python -m pip install 'dogpile_fs[metrics]'``) one object is registered for all
    resources: ``REGISTRY.register(Collector(["var/report.json"]))``. It looks at the files at each scrape, and
    waits for nothing. Without prometheus_client, :meth:`text` returns what a server answers. Each series has the
    label ``path``, an absolute path. A byte in it that is no text is written as in JSON, such as ``\\udcff``.

    A path that cannot be looked at has a ``dogpile_fs_up`` of 0 and no other series. The log tells why, once per
    reason. The other paths are not affected. Any thread may use the object, and so may a forked child.

    >>> import os, tempfile
    >>> from dogpile_fs import Datafile
    >>> report = Datafile(os.path.join(tempfile.mkdtemp(), "report"), 3600, lambda path: open(path, "w").close())
    >>> _ = report.refresh()
    >>> lines = Collector([report]).text().splitlines()
    >>> [line.rpartition(" ")[2] for line in lines if line.startswith("dogpile_fs_creations_total")]
    ['1']
    """

    def __init__(self, resources: Iterable[Watched], *, directory: str | os.PathLike[str] | None = None) -> None:
        if isinstance(resources, str | bytes | os.PathLike):
            raise TypeError(f"resources must be several paths or objects, not {resources!r}: put it in a list")
        self._directory = None if directory is None else absolute(directory)
        self._resources: dict[str, Watched] = {}
        for resource in resources:
            self._resources.setdefault(_path_of(resource), resource)
        #: Why a path could not be looked at the last time, for those that could not.
        self._complaints: dict[str, str] = {}

    def text(self) -> str:
        """Return the metrics now, in Prometheus' text format, to be encoded as UTF-8; see :data:`CONTENT_TYPE`."""
        everything = self._look()
        lines = []
        for name, family in _FAMILIES.items():
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
            for series in everything:
                for values, value in series.get(name, {}).items():
                    labels = ",".join(map('{}="{}"'.format, family.labels, map(_escaped, values)))
                    lines.append(f"{name}{{{labels}}} {value}")
        return "\n".join([*lines, ""])

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics now, as prometheus_client wants them."""
        return _as_metrics(self._look())

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, so that nothing is looked at when the object is registered."""
        return _as_metrics([])

    def _look(self) -> list[_Series]:
        return [self._look_at(path, resource) for path, resource in self._resources.items()]

    def _look_at(self, path: str, resource: Watched) -> _Series:
        label = path.encode("utf-8", "backslashreplace").decode()
        try:
            if isinstance(resource, str | os.PathLike):
                resource = dogpile_at(path, self._directory)
            series = _series_of(label, resource.status(), size_at(path))
        except (DogpileError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)  # of ours, a whole sentence
            if self._complaints.get(path) != reason:
                self._complaints[path] = reason
                _log.warning("there are no metrics of %r: %s", path, reason)
            return {"dogpile_fs_up": {(label,): 0}}
        self._complaints.pop(path, None)
        return series


def _path_of(resource: Watched) -> str:
    if isinstance(resource, Resource):
        return resource._path
    if isinstance(resource, Dogpile):
        if resource.path is None:
            raise TypeError("a Dogpile without a path has no metrics: only this process knows of it")
        return resource.path
    return absolute(resource)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _as_metrics(everything: Iterable[_Series]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    for name, family in _FAMILIES.items():
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = kind(name, family.help, labels=family.labels)
        for series in everything:
            for values, value in series.get(name, {}).items():
                metric.add_metric(values, value)
        yield metric
