"""``on_new_version`` for tasks: the callback runs in the event loop in which it was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .functions import awaited
from .loops import running_loop

if TYPE_CHECKING:
    from .._dogpile.new_versions import Seen, Subscription

__all__ = ["subscribe"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")


def subscribe(owner: T, callback: Callable[[T], object], look: Callable[[T], Seen]) -> Subscription[T]:
    """Have ``callback(owner)`` called in the running event loop for each version after the one in place.

    Of versions that come while it runs only the last is sure to be told.

    :raises TypeError: if *callback* is no function.
    :raises RuntimeError: if no event loop runs in this thread.
    """
    from .._dogpile.new_versions import subscribe as subscribe_thread

    if not callable(callback):
        raise TypeError(f"callback must be a function of the object, not {callback!r}")
    loop = running_loop()
    return subscribe_thread(owner, lambda owner: loop.start(_told, callback, owner), look)


async def _told(callback: Callable[[Any], object], owner: Any) -> None:
    try:
        await awaited(callback, owner)
    except Exception as error:
        log.exception("%r: a callback of on_new_version has failed: %s", owner, error)
