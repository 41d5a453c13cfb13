"""Starlette and FastAPI: a response that sends a datafile."""

from __future__ import annotations

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .. import Datafile
from .asgi import DatafileApp

__all__ = ["DatafileResponse"]


class DatafileResponse(Response):
    """A response with the current version of *datafile*, for the conditions and the range of *request*.

    :param request: the one that is answered.
    :param media_type: of the file; ``None``: by its name.
    :param background: run after the response.

    Status and headers are known when it is sent; see :class:`dogpile_fs.integrations.asgi.DatafileApp`.

    >>> from dogpile_fs import Datafile
    >>> async def report(request):
    ...     return DatafileResponse(Datafile("var/report.json", 3600, print), request)
    """

    def __init__(
        self,
        datafile: Datafile,
        request: Request,
        *,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(background=background)
        self._app = DatafileApp(datafile, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        if self.background is not None:
            await self.background()
