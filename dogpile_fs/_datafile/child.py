"""Creations in a process of their own, which outlives that of the caller: the caller's side.

The caller that was elected starts an interpreter, a new one and no bare fork: it has none of the caller's threads,
and what the creator needs stays out of the caller's memory. The interpreter inherits the descriptor that holds the
mutex, and the caller closes its own without unlocking. So there is no moment at which another caller can be
elected, and no lease: the kernel frees the mutex when the child has ended. :mod:`.child_main` is the child's side.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from .._dogpile.background import threads_run
from .._dogpile.dogpile import Dogpile
from .._dogpile.policy import Policy
from .._locks import holds
from .._os import fork
from .._sidecar.record import Attempt

if TYPE_CHECKING:
    from .._dogpile.background import Place
    from .._dogpile.creation import Creation
    from .resource import Resource

__all__ = ["InProcess", "Order"]

log = logging.getLogger("dogpile_fs")

#: Run by the child. Its modules are those of the caller, whatever the environment and the working directory say.
_BOOTSTRAP = (
    "import pickle, sys; sys.path[:], order = pickle.load(sys.stdin.buffer); "
    "from dogpile_fs._datafile.child_main import main; main(pickle.loads(order))"
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is told. It can be read without importing the creator."""

    #: The datafile, pickled.
    resource: bytes
    #: Arguments of a :class:`.Dogpile` that keeps the same record.
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    #: The attempt of the caller, on record.
    begun: Attempt
    #: By which the caller has held the mutex, as of :meth:`.FileMutex._adopt`.
    mutex: tuple[int, int]
    creator_timeout: float | None
    #: What is called before the creator is imported; pickled.
    setup: bytes
    #: What ``multiprocessing`` needs to import the caller's ``__main__``, if the creator is defined there.
    main: dict[str, Any]
    argv: list[str]
    #: Whether no thread of the caller waits for the child.
    is_detached: bool

    def dogpile(self) -> Dogpile:
        """Return an object for the record alone."""
        return Dogpile(*self.arguments, **self.options)


class InProcess:
    """Creations of *resource* in processes of their own.

    :raises ValueError: if its creator cannot be imported by another process.
    """

    refreshes = True

    def __init__(self, resource: Resource[Any], policy: Policy) -> None:
        self.resource = ref(resource)
        self.policy = policy
        for name, function in (
            ("creator", resource._creator),
            ("validate", resource._validate),
            ("background_setup", policy.background_setup),
            ("on_event", policy.on_event),
        ):
            refuse_what_cannot_be_imported(name, function)

    def place(self) -> Place:
        return _ProcessPlace(self)

    def is_abandoned(self) -> bool:
        return False


class _ProcessPlace:
    """One creation in a process."""

    kind = "process"

    def __init__(self, background: InProcess) -> None:
        self._resource = background.resource()
        self._policy = background.policy

    def start(self, creation: Creation, creator: Callable[[], Any], taker: holds.Taker) -> bool:
        hold, name = taker.mutex_hold, creation.scope.name
        is_detached = not threads_run()
        try:
            order = self._order(creation, hold, is_detached)
            hold.is_handed_over = True  # first: if an interrupt comes, the child has it, or the kernel frees it
            process = _started(order, hold.fd, name)
        except (OSError, ValueError, TypeError, AttributeError, pickle.PicklingError) as error:
            hold.is_handed_over = False
            log.warning("%s: creating in the caller, because no other process can be started: %s", name, error)
            creation.begin()
            return False
        creation.scope.mutex._release_hold(hold)
        taker.mutex_hold = None
        if is_detached:
            process.wait()  # it has started another one, and ends
        else:
            _children.reap(process)
        return True

    def _order(self, creation: Creation, hold: Any, is_detached: bool) -> bytes:
        resource, policy = self._resource, self._policy
        assert resource is not None
        assert creation.attempt is not None
        pickled, setup = pickle.dumps(resource), pickle.dumps(policy.background_setup)
        order = Order(
            resource=pickled,
            arguments=(resource._dogpile.expiretime, resource._dogpile.path),
            options=resource._options_of_dogpile(),
            begun=creation.attempt,
            mutex=(hold.fd, hold.byte),
            creator_timeout=cast("float | None", policy.creator_timeout),
            setup=setup,
            main=_main_module() if b"__main__" in pickled + setup else {},
            argv=sys.argv,
            is_detached=is_detached,
        )
        return pickle.dumps((sys.path, pickle.dumps(order)))


def _started(order: bytes, fd: int, name: str) -> subprocess.Popen[bytes]:
    with open(os.memfd_create("dogpile_fs"), "r+b") as file:  # no pipe, which could be full
        file.write(order)
        file.seek(0)
        return subprocess.Popen(
            [_interpreter(), "-P", "-c", _BOOTSTRAP, f"dogpile_fs: creating {name}"],
            stdin=file,
            pass_fds=(fd,),
            start_new_session=True,
        )


def _interpreter() -> str:
    """Return the path of the interpreter. A server that embeds one says its own program's (uWSGI does).

    :raises FileNotFoundError: if it is not found.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if getattr(sys, "frozen", False):
        raise FileNotFoundError(f"{sys.executable} is a frozen program, and no interpreter")
    names = [sys.executable or ""]
    names += [os.path.join(prefix, "bin", version) for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix)]
    for name in names:
        if os.path.basename(name).startswith(("python", "pypy")) and os.access(name, os.X_OK):
            return name
    raise FileNotFoundError(f"no {version} in {sys.prefix}")


class _Children:
    """The children of this process. A thread for each waits for its end, so that none is left as a zombie."""

    def __init__(self) -> None:
        self._unwaited: list[subprocess.Popen[bytes]] = []
        fork.reset_after_fork(self)

    def after_fork(self) -> None:
        for process in self._unwaited:
            process.returncode = 0  # it is the parent's, and nothing waits for it here
        self._unwaited.clear()

    def reap(self, process: subprocess.Popen[bytes]) -> None:
        self._unwaited = [each for each in self._unwaited if each.poll() is None]
        try:
            threading.Thread(target=process.wait, name="dogpile_fs: waits for a child", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter ends
            self._unwaited.append(process)


_children = _Children()


def _main_module() -> dict[str, Any]:
    """Return what another process needs to import this one's ``__main__``, by the rules of ``multiprocessing``."""
    from multiprocessing import spawn

    told = spawn.get_preparation_data("dogpile_fs")
    return {name: told[name] for name in ("init_main_from_name", "init_main_from_path") if name in told}


def refuse_what_cannot_be_imported(name: str, function: Callable[..., Any] | None) -> None:
    """:raises ValueError: if another process cannot import *function*, which the caller gives as *name*."""
    if function is None:
        return
    hint = "Hint: define it at the top level of a module."
    try:
        pickled = pickle.dumps(function)
    except Exception as error:
        raise ValueError(
            f"background='process' needs a {name} that another process can import, and {function!r} cannot be: "
            f"{error}. {hint}"
        ) from error
    main = sys.modules.get("__main__")
    if b"__main__" in pickled and getattr(main, "__spec__", None) is None and not hasattr(main, "__file__"):
        raise ValueError(
            f"background='process' needs a {name} that another process can import, and {function!r} is defined in "
            f"a program that is no file. {hint}"
        )
