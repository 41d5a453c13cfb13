"""WSGI: an application that sends a datafile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .. import Datafile
from ._serving import CHUNK, answer_to

__all__ = ["DatafileApp"]


class DatafileApp:
    """A WSGI application that answers each GET and HEAD with the current version of *datafile*.

    :param media_type: of the file; ``None``: by its name.

    Conditional requests and ranges are answered; ``docs/serving.rst`` has the headers. It is created when that is
    due; while there is none yet the answer is 503.

    >>> import os, tempfile
    >>> from wsgiref.util import setup_testing_defaults
    >>> from dogpile_fs import Datafile, atomic_write
    >>> def create(target):
    ...     with open(target, "w") as file:
    ...         file.write("a, b")
    >>> app = DatafileApp(Datafile(os.path.join(tempfile.mkdtemp(), "table.csv"), 3600, create))
    >>> environ = {}
    >>> setup_testing_defaults(environ)
    >>> body = app(environ, lambda status, headers: print(status, dict(headers)["Content-Type"]))
    200 OK text/csv
    >>> list(body)
    [b'a, b']
    >>> body.close()
    """

    def __init__(self, datafile: Datafile, media_type: str | None = None) -> None:
        self._datafile, self._media_type = datafile, media_type

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
    ) -> Iterable[bytes]:
        def header(name: str) -> str | None:
            value: str | None = environ.get("HTTP_" + name.upper().replace("-", "_"))
            return value

        answer = answer_to(self._datafile, environ["REQUEST_METHOD"], header, self._media_type)
        try:
            start_response(answer.reason, list(answer.headers.items()))
            if answer.body is None:
                return []
            wrapper = environ.get("wsgi.file_wrapper")
            # What a server sends of it goes to the end of the file, so that it is for the whole.
            return answer.body if wrapper is None or not answer.is_whole else wrapper(answer.body, CHUNK)
        except BaseException:
            if answer.body is not None:
                answer.body.close()
            raise
