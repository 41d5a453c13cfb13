"""One resource of a run of pytest, in a directory of its own: who makes it, who uses it, who tears it down.

``result.json`` is a datafile: what ``create`` has returned, or how it has failed. It is there from the creation to
the teardown. The readers of ``users.lock`` are the processes that use the resource; its writer is the process that
tears it down. Processes leave one after the other, under ``leaving.lock``, so that just the last finds no reader.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .. import Backoff, CreationFailed, Datafile, FileMutex, ReadWriteFileLock

__all__ = ["Resource", "checked_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RESULT = "result.json"
_FAILURE = "teardown_failed"
_FILES = "files"
#: ``pytest.skip`` and ``pytest.fail`` raise what is no ``Exception``.
_FAILURES = (Exception, pytest.skip.Exception, pytest.fail.Exception)
#: Seconds, longer than a run takes. A worker that was killed while it created is followed by one that tries again.
#: After the second death no worker of the run does.
_NEVER_AGAIN = Backoff(initial=7 * 86400, maximum=7 * 86400, jitter=0)
#: Seconds, longer than a creation takes. Without a bound of its own the wait of a caller that holds another lock,
#: such as its share in another resource, ends after 300 s.
_PATIENCE = 86400.0


def checked_name(name: str) -> None:
    """Refuse a *name* that is no name of a directory.

    :raises ValueError: for such a name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a resource's name must be 1 to 64 ASCII letters, digits and _ - . and begin with a letter or digit, "
            f"not {name!r}"
        )


class Resource:
    """The resource *name* of the run in the directory *run*."""

    def __init__(self, run: Path, name: str) -> None:
        self.name = name
        self.directory = run / name
        self._result = self.directory / _RESULT
        self._users = ReadWriteFileLock(self.directory / "users.lock")
        self._leaving = FileMutex(self.directory / "leaving.lock")

    @classmethod
    def all_of(cls, run: Path) -> list[Resource]:
        """Return all resources of that run that were made, the last one first."""
        results = sorted(run.glob(f"*/{_RESULT}"), key=lambda result: result.stat().st_mtime_ns, reverse=True)
        torn_down = [each for each in run.glob(f"*/{_FAILURE}") if not each.with_name(_RESULT).exists()]
        return [cls(run, file.parent.name) for file in (*results, *torn_down)]

    def join(self) -> None:
        """Be one of its users from now on.

        :raises RuntimeError: if it is being torn down: the run has ended.
        """
        self.directory.mkdir(0o700, exist_ok=True)
        if not self._users.acquire_read_lock(wait=False):
            raise RuntimeError(f"{self.name!r} is being torn down: the run of pytest has ended")

    def value(
        self,
        create: Callable[[Path], Any],
        teardown: Callable[[Any], object] | None,
        before: Callable[[], object],
    ) -> object:
        """Return what *create* has returned, in whichever process of the run.

        :param before: called before *create*, by the same process.
        :raises: what *create* raises, in the process that calls it.
        """
        error: BaseException | None = None

        def make(target: str) -> None:
            nonlocal error
            before()
            files = self.directory / _FILES
            shutil.rmtree(files, ignore_errors=True)  # of a creator that was killed
            files.mkdir(0o700)
            try:
                text = json.dumps({"value": create(files), "teardown": teardown and _reference_to(teardown)})
            except _FAILURES as raised:
                error = raised
                text = json.dumps(_failure(raised))
            Path(target).write_text(text)

        result = Datafile(
            self._result, None, make, backoff=_NEVER_AGAIN, durable=False, timeout=_PATIENCE, mode=0o600
        )
        try:
            outcome = result.load(json.load)
        except CreationFailed as failed:
            if failed.failed_type != "died":
                raise
            pytest.fail(f"{self.name!r} is not created: each of two workers has died of it", pytrace=False)
        if error is not None:
            raise error
        if "skipped" in outcome:
            pytest.skip(outcome["skipped"])
        if "failed" in outcome:
            pytest.fail(f"the creation of {self.name!r} has failed {outcome['failed']}", pytrace=False)
        return outcome["value"]

    def leave(self, teardown: Callable[[Any], object] | None) -> None:
        """Be no user any more, and tear it down as the last one.

        :param teardown: this process's own function; ``None``: it has none.
        """
        with self._leaving:
            self._users.release_read_lock()
            self.tear_down(teardown)

    def tear_down(self, teardown: Callable[[Any], object] | None, modules: Iterable[object] = ()) -> bool:
        """Call *teardown*, or else the function that was given at the creation, unless others use the resource.

        An interrupt leaves the resource as it is, for the next process. What the function raises is kept for
        :meth:`failure`.

        :param modules: where else the function's module may be.
        :returns: False if there is no such function.
        """
        if not self._users.acquire_write_lock(wait=False):
            return True
        try:
            outcome = self._outcome()
            function = teardown or _found(outcome.get("teardown"), modules)
            if function is None:
                return not outcome.get("teardown")
            if "value" in outcome:
                try:
                    function(outcome["value"])
                except _FAILURES as error:
                    (self.directory / _FAILURE).write_text("".join(traceback.format_exception(error)))
                self._result.unlink()
            return True
        finally:
            self._users.release_write_lock()

    @property
    def is_pending(self) -> bool:
        """Whether it was created, with a teardown, and that was not called."""
        return bool(self._outcome().get("teardown"))

    def failure(self) -> str:
        """Return what the teardown has raised; ``""`` if nothing."""
        with suppress(FileNotFoundError):
            return (self.directory / _FAILURE).read_text()
        return ""

    def _outcome(self) -> dict[str, Any]:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            outcome: dict[str, Any] = json.loads(self._result.read_text())
            return outcome
        return {}


def _failure(error: BaseException) -> dict[str, str]:
    """Return what the other processes are told of what ``create`` has raised."""
    if isinstance(error, pytest.skip.Exception):
        return {"skipped": str(error)}
    worker = os.environ.get("PYTEST_XDIST_WORKER", "this process")
    return {"failed": f"in {worker}:\n{''.join(traceback.format_exception(error))}"}


def _reference_to(function: Callable[[Any], object]) -> dict[str, str]:
    """Return by which names a process that was not given *function* may find it."""
    module = getattr(function, "__module__", None) or ""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return {"module": module, "name": getattr(function, "__qualname__", ""), "file": file}


def _found(reference: dict[str, str] | None, modules: Iterable[object]) -> Callable[[Any], object] | None:
    """Return the function at the top level of a module to which *reference* leads; ``None`` if there is none.

    The module is told by its file: several ``conftest.py`` of one run may have the same name.
    """
    if not reference or not reference["file"] or not reference["name"].isidentifier():
        return None
    for module in (*sys.modules.copy().values(), *modules):
        # Not getattr: a module that is imported lazily would be imported, or raise.
        if getattr(module, "__dict__", {}).get("__file__") == reference["file"]:
            break
    else:
        try:
            module = _imported(reference["module"], Path(reference["file"]))
        except Exception:
            return None
    found = getattr(module, reference["name"], None)
    return found if callable(found) else None


def _imported(name: str, file: Path) -> object:
    """Import the module *name* from *file*, which may be where only workers have looked for modules."""
    base = str(file.parents[name.count(".")])
    sys.path.insert(0, base)
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.remove(base)
    return module if getattr(module, "__file__", None) == str(file) else None
