"""A scene one of whose system calls fails, and what must be so all the same.

Who met the error has either got through, with a resource that is whole, or was told of it: by an error of ours
that names a path and says what the system said, or by his own. Nothing of his is locked or open when he drops what
he has, he can go on with it, and so can all others. The old version is in place, or the new one; what is called
fresh was created when it says.
"""

from __future__ import annotations

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

from dogpile_fs import DogpileError, LockTimeout, Status
from dogpile_fs.cli import exits

from .faults import count_calls, fail_call
from .places import descriptors
from .ptracing import Ended, Tracee, mark
from .scenes import OLD, OLDER, SCENES, Scene
from .subjects import OfCommand, Subject, TheUsersOwn

__all__ = ["Outcome", "calls_of", "met"]

#: Seconds after which somebody hangs. Nothing here waits for anybody.
HANGS = 20
_SIZE = 1 << 16
#: What is created afterwards: by who met the error, and by another.
NEXT, LAST = (word * 3_000 for word in (b"next", b"last"))
#: By so much an mtime may be earlier than the clock said before: it is that of the kernel's last tick.
TICK = 0.02


@dataclass(frozen=True)
class Outcome:
    """What came of it: *kind*, for counting; *call* failed. *wrong*: what should not be."""

    kind: str
    call: str
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Report:
    """What is told of from inside."""

    #: What was found in the block.
    found: bytes | None = None
    #: A command's exit status.
    ended: int | None = None
    #: The error that was met: its name, and what it says.
    error: str = ""
    users_own: bool = False
    wrong: list[str] = field(default_factory=list)


def calls_of(name: str, directory: Path) -> list[str]:
    """The calls of the scene *name* that can fail."""
    scene = SCENES[name]
    with _Stage(scene, directory) as subject:
        tracee = _traced(scene, subject, _nobody_listens, 0)
        try:
            if not scene.executes:
                tracee.go_to_mark()
            return count_calls(tracee)
        finally:
            tracee.kill()


def met(name: str, number: int, code: int, directory: Path, begin: str = "") -> Outcome | None:
    """The scene *name*, in a new directory below *directory*, while its call *number* fails with the error *code*.

    :param begin: of those calls only that are told like this.
    :returns: None if there are fewer.
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
    """A directory with a subject, which is gone afterwards."""

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


def _nobody_listens(report: _Report) -> None:
    pass


def _live(scene: Scene, subject: Subject, tell: Callable[[_Report], None], code: int) -> None:
    """The life of who meets the error, if he is no program of his own."""
    signal.alarm(HANGS)
    gc.disable()
    gc.freeze()  # what is dropped at the end is what is made here
    log = logging.getLogger("dogpile_fs")  # whose records may keep an error, and all that its traceback leads to
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
        if more and not isinstance(subject, OfCommand):  # which ends now
            report.wrong.append(f"leaked descriptors: {more}")
    except BaseException:
        report.wrong.append(f"it cannot go on: {traceback.format_exc()}")
    tell(report)
    os.kill(os.getpid(), signal.SIGKILL)  # not by _exit: of thousands of processes, coverage is to make no files


def _note(error: BaseException, code: int, directory: str, report: _Report, *, awaited: bool) -> None:
    """Note that *error* was met, and what is wrong with it; *awaited*: somebody creates, and does not come to an
    end."""
    report.error = f"{type(error).__name__}: {error}"
    report.users_own = isinstance(error, TheUsersOwn)
    if report.users_own:
        return
    trace = "".join(traceback.format_exception(error))
    if not isinstance(error, DogpileError):
        report.wrong.append(f"no error of ours: {trace}")
    elif isinstance(error, LockTimeout) and awaited:
        pass  # who cannot read the sidecar waits for who creates
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
            tracee.let_go()
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
    """What others see that should not be, while who met the error is still there."""
    try:
        return list(_looked_at(scene, subject, report, before, began))
    except (DogpileError, OSError, AssertionError):
        return [f"from outside: {traceback.format_exc()}"]
    finally:
        subject.drop()


def _looked_at(scene: Scene, subject: Subject, report: _Report, before: Status | None, began: float) -> Any:
    old = None if scene.before == "nothing" else OLD
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
    if subject.kept and scene.before != "nothing" and act != "rolled_back":
        back = OLD if found == scene.new else OLDER
        if back not in (kept := subject.kept_versions()):
            yield f"nobody can go back: {kept}"
    if not subject.stamps:
        return
    status = subject.status()
    if status.creating and not scene.another_creates:
        yield f"the creation mutex is still held: {status}"
    if subject.observed and (found is None) != (status.state == "nothing") and "invalidated" not in act:
        yield f"not so: {status}"
    if "invalidated" in act and not report.error and status.state == "fresh":
        yield f"not invalidated: {status}"
    if status.state == "fresh" and status.createdtime is not None:
        now = time.time()
        of_this_run = found == scene.new and (
            began - TICK <= status.createdtime <= now or status.createdtime == subject.mtime()
        )
        # Where nobody looks at the path, what was swapped in and not stamped goes by the stamp before.
        of_before = (
            (found == old or not subject.observed)
            and before is not None
            and (before.state, before.createdtime) == ("fresh", status.createdtime)
        )
        if not (of_this_run or of_before):
            yield f"wrongly called fresh: {status}"


def _wrong_at_the_end(subject: Subject) -> list[str]:
    """What is wrong with the next creation, and with what is left after it."""
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


#: What docs/cli.rst says.
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


#: What else than a path tells what could not be done.
_NAMES = ("COMMAND", "--validate", "--then", "standard output", "a pipe")


def _note_end(subject: OfCommand, code: int, report: _Report) -> None:
    """Note how a command ended, and what is wrong with that."""
    ended, told = report.ended, subject.err.read_text()
    good = exits.STALE if subject.words[0] == "status" else exits.OK
    if ended != good and ended not in _DOCUMENTED:
        report.wrong.append(f"exit status {ended}: {told}")
    if any(not line.startswith("dogpile-fs: ") for line in told.splitlines()):
        report.wrong.append(f"exit status {ended}, and not one clear line each: {told}")
    if ended != good:
        report.error = told or "untold"
        named = any(name in told for name in (str(subject.path.parent), *_NAMES))
        if not (os.strerror(code) in told and named):
            report.wrong.append(f"exit status {ended}, not clear: {told!r}")


def _executed(
    scene: Scene, subject: OfCommand, number: int, code: int, before: Status | None, began: float
) -> Outcome | None:
    tracee = _traced(scene, subject, _nobody_listens, code)
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
