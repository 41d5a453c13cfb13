"""Flask: a response that sends a datafile."""

from __future__ import annotations

from flask import Response, current_app, request

from .. import Datafile
from ._serving import answer_to

__all__ = ["send_datafile"]


def send_datafile(datafile: Datafile, *, media_type: str | None = None) -> Response:
    """Return a response with the current version of *datafile*, for the conditions and the range of the request.

    :param media_type: of the file; ``None``: by its name.
    :raises: as :meth:`.Datafile.open`; while there is no version yet the response is 503.

    >>> from flask import Flask
    >>> from dogpile_fs import Datafile
    >>> app = Flask("app")
    >>> @app.get("/report.json")
    ... def report():
    ...     return send_datafile(Datafile("var/report.json", 3600, print))
    """
    answer = answer_to(datafile, request.method, request.headers.get, media_type)
    try:
        return current_app.response_class(
            () if answer.body is None else answer.body,
            answer.status,
            answer.headers,
            direct_passthrough=True,
        )
    except BaseException:
        if answer.body is not None:
            answer.body.close()
        raise
