"""Let one system call of a scene fail, and check what must hold all the same.

The process whose call fails has either passed, with a whole resource, or got an error: one of ours, which names a
path and the system's reason, or one of its own code. It can go on with its object, and so can all other processes.
When it drops the object, it holds no lock and no descriptor of ours. The old version is in place, or the new one;
a fresh one was created at its createdtime.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import pickle
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dogpile_fs import DatafileError, DogpileError, LockTimeout, Status
from dogpile_fs.cli import exits

from .faults import count_calls, fail_call
from .places import descriptors
from .ptracing import Ended, Tracee, mark
from .scenes import OLD, OLDER, SCENES, Scene
from .subjects import OfCommand, Subject, TheUsersOwn

__all__ = ["Outcome", "calls_of", "met"]

#: Seconds after which a process counts as hanging. No scene waits for another process for longer than
#: :data:`.subjects.AT_ONCE`.
HANGS = 20
_SIZE = 1 << 16
#: The contents that are created afterwards: by the process whose call failed, and by another one.
NEXT, LAST = (word * 3_000 for word in (b"next", b"last"))
#: Seconds by which an mtime may be earlier than a reading of the clock before it: an mtime is that of the kernel's
#: last tick, which is 4 ms ago at most, or 10 ms on a kernel of 100 Hz.
TICK = 0.02


@dataclass(frozen=True)
class Outcome:
    """The result: its *kind*, for counting, the *call* that failed, and descriptions of all that is *wrong*."""

    kind: str
    call: str
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Report:
    """The report of the process whose call failed."""

    #: The contents read in the block.
    found: bytes | None = None
    #: A command's exit status.
    ended: int | None = None
    #: The error that was raised: its name and its text.
    error: str = ""
    users_own: bool = False
    wrong: list[str] = field(default_factory=list)


def calls_of(name: str, directory: Path) -> list[str]:
    """Return descriptions of the calls of the scene *name* that can fail."""
    scene = SCENES[name]
    with _Stage(scene, directory) as subject:
        tracee = _traced(scene, subject, _report_to_none, 0)
        try:
            if not scene.executes:
                tracee.go_to_mark()
            return count_calls(tracee)
        finally:
            tracee.kill()


def met(name: str, number: int, code: int, directory: Path, begin: str = "") -> Outcome | None:
    """Run the scene *name* in a new directory below *directory* while its call *number* fails with the error
    *code*.

    :param begin: count only calls whose description begins with this.
    :returns: the outcome; None if there are fewer calls.
    :raises NotTraceable: if calls cannot be made to fail here.
    """
    scene = SCENES[name]
    with _Stage(scene, directory) as subject:
        before = subject.status() if subject.stamps else None
        subject.drop()
        began = time.time()
        if scene.executes:
            assert isinstance(subject, OfCommand)
            return _executed(scene, subject, number, code, before, began)
        return _called(scene, subject, number, code, begin, before, began)


class _Stage:
    """A directory with a subject, removed afterwards."""

    _number = 0

    def __init__(self, scene: Scene, directory: Path) -> None:
        _Stage._number += 1
        self.scene = scene
        self.directory = directory / str(_Stage._number)

    def __enter__(self) -> Subject:
        (self.directory / "in").mkdir(parents=True)
        return self.scene.stage(self.directory / "in" / "data.txt")

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory)


def _traced(scene: Scene, subject: Subject, tell: Callable[[_Report], None], code: int) -> Tracee:
    def life() -> None:
        signal.alarm(HANGS)
        scene.act(subject)

    if scene.executes:
        return Tracee(life, executes=True)
    return Tracee(lambda: _live(scene, subject, tell, code))


def _report_to_none(report: _Report) -> None:
    pass


def _live(scene: Scene, subject: Subject, tell: Callable[[_Report], None], code: int) -> None:
    """Run *scene* in the process whose call fails, if it executes no other program."""
    signal.alarm(HANGS)
    gc.disable()
    gc.freeze()  # so that the collection at the end sees only objects that are made here
    log = logging.getLogger(
        "dogpile_fs"
    )  # a kept log record would keep an error, its traceback and all objects there
    log.propagate = False
    log.addHandler(logging.NullHandler())
    before = sorted(descriptors().values())
    report = _Report()
    try:
        scene.get_ready(subject)
        mark()
        try:
            report.found = scene.act(subject)
            report.ended = subject.ended if isinstance(subject, OfCommand) else None
        except BaseException as error:
            _note(error, code, str(subject.path.parent), report, awaited=scene.another_creates)
        mark()
        tell(report)
        report = _Report()
        mark()
        if scene.another_creates:
            subject.drop()
        subject.contents = NEXT
        was = subject.passed() if subject.stamps else subject.found()
        subject.create()
        found = subject.passed()
        if found != (NEXT if subject.replaces or was is None else was):
            report.wrong.append(f"with the same object, {found[:9]!r} is read after the next creation")
        subject.drop()
        gc.collect()
        more = [name for name in sorted(descriptors().values()) if name not in before]
        if more and not isinstance(subject, OfCommand):  # a command ends now
            report.wrong.append(f"leaked descriptors: {more}")
    except BaseException:
        report.wrong.append(f"it cannot go on: {traceback.format_exc()}")
    tell(report)
    os.kill(
        os.getpid(), signal.SIGKILL
    )  # not _exit: coverage would write a file for each of thousands of processes


def _note(error: BaseException, code: int, directory: str, report: _Report, *, awaited: bool) -> None:
    """Add *error* to *report*, and what is wrong with it. *awaited*: another caller creates and does not end."""
    report.error = f"{type(error).__name__}: {error}"
    report.users_own = isinstance(error, TheUsersOwn)
    if report.users_own:
        return
    trace = "".join(traceback.format_exception(error))
    if not isinstance(error, DogpileError):
        report.wrong.append(f"no error of ours: {trace}")
    elif isinstance(error, LockTimeout) and awaited:
        pass  # a process that cannot read the sidecar waits for the creator
    elif isinstance(error, DatafileError) and error.errno == errno.ENOLCK and code in (errno.EIO, errno.ESTALE):
        pass  # a lock file that cannot be read is one whose lock a server has given to others
    elif directory not in str(error) or os.strerror(code) not in str(error):
        report.wrong.append(f"not clear: {trace}")


def _called(
    scene: Scene, subject: Subject, number: int, code: int, begin: str, before: Status | None, began: float
) -> Outcome | None:
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as pipe:
        tracee = _traced(scene, subject, lambda report: _write(write, report), code)
        try:
            os.close(write)
            tracee.go_to_mark()
            call = fail_call(tracee, number, code, begin)
            if call is None:
                return None
            tracee.go_to_mark()
            tracee.go_to_mark()
            report = pickle.loads(pipe.read(_SIZE))
            if isinstance(subject, OfCommand):
                _note_end(subject, code, report)
            wrong = report.wrong + _wrong_from_outside(scene, subject, report, before, began)
            tracee.detach()
            later = pipe.read(_SIZE)
            wrong += pickle.loads(later).wrong if later else ["it hangs, or died, when it went on"]
        except Ended as end:
            died = "hangs" if end.status == -signal.SIGALRM else f"ended with {end.status}"
            return Outcome("wrong", call or "", [f"it {died}"])
        finally:
            tracee.kill()
    if not scene.another_creates:
        wrong += _wrong_at_the_end(subject)
    kind = "correct pass"
    if report.error:
        kind = "the user's own error" if report.users_own else "clear error"
    return Outcome("wrong" if wrong else kind, call, wrong)


def _write(fd: int, report: _Report) -> None:
    os.write(fd, pickle.dumps(report))


def _wrong_from_outside(
    scene: Scene, subject: Subject, report: _Report, before: Status | None, began: float
) -> list[str]:
    """Return what is wrong for other processes, while the process whose call failed still lives."""
    try:
        return list(_looked_at(scene, subject, report, before, began))
    except (DogpileError, OSError, AssertionError):
        return [f"from outside: {traceback.format_exc()}"]
    finally:
        subject.drop()


def _looked_at(scene: Scene, subject: Subject, report: _Report, before: Status | None, began: float) -> Any:
    old = None if scene.before == "missing" else OLD
    found = subject.found()
    for where, contents in (("in place", found), ("in the block", report.found or found)):
        if contents not in (old, scene.new):
            yield f"{where} is neither the old nor the new version, but {contents and contents[:9]!r}"
    act = scene.act.__name__
    created = act in ("forced", "rolled_back")
    if isinstance(subject, OfCommand) and subject.words[0] == "run":
        created = scene.before != "fresh"
    if not report.error and found != scene.new and created and (subject.replaces or found is None):
        yield f"no error, and nothing done: {found and found[:9]!r}"
    if subject.kept and scene.before != "missing" and act != "rolled_back":
        back = OLD if found == scene.new else OLDER
        if back not in (kept := subject.kept_versions()):
            yield f"no rollback is possible: {kept}"
    if not subject.stamps:
        return
    status = subject.status()
    if status.creating and not scene.another_creates:
        yield f"the creation mutex is still held: {status}"
    if subject.observed and (found is None) != (status.state == "missing") and "invalidated" not in act:
        yield f"the status contradicts the file in place: {status}"
    if "invalidated" in act and not report.error and status.state == "fresh":
        yield f"not invalidated: {status}"
    if status.state == "fresh" and status.createdtime is not None:
        now = time.time()
        of_this_run = found == scene.new and (
            began - TICK <= status.createdtime <= now or status.createdtime == subject.mtime()
        )
        # Of a Dogpile that does not look at its path, a file that is swapped in and not stamped has the stamp
        # before.
        of_before = (
            (found == old or not subject.observed)
            and before is not None
            and (before.state, before.createdtime) == ("fresh", status.createdtime)
        )
        if not (of_this_run or of_before):
            yield f"wrongly called fresh: {status}"


def _wrong_at_the_end(subject: Subject) -> list[str]:
    """Return what is wrong with the next creation, and which leftovers are there after it."""
    try:
        subject.contents = LAST
        subject.create()
        found = subject.found()
        wrong = [] if found is not None else ["the next creation did nothing"]
        if left := subject.left():
            wrong.append(f"left: {left}")
        return wrong
    except (DogpileError, OSError, AssertionError):
        return [f"the next creation: {traceback.format_exc()}"]
    finally:
        subject.drop()


#: The exit statuses of docs/cli.rst that a failing call may cause.
_DOCUMENTED = {
    exits.OK,
    exits.DATAERR,
    exits.NOINPUT,
    exits.UNAVAILABLE,
    exits.OSERR,
    exits.CANTCREAT,
    exits.IOERR,
    exits.TEMPFAIL,
    exits.NOPERM,
    exits.NOT_EXECUTABLE,
}


#: Words in a message that name the object of the failing call, if no path does.
_NAMES = ("COMMAND", "--validate", "--then", "standard output", "a pipe")


#: Words in the message of a command that cannot import a module of its own. The import system keeps no reason.
_NOT_LOADED = "a part of dogpile-fs cannot be loaded"


def _note_end(subject: OfCommand, code: int, report: _Report) -> None:
    """Add to *report* how a command ended, and what is wrong with that."""
    ended, said = report.ended, subject.err.read_text()
    good = exits.STALE if subject.words[0] == "status" else exits.OK
    if ended != good and ended not in _DOCUMENTED:
        report.wrong.append(f"exit status {ended}: {said}")
    if any(not line.startswith("dogpile-fs: ") for line in said.splitlines()):
        report.wrong.append(f"exit status {ended}, and not one clear line each: {said}")
    if ended != good:
        report.error = said or "no message"
        named = any(name in said for name in (str(subject.path.parent), *_NAMES))
        if not (os.strerror(code) in said and named) and _NOT_LOADED not in said:
            report.wrong.append(f"exit status {ended}, not clear: {said!r}")


def _executed(
    scene: Scene, subject: OfCommand, number: int, code: int, before: Status | None, began: float
) -> Outcome | None:
    tracee = _traced(scene, subject, _report_to_none, code)
    call = ""
    try:
        call = fail_call(tracee, number, code) or ""
        while True:
            tracee.go_to_mark()
    except Ended as end:
        report = _Report(ended=end.status)
    finally:
        tracee.kill()
    if not call:
        return None
    _note_end(subject, code, report)
    wrong = report.wrong + _wrong_from_outside(scene, subject, report, before, began) + _wrong_at_the_end(subject)
    return Outcome("wrong" if wrong else "clear error" if report.error else "correct pass", call, wrong)
