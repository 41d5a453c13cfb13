"""OpenTelemetry: a span for each creation, and metrics, fed by the events of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.metrics import Histogram, MeterProvider, get_meter
from opentelemetry.trace import Status, StatusCode, TracerProvider, get_current_span, get_tracer

from ..events import Event, subscribe
from ..version import VERSION

__all__ = ["instrument"]

_NAME = "dogpile_fs"
#: Kinds of events that tell of the end of a creator which this process has run.
_ENDS = ("created", "unchanged", "failed", "fenced")


def instrument(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Callable[[], None]:
    """Have OpenTelemetry told what happens to all resources of this process, from now on.

    :param tracer_provider: default: the global one.
    :param meter_provider: default: the global one.
    :returns: a function without arguments, which ends that.

    Spans: ``dogpile_fs create`` from the begin of each creation to its end, below the span that is current in the
    thread that creates. It has the attributes ``dogpile_fs.path``, ``dogpile_fs.generation`` and
    ``dogpile_fs.outcome`` (``created``, ``unchanged``, ``failed``, ``fenced``), and the exception of a creator
    that has failed. All other events become events of the current span: ``dogpile_fs.stale_served`` and the like.

    Metrics: the counter ``dogpile_fs.events``, with the attributes ``kind`` and ``path``, and the histogram
    ``dogpile_fs.creation.duration`` in seconds, with ``outcome`` and ``path``. They are of this process alone;
    :class:`dogpile_fs.metrics.Collector` tells the state that all processes share.

    >>> from dogpile_fs import Dogpile
    >>> stop = instrument()
    >>> Dogpile(3600).refresh(lambda: None)
    <Outcome.created: 'created'>
    >>> stop()
    """
    tracer = get_tracer(_NAME, VERSION, tracer_provider)
    meter = get_meter(_NAME, VERSION, meter_provider)
    events = meter.create_counter("dogpile_fs.events", "{event}", "What happened to resources, by kind")
    durations: Histogram = meter.create_histogram(
        "dogpile_fs.creation.duration", "s", "How long creators have run, by outcome"
    )

    def tell(event: Event) -> None:
        path = event.path or ""
        events.add(1, {"kind": event.kind, "path": path})
        attributes: dict[str, str | int] = {"dogpile_fs.path": path, "dogpile_fs.generation": event.generation}
        if event.kind not in _ENDS:
            get_current_span().add_event(f"dogpile_fs.{event.kind}", attributes)
            return
        cost, now = event.cost or 0.0, time.time_ns()
        durations.record(cost, {"outcome": event.kind, "path": path})
        span = tracer.start_span(
            "dogpile_fs create",
            start_time=now - int(cost * 1e9),
            attributes={**attributes, "dogpile_fs.outcome": event.kind},
        )
        if event.error is not None:
            span.record_exception(event.error)
            span.set_status(Status(StatusCode.ERROR, f"{type(event.error).__name__}: {event.error}"))
        span.end(now)

    return subscribe(tell)
