"""The response that sends a datafile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpResponse, StreamingHttpResponse

from ... import Datafile
from .._serving import answer_to

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

__all__ = ["datafile_response"]


def datafile_response(
    request: HttpRequest, datafile: Datafile, *, media_type: str | None = None
) -> HttpResponseBase:
    """Return a response with the current version of *datafile*, for the conditions and the range of *request*.

    :param media_type: of the file; ``None``: by its name.
    :raises: as :meth:`.Datafile.open`; while there is no version yet the response is 503.

    >>> from dogpile_fs import Datafile
    >>> def report(request):
    ...     return datafile_response(request, Datafile("var/report.json", 3600, print))
    """
    answer = answer_to(datafile, request.method or "GET", request.headers.get, media_type)
    try:
        if answer.body is None:
            response: HttpResponseBase = HttpResponse(status=answer.status, headers=answer.headers)
        else:
            response = StreamingHttpResponse(answer.body, status=answer.status, headers=answer.headers)
    except BaseException:
        if answer.body is not None:
            answer.body.close()
        raise
    if "Content-Type" not in answer.headers:
        del response.headers["Content-Type"]
    return response
