"""A cache of Django on files, whose keys are created once by all processes."""

from __future__ import annotations

import math
import os
import pickle
import random
import secrets
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from .._value_files import NEVER, ValueFile, ValueFiles

__all__ = ["DatafileCache"]

#: How often the values are counted while ``MAX_ENTRIES`` are set, on average. So a count, which takes longer the
#: more values there are, costs each call the same. A cache of up to so many entries is counted at each call; a
#: larger one is past its limit by 1 %, on average, when a count finds that.
_COUNTS = 100


class DatafileCache(BaseCache):  # type: ignore[misc,unused-ignore]
    """A cache of Django on files: ``"BACKEND": "dogpile_fs.integrations.django.DatafileCache"``.

    :param location: the directory, ``LOCATION``; made for its user alone when the first value is written.
    :param params: the other entries of ``CACHES``, as of Django's own backend for files.

    What that has not: ``get_or_set`` with a function calls it once in all processes, while others wait for that
    key alone; ``add``, ``touch`` and ``incr`` are atomic between processes, and ``incr`` keeps the time at which a
    value expires. A value is replaced whole, and one that a crash of the machine has harmed counts as none.

    >>> import tempfile
    >>> cache = DatafileCache(tempfile.mkdtemp(), {"TIMEOUT": 3600})
    >>> cache.get_or_set("orders", lambda: [1, 2, 3])
    [1, 2, 3]
    >>> cache.set("visits", 1)
    >>> cache.incr("visits"), cache.add("visits", 5)
    (2, False)
    """

    pickle_protocol = pickle.HIGHEST_PROTOCOL

    def __init__(self, location: str | os.PathLike[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        self._files = ValueFiles(location)

    @property
    def directory(self) -> str:
        """The absolute path of the directory with the values."""
        return self._files.directory

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        value = self._file(key, version).read()
        return default if value is None else pickle.loads(value.data)

    def has_key(self, key: str, version: int | None = None) -> bool:
        return self._file(key, version).read() is not None

    def set(
        self, key: str, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        self._cull()
        file, data = self._file(key, version), self._pickled(value)
        with file.writing():
            file.write(data, self._until(timeout))

    def add(
        self, key: str, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        file, data = self._file(key, version), self._pickled(value)
        self._cull()
        with file.writing():
            if file.read() is not None:
                return False
            file.write(data, self._until(timeout))
        return True

    def touch(self, key: str, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        file = self._file(key, version)
        with file.writing():
            value = file.read()
            if value is None:
                return False
            file.write(value.data, self._until(timeout))
        return True

    def delete(self, key: str, version: int | None = None) -> bool:
        file = self._file(key, version)
        with file.writing():
            return file.remove()

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> Any:
        """Add *delta* to a value, whose time of expiry stays.

        :raises ValueError: if there is none.
        """
        file = self._file(key, version)
        with file.writing():
            value = file.read()
            if value is None:
                raise ValueError(f"Key {key!r} not found")
            new = pickle.loads(value.data) + delta
            file.write(self._pickled(new), value.until)
        return new

    def get_or_set(
        self, key: str, default: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return the value; a *default* that is a function is called once in all processes, if there is none.

        :raises: what the function raises; then the next caller calls it.
        """
        nothing = object()
        value = self.get(key, nothing, version)
        if value is not nothing:
            return value
        if not callable(default):
            self.add(key, default, timeout, version)
            return self.get(key, default, version)
        with self._file(key, version).creating():
            value = self.get(key, nothing, version)
            if value is nothing:
                value = default()
                self.add(key, value, timeout, version)
                value = self.get(key, value, version)
        return value

    async def aget_or_set(self, *arguments: Any, **options: Any) -> Any:
        """Do the same in a thread."""
        return await sync_to_async(self.get_or_set, thread_sensitive=False)(*arguments, **options)

    async def aincr(self, *arguments: Any, **options: Any) -> Any:
        """Do the same as :meth:`incr` in a thread."""
        return await sync_to_async(self.incr, thread_sensitive=False)(*arguments, **options)

    def clear(self) -> None:
        """Remove all values, and what killed writers have left."""
        self._files.remove_leftovers()
        for name in self._files.names():
            self._files.discard(name)

    def _file(self, key: str, version: int | None) -> ValueFile:
        return self._files[self.make_and_validate_key(key, version=version)]

    def _pickled(self, value: Any) -> bytes:
        return pickle.dumps(value, self.pickle_protocol)

    def _until(self, timeout: float | None) -> float:
        until = self.get_backend_timeout(timeout)
        return NEVER if until is None else float(until)

    def _cull(self) -> None:
        """Remove one value of ``CULL_FREQUENCY`` at random, if there are ``MAX_ENTRIES``; 0: all of them."""
        # Drawn, and not counted: so the processes need not tell each other how many values each of them has set.
        if secrets.randbelow(max(1, self._max_entries)) >= _COUNTS:
            return
        names = self._files.names()
        if len(names) < self._max_entries:
            return
        self._files.remove_leftovers()
        if self._cull_frequency:
            names = random.sample(names, math.ceil(len(names) / self._cull_frequency))
        for name in names:
            self._files.discard(name)
