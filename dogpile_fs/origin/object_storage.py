"""Object storage as an origin: S3, Azure and Google, through obstore.

The head is an object that is replaced by conditional writes; each blob is an object. Where a client tries a write
again by itself, the answer to its second try reports its first one as if that were another host's. So a write of
the head is tried once, and the caller reads back.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .._dogpile.engine import UNCHANGED, Down, Gone, Lost, Sink, Unchanged
from .._dogpile.origin import Origin
from ..errors import OriginError

__all__ = ["ObjectStorage", "engine_of"]

T = TypeVar("T")

_HEAD, _BLOBS, _CLOCK = "head", "blobs/", "clock"
#: Bytes of a part of an upload, and how many are on the way at once.
_PART, _PARTS = 8 * 1024 * 1024, 4
#: Bytes of a chunk of a download.
_CHUNK = 4 * 1024 * 1024
#: Seconds to connect, for one request about the head, and for one about a part of a blob.
_CONNECT, _SMALL, _LARGE = 1.0, 5.0, 300.0
#: Seconds for which the difference of the clocks is known.
_CLOCK_KNOWN = 600.0
#: Variables by which the endpoint is named.
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
)
#: By endpoint and bucket: whether ``If-Match`` is compared with an ETag without quotes, as by Ceph's gateway. That
#: is learned when a write is refused first.
_bare: dict[tuple[str, str], bool] = {}
_learning = Lock()
#: The process that has used obstore first: in its forked children a request would wait for threads for ever.
_used_in: int | None = None
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def engine_of(origin: Origin) -> ObjectStorage:
    """Return the engine of an *origin* ``s3://bucket/name``, ``az://container/name`` or ``gs://bucket/name``.

    :raises OriginError: if obstore is not installed.
    """
    return ObjectStorage(origin.url)


class ObjectStorage:
    """The engine. It connects at the first use."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            obstore: Any = import_module("obstore")
            exceptions: Any = import_module("obstore.exceptions")
            store: Any = import_module("obstore.store")
        except ImportError:
            raise OriginError(
                url,
                f"the origin {url!r} needs the package obstore. Hint: pip install 'dogpile_fs[{parts.scheme}]'",
            ) from None
        self._obstore, self._exceptions, self._kinds = obstore, exceptions, store
        self._same = exceptions.NotModifiedError, exceptions.PreconditionError
        self._missing = FileNotFoundError, exceptions.NotFoundError
        self._refused = exceptions.AlreadyExistsError, exceptions.PreconditionError, FileExistsError
        self._url, self._scheme, self._bucket = url, parts.scheme, parts.netloc
        self._prefix = parts.path.strip("/")
        self._stores: dict[tuple[float, int], Any] = {}
        self._offset: tuple[float, float] | None = None

    def read(self, known: str = "", *, seconds: float = _SMALL) -> tuple[bytes, str] | Unchanged | None:
        # A client may ask again after a question that went wrong: it changes nothing.
        options = {"if_none_match": known} if known and self._scheme != "gs" else {}
        try:
            found = self._answer(
                lambda: self._obstore.get(self._store(seconds), _HEAD, options=options),
                *self._same,
                *self._missing,
            )
        except self._same:
            return UNCHANGED
        except self._missing:
            return None
        if known and self._tag(found.meta) == known:
            return UNCHANGED
        value = self._answer(lambda: bytes(found.bytes()))
        return value, self._tag(found.meta)

    def swap(self, value: bytes, tag: str | None) -> str:
        is_bare = self._is_bare
        try:
            return self._put_if(_HEAD, value, tag, is_bare=is_bare)
        except self._refused as error:
            lost = error
        # To ask again changes nothing: the server has refused it, and the tag is the same.
        if tag is not None and self._scheme == "s3" and self._learns_whether_bare() != is_bare:
            try:
                return self._put_if(_HEAD, value, tag, is_bare=not is_bare)
            except self._refused as error:
                lost = error
        raise Lost(str(lost)[:200]) from lost

    def _put_if(self, name: str, value: bytes, tag: str | None, *, is_bare: bool) -> str:
        """Write an object if it has this *tag*, or is not there yet; raise an error of refusal if not."""
        mode: Any = "create"
        if tag is not None:
            # Google goes by an object's number, the others by its ETag.
            mode = {"version": tag} if self._scheme == "gs" else {"e_tag": tag.strip('"') if is_bare else tag}
        store = self._store(_SMALL)
        return self._tag(self._answer(lambda: self._obstore.put(store, name, value, mode=mode), *self._refused))

    @property
    def _is_bare(self) -> bool:
        """Whether this server is known to compare ``If-Match`` with ETags without their quotes."""
        return _bare.get((_endpoint(), self._bucket), False)

    def _learns_whether_bare(self) -> bool:
        """Return the same, asked of the server if that is not known: when it has refused a write first.

        :raises Down: if it does not answer.
        """
        server = _endpoint(), self._bucket
        with _learning:
            if server not in _bare:
                _bare[server] = self._is_bare_by_trial()
            return _bare[server]

    def _is_bare_by_trial(self) -> bool:
        """Try the forms of a tag with an object that nothing else uses."""
        name = f"etag-{secrets.token_hex(4)}"
        tag = self._put_if(name, b".", None, is_bare=False)
        try:
            for is_bare in (False, True):
                with suppress(*self._refused):
                    self._put_if(name, b"..", tag, is_bare=is_bare)
                    break
            else:
                return False
            try:
                self._put_if(name, b"...", tag, is_bare=is_bare)
            except self._refused:
                return is_bare
            return False  # in that form it is no condition
        finally:
            with suppress(Down, *self._missing):
                self._answer(lambda: self._obstore.delete(self._store(_SMALL, 2), name), *self._missing)

    def discard(self) -> None:
        with suppress(*self._missing):
            self._answer(lambda: self._obstore.delete(self._store(_SMALL, 2), _HEAD), *self._missing)

    def now(self) -> float:
        known, offset = (0.0, 0.0) if self._offset is None else self._offset
        if self._offset is None or monotonic() - known > _CLOCK_KNOWN:
            small, before = self._store(_SMALL), time()
            self._answer(lambda: self._obstore.put(small, _CLOCK, b"."))
            after = time()
            meta = self._answer(lambda: self._obstore.head(small, _CLOCK))
            modified = meta["last_modified"]
            # Most engines tell whole seconds.
            half = 0.0 if modified.microsecond else 0.5
            offset = modified.timestamp() + half - (before + after) / 2
            self._offset = monotonic(), offset
        return time() + offset

    def put(self, name: str, path: str) -> None:
        with open(path, "rb"):
            pass  # an error of the file is no error of the engine
        store = self._store(_LARGE, 5)
        self._answer(
            lambda: self._obstore.put(
                store, f"{_BLOBS}{name}", Path(path), chunk_size=_PART, max_concurrency=_PARTS
            )
        )

    def get(self, name: str, file: Sink, size: int) -> None:
        store, left = self._store(_LARGE, 5), size + 1
        try:
            found = self._answer(lambda: self._obstore.get(store, f"{_BLOBS}{name}"), *self._missing)
        except self._missing as error:
            raise Gone(f"there is no blob {name}") from error
        chunks = iter(found.stream(min_chunk_size=_CHUNK))
        while left > 0:
            chunk = self._answer(lambda: next(chunks, None))
            if chunk is None:
                return
            data = memoryview(chunk)[:left]
            file.write(data)
            left -= len(data)

    def blobs(self) -> Iterator[tuple[str, float]]:
        pages = self._answer(lambda: iter(self._obstore.list(self._store(_SMALL, 2), _BLOBS)))
        now = datetime.fromtimestamp(self.now(), UTC)
        while (page := self._answer(lambda: next(pages, None))) is not None:
            for meta in page:
                yield meta["path"].rpartition("/")[2], (now - meta["last_modified"]).total_seconds()

    def remove(self, name: str) -> None:
        with suppress(*self._missing):
            self._answer(lambda: self._obstore.delete(self._store(_SMALL, 2), f"{_BLOBS}{name}"), *self._missing)

    def close(self) -> None:
        self._stores = {}

    def _tag(self, meta: Any) -> str:
        return str(meta.get("version" if self._scheme == "gs" else "e_tag") or "")

    def _store(self, seconds: float, retries: int = 0) -> Any:
        """Return a client whose requests end within so many *seconds*, and are tried again so often."""
        global _used_in
        store = self._stores.get((seconds, retries))
        if store is None:
            if _used_in is None:
                _used_in = os.getpid()
            elif _used_in != os.getpid():
                raise Down(
                    f"process {_used_in}, which has forked this one, has used obstore before, whose threads are "
                    "not in a child. Hint: use the datafile in workers alone, or start them with spawn"
                )
            options = {
                "timeout": timedelta(seconds=seconds),
                "connect_timeout": timedelta(seconds=min(_CONNECT, seconds)),
                "allow_http": _is_loopback(),
            }
            store = self._stores[seconds, retries] = self._new_store(
                prefix=self._prefix,
                client_options=options,
                retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=seconds)},
            )
        return store

    def _new_store(self, **options: Any) -> Any:
        kinds, bucket = self._kinds, self._bucket
        if self._scheme == "s3":
            return kinds.S3Store(bucket, **options)
        if self._scheme == "az":
            return kinds.AzureStore(container_name=bucket, **options)
        return kinds.GCSStore(bucket, **options)

    def _answer(self, ask: Callable[[], T], *expected: type[Exception]) -> T:
        """Return the answer to a request.

        :param expected: errors that are answers as well.
        :raises Down: for all others.
        """
        try:
            return ask()
        except expected:
            raise
        except (self._exceptions.BaseError, OSError, ValueError) as error:
            raise Down(f"{type(error).__name__}: {str(error).strip()[:300]}") from error


def _endpoint() -> str:
    """Return the endpoint that the environment names; empty without one."""
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")


def _is_loopback() -> bool:
    """Return whether the endpoint is on this host: plain HTTP is for that alone."""
    return urlsplit(_endpoint()).hostname in _LOOPBACK
