"""What a function returns, in a file for each call's arguments: what ``cached_file`` makes of it."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import MethodType
from typing import IO, Any, BinaryIO, Generic, ParamSpec, Protocol, TypeVar, cast

from .argument_key import argument_key
from .datafile import Datafile
from .datafiles import Datafiles
from .target import Target

__all__ = ["CachedFile", "CallCache", "Format", "checked_format"]

P = ParamSpec("P")
R = TypeVar("R")
#: Characters that the suffix of a file has, of the name of its format.
_NOT_IN_SUFFIX = re.compile(r"[^a-z0-9]+")


class Format(Protocol):
    """A module or an object that writes values to files and reads them, as ``json`` and ``pickle`` do."""

    def dump(self, value: Any, file: Any, /) -> object: ...
    def load(self, file: Any, /) -> Any: ...


class _Call(str):
    """The key of a call, with its arguments. A later call with the same key has equal ones."""

    __slots__ = ("arguments", "keywords")

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class CallCache:
    """The results of a function, in files."""

    __wrapped__: Callable[..., Any]
    __qualname__: str

    def __init__(
        self,
        function: Callable[..., Any],
        directory: str,
        expiretime: float | timedelta | None,
        format: Format,
        binary: bool,
        options: dict[str, Any],
    ) -> None:
        functools.update_wrapper(cast("Any", self), function)  # first: the function may be another of these
        self._name = _name_of(function)
        self._signature = inspect.signature(function)
        self._format = format
        self._is_binary = binary
        self._loader = self._load  # one object, which load() knows again
        suffix = _NOT_IN_SUFFIX.sub("", getattr(format, "__name__", "").rpartition(".")[2].lower()) or "data"
        options = {"parents": True, **options}
        self._files = Datafiles(os.path.join(directory, f"{{key}}.{suffix}"), expiretime, self._create, **options)

    def _file(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Datafile:
        key = f"{self._name} {argument_key(self._name, self._signature, args, kwargs)}"
        file = self._files._known(key)
        if file is not None:
            return file
        call = _Call(key)
        # The caller may change its own later, and the function may be called for this key again.
        call.arguments, call.keywords = copy.deepcopy((args, kwargs))
        return self._files[call]

    def _create(self, key: str, target: Target) -> None:
        if not isinstance(key, _Call):
            raise TypeError(f"only a call of {self._name}() knows the arguments for {key!r}. Hint: call it.")
        result = self._called(*copy.deepcopy((key.arguments, key.keywords)))
        with open(target, "wb") as bytes_file, self._as_format_wants(bytes_file) as file:
            try:
                self._format.dump(result, file)
            except OSError:
                raise  # of the disk
            except Exception as error:
                raise TypeError(
                    f"{self._name}() returned what {_name_of_format(self._format)} cannot write: {error}. Hint: "
                    "return what it can, or give another format=."
                ) from error

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def _load(self, bytes_file: BinaryIO) -> Any:
        with self._as_format_wants(bytes_file) as file:
            return self._format.load(file)

    @contextmanager
    def _as_format_wants(self, file: BinaryIO) -> Iterator[IO[Any]]:
        if self._is_binary:
            yield file
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()  # and does not close the file, which is another's

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        # As a function that is called by an object: which is then an argument, and most are refused as one.
        return self if instance is None else MethodType(cast("Any", self), instance)

    def __reduce__(self) -> str:
        return self.__qualname__  # as a function: by its name

    def __repr__(self) -> str:
        return f"<cached_file of {self._name}>"


class CachedFile(CallCache, Generic[P, R]):
    """What :func:`.cached_file` makes of a plain function."""

    __wrapped__: Callable[P, R]

    @property
    def files(self) -> Datafiles:
        """The results, by the keys that calls make of their arguments."""
        return self._files

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", self._file(args, kwargs).load(self._loader))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function for these arguments, whatever there is, and return the new result.

        It waits for a call that runs now.
        """
        file = self._file(args, kwargs)
        file.refresh(force=True)
        return cast("R", file.load(self._loader))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Make the result for these arguments stale: one caller calls the function, others get the old one."""
        self._file(args, kwargs).invalidate()


def checked_format(format: object, binary: bool) -> Format:
    """Return what writes and reads.

    :raises TypeError, ValueError: if it cannot.
    """
    if format == "json" or format is json:
        if binary:
            raise ValueError("binary=True is not for JSON, which is text")
        return json
    if isinstance(format, str):
        raise ValueError(f"format must be 'json' or have dump and load, not {format!r}. Hint: give the module.")
    for name in ("dump", "load"):
        if not callable(getattr(format, name, None)):
            raise TypeError(f"format must be 'json' or have dump and load, and {format!r} has no {name}")
    return cast("Format", format)


def _name_of_format(format: object) -> str:
    return str(getattr(format, "__name__", repr(format)))


def _name_of(function: Any) -> str:
    """Return the name by which *function* is told from all others that may have the same directory.

    :raises TypeError: if there is none, or it is an asynchronous generator.
    """
    name = getattr(function, "__qualname__", None)
    if not callable(function) or name is None:
        raise TypeError(f"cached_file is for functions, and {function!r} has no name to know its results by")
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"cached_file is for functions that return a value, and {name}() is a generator")
    if "<lambda>" in name:
        raise TypeError(f"cached_file cannot tell {function!r} from other lambdas. Hint: give it a name, by def.")
    if "<locals>" in name and getattr(function, "__closure__", None):
        raise TypeError(
            f"cached_file cannot tell {name}() from what another call of the function around it would make: it "
            "uses variables of that. Hint: define it at the top level of a module, and hand in what it needs."
        )
    return f"{_name_of_module(function.__module__)}.{name}"


def _name_of_module(name: str) -> str:
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    spec = getattr(main, "__spec__", None)  # two programs are not one
    return str(spec.name if spec is not None else os.path.abspath(getattr(main, "__file__", name)))
