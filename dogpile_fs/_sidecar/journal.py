"""The journal: a file beside the sidecar that tells how the last 64 attempts ended.

64 slots of 512 bytes, one for each attempt in turn. A slot is one line of JSON that a person can read with
``cat``, padding, the CRC-32 of all that comes before it, and a newline. Attempts are numbered, and the number says
which slot is an attempt's. So the file does not grow, is never renamed and needs no cleaning, and a write that was
torn loses one line.

It is written under the creation mutex, with one ``pwrite`` an attempt, for people alone: nothing is decided by it.
So an attempt does not fail because it cannot be written. Other users may read it, so it has the name of an error's
type and never its message.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import zlib
from contextlib import suppress
from typing import Any, Final, NamedTuple

from .._os.openfile import OpenFile, open_regular
from ..errors import SidecarError, as_error
from .record import KINDS_OF_ATTEMPT, cleaned_host, cleaned_type_name

__all__ = ["SIZE", "SLOT", "SLOTS", "Entry", "Journal", "Place", "decode", "encode"]

log = logging.getLogger("dogpile_fs")

#: Rises only when the meaning of a field changes. A line of a later format is not shown, and keeps its number.
_FORMAT: Final = 1
SLOTS: Final = 64
#: Bytes of a slot. The fields take 380 at their worst; the rest has room for inputs. It divides a page, so that no
#: write spans two.
SLOT: Final = 512
SIZE: Final = SLOTS * SLOT
_CHECKSUM_AT: Final = SLOT - 9
#: Bytes of an input's path that are kept: its end, which tells more.
_LONGEST_INPUT: Final = 120

_NUMBER: Final = re.compile(rb'\{"dogpile_fs": [0-9]{1,9}, "number": ([0-9]{1,18})[,}]')

#: Where a journal is: its path, and the directory to which that led.
Place = tuple[str, int, int]


class Entry(NamedTuple):
    """How one attempt ended.

    *host*, *pid*, *kind*: of its process, as of :class:`.Attempt`. *begun*: epoch seconds. *outcome*: ``created``,
    ``unchanged``, ``failed``, ``died``, ``interrupted`` (by a signal, because its task was cancelled, or by
    ``WouldDeadlock``) or ``fenced`` (another program removed the lock file, so that the result did not count).
    *generation*: the number of the creation, or the one that it would have had. *cost*: seconds that the creator
    ran; ``None`` of one that died. *error_type*: the name of the error's type. *exit_status*, *signal*: of a child
    or COMMAND that failed.
    *changed_input*: the end of the path of the first input that was another one than when the version in place was
    created. *input_signs*: what tells that. *number*: of the attempt; 0 until it is written.
    """

    host: str
    pid: int
    begun: float
    outcome: str
    generation: int
    kind: str | None = None
    cost: float | None = None
    error_type: str | None = None
    exit_status: int | None = None
    signal: int | None = None
    changed_input: str | None = None
    input_signs: str | None = None
    number: int = 0


class Journal:
    """The journal at *path*. *mode*: permission bits, as of the sidecar. *name*: of the resource, for messages."""

    __slots__ = ("_has_warned", "_last", "mode", "name", "path")

    def __init__(self, path: str, mode: int | None = None, *, name: str) -> None:
        self.path = path
        self.mode = mode
        self.name = name
        self._has_warned = False
        #: The number of the attempt that this object has written last; 0 for none.
        self._last = 0

    def place(self) -> Place | None:
        """Return where it is now; ``None`` if the system does not say."""
        try:
            found = os.stat(os.path.dirname(self.path))
        except OSError:
            return None
        return self.path, found.st_dev, found.st_ino

    def append(self, entry: Entry, place: Place | None = None) -> None:
        """Write *entry* in the place of the oldest one. The creation mutex is held.

        That it cannot be written is logged, and no error.

        :param place: where the journal was when the attempt began; nothing is written if the path leads elsewhere
            by now, to the journal of another resource.
        """
        if place is not None and place != self.place():
            log.debug("%s: not in the journal: the path leads elsewhere by now", self.name)
            return
        try:
            self._append(entry)
        except OSError as error:
            log.log(
                logging.DEBUG if self._has_warned else logging.WARNING,
                "%s: the journal is not written: %s",
                self.name,
                as_error(SidecarError, self.path, "write the journal", error).strerror,
            )
            self._has_warned = True

    def entries(self) -> list[Entry]:
        """Return what it tells, the oldest first; nothing if there is no journal.

        :raises SidecarError: if it cannot be read.
        """
        try:
            open_file = open_regular(OpenFile(self.path), os.O_RDONLY, create=False)
            try:
                data = os.pread(open_file.fd, SIZE, 0)
            finally:
                open_file.close()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise as_error(SidecarError, self.path, "read the journal", error, reading=True) from error
        found = (decode(line) for line in _lines(data))
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.number)

    def input_signs(self, generation: int) -> str | None:
        """Return the signs of what the version of this *generation* was made from; ``None`` if it does not tell
        them."""
        try:
            found = [entry.input_signs for entry in self.entries() if entry.generation == generation]
        except SidecarError:
            return None
        return next((signs for signs in reversed(found) if signs is not None), None)

    def _append(self, entry: Entry) -> None:
        open_file, size = self._opened()
        try:
            last, before = self._last, self._is_followed_by(open_file, size)
            if before is None:
                data = os.pread(open_file.fd, SIZE + 1, 0)
                last = _last_number(data)
                if data and not last:
                    log.warning("%r held no line of a journal but other bytes: it is begun anew", self.path)
                    data = b""
                    os.ftruncate(open_file.fd, 0)
                elif len(data) > SIZE:
                    os.ftruncate(open_file.fd, SIZE)
                at = last % SLOTS * SLOT
                before, size = data[at : at + SLOT], min(len(data), SIZE)
            at = last % SLOTS * SLOT
            written = os.pwrite(open_file.fd, encode(entry._replace(number=last + 1)), at)
            if written != SLOT:  # a full disk or a limit
                os.pwrite(open_file.fd, before[:written], at)
                os.ftruncate(open_file.fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._last = last + 1
        finally:
            open_file.close()

    def _is_followed_by(self, open_file: OpenFile, size: int) -> bytes | None:
        """Return the bytes that the next line replaces, if the last one is this object's and the file is whole.

        ``None`` if that cannot be told from the two lines, so that all of them have to be read.
        """
        last = self._last
        if not last or size != min(last, SLOTS) * SLOT:
            return None
        at = (last - 1) % SLOTS * SLOT
        two = os.pread(open_file.fd, 2 * SLOT, at)
        own, following = two[:SLOT], two[SLOT:]
        if last % SLOTS == 0:
            following = os.pread(open_file.fd, SLOT, 0)
        if _last_number(own) != last:
            return None
        if last < SLOTS:
            return b""
        return following if _last_number(following) == last + 1 - SLOTS else None

    def _opened(self) -> tuple[OpenFile, int]:
        """Open it, made if it is missing, and return its size as well.

        A file that has a second name may be another user's: its name here is removed.
        """
        open_file = open_regular(OpenFile(self.path), os.O_RDWR, self.mode, create=True)
        try:
            found = os.fstat(open_file.fd)
            links = found.st_nlink
            if links == 1:
                return open_file, found.st_size
            open_file.close()
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            log.warning("%r was a hard link, one of %d names of a file; it was removed", self.path, links)
            open_file = open_regular(OpenFile(self.path), os.O_RDWR, self.mode, create=True)
            found = os.fstat(open_file.fd)
            if found.st_nlink > 1:
                raise OSError(errno.EMLINK, "another process keeps making it a hard link", self.path)
        except BaseException:
            open_file.close()
            raise
        return open_file, found.st_size


def encode(entry: Entry) -> bytes:
    """Return the line of *entry*. Of inputs is told what there is room for."""
    told: dict[str, Any] = {
        "dogpile_fs": _FORMAT,
        "number": entry.number,
        **{name: value for name, value in entry._asdict().items() if value is not None},
        "host": cleaned_host(entry.host),
        "begun": round(entry.begun, 6),
    }
    if entry.cost is not None:
        told["cost"] = round(entry.cost, 6)
    if entry.error_type is not None:
        told["error_type"] = cleaned_type_name(entry.error_type)
    if entry.changed_input is not None:
        told["changed_input"] = _end_of(entry.changed_input)
    for least in ("", "input_signs", "changed_input"):
        told.pop(least, None)
        text = json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")
        if len(text) < _CHECKSUM_AT:
            break
    body = text.ljust(_CHECKSUM_AT)
    return body + b"%08x\n" % zlib.crc32(body)


def decode(line: bytes) -> Entry | None:
    """Return the entry that *line* holds; ``None`` for other bytes than :func:`encode` makes, or a later format.

    Keys that this dogpile_fs does not know are left out.

    >>> entry = Entry("host", 1, 1.5, "created", 1, number=1)
    >>> decode(encode(entry)) == entry
    True
    """
    if not _is_whole(line):
        return None
    try:
        told = json.loads(line[:_CHECKSUM_AT].decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("dogpile_fs") != _FORMAT:
        return None
    known = {name: told[name] for name in Entry._fields if name in told}
    if not (known.keys() >= _NEEDED and all(_is_sound(name, value) for name, value in known.items())):
        return None
    return Entry(**known)


_NEEDED: Final = {*Entry._fields} - {*Entry._field_defaults} | {"number"}
_MOST: Final = 10**18
_COUNTS: Final = ("pid", "generation", "exit_status", "signal", "number")


def _is_sound(name: str, value: Any) -> bool:
    if name in _COUNTS:
        return type(value) is int and 0 <= value < _MOST
    if name in ("begun", "cost"):
        return type(value) in (int, float) and math.isfinite(value)
    if name == "kind":
        return value in KINDS_OF_ATTEMPT
    return type(value) is str


def _end_of(path: str) -> str:
    end = path.encode("utf-8", "replace")[-_LONGEST_INPUT:].decode(errors="ignore")
    return path if end == path else f"...{end}"


def _lines(data: bytes) -> list[bytes]:
    return [data[begin : begin + SLOT] for begin in range(0, min(len(data), SIZE), SLOT)]


def _is_whole(line: bytes) -> bool:
    return len(line) == SLOT and line[_CHECKSUM_AT:] == b"%08x\n" % zlib.crc32(line[:_CHECKSUM_AT])


def _last_number(data: bytes) -> int:
    """Return the number of the last attempt that *data* tells of, in whichever format; 0 if it tells of none."""
    numbered = [(int(found[1]), line) for line in _lines(data) if (found := _NUMBER.match(line))]
    # The checksums take most of the time, and nearly always the first of these is whole.
    return next((number for number, line in sorted(numbered, reverse=True) if _is_whole(line)), 0)
