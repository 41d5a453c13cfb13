"""Being told what happens to resources: creations, failures, swaps and the like, of all objects of this process.

``on_event=`` of an object tells of that object alone; ``docs/events.rst`` shows both.
"""

from ._dogpile.event import Event, Kind, subscribe

__all__ = ["Event", "Kind", "subscribe"]
