"""Versions on their way to an origin and from it: a file is a blob, a directory a manifest and its blobs."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from hashlib import sha256
from time import monotonic

from .._dogpile.engine import Down, Engine, Gone
from .._dogpile.head import Blob
from .._dogpile.manifest import LONGEST_MANIFEST, Entry, ManifestDamaged, decode_manifest, encode_manifest
from ..errors import DatafileError

__all__ = ["blob_of", "fetch_file", "fetch_tree", "store_file", "store_tree"]

log = logging.getLogger("dogpile_fs")

_CHUNK = 1024 * 1024
#: Bytes of a file from which on the log tells that it is stored, and seconds between two lines about one that is
#: fetched.
_LARGE, _TELL_EVERY = 64 * 1024 * 1024, 5.0
#: Errors of a hard link that a copy does not have.
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def blob_of(path: str) -> Blob:
    """Return the blob that the file at *path* makes.

    :raises OSError: if it cannot be read.
    """
    digest, size = sha256(), 0
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(_CHUNK)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
    return Blob(digest.hexdigest(), size)


def store_file(engine: Engine, path: str, current: Blob | None, name: str) -> Blob:
    """Store the file at *path*, unless it is the *current* blob; return its blob.

    :param name: of the resource, for the log.
    :raises Down: if the engine does not take it.
    """
    blob = blob_of(path)
    if blob != current:
        _put(engine, blob, path, name)
    return blob


def _put(engine: Engine, blob: Blob, path: str, name: str) -> None:
    began, is_large = monotonic(), blob.size >= _LARGE
    if is_large:
        log.info("%s: storing %d MB for other hosts", name, blob.size >> 20)
    engine.put(blob.name, path)
    if is_large:
        log.info("%s: stored %d MB in %.1f s", name, blob.size >> 20, monotonic() - began)


def fetch_file(engine: Engine, blob: Blob, path: str, name: str) -> None:
    """Write *blob* to a new file at *path*.

    :param name: of the resource, for the log.
    :raises Gone: if there is none, or it is damaged.
    :raises Down: if the engine does not give all of it.
    """
    digest = _Digest(name, blob.size)
    with open(path, "xb", buffering=0) as file:
        try:
            engine.get(blob.name, _Both(file, digest), blob.size)
        except Down as error:
            if digest.size:
                again = f"after {digest.size} of {blob.size} bytes, and the next try begins anew"
                raise Down(f"{error}: {again}") from error
            raise
    _refuse_damaged(digest, blob)


def store_tree(engine: Engine, path: str, current: Blob | None, name: str) -> Blob:
    """Store what is in the directory at *path* and is not in the *current* blob; return the blob of its manifest.

    :param name: of the resource, for the log.
    :raises DatafileError: if there is something in it that is neither a file, a directory nor a symbolic link.
    :raises Down: if the engine does not take it.
    """
    known = {entry.blob for entry in _entries_of(engine, current)}
    entries = []
    for inside, found in _inside(path, ""):
        whole = os.path.join(path, inside)
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            entries.append(Entry(inside, "directory", mode))
        elif stat.S_ISLNK(found.st_mode):
            entries.append(Entry(inside, "link", leads_to=os.readlink(whole)))
        elif stat.S_ISREG(found.st_mode):
            blob = blob_of(whole)
            if blob.name not in known:
                _put(engine, blob, whole, name)
                known.add(blob.name)
            entries.append(Entry(inside, "file", mode, blob.name, blob.size))
        else:
            raise DatafileError(
                errno.EINVAL,
                f"{whole!r} is neither a file, a directory nor a symbolic link (mode {found.st_mode:o}): it "
                "cannot be given to other hosts. Hint: let the creator leave it out.",
            )
    data = encode_manifest(entries)
    manifest = Blob(sha256(data).hexdigest(), len(data), is_tree=True)
    if manifest != current:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            engine.put(manifest.name, file.name)
    return manifest


def fetch_tree(
    engine: Engine, blob: Blob, path: str, previous: str | None, content: str | None, name: str
) -> None:
    """Make the directory at *path* that *blob* is the manifest of.

    :param previous: a version that is here already; what is the same in it is linked.
    :param content: the name of the blob of its manifest.
    :param name: of the resource, for the log.
    :raises Gone: if a blob is not there, or damaged.
    """
    entries = _manifest(engine, blob.name)
    here: dict[str, Entry] = {}
    if previous is not None and content is not None:
        with suppress(Gone):
            here = {entry.path: entry for entry in _manifest(engine, content)}
    os.mkdir(path, stat.S_IRWXU)
    for entry in entries:
        whole = os.path.join(path, entry.path)
        if entry.kind == "directory":
            os.mkdir(whole, stat.S_IRWXU)
        elif entry.kind == "file" and not (
            previous is not None
            and here.get(entry.path) == entry
            and _is_linked(os.path.join(previous, entry.path), whole, entry)
        ):
            fetch_file(engine, Blob(entry.blob, entry.size), whole, name)
            os.chmod(whole, entry.mode)
    # Links last: nothing was written through one. Then directories, the inner ones first: they may be read-only.
    for entry in entries:
        if entry.kind == "link":
            os.symlink(entry.leads_to, os.path.join(path, entry.path))
    for entry in reversed(entries):
        if entry.kind == "directory":
            os.chmod(os.path.join(path, entry.path), entry.mode)
    os.chmod(path, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)


def _is_linked(there: str, whole: str, entry: Entry) -> bool:
    """Link the file *there* to *whole*, if it is what *entry* says as far as a look tells."""
    try:
        found = os.stat(there, follow_symlinks=False)
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_size != entry.size
            or stat.S_IMODE(found.st_mode) != entry.mode
        ):
            return False
        try:
            os.link(there, whole, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            shutil.copy2(there, whole, follow_symlinks=False)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(whole)
        return False
    return True


def _manifest(engine: Engine, name: str) -> list[Entry]:
    """:raises Gone: if it is not there, or damaged."""
    data = io.BytesIO()
    engine.get(name, data, LONGEST_MANIFEST)
    if sha256(data.getvalue()).hexdigest() != name:
        raise Gone(f"the manifest {name} is damaged")
    try:
        return decode_manifest(data.getvalue())
    except ManifestDamaged as error:
        raise Gone(str(error)) from error


def _entries_of(engine: Engine, blob: Blob | None) -> list[Entry]:
    if blob is not None and blob.is_tree:
        with suppress(Gone):
            return _manifest(engine, blob.name)
    return []


def _inside(path: str, prefix: str) -> list[tuple[str, os.stat_result]]:
    found = []
    with os.scandir(os.path.join(path, prefix)) as listing:
        for each in sorted(listing, key=lambda each: each.name):
            name, looked = os.path.join(prefix, each.name), each.stat(follow_symlinks=False)
            found.append((name, looked))
            if stat.S_ISDIR(looked.st_mode):
                found += _inside(path, name)
    return found


class _Digest:
    """What has been fetched so far of the *whole* bytes of *name*; the log tells now and then."""

    def __init__(self, name: str, whole: int) -> None:
        self.sha256, self.size = sha256(), 0
        self._name, self._whole = name, whole
        self._tell_at = monotonic() + _TELL_EVERY

    def write(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        self.size += len(data)
        if monotonic() >= self._tell_at:
            self._tell_at = monotonic() + _TELL_EVERY
            log.info("%s: fetched %d of %d MB", self._name, self.size >> 20, self._whole >> 20)


class _Both:
    """What is written goes to a file, and to a digest."""

    def __init__(self, file: io.FileIO, digest: _Digest) -> None:
        self._file, self._digest = file, digest

    def write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:  # a file without a buffer may take less
            left = left[self._file.write(left) :]
        self._digest.write(data)


def _refuse_damaged(digest: _Digest, blob: Blob) -> None:
    """:raises Gone: if what was digested is not *blob*."""
    if digest.size != blob.size or digest.sha256.hexdigest() != blob.name:
        raise Gone(f"{digest.size} bytes that are not the {blob.size} that were published")
