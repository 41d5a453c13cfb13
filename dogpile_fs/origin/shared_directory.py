"""A shared directory as an origin: a mount that all hosts have, and no lock on it.

The register is a row of files, ``head-<number>``, of which the last one counts. A file of the next number is made
by ``link(2)``, which succeeds for one host alone, and which tells so even where its answer was lost: the file that
was linked has two names then. Heads of old are removed, and so that no number can be won again: the file ``floor``
says first up to which number.

A network file system may show a host an old listing for a while, so that a read may be late. A write never goes by
what was read late: its number is taken already.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from .._dogpile.engine import UNCHANGED, Down, Gone, Lost, Sink, Unchanged
from .._dogpile.origin import Origin

__all__ = ["SharedDirectory", "engine_of"]

_HEAD, _TEMPORARY, _FLOOR, _BLOBS = "head-", ".tmp-", "floor", "blobs"
#: Heads that are kept. A host that was paused for more of them is stopped by the floor.
_KEPT = 16
#: Heads that one write removes, so that a directory with many becomes small again.
_MOST_REMOVED = 64
#: Seconds after which a file that was being written is one of a host that died.
_ABANDONED = 24 * 3600.0
_CHUNK = 1024 * 1024


def engine_of(origin: Origin) -> SharedDirectory:
    """Return the engine of an *origin* that is a path."""
    return SharedDirectory(origin.url)


class SharedDirectory:
    """The engine. The directory is made at the first write; its parent must be there."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, known: str = "", *, seconds: float = 5.0) -> tuple[bytes, str] | Unchanged | None:
        try:
            number = self._last(_number_in(known))
            if number == 0:
                self._look_for_parent()
                return None
            value = self._value(number)
            tag = _tag(number, value)
            return UNCHANGED if tag == known else (value, tag)
        except FileNotFoundError:
            if not known:
                raise Down(f"the heads in {self._path!r} are removed as soon as they are there") from None
            return self.read(seconds=seconds)  # removed between two looks: there are later ones
        except OSError as error:
            raise Down(_said(error)) from error

    def swap(self, value: bytes, tag: str | None) -> str:
        number = _number_in(tag or "") + 1
        try:
            self._make_directory()
            if tag is not None and not self._is_current(number - 1, tag):
                raise Lost(f"head {number - 1} is another one")
            temporary = self._written(value)
            try:
                self._take(number, temporary)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
            _sync(self._path)
            self._remove_before(number - _KEPT)
        except OSError as error:
            raise Down(_said(error)) from error
        return _tag(number, value)

    def _is_current(self, number: int, tag: str) -> bool:
        try:
            return _tag(number, self._value(number)) == tag
        except FileNotFoundError:
            return False

    def _take(self, number: int, temporary: str) -> None:
        """Give the file *temporary* the name of this head.

        :raises Lost: if another host has it, or had it.
        """
        try:
            os.link(temporary, self._head(number))
        except FileExistsError:
            if os.stat(temporary).st_nlink != 2:  # else an answer was lost, and it is ours
                raise Lost(f"head {number} is there already") from None
        if self._floor() >= number or os.path.lexists(self._head(number + 1)):
            os.unlink(self._head(number))
            raise Lost(f"head {number} was there before, and has been removed")

    def discard(self) -> None:
        try:
            shutil.rmtree(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Down(_said(error)) from error

    def now(self) -> float:
        try:
            self._make_directory()
            temporary = self._written(b"")
            try:
                return os.stat(temporary).st_mtime
            finally:
                os.unlink(temporary)
        except OSError as error:
            raise Down(_said(error)) from error

    def put(self, name: str, path: str) -> None:
        with open(path, "rb", buffering=0) as source:
            try:
                self._make_directory()
                os.makedirs(self._blob(""), exist_ok=True)
                self._remove_abandoned(self._blob(""))
                temporary = self._blob(_TEMPORARY + secrets.token_hex(8))
                try:
                    with open(temporary, "xb") as file:
                        _copy(source, file, None)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(temporary, self._blob(name))
                except BaseException:
                    with suppress(OSError):
                        os.unlink(temporary)
                    raise
                _sync(self._blob(""))
            except OSError as error:
                raise Down(_said(error)) from error

    def get(self, name: str, file: Sink, size: int) -> None:
        try:
            source = open(self._blob(name), "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            self._look_for_parent()
            raise Gone(f"there is no blob {name}") from None
        except OSError as error:
            raise Down(_said(error)) from error
        with source:
            _copy(source, file, size + 1)

    def blobs(self) -> Iterator[tuple[str, float]]:
        try:
            now = self.now()
            for name in os.listdir(self._blob("")):
                if not name.startswith("."):
                    with suppress(FileNotFoundError):
                        yield name, now - os.stat(self._blob(name)).st_mtime
        except FileNotFoundError:
            return
        except OSError as error:
            raise Down(_said(error)) from error

    def remove(self, name: str) -> None:
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._blob(name))
        except OSError as error:
            raise Down(_said(error)) from error

    def close(self) -> None:
        pass

    def _value(self, number: int) -> bytes:
        with open(self._head(number), "rb") as file:
            return file.read()

    def _head(self, number: int) -> str:
        return os.path.join(self._path, f"{_HEAD}{number:018d}")

    def _blob(self, name: str) -> str:
        return os.path.join(self._path, _BLOBS, name)

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return []
        numbers = [name.removeprefix(_HEAD) for name in names if name.startswith(_HEAD)]
        return [int(number) for number in numbers if number.isdecimal()]

    def _last(self, at_least: int) -> int:
        """Return the number of the last head; 0 if there is none."""
        last = at_least if at_least and os.path.lexists(self._head(at_least)) else 0
        last = last or max(self._numbers(), default=0)
        while os.path.lexists(self._head(last + 1)):  # the listing may be an old one
            last += 1
        return last

    def _floor(self) -> int:
        try:
            with open(os.path.join(self._path, _FLOOR), encoding="ascii") as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0
        except ValueError:
            raise OSError(errno.EIO, "the file is damaged", os.path.join(self._path, _FLOOR)) from None

    def _remove_before(self, number: int) -> None:
        """Remove the heads up to this *number*, after the floor has said so."""
        old = sorted(each for each in self._numbers() if each <= number)[:_MOST_REMOVED]
        if len(old) < _KEPT:
            return  # not each time: it costs a file
        if self._floor() < number:
            temporary = self._written(str(number).encode("ascii"))
            os.replace(temporary, os.path.join(self._path, _FLOOR))
            _sync(self._path)
        self._remove_abandoned(self._path)
        for each in old:
            with suppress(FileNotFoundError):
                os.unlink(self._head(each))

    def _written(self, value: bytes) -> str:
        temporary = os.path.join(self._path, _TEMPORARY + secrets.token_hex(8))
        with open(temporary, "xb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def _remove_abandoned(self, directory: str) -> None:
        now = None
        for name in os.listdir(directory):
            if name.startswith(_TEMPORARY):
                now = self.now() if now is None else now
                path = os.path.join(directory, name)
                with suppress(FileNotFoundError):
                    if now - os.stat(path).st_mtime > _ABANDONED:
                        os.unlink(path)

    def _make_directory(self) -> None:
        try:
            os.mkdir(self._path)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._look_for_parent()
            raise
        _sync(os.path.dirname(self._path))

    def _look_for_parent(self) -> None:
        """Tell an origin that is empty from a mount that is not there."""
        parent = os.path.dirname(self._path)
        if not os.path.isdir(parent):
            raise OSError(errno.ENOENT, "the directory does not exist. Hint: mount it, or make it", parent)


def _tag(number: int, value: bytes) -> str:
    """Return the tag of a head; another directory, which was made in the place of this one, does not have it."""
    return f"{number}-{hashlib.blake2b(value, digest_size=8).hexdigest()}"


def _number_in(tag: str) -> int:
    number = tag.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _copy(source: BinaryIO, file: Sink, most: int | None) -> None:
    left = most
    while chunk := source.read(_CHUNK if left is None else min(_CHUNK, left)):
        file.write(chunk)
        if left is not None:
            left -= len(chunk)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # a file system that has nothing to sync
            raise
    finally:
        os.close(fd)


def _said(error: OSError) -> str:
    return f"{error.filename or 'the directory'}: {error.strerror or error}"
