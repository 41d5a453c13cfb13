"""A backend of dogpile.cache: ``dogpile_fs.files``, with a file and a mutex for each key.

``make_region().configure("dogpile_fs.files", arguments={"directory": ...})`` finds it by its entry point, or, in a
program without the metadata of its packages, when this module has been imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from time import time
from typing import Any

from dogpile.cache import register_backend
from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex, KeyType, SerializedReturnType

from ._value_files import NEVER, ValueFiles

__all__ = ["FilesBackend"]


class FilesBackend(BytesBackend):
    """A backend of dogpile.cache, on files that all processes of a machine share.

    :param arguments: ``directory``: where the values are. It is made, for its user alone, when the first value is
        written. ``expiretime``: seconds after which a value is no longer read, and :meth:`prune` removes it;
        ``None``, the default: never. Like ``redis_expiration_time`` it has to be longer than the region's
        ``expiration_time``, after which a value is created anew while others still get the old one.
    :raises TypeError, ValueError: for an argument of the wrong type or value, and without *directory*. Arguments
        of other names are ignored, as by dogpile.cache's own backends.

    Each key has a mutex of its own, so that creators of different keys run at the same time, and those of one key
    one after another, in all threads of all processes. The mutexes of all keys are in one lock file. The kernel
    gives back those of a process that is killed.

    >>> import tempfile
    >>> from dogpile.cache import make_region
    >>> region = make_region().configure(
    ...     "dogpile_fs.files", expiration_time=3600, arguments={"directory": tempfile.mkdtemp()}
    ... )
    >>> region.get_or_create("the answer", lambda: 42)
    42
    >>> region.get("the answer"), bool(region.get("the question"))
    (42, False)
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        if "directory" not in arguments:
            raise TypeError(
                "the backend dogpile_fs.files takes the argument directory, and may have expiretime; it was given "
                f"{', '.join(sorted(arguments)) or 'none'}"
            )
        expiretime = arguments.get("expiretime")
        self._lifetime = NEVER if expiretime is None else float(expiretime)
        if not self._lifetime > 0:
            raise ValueError(f"expiretime must be a number of seconds above 0, or None, not {expiretime!r}")
        self._files = ValueFiles(arguments["directory"])

    def get_mutex(self, key: KeyType) -> CacheMutex:
        """Return a mutex of *key*, which all processes share."""
        mutex = self._files[key].creating()
        assert isinstance(mutex, CacheMutex)  # it has the methods of one
        return mutex

    def get_serialized(self, key: KeyType) -> SerializedReturnType:
        value = self._files[key].read()
        return NO_VALUE if value is None else value.data

    def get_serialized_multi(self, keys: Iterable[KeyType]) -> list[SerializedReturnType]:
        return [self.get_serialized(key) for key in keys]

    def set_serialized(self, key: KeyType, value: bytes) -> None:
        file = self._files[key]
        with file.writing():
            file.write(value, time() + self._lifetime)

    def set_serialized_multi(self, mapping: Mapping[KeyType, bytes]) -> None:
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete(self, key: KeyType) -> None:
        file = self._files[key]
        with file.writing():
            file.remove()

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        for key in keys:
            self.delete(key)

    def prune(self, *, older_than: float | timedelta | None = None, max_bytes: int | None = None) -> int:
        """Remove the files of values that are past *expiretime*, are old, or take too much room.

        It looks at each file: call it now and then, such as once an hour from cron. Other callers may go on
        meanwhile.

        :param older_than: seconds (or a ``timedelta``) since a value was set after which it goes.
        :param max_bytes: remove the oldest until all that are left have at most so many bytes together.
        :returns: how many went.
        :raises TypeError, ValueError: for an argument of the wrong type or value.
        :raises OSError: if the directory cannot be listed, or a file in it not be removed.
        """
        return self._files.prune(older_than, max_bytes)


register_backend("dogpile_fs.files", __name__, FilesBackend.__name__)  # type: ignore[no-untyped-call]
