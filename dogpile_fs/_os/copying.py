"""Copies of objects, by the ``copy`` module or by ``pickle``: which can be made, and how.

An object that stands for a lock that is held has none: its copy would give the lock back a second time.
An object that names a path is made anew, by the constructor of the package's own class: a subclass may have one
with other parameters. The copy gets what the subclass has added, and holds nothing.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

__all__ = ["NotCopied", "copied_by"]

T = TypeVar("T")


class NotCopied:
    """A class whose objects cannot be copied or pickled."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled, because it stands for what is held. Hint: "
            "enter another block, or copy the object that has made it."
        )


def copied_by(thing: object, own: type, *arguments: Any, **options: Any) -> tuple[object, ...]:
    """Return what ``thing.__reduce__`` returns, so that a copy is made by the constructor of *own*, one of its
    classes, from *arguments* and *options*.
    """
    made = _made(type(thing), own, arguments, options)
    by_own = getattr(made, "__dict__", {})
    added = {name: value for name, value in getattr(thing, "__dict__", {}).items() if name not in by_own}
    slots = {name: getattr(thing, name) for name in _added_slots(type(thing), own) if hasattr(thing, name)}
    state = (added or None, slots) if slots else added or None
    return _made, (type(thing), own, arguments, options), state


def _made(kind: type[T], own: type, arguments: tuple[Any, ...], options: dict[str, Any]) -> T:
    thing = kind.__new__(kind)
    own.__init__(thing, *arguments, **options)  # type: ignore[misc]
    return thing


def _added_slots(kind: type, own: type) -> list[str]:
    """Return the names of the slots that *kind* has beside those of *own*."""
    added = [each for each in kind.__mro__ if each not in own.__mro__]
    names = [name for each in added for name in each.__dict__.get("__slots__", ())]
    return [name for name in names if name not in ("__dict__", "__weakref__")]
