"""Spans and metrics of OpenTelemetry, by its own SDK; and structured logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dogpile_fs import Backoff, Datafile, Outcome
from dogpile_fs.integrations.logging import log_events

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from dogpile_fs.integrations.opentelemetry import instrument


class Told:
    """What OpenTelemetry was told."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self._reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def points(self) -> dict[str, dict[str, Any]]:
        """Return the data points by the name of their metric, and by the attribute that is not the path."""
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: {
                point.attributes.get("kind") or point.attributes["outcome"]: point
                for point in metric.data.data_points
            }
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    stop = instrument(tracer_provider=told.tracers, meter_provider=told.meters)
    yield told
    stop()


def create(target: str) -> None:
    with open(target, "w") as file:
        file.write("made")


def refuse(target: str) -> None:
    raise ZeroDivisionError("no source")


def test_a_creation_is_a_span_below_that_of_its_caller(path: str, told: Told) -> None:
    with told.tracers.get_tracer("app").start_as_current_span("request"):
        Datafile(path, 3600, create).path()
    made, request = told.spans()["dogpile_fs create"], told.spans()["request"]
    assert made.parent.span_id == request.context.span_id
    assert request.start_time <= made.start_time <= made.end_time <= request.end_time
    assert dict(made.attributes) == {
        "dogpile_fs.path": path,
        "dogpile_fs.generation": 1,
        "dogpile_fs.outcome": "created",
    }
    assert [event.name for event in request.events] == ["dogpile_fs.creating", "dogpile_fs.swapped"]


def test_a_failure_is_a_span_with_its_exception(path: str, told: Told) -> None:
    report = Datafile(path, 3600, refuse, backoff=Backoff(60))
    with pytest.raises(ZeroDivisionError):
        report.refresh()
    made = told.spans()["dogpile_fs create"]
    assert made.status.status_code == StatusCode.ERROR
    assert made.attributes["dogpile_fs.outcome"] == "failed"
    assert [event.attributes["exception.type"] for event in made.events] == ["ZeroDivisionError"]


def test_events_are_counted_and_durations_measured(path: str, told: Told) -> None:
    report = Datafile(path, 3600, create)
    for _ in range(3):
        assert report.refresh(force=True) == Outcome.created
    report.invalidate()
    points = told.points()
    counted = {kind: point.value for kind, point in points["dogpile_fs.events"].items()}
    assert counted == {"creating": 3, "swapped": 3, "created": 3, "invalidated": 1}
    [(outcome, point)] = points["dogpile_fs.creation.duration"].items()
    assert (outcome, point.count, point.attributes["path"]) == ("created", 3, path)


def test_nothing_is_told_after_the_end(path: str) -> None:
    told = Told()
    instrument(tracer_provider=told.tracers, meter_provider=told.meters)()
    Datafile(path, 3600, create).refresh()
    assert told.spans() == {}


def test_a_log_record_has_what_the_event_tells_as_fields(path: str, caplog: pytest.LogCaptureFixture) -> None:
    stop = log_events()
    try:
        with caplog.at_level(logging.INFO, "dogpile_fs.events"):
            Datafile(path, 3600, create).refresh()
            with pytest.raises(ZeroDivisionError):
                Datafile(path, 3600, refuse).refresh(force=True)
    finally:
        stop()
    records: list[Any] = [record for record in caplog.records if record.name == "dogpile_fs.events"]
    told = [(record.event, record.path, record.generation) for record in records]
    assert told == [
        ("creating", path, 1),
        ("swapped", path, 1),
        ("created", path, 1),
        ("creating", path, 2),
        ("failed", path, 2),
    ]
    assert records[2].cost >= 0
    assert records[-1].exc_info[0] is ZeroDivisionError
