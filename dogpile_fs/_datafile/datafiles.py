"""Datafiles: a datafile for each of many keys, which share a few files of coordination."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from operator import getitem
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from .._dogpile.key_pattern import KeyPattern
from .._dogpile.key_scope import KeyDogpile, Keys, KeyScope
from .._dogpile.policy import DEFAULT, Backoff, Policy, one_policy
from .._os import fork
from .._os.copying import copied_by
from .._os.paths import checked_mode, nearest
from .._os.waiting import checked_timeout
from .building import Validator
from .datafile import Datafile
from .key_directory import KeyDirectory
from .pruning import prune
from .target import Target

if TYPE_CHECKING:
    from .._dogpile.dogpile import Dogpile
    from .._dogpile.event import Callback
    from .._dogpile.inputs import Input
    from .._dogpile.origin import Origin

__all__ = ["Datafiles", "KeyCreator"]

#: Objects of keys that are kept for the next ``files[key]``. One takes a few kilobytes, with what it has loaded.
_MOST_KEPT = 1024

#: Called with a key, and with the path of a new version of its file, where nothing is yet; makes it there.
KeyCreator = Callable[[str, Target], object]


class Datafiles:
    """A :class:`.Datafile` for each of many keys: ``files[key]``.

    :param pattern: the path of the files, with ``{key}`` once. What is above the component with ``{key}`` is a
        directory, below which all files are: ``"var/reports/{key}.json"`` has files such as
        ``var/reports/3f/orders-3f0c...9a.json``. Their names are for people to look at, and for no program to
        make.
    :param expiretime: seconds (or a ``timedelta``) after which a file is stale; ``None``: never.
    :param creator: called with the key, and with the path of the new version, as that of a :class:`.Datafile` is.
        ``None``: this object only reads.
    :param mode: permission bits of the coordination files that all keys share; ``None``: what the umask leaves of
        0o666.
    :param parents: make the directory of the pattern at the first creation if it is missing. Those below it are
        made in any case.
    :param policy: these in one :class:`.Policy`. The other parameters, and those that it stands for, are those of
        :class:`.Datafile`, of each key.
    :param readers: refused, and so are *directory*, *origin*, ``background="process"`` and what goes with it.
    :raises TypeError, ValueError: for an argument of the wrong type or value; for a pattern without exactly one
        ``{key}``; and for what is not for keys.
    :raises PathError: for a pattern that can be no file's path. If its directory is missing, an object without a
        creator raises it here, and one with a creator at the first use.

    A key is any ``str``, of any length and with any characters; two different ones never have the same file. All
    processes that give the same pattern, in whichever words for its directory, have the same files. The object may
    be made before ``fork`` and used after it, and pickled to another process. It keeps the objects of the 1,024
    keys that were used last, and one open descriptor for all of them.

    >>> import os, tempfile
    >>> def creator(key, target):
    ...     with open(target, "w") as file:
    ...         _ = file.write(f"the report of {key}")
    >>> reports = Datafiles(os.path.join(tempfile.mkdtemp(), "{key}.txt"), 3600, creator)
    >>> with reports["May"].open("r") as file:
    ...     print(file.read())
    the report of May
    >>> str(reports["May"].refresh()), str(reports["June"].refresh())
    ('fresh', 'created')
    >>> reports.prune(older_than=0)
    2
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str],
        expiretime: float | timedelta | None = None,
        creator: KeyCreator | None = None,
        *,
        validate: Validator | None = None,
        keep: int = 0,
        skip_unchanged: bool = False,
        durable: bool = True,
        readers: bool = False,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
        parents: bool = False,
        backoff: Backoff | None = DEFAULT.backoff,
        stale_if_error: bool | float | timedelta = True,
        max_stale: float | timedelta | None = None,
        refresh_early: float | None = None,
        jitter: float = 0.0,
        depends_on: Iterable[Input] = (),
        background: Literal["thread", "process"] | None = None,
        creator_timeout: float | timedelta | None = None,
        background_setup: Callable[[], object] | None = None,
        exit_wait: float | timedelta = DEFAULT.exit_wait,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        if readers:
            raise ValueError(
                "readers=True is not for keys, which have no lock for each one's readers. Hint: let them open a "
                "version, which stays what it was; or make a Datafile for each path."
            )
        if directory is not None:
            raise ValueError(
                "directory= is not for keys: their coordination files are in the sub-directory .dogpile of the "
                "pattern's directory. Hint: give a pattern in a directory that all users of the keys may write."
            )
        if origin is not None:
            raise ValueError(
                "origin= is not for keys: each host makes its own file for each key. Hint: make a Datafile for "
                "each path, with an origin of its own."
            )
        self._creator = creator
        self._expiretime = expiretime
        self._policy = one_policy(
            policy,
            DEFAULT,
            backoff=backoff,
            stale_if_error=stale_if_error,
            max_stale=max_stale,
            refresh_early=refresh_early,
            jitter=jitter,
            depends_on=depends_on,
            background=background,
            creator_timeout=creator_timeout,
            background_setup=background_setup,
            exit_wait=exit_wait,
            on_event=on_event,
        )
        if self._policy.background == "process":
            raise ValueError(
                "background='process' is not for keys: another process could not take over the mutex of one. "
                "Hint: background='thread', or make a Datafile for each path."
            )
        self._options: dict[str, Any] = {
            "validate": validate,
            "keep": keep,
            "skip_unchanged": skip_unchanged,
            "durable": durable,
            "timeout": timeout,
            "mode": checked_mode(mode),
            "parents": parents,
        }
        self._directory = KeyDirectory(KeyPattern(pattern), parents=parents)
        self._keys = Keys(
            self._directory.pattern, timeout=checked_timeout(timeout), mode=mode, make=self._directory.make
        )
        if creator is None:
            self._directory.make_fixed()
        self._kept: OrderedDict[str, KeyDatafile] = OrderedDict()
        #: All that are in use, so that one key has one object at a time.
        self._living: WeakValueDictionary[str, KeyDatafile] = WeakValueDictionary()
        KeyDatafile(self, "")  # refuses arguments that are wrong for all keys

    @property
    def pattern(self) -> str:
        """The pattern, as an absolute path."""
        return str(self._directory.pattern)

    @property
    def writes_to(self) -> tuple[str, ...]:
        """The directory below which creations make all files, as of :attr:`.Datafile.writes_to`."""
        if self._creator is None:
            return ()
        fixed = os.path.realpath(self._directory.pattern.fixed)
        return (nearest(fixed) if self._options["parents"] else fixed,)

    def __getitem__(self, key: str) -> Datafile:
        """Return the datafile of *key*, whether there is a file yet or not; no file is touched.

        :raises TypeError: for a key that is no ``str``.
        """
        if not isinstance(key, str):
            raise TypeError(f"a key must be a str, not {key!r}")
        return self._known(key) or self._made(key)

    def _known(self, key: str) -> KeyDatafile | None:
        """Return the object of *key* if it is kept."""
        file = self._kept.get(key)
        if file is not None:
            with suppress(KeyError):  # another thread may have dropped it in between
                self._kept.move_to_end(key)
        return file

    def _made(self, key: str) -> KeyDatafile:
        made = self._living.get(key) or KeyDatafile(self, key)
        with fork.once:  # else two threads could make two
            file = self._kept[key] = self._living.setdefault(key, made)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return file

    def prune(self, *, older_than: float | timedelta | None = None, max_bytes: int | None = None) -> int:
        """Remove the files of keys that are old, or take too much room, with all that is kept of them.

        With a key's file go its record, its earlier versions and what killed creators left of it. No key goes that
        is being created or rolled back at this moment. A reader that has a file open keeps what it has opened. The
        next caller that asks for a key that is gone creates it as the first caller of all did.

        It looks at each key's file: call it now and then, such as once an hour from cron.

        :param older_than: seconds (or a ``timedelta``) since its creation after which a key goes, fresh or not.
        :param max_bytes: remove the oldest until all that are left, with their earlier versions, have at most so
            many bytes.
        :returns: how many keys went.
        :raises TypeError, ValueError: for arguments of the wrong type or value, and without any.
        :raises DatafileError, LockFileError, SidecarError: if a directory cannot be listed, or the coordination
            files cannot be used. A file that cannot be removed is a line in the log.
        """
        return prune(self._keys, older_than, max_bytes)

    def __reduce__(self) -> tuple[object, ...]:
        options = {**self._options, "policy": self._policy}
        return copied_by(self, Datafiles, self.pattern, self._expiretime, self._creator, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pattern!r}, {self._expiretime})"


class KeyDatafile(Datafile):
    """The datafile of one *key* of *files*."""

    def __init__(self, files: Datafiles, key: str) -> None:
        self._files = files
        self._key = key
        self._name = files._keys.pattern.name_of(key)
        super().__init__(
            files._keys.pattern.path_of(self._name),
            files._expiretime,
            None if files._creator is None else partial(files._creator, key),
            policy=files._policy,
            **files._options,
        )

    def _make_dogpile(self) -> Dogpile:
        keys = self._files._keys
        dogpile = KeyDogpile(
            self._expiretime, KeyScope(keys, self._name), timeout=keys.timeout, policy=self._policy._in_caller()
        )
        dogpile._shared.background = self._background
        return dogpile

    def _make_parents(self, directory: str) -> None:
        self._files._directory.make_way_to(self._path, durable=self._durable)

    def _refuse_destination(self, destination: str) -> None:
        """Do nothing: it is a key's, and this is the key's object."""

    def __reduce__(self) -> tuple[object, ...]:
        return getitem, (self._files, self._key)

    def __repr__(self) -> str:
        return f"{self._files!r}[{self._key!r}]"
