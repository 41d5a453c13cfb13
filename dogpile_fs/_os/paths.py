"""Which paths can be coordinated, and what their coordination files are called."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from ..errors import PathError, explained

__all__ = ["absolute", "checked_mode", "checked_name", "checked_resource", "coordination_base"]

_LONGEST_SUFFIX = ".dogpile.rwlock"
#: Bytes of a resource's name that are kept in a shared directory, for people; the digest tells it from others.
_KEPT = 100


def absolute(path: str | os.PathLike[str]) -> str:
    """*path* from the root on, as the system would find it now; what ``..`` means is left to the system.

    :raises TypeError: if it is no path.
    :raises PathError: if it can be no file's name.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or an os.PathLike, not {path!r}")
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError(f"path must be text, not {given!r}: decode it with os.fsdecode()")
    try:
        names_nothing = not given or b"\0" in os.fsencode(given)
    except UnicodeEncodeError:
        names_nothing = True
    if names_nothing:
        raise _names_no_file(given)
    try:
        return given if os.path.isabs(given) else os.path.join(os.getcwd(), given)
    except FileNotFoundError as error:
        raise PathError(
            errno.ENOENT,
            f"{given!r} is relative to the current directory, which was deleted. Cure: give an absolute path.",
        ) from error


def checked_name(path: str | os.PathLike[str]) -> str:
    """The absolute path of a file.

    :raises TypeError: if it is no path.
    :raises PathError: if it can be no file's, such as one that ends with a slash.
    """
    given = absolute(path)
    if os.path.basename(given) in ("", os.curdir, os.pardir):
        raise _names_no_file(os.fspath(path))
    return given


def _names_no_file(given: str | os.PathLike[str]) -> PathError:
    return PathError(errno.EINVAL, f"{given!r} names no file. Cure: give the path of the resource.")


def checked_resource(path: str | os.PathLike[str], kind: str | None = None) -> str:
    """The absolute path of a resource that processes can coordinate; it need not exist.

    What a symbolic link leads to need not exist either, because somebody may have removed it; but what it leads to
    can only be made where there is a directory for it.

    :param kind: ``"file"`` or ``"directory"``, if that is what it must be.
    :raises TypeError: if it is no path.
    :raises PathError: if something of another *kind* is there (without one: a directory), a symbolic link that
        leads to no directory or to itself, or a name that the system does not take.
    """
    directory = kind == "directory"
    try:
        resource = absolute(path)
    except TypeError as error:
        raise TypeError(f"{error} (expiretime and path are positional, init= and lock= are not)") from None
    if directory:
        resource = resource.rstrip(os.sep)
        if os.path.basename(resource) in ("", os.curdir, os.pardir):
            raise _names_no_file(os.fspath(path))
    if resource.endswith(os.sep):
        raise _names_no_file(os.fspath(path))
    mode = 0
    try:
        mode = os.stat(resource).st_mode
    except FileNotFoundError as error:
        if os.path.islink(resource) and not directory:
            where = os.path.dirname(os.path.realpath(resource))
            if not os.path.isdir(where):
                raise PathError(
                    errno.ENOENT,
                    f"{resource!r} is a symbolic link to {os.readlink(resource)!r}, but there is no directory "
                    f"{where!r}. Cure: make that, or remove the link.",
                ) from error
    except PermissionError:
        pass  # others may open it; whoever cannot use the coordination files is told then
    except OSError as error:
        raise explained(PathError, resource, "coordinate", error) from error
    if directory:
        if mode and not stat.S_ISDIR(mode):
            raise PathError(
                errno.ENOTDIR, f"{resource!r} is no directory. Cure: give the path of one; it need not exist yet."
            )
    elif stat.S_ISDIR(mode):
        raise PathError(
            errno.EISDIR, f"{resource!r} is a directory. Cure: give the path of a file; it need not exist yet."
        )
    elif kind == "file" and mode and not stat.S_ISREG(mode):
        raise PathError(
            errno.ENXIO,
            f"{resource!r} is no regular file (mode {mode:o}). Cure: give the path of one; it need not exist yet.",
        )
    elif os.path.basename(resource) in (os.curdir, os.pardir):
        raise _names_no_file(os.fspath(path))  # of a missing directory
    return resource


def checked_mode(mode: int | None) -> int | None:
    """Permission bits, or ``None``.

    :raises TypeError, ValueError: if *mode* is neither.
    """
    if mode is not None:
        if type(mode) is not int:
            raise TypeError(f"mode must be permission bits, such as 0o660, not {mode!r}")
        if not 0 <= mode <= 0o7777:
            raise ValueError(f"mode must be permission bits, such as 0o660, not {mode:#o}")
    return mode


def coordination_base(resource: str, directory: str | os.PathLike[str] | None) -> str:
    """What the names of *resource*'s coordination files begin with: beside it, or in *directory*.

    Two resources may share a directory of coordination files and a last name: a digest of the whole path keeps
    them apart. Of the resource's own directory the real path counts, so that all who reach it, by whichever
    link, agree.

    :raises PathError: if no such file can stand there.
    """
    base = resource
    if directory is not None:
        parent, name = os.path.split(resource)
        whole = os.fsencode(os.path.join(os.path.realpath(parent), name))
        digest = hashlib.blake2b(whole, digest_size=8).hexdigest()
        kept = os.fsencode(name)[:_KEPT].decode(errors="ignore")
        base = os.path.join(absolute(directory), f"{kept}-{digest}")
    try:
        os.lstat(base + _LONGEST_SUFFIX)
    except FileNotFoundError:
        parent = os.path.dirname(base)
        try:
            os.stat(parent)
        except FileNotFoundError as error:
            raise PathError(
                errno.ENOENT, f"the directory {parent!r} does not exist. Cure: make it first."
            ) from error
        except PermissionError:
            pass  # as above
        except OSError as error:
            raise explained(PathError, parent, "look at", error) from error
    except PermissionError:
        pass  # as above
    except OSError as error:
        raise explained(PathError, base + _LONGEST_SUFFIX, "coordinate through", error) from error
    return base
