"""The application of row 17: sends one file of each size, as Starlette does and as we do.

It is made at import, in uvicorn. ``BENCHMARK_FILES`` names the directory of the files, which are called by their
sizes. The path of the request chooses how it is sent.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from dogpile_fs import Datafile
from dogpile_fs.integrations.asgi import DatafileApp
from dogpile_fs.integrations.starlette import DatafileResponse

__all__ = ["app"]

_HOUR = 3600
_DIRECTORY = os.environ["BENCHMARK_FILES"]


def _never(target: str) -> None:
    raise AssertionError("it was made before the server was started")


_datafiles = {
    name: Datafile(os.path.join(_DIRECTORY, name), _HOUR, _never) for name in ("1024", "65536", "1048576")
}


async def _by_starlette(request: Request) -> Response:
    return FileResponse(os.path.join(_DIRECTORY, request.path_params["name"]))


async def _by_us(request: Request) -> Response:
    return DatafileResponse(_datafiles[request.path_params["name"]], request)


app = Starlette(
    routes=[
        Route("/file/{name}", _by_starlette),
        Route("/datafile/{name}", _by_us),
        *(Route(f"/app/{name}", DatafileApp(datafile)) for name, datafile in _datafiles.items()),
    ]
)
