"""The demo's events as sentences, for logs: those that a reader wants to know of, as they come. Pure."""

from __future__ import annotations

from .timeline import Event, Timeline

__all__ = ["sentence"]


def sentence(event: Event, timeline: Timeline) -> str | None:
    """What *event*, the last that *timeline* took up, means; None for the many that are as ever."""
    who, version = f"worker {event.worker}", event.version
    match event.what:
        case "creates" if version == 1:
            return f"{who} creates version 1; whoever comes meanwhile waits for it, this once"
        case "creates" if any(other.version == version for other in timeline.events("killed")):
            return f"{who} takes over: creates version {version}"
        case "creates":
            return f"version {version - 1} is stale: {who} creates version {version}, the others read on"
        case "killed":
            return f"{who} is killed (SIGKILL) in the middle of creating version {version}"
        case "swaps":
            return f"{who} has built version {version}, waits for readers to leave, and swaps"
        case "reads" if event.outcome == "created":
            return f"version {version} is in place{_meanwhile(event, timeline)}"
        case "leaves" if event.torn:
            return f"{who} READ A TORN DATAFILE"
        case "fails":
            return f"{who} FAILED: {event.why}"
    return None


def _meanwhile(event: Event, timeline: Timeline) -> str:
    if event.version == 1:
        waited = sum(other.outcome == "waited" for other in timeline.events("reads")) + timeline.waiting
        return f": {waited} waited for it" if waited else ""
    began = max(other.at for other in timeline.events("creates") if other.worker == event.worker)
    stale = sum(other.outcome == "stale" and other.at >= began for other in timeline.events("reads"))
    return f": {stale} passes read version {event.version - 1} meanwhile" if stale else ""
