"""The demo's events as sentences for logs: those that are worth a line. Pure."""

from __future__ import annotations

from .timeline import BACKGROUND, Event, Timeline, name_of

__all__ = ["sentence"]


def sentence(event: Event, timeline: Timeline) -> str | None:
    """Return what *event*, the last that *timeline* got, means; ``None`` for an ordinary one."""
    worker, version = name_of(event.worker), event.version
    match event.what:
        case "creates" if version == 1:
            return f"{worker} creates version 1; the others wait for it, this once"
        case "creates" if any(other.version == version for other in timeline.events("killed")):
            return f"{worker} takes over: creates version {version}"
        case "creates" if any(other.version == version for other in timeline.events("raises")):
            return f"the backoff of {timeline.backoff:g} s is over: {worker} creates version {version}"
        case "creates" if event.worker == BACKGROUND:
            return (
                f"version {version - 1} is stale: worker {event.elected} has version {version} created in the "
                "background, by a process of its own, and reads on as the others do"
            )
        case "creates":
            return f"version {version - 1} is stale: {worker} creates version {version}, the others read on"
        case "raises":
            return (
                f"{worker} fails to create version {version} ({event.why}): it reads version {version - 1} "
                f"like the others, and none tries again for {timeline.backoff:g} s"
            )
        case "killed":
            return f"{worker} is killed (SIGKILL) in the middle of creating version {version}"
        case "swaps":
            return f"{worker} has built version {version}, waits for readers to leave, and swaps"
        case "reads" | "placed" if event.is_in_place:
            return f"version {version} is in place{_meanwhile(event, timeline)}"
        case "leaves" if event.torn:
            return f"{worker} READ A TORN DATAFILE"
        case "fails":
            return f"{worker} FAILED: {event.why}"
    return None


def _meanwhile(event: Event, timeline: Timeline) -> str:
    if event.version == 1:
        waited = sum(other.outcome == "waited" for other in timeline.events("reads")) + timeline.waiting
        return f": {waited} waited for it" if waited else ""
    began = max(other.at for other in timeline.events("creates") if other.worker == event.worker)
    stale = sum(other.outcome == "stale" and other.at >= began for other in timeline.events("reads"))
    return f": {stale} passes read version {event.version - 1} meanwhile" if stale else ""
