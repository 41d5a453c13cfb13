"""KeyMutexes: a mutex for each of many keys, all of them in one lock file."""

from __future__ import annotations

import os

from .._os.copying import copied_by
from .._os.paths import absolute, checked_mode
from .._os.waiting import checked_timeout
from .key_mutex import KeyMutex

__all__ = ["KeyMutexes"]

#: Bytes of a key's digest that choose the byte of its mutex, of which :class:`KeyMutex` uses 56 bits.
_DIGEST_BYTES = 8


class KeyMutexes:
    """A mutual exclusion lock for each of many keys, all of them in one file: ``mutexes[key]``.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a waiting ``acquire`` gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.
    :raises TypeError, ValueError, PathError: for an argument of the wrong type or value.

    ``mutexes[key]`` returns a new object, which is used as a :class:`.FileMutex` is, also by dogpile.cache. It
    excludes all other objects for the same *path* and key, of all threads of all processes. Different keys do not
    wait for each other, but for the rare pair (one in 2**56) that has the same byte of the file. A lock is
    one on a byte, by ``fcntl``: flock(1) and filelock do not see it. The file itself stays empty.

    The object may be made before ``fork`` and used after it, and pickled.

    >>> import os, tempfile
    >>> mutexes = KeyMutexes(os.path.join(tempfile.mkdtemp(), "customers.lock"))
    >>> with mutexes["Miller"]:
    ...     mutexes["Miller"].acquire(wait=False), mutexes["Smith & Sons"].locked()
    (False, False)
    """

    __slots__ = ("_mode", "path", "timeout")

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path: str = absolute(path)
        self.timeout: float | None = checked_timeout(timeout)
        self._mode = checked_mode(mode)

    def __getitem__(self, key: str) -> KeyMutex:
        """Return a mutex of *key*; no file is touched.

        :raises TypeError: for a key that is no ``str``.
        """
        if not isinstance(key, str):
            raise TypeError(f"a key must be a str, not {key!r}")
        import hashlib  # here: it takes long to import

        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        return KeyMutex(
            self.path,
            f"{self.path}[{key!r}]",
            int.from_bytes(digest),
            0,  # no directory of keys is ever removed
            make=_nothing,
            timeout=self.timeout,
            mode=self._mode,
        )

    def __reduce__(self) -> tuple[object, ...]:
        return copied_by(self, KeyMutexes, self.path, timeout=self.timeout, mode=self._mode)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


def _nothing() -> None:
    """Make nothing: the directory of the lock file is the caller's."""
