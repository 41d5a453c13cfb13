"""Policies: how often a failing creator runs, and how old a version may be.

A policy is what one user of a resource asks for. What all processes must agree on, such as the delay after a
failure, is drawn once and lives in the record.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from .._os.waiting import checked_seconds
from .event import Callback, checked_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from .inputs import Input

__all__ = ["DEFAULT", "ORIGINAL", "Backoff", "Policy", "drawn", "one_policy"]


#: Seconds for which a process that ends waits for the creations in its threads: as long as servers give a worker
#: that they recycle (gunicorn's ``--graceful-timeout``).
_EXIT_WAIT = 30.0


def drawn(least: float, most: float) -> float:
    """Return a number between *least* and *most*, drawn at random."""
    if least == most:
        return least
    import random  # here: it takes long to import

    return random.uniform(least, most)


def _fraction(name: str, value: Any, *, least: float | None = None) -> float:
    """Return *value* as a float below 1, and above 0 or from *least* on."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a fraction, not {value!r}")
    if not (0.0 < value < 1.0 or value == least):
        raise ValueError(f"{name} must be {'0 or ' if least == 0.0 else ''}between 0 and 1, not {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The time after failed creations in which no process tries again.

    :param initial: seconds after the first failure.
    :param maximum: seconds that no delay exceeds, but for the jitter.
    :param factor: by which each failure in a row makes the delay longer; 1 or more.
    :param jitter: fraction, below 1, by which a delay is made longer or shorter at random, so that many resources
        of one source do not ask it at the same moment.
    :raises TypeError, ValueError: for values that are no numbers, or make no delays.

    The process that has failed draws the delay and records it; all others go by that. The terms are those of
    exponential backoff with jitter as the libraries of the large clouds have it.

    >>> backoff = Backoff(initial=1, maximum=10, factor=2, jitter=0)
    >>> [backoff.delay(failures) for failures in range(1, 6)]
    [1.0, 2.0, 4.0, 8.0, 10.0]
    """

    initial: float | timedelta = 1.0
    maximum: float | timedelta = 60.0
    factor: float = 2.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        initial = checked_seconds("initial", self.initial)
        maximum = checked_seconds("maximum", self.maximum)
        factor = checked_seconds("factor", self.factor, least=1.0)
        if maximum == float("inf") or maximum < initial:
            raise ValueError(
                f"a backoff's maximum must be finite and not below its initial delay, not {self.maximum!r} "
                f"below {self.initial!r}"
            )
        for name, value in (("initial", initial), ("maximum", maximum), ("factor", factor)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "jitter", _fraction("jitter", self.jitter, least=0.0))

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after so many *failures* in a row, 1 or more."""
        initial, maximum = float(self.initial), float(self.maximum)  # type: ignore[arg-type]
        try:
            exact = min(maximum, initial * self.factor ** (failures - 1))
        except OverflowError:
            exact = maximum if initial else 0.0
        return exact * (1.0 + drawn(-self.jitter, self.jitter))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a user of a resource wants when creations fail or versions grow old. Many resources may share one.

    :param backoff: when a creation may be tried again after one that failed; ``None``: at once.
    :param stale_if_error: a reader whose creation fails gets the old version; a number: only up to so many seconds
        past its expiry; False: it gets the creator's exception.
    :param max_stale: seconds past expiry (or the first invalidation) after which no reader gets the old version;
        ``None``: it may be of any age.
    :param refresh_early: a creation may begin at this fraction of the lifetime, between 0 and 1, while all others
        still pass fresh; ``None``: not before the version is stale.
    :param jitter: the lifetime of each version is shortened by up to this fraction, drawn once per version:
        resources that were created together do not expire together.
    :param depends_on: paths and datafiles that a resource is made from: it is stale as soon as one of them is
        another than when its creation began.
    :param background: ``"thread"``: the caller that was elected starts the creator in a daemon thread, at most
        four at a time in a process, and goes on with the old version; ``"process"``: in a process of its own,
        which outlives that of the caller. ``None``: the caller that was elected runs the creator. For datafiles
        and directories only.
    :param creator_timeout: seconds after which the process of a creation is ended, with its children; it counts as
        a failure. With ``background="process"``.
    :param background_setup: called in that process before the creator is imported, such as ``django.setup``.
    :param exit_wait: seconds for which a process that ends waits for the creations in its threads. With
        ``background="thread"``.
    :param on_event: called with each :class:`Event` of the resource: creations, never passes. Policies that differ
        in it alone are equal.
    :raises TypeError, ValueError: for values of the wrong type, and those that contradict each other.

    >>> Policy(stale_if_error=600, max_stale=300)
    Traceback (most recent call last):
    ValueError: stale_if_error=600 lets readers have what max_stale=300 forbids. Hint: at most max_stale.
    """

    backoff: Backoff | None = Backoff()
    stale_if_error: bool | float | timedelta = True
    max_stale: float | timedelta | None = None
    refresh_early: float | None = None
    jitter: float = 0.0
    depends_on: Iterable[Input] = ()
    background: Literal["thread", "process"] | None = None
    creator_timeout: float | timedelta | None = None
    background_setup: Callable[[], object] | None = None
    exit_wait: float | timedelta = _EXIT_WAIT
    on_event: Callback | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.depends_on, str | bytes | os.PathLike):
            raise TypeError(
                f"depends_on must be several paths or datafiles, not {self.depends_on!r}: put it in a list"
            )
        object.__setattr__(self, "depends_on", tuple(self.depends_on))
        if self.backoff is not None and not isinstance(self.backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff or None, not {self.backoff!r}")
        if self.on_event is not None:
            checked_callback("on_event", self.on_event)
        values: dict[str, Any] = {"jitter": _fraction("jitter", self.jitter, least=0.0)}
        if not isinstance(self.stale_if_error, bool):
            values["stale_if_error"] = checked_seconds("stale_if_error", self.stale_if_error)
        if self.max_stale is not None:
            values["max_stale"] = checked_seconds("max_stale", self.max_stale)
            if values.get("stale_if_error", 0.0) > values["max_stale"]:
                raise ValueError(
                    f"stale_if_error={self.stale_if_error} lets readers have what max_stale={self.max_stale} "
                    "forbids. Hint: at most max_stale."
                )
        if self.refresh_early is not None:
            values["refresh_early"] = _fraction("refresh_early", self.refresh_early)
        values |= self._checked_background()
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _in_caller(self) -> Policy:
        """Return this policy for the caller that was elected, which runs the creator itself."""
        if self.background is None:
            return self
        return replace(self, background=None, creator_timeout=None, background_setup=None, exit_wait=_EXIT_WAIT)

    def _checked_background(self) -> dict[str, Any]:
        if self.background not in (None, "thread", "process"):
            raise ValueError(f"background must be 'thread', 'process' or None, not {self.background!r}")
        values: dict[str, Any] = {"exit_wait": checked_seconds("exit_wait", self.exit_wait)}
        if self.creator_timeout is not None:
            values["creator_timeout"] = checked_seconds("creator_timeout", self.creator_timeout)
            if not values["creator_timeout"]:
                raise ValueError("creator_timeout=0 would end each creator at once: give more seconds, or None")
        if self.background_setup is not None and not callable(self.background_setup):
            raise TypeError(
                f"background_setup must be a function without arguments, not {self.background_setup!r}"
            )
        if self.background != "process":
            for name in ("creator_timeout", "background_setup"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}= goes with background='process': a creator in this process can be neither ended "
                        "nor set up"
                    )
        if self.background != "thread" and values["exit_wait"] != _EXIT_WAIT:
            raise ValueError("exit_wait= goes with background='thread': no process waits for another one")
        return values

    def _tolerates(self, seconds_past_expiry: float) -> bool:
        """Return whether a reader whose creation has failed gets a version that expired so many seconds ago."""
        if isinstance(self.stale_if_error, bool):
            return self.stale_if_error
        return seconds_past_expiry < self.stale_if_error  # type: ignore[operator]


def one_policy(policy: Policy | None, default: Policy, **values: Any) -> Policy:
    """Return *policy*, or one of these *values*; the object *default* where they are those of that.

    :raises TypeError: for a policy together with values that differ from the default's.
    """
    if "depends_on" in values and not isinstance(values["depends_on"], str | bytes | os.PathLike):
        values["depends_on"] = tuple(values["depends_on"])
    told = {name: value for name, value in values.items() if value != getattr(default, name)}
    if policy is None:
        return replace(default, **told) if told else default
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    if told:
        raise TypeError(
            f"policy= and {', '.join(f'{name}=' for name in told)} contradict each other: give one of them"
        )
    return policy


#: The policy of a datafile that is made without one.
DEFAULT = Policy()
#: The policy of the original's classes: the caller gets the creator's exception, and the next one tries again.
ORIGINAL = Policy(backoff=None, stale_if_error=False)
