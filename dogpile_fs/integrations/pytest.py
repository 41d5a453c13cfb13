"""The plugin for pytest: ``once_per_run`` makes an expensive resource once for all workers of a run.

The plugin is loaded in every run of pytest in an environment that has this package. So this module imports nothing
that pytest has not imported, and a run without the fixture makes no file. With pytest-xdist the controller makes
the run's directory and locks two files there before it starts workers. A worker does nothing before it calls it.

A worker's share in a resource begins with that call, not with ``pytest_configure``. Nothing is lost by that: no
resource is torn down before the controller has announced the end, and a worker that comes later is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from ._pytest_member import Member

__all__ = ["OncePerRun", "once_per_run"]

T = TypeVar("T")

#: The key of ``workerinput`` under which a worker finds the directory of its run.
_INPUT = "dogpile_fs_run"
#: Of a process that takes part in a run. It belongs to the ``Config``: a run may have another one inside.
_MEMBER = pytest.StashKey["Member"]()


class OncePerRun(Protocol):
    """What the fixture ``once_per_run`` is: a function."""

    def __call__(
        self, name: str, create: Callable[[Path], T], *, teardown: Callable[[T], object] | None = None
    ) -> T: ...


def _member_of(config: pytest.Config) -> Member:
    """Return what *config*'s process is in its run.

    :raises OSError: if it is the first of a run whose directory cannot be made.
    """
    if (member := config.stash.get(_MEMBER, None)) is None:
        from ._pytest_member import Member  # here: most runs need none of it
        from ._pytest_run import Run

        given = getattr(config, "workerinput", {}).get(_INPUT)
        run = Run.begin(config.rootpath) if given is None else Run(Path(given))
        member = config.stash[_MEMBER] = Member(run, is_worker=given is not None)
    return member


@pytest.fixture(scope="session")
def once_per_run(pytestconfig: pytest.Config) -> OncePerRun:
    """Return a function that makes a resource once for all processes of this run of pytest.

    ``once_per_run(name, create, *, teardown=None)``:

    :param name: of the resource: up to 64 letters, digits and ``_ - .``, the first a letter or a digit. All
        callers of the run that give this name get the same value.
    :param create: called once in a run, with an empty directory (a :class:`pathlib.Path`) that is removed after
        the run; returns a value that JSON can carry. Each caller gets what JSON makes of it.
    :param teardown: called with that value once, after all tests of all workers. Without pytest-xdist this process
        calls it; else the last worker that has used the resource, or the controller if no such worker is left. The
        controller imports it by its name, so it must be a function at the top level of a module. If all processes
        were killed, the next run that gives a *teardown* for this *name* calls that one before it creates.
    :returns: the value.
    :raises ValueError: for another *name*.
    :raises TypeError: if JSON cannot carry the value.
    :raises OSError: if the run's directory cannot be made, or belongs to another user.
    :raises: what *create* has raised, in the worker that has called it. All others fail (or skip, where *create*
        has called ``pytest.skip``) with its traceback; it is not called again, and nothing is torn down.

    >>> import json, pytest
    >>> def write_fixture_data(directory):
    ...     (directory / "data.json").write_text(json.dumps([1, 2, 3]))
    ...     return str(directory / "data.json")
    >>> @pytest.fixture(scope="session")
    ... def data(once_per_run):
    ...     return once_per_run("data", write_fixture_data)
    """

    def of_this_run(
        name: str, create: Callable[[Path], Any], *, teardown: Callable[[Any], object] | None = None
    ) -> Any:
        return _member_of(pytestconfig).value(name, create, teardown)

    return of_this_run


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In xdist's controller, before it starts a worker: tell the worker which run it belongs to."""
    if not node.gateway.spec.popen:
        return  # perhaps on another host, where it is a run of its own
    try:
        member = _member_of(node.config)
    except OSError:
        return  # a worker that uses the fixture meets the same error, and tells it
    member.workers.add(node)
    node.workerinput[_INPUT] = str(member.run.directory)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In xdist's controller: a worker has run its last test, or was killed."""
    if (member := node.config.stash.get(_MEMBER, None)) is not None:
        member.workers.discard(node)


# The innermost wrapper: when it goes on, xdist has ended the workers, and pytest has not printed its summary.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """In the controller, or in the only process: announce the end, and see to it that all is torn down."""
    member = session.config.stash.get(_MEMBER, None)
    if member is None or member.is_worker:
        return (yield)
    try:
        try:
            member.announce_end()
        except KeyboardInterrupt:  # do not wait for the workers: xdist ends them now
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        return (yield)
    finally:
        member.end(session.config.pluginmanager.get_plugins())
        if member.notes and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print which resources could not be torn down."""
    if (member := config.stash.get(_MEMBER, None)) is not None and member.notes:
        terminalreporter.section("once_per_run", red=True)
        for note in member.notes:
            terminalreporter.write_line(note)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """In a worker: leave the run. xdist has told the controller already that this worker has no more tests."""
    if (member := config.stash.get(_MEMBER, None)) is None or member.pid != os.getpid():
        return
    if member.is_worker:
        member.leave()
    else:
        member.end(config.pluginmanager.get_plugins())  # does nothing if the session has come to its end
