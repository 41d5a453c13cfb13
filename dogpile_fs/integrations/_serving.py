"""What an HTTP server says of a datafile: the answer to one request, of one version, which was opened once.

RFC 9110 has the rules: conditional requests in section 13, ranges in section 14.
"""

from __future__ import annotations

import math
import mimetypes
import os
import re
from collections.abc import Callable, Iterator
from email.utils import formatdate, parsedate_to_datetime
from time import time
from typing import Any, BinaryIO

from .. import CreationFailed, Datafile, LockTimeout, NeedRegenerationException, Status

__all__ = ["Answer", "Body", "answer_to"]

#: Bytes that are read at a time.
CHUNK = 256 * 1024
#: Tries to find the state that belongs to what was opened, while others swap. Each has microseconds to do so.
_TRIES = 10
#: Seconds for which a version that never expires is fresh.
_YEAR = 365 * 86400
#: Seconds after which a client that got no version asks again, if nothing better is known.
_RETRY = 1

_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.IGNORECASE)
_TAG = re.compile(r'(W/)?("[^"]*")')

#: Returns the value of the request's header of a name in lower case, if there is one.
Header = Callable[[str], str | None]


class Body:
    """The part of an open version that is sent; to be closed in any case.

    No lock is held: a client that reads slowly keeps nothing from being swapped.
    """

    def __init__(self, file: BinaryIO, begin: int, length: int) -> None:
        self._file, self._left = file, length
        if begin:
            file.seek(begin)

    def read(self, size: int = CHUNK) -> bytes:
        """Return up to *size* bytes; none at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        # A file that another program has made shorter ends sooner.
        self._left = self._left - wanted if len(data) == wanted else 0
        return data

    @property
    def is_at_end(self) -> bool:
        """Whether all of it was read."""
        return self._left <= 0

    def fileno(self) -> int:
        """Return the descriptor, for ``sendfile``."""
        return self._file.fileno()

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def close(self) -> None:
        """Close the file. More calls do nothing."""
        self._file.close()


class Answer:
    """Status, headers and body of an answer. *is_whole*: the body is the whole file."""

    def __init__(self, status: int, headers: dict[str, str], body: Body | None = None) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.is_whole = status == 200

    @property
    def reason(self) -> str:
        """The status with its reason, as WSGI wants it."""
        return f"{self.status} {_REASONS[self.status]}"


_REASONS = {
    200: "OK",
    206: "Partial Content",
    304: "Not Modified",
    405: "Method Not Allowed",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    503: "Service Unavailable",
}


def answer_to(datafile: Datafile, method: str, header: Header, media_type: str | None) -> Answer:
    """Return the answer to a request, whose body is to be closed.

    :param media_type: of the file; ``None``: by its name.
    :raises: as :meth:`.Datafile.open`; but not :class:`.LockTimeout` and :class:`.CreationFailed`.
    """
    if method not in ("GET", "HEAD"):
        return Answer(405, {"Allow": "GET, HEAD", "Content-Length": "0"})
    block: Any = datafile.open()  # which tells more than a context manager has to
    try:
        with block as opened:
            found = os.fstat(opened.fileno())
            status = block.status_of(found)
            file = block.take()
    except (LockTimeout, CreationFailed, NeedRegenerationException) as error:
        wait = error.retry_at - time() if isinstance(error, CreationFailed) else _RETRY
        return Answer(503, {"Retry-After": str(max(_RETRY, math.ceil(wait))), "Content-Length": "0"})
    try:
        about = _about(status or _status_of(datafile, file.name, found), found)
        code = _precondition(header, about)
        if code:
            body, headers = None, {**about, "Content-Length": "0"} if code == 412 else about
            answer = Answer(code, headers)
        else:
            kind = media_type or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            answer = _sent(file, found.st_size, header, {**about, "Content-Type": kind}, method)
            body = answer.body
    except BaseException:
        file.close()
        raise
    if body is None or method == "HEAD":
        answer.body = None
        file.close()
    return answer


def _status_of(datafile: Datafile, path: str, found: os.stat_result) -> Status | None:
    """Return the state of the version that was opened; ``None`` if another one is in place by now."""
    status = datafile.status()
    for _ in range(_TRIES):
        try:
            if not _is_same(os.stat(path), found):
                return None
        except OSError:
            return None
        before, status = status, datafile.status()
        if status.generation == before.generation and status.content == before.content:
            return status
    return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns and one.st_size == other.st_size


def _about(status: Status | None, found: os.stat_result) -> dict[str, str]:
    """Return the headers that tell of a version, whose state is not known if it was replaced meanwhile."""
    created, cache = found.st_mtime, "max-age=0"
    # Of the file itself, so that it tells versions apart whatever is on record.
    tag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
    if status is not None and status.createdtime is not None:
        created = status.createdtime
        tag = status.content or f"{status.generation}-{int(created * 1e6):x}-{tag}"
        until = status.fresh_until
        if until is None and status.expiretime is not None:
            until = created + status.expiretime  # its creator's: an object that only reads need not know one
        left = 0 if status.state != "fresh" else _YEAR if until is None else max(0, int(until - time()))
        cache = f"max-age={left}"
        beyond = status.expiretime if status.max_stale is None else status.max_stale
        if beyond is not None and until is not None:
            cache += f", stale-while-revalidate={int(beyond)}"
    return {
        "ETag": f'"{tag}"',
        "Last-Modified": formatdate(created, usegmt=True),
        "Cache-Control": cache,
        "Accept-Ranges": "bytes",
    }


def _precondition(header: Header, about: dict[str, str]) -> int:
    """Return 304 or 412 if the request is not to be fulfilled, else 0."""
    tag, match = about["ETag"], header("if-match")
    if match is not None:
        if not _is_among(tag, match, weakly=False):
            return 412
    elif _is_after(about["Last-Modified"], header("if-unmodified-since")) is True:
        return 412
    none_match = header("if-none-match")
    if none_match is not None:
        if _is_among(tag, none_match, weakly=True):
            return 304
    elif _is_after(about["Last-Modified"], header("if-modified-since")) is False:
        return 304
    return 0


def _is_after(modified: str, date: str | None) -> bool | None:
    """Return whether it was *modified* after the *date* that a client gave; ``None`` if that is no date."""
    since, at = _seconds(date), None if date is None else _seconds(modified)
    return None if since is None or at is None else at > since


def _is_among(tag: str, listed: str, *, weakly: bool) -> bool:
    if listed.strip() == "*":
        return True
    return any(found[2] == tag and (weakly or not found[1]) for found in _TAG.finditer(listed))


def _seconds(date: str | None) -> float | None:
    """Return epoch seconds; ``None`` for what is no date, which counts as if it were not there."""
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _sent(file: BinaryIO, size: int, header: Header, headers: dict[str, str], method: str) -> Answer:
    """Return the answer with the part of the file that was asked for; of several parts the whole."""
    asked = header("range")
    if asked is not None and method == "GET" and _may_be_a_part(header("if-range"), headers):
        found = _RANGE.fullmatch(asked.strip())
        if found is not None and (found[1] or found[2]):
            begin, end = _bounds(found[1], found[2], size)
            if begin < end:
                headers |= {
                    "Content-Range": f"bytes {begin}-{end - 1}/{size}",
                    "Content-Length": str(end - begin),
                }
                return Answer(206, headers, Body(file, begin, end - begin))
            if not (found[1] and found[2] and _number(found[2]) < _number(found[1])):  # such a range is none
                return Answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
    headers["Content-Length"] = str(size)
    return Answer(200, headers, Body(file, 0, size))


def _may_be_a_part(if_range: str | None, headers: dict[str, str]) -> bool:
    """Return whether what the client has is of this version, so that a part completes it.

    A date does not tell: two versions may be of the same second.
    """
    return if_range is None or if_range.strip() == headers["ETag"]


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return where the part begins, and where what follows it does."""
    if not first:
        return max(0, size - _number(last)), size
    return _number(first), min(size, _number(last) + 1) if last else size


def _number(digits: str) -> int:
    """Return what *digits* say, or a number beyond the size of any file."""
    digits = digits.lstrip("0") or "0"
    return 10**_MOST_DIGITS if len(digits) > _MOST_DIGITS else int(digits)


#: Digits of the largest size that a file may have.
_MOST_DIGITS = 19
